"""Draft a spec from what a checkpoint's headers say; of an unknown family also an architecture.

A spec of a known family leaves nothing open that config.json could say: what ttc does not
understand is an error. What params.json has no key for is undecided, and null in the spec. An
architecture of an unknown family is the one whose tensors are nearest, with a list of what a person
has to decide; the compiler refuses it until that list is empty.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import cast

from ttc.checkpoint.config_places import Places
from ttc.checkpoint.config_reading import Reading, json_text, read_config
from ttc.checkpoint.files import Headers
from ttc.checkpoint.names import BODY, HARMLESS, PREFIXES
from ttc.checkpoint.rope_config import fill_scaling
from ttc.checkpoint.spec_text import (
    SCHEMA,
    differing,
    fields_of,
    spec_fields,
    spec_text,
    yaml_value,
)
from ttc.errors import CheckpointError, Problem
from ttc.spec.architecture import ROW, Architecture
from ttc.spec.config_keys import with_shared
from ttc.spec.model import ModelSpec
from ttc.spec.options import with_options
from ttc.spec.steps import Option

TASK, BARE = "For", "Model"  # in names of classes: BODYForTASK, and a body without a head
ON_REQUEST = "ignored because the command says so"


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A spec as text, an architecture as text ("" where the family is known), and the account of
    every key and tensor: used, ignored with the reason, undecided.
    """

    architecture: str
    spec: str
    architecture_text: str
    used: Mapping[str, object]
    ignored: Mapping[str, str]
    undecided: tuple[str, ...]


def hf_class(headers: Headers) -> str:
    """The model class that config.json names. CheckpointError if it names none, or no list."""
    config = headers.config()
    named: object = (config or {}).get("architectures") or []
    if not isinstance(named, list):
        raise CheckpointError(
            Problem(
                message="'architectures' of config.json must be a list of classes",
                at=Places(headers).of("architectures"),
                note=f"it says {json_text(named)}",
                help=f'write "architectures": [{json_text(named)}]',
            )
        )
    classes = cast(list[object], named)
    if not classes:
        raise CheckpointError(
            Problem(
                message=f"{headers.description} does not say what it is",
                note="no config.json" if config is None else "config.json has no 'architectures'",
                help='a checkpoint of transformers has "architectures": ["ClassForCausalLM"]',
            )
        )
    return str(classes[0])


def refuse_other_task(name: str, known: Sequence[Architecture]) -> None:
    """CheckpointError for a class with the body of a known family and another head."""
    same = [
        each
        for architecture in known
        for each in architecture.hf_classes
        if each.partition(TASK)[0] == (name.removesuffix(BARE).partition(TASK)[0])
    ]
    if same and name not in same:
        raise CheckpointError(
            Problem(
                message=f"the checkpoint is of the class {name}, which predicts no next token",
                note=f"its family is that of {same[0]}",
                help="ttc compiles causal language models: name a checkpoint that has such a head",
            )
        )


def draft_spec(
    headers: Headers,
    architecture: Architecture,
    *,
    model: str,
    weights: str | None = None,
    ignore: Collection[str] = (),
    base: ModelSpec | None = None,
) -> Draft:
    """The spec of a checkpoint of a known family.

    base  a spec to extend: only what differs from it is then written

    CheckpointError with everything in config.json that is missing, wrong or unknown.
    """
    reading, unsaid = _read(headers, architecture, ignore, base)
    places = Places(headers)
    problems = [_missing(key, places) for key in reading.missing]
    problems += [_wrong(each, places) for each in reading.wrong]
    known = with_shared(architecture.config)
    names = [*reading.used, *known.fixed, *known.ignored]
    problems += [_unknown(key, value, names, places) for key, value in reading.unknown.items()]
    if problems:
        raise CheckpointError(problems)
    fields: dict[str, object] = {"architecture": architecture.name} | spec_fields(
        reading, architecture
    )
    if base is None:
        _leave_open(fields, unsaid)
    else:
        fields = {name: each for name, each in fields.items() if name not in unsaid}
        unsaid = ()
    open_points = tuple(f"{path}: {places.file} does not say it" for path in unsaid)
    start: dict[str, object] = {"model": model}
    if base is not None:
        start["extends"] = base.name
        fields = differing(fields, fields_of(base))
    end = {"weights": weights} if weights else {}
    schema = SCHEMA.format("variant" if base else "model").removeprefix("# ")
    return Draft(
        architecture=architecture.name,
        spec=spec_text(
            start | fields | end,
            remarks=[
                schema,
                *_remarks(headers, ignore),
                *(f"undecided: {point}" for point in open_points),
            ],
        ),
        architecture_text="",
        used=reading.used,
        ignored=reading.ignored,
        undecided=open_points,
    )


def _leave_open(fields: dict[str, object], paths: Sequence[str]) -> None:
    """Make fields of a spec null, for a person to decide."""
    for path in paths:
        name, _, part = path.partition(".")
        held = fields[name]
        fields[name] = {**cast(dict[str, object], held), part: None} if part else None


def _remarks(headers: Headers, ignore: Collection[str]) -> list[str]:
    remarks = [f"Written by ttc new from {headers.description}."]
    if ignore:
        remarks.append(f"Keys of config.json ignored on request: {', '.join(sorted(ignore))}.")
    return remarks


def _read(
    headers: Headers,
    architecture: Architecture,
    ignore: Collection[str],
    base: ModelSpec | None = None,
) -> tuple[Reading, tuple[str, ...]]:
    """What the configuration says, and the fields that its format cannot say."""
    config = headers.config()
    assert config is not None, "the class was read from it"
    unsaid: tuple[str, ...] = ()
    if headers.format != "hf":
        config, parts = fill_scaling(config, base.rope if base else None)
        unsaid = tuple(f"rope.{part}" for part in parts)
    reading = read_config(config, with_shared(architecture.config))
    asked = {key: ON_REQUEST for key in reading.unknown if key in ignore}
    unknown = {key: value for key, value in reading.unknown.items() if key not in asked}
    if headers.format != "hf" and not reading.keys.get("max_context_tokens"):
        unsaid = (*unsaid, "max_context_tokens")
    return replace(reading, unknown=unknown, ignored={**reading.ignored, **asked}), unsaid


def _missing(key: str, places: Places) -> Problem:
    return Problem(message=f"{places.file} has no '{key}'", help=f"add it to {places.file}")


def _wrong(what: str, places: Places) -> Problem:
    message = f"{places.file} does not fit the architecture"
    return Problem(message=message, at=places.of(what), details=(what,))


def _unknown(key: str, value: object, known: Sequence[str], places: Places) -> Problem:
    near = get_close_matches(key, known, n=1)
    meant = f"did you mean '{near[0]}'? " if near else ""
    return Problem(
        message=f"{places.file} has the unknown key '{key}'",
        at=places.of(key),
        note=f"it says {json_text(value)}",
        help=f"{meant}if it changes no arithmetic, --ignore {key}; if it does, the model needs an "
        "architecture that has it",
    )


def nearest(
    headers: Headers, known: Sequence[tuple[Architecture, Path]]
) -> tuple[Architecture, Path]:
    """The architecture that shares the largest part of its tensor names with a checkpoint; of
    several the plainest, with the fewest numbers, kinds and settings.
    """
    found = _patterns(headers)

    def likeness(candidate: tuple[Architecture, Path]) -> tuple[float, int, int]:
        flags = dict.fromkeys(candidate[0].options, False)
        needed = set(_expected(with_options(candidate[0], flags)).values())
        names = needed | (set(_expected(candidate[0]).values()) & found.keys())
        shared = len(names & found.keys()) / len(names | found.keys())
        steps = (*candidate[0].decoder, *candidate[0].model)
        settings = sum(len(step.settings) for step in steps)
        return shared, -len(candidate[0].numbers) - len(candidate[0].kinds), -settings

    return max(known, key=likeness)


def draft_family(
    headers: Headers,
    near: Architecture,
    near_file: Path,
    *,
    model: str,
    weights: str | None,
    taken: Collection[str] = (),
) -> Draft:
    """A spec and an architecture to be finished by hand, for a class that ttc does not know.

    taken  the names of architectures, none of which the new one gets
    """
    reading, _ = _read(headers, near, ())
    near = with_options(near, _options(near, reading))
    type_ = str((headers.config() or {}).get("model_type") or "new").replace("-", "_")
    name = _own_name(type_, hf_class(headers), taken)
    open_points = [
        f"the steps are those of {near.name}: compare them with modeling_{type_}.py of "
        "transformers",
        *_open_rope(near),
        *_open_keys(reading),
        *_open_tensors(headers, near, reading),
    ]
    fields: dict[str, object] = {"model": model, "architecture": name}
    fields |= spec_fields(reading, near)
    fields |= {"weights": weights} if weights else {}
    absent = [f"undecided: {key} is not in config.json" for key in reading.missing]
    remarks = [SCHEMA.format("model").removeprefix("# "), *_remarks(headers, ()), *absent]
    return Draft(
        architecture=name,
        spec=spec_text(fields, remarks=remarks),
        architecture_text=_family_text(headers, near, near_file, name, open_points),
        used=reading.used,
        ignored=reading.ignored,
        undecided=tuple(open_points),
    )


def _own_name(type_: str, class_: str, taken: Collection[str]) -> str:
    """The model type, or the body of the class, or the type with a number: what is free."""
    body = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", class_.partition(TASK)[0]).lower()
    numbered = (f"{type_}_{i}" for i in range(2, len(taken) + 3))
    return next(name for name in (type_, body, *numbered) if name not in taken)


def _open_rope(near: Architecture) -> Iterator[str]:
    if any(weight.rotary is not None for weight in near.decoder_weights):
        yield (
            "tensors do not say how a head turns: the steps take it as two halves (rotate_half); "
            "a model that turns pairs of neighbours cannot be written yet"
        )


def _options(architecture: Architecture, reading: Reading) -> dict[str, Option]:
    """What config.json says of the options, or what the architecture has."""
    return {
        name: reading.values.get(f"options.{name}", usual)
        for name, usual in architecture.options.items()
    }


def _open_keys(reading: Reading) -> Iterator[str]:
    for path in ("norm_eps", "tie_embeddings", "max_context_tokens"):
        if path in reading.values and not reading.keys[path]:
            value = yaml_value(reading.values[path])
            yield f"config.json does not say {path}: other families then have {value}"
    for path, value in reading.values.items():
        if path.startswith("numbers.") and not reading.keys[path]:
            name = path.removeprefix("numbers.")
            yield f"config.json does not say {name}: the copied family then has {value}"
    for key in reading.missing:
        yield f"config.json has no {key}: say under config what stands for it"
    for what in reading.wrong:
        yield f"config.json: {what}"
    for key, value in reading.unknown.items():
        yield (
            f"config.json has {key}: {json_text(value)}: use it, or list it under config as "
            "fixed or ignored"
        )


def _open_tensors(headers: Headers, near: Architecture, reading: Reading) -> Iterator[str]:
    found, expected = _patterns(headers), _expected(near)
    head = next(each.name for each in near.weights if each.group == "lm_head")
    for weight, pattern in expected.items():
        tied = weight == head and reading.values.get("tie_embeddings")
        if pattern not in found and not tied:
            yield f"weight {weight}: there is no tensor {pattern}"
    for pattern, shape in found.items():
        if pattern not in expected.values():
            yield f"tensor {pattern} {_sizes(shape, reading)} belongs to no weight"


def _patterns(headers: Headers) -> dict[str, tuple[int, ...]]:
    """Tensor names with {i} for the decoder number, as a file of one model has them -> shape.

    A number behind that in the name of a vector counts the rows of a weight: ROW stands for it.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    rows: dict[str, set[str]] = {}
    stored = sorted((prefix for prefix, _ in PREFIXES if prefix), key=len, reverse=True)
    for name in headers.names():
        if any(re.fullmatch(pattern, name) for pattern, _ in HARMLESS[headers.format]):
            continue
        prefix = next((each for each in stored if name.startswith(each)), None)
        plain = name if prefix is None else BODY + name.removeprefix(prefix)
        of_decoder = re.sub(r"\.\d+\.", ".{i}.", plain, count=1)
        shape, pattern = headers.shape(name), of_decoder
        if len(shape) == 1:
            pattern = re.sub(r"\.\d+(?=\.)", f".{ROW}", of_decoder)
        shapes.setdefault(pattern, shape)
        rows.setdefault(pattern, set()).add(of_decoder)
    return {
        pattern: (len(rows[pattern]), *shape) if ROW in pattern else shape
        for pattern, shape in shapes.items()
    }


def _expected(architecture: Architecture) -> dict[str, str]:
    """Canonical name -> Hugging Face name with {i}, of every weight of an architecture."""
    prefix = architecture.prefixes["hf"]
    return {weight.name: weight.hf for weight in architecture.weights} | {
        weight.name: prefix + weight.hf for weight in architecture.decoder_weights
    }


def _sizes(shape: tuple[int, ...], reading: Reading) -> str:
    """A shape in the words of a spec, as far as its sizes are unique in the model."""
    sizes = {
        path.removeprefix("dims."): int(value)
        for path, value in reading.values.items()
        if path.startswith("dims.") and path not in ("dims.layers", "dims.rotary_dim")
    }
    for heads in ("heads", "kv_heads"):
        if heads in sizes and "head_dim" in sizes:
            sizes[f"{heads} * head_dim"] = sizes[heads] * sizes["head_dim"]
    words: list[str] = []
    for size in shape:
        names = [name for name, value in sizes.items() if value == size]
        words.append(" or ".join(names) or str(size))
    return f"[{', '.join(words)}]"


def _family_text(
    headers: Headers, near: Architecture, near_file: Path, name: str, points: Sequence[str]
) -> str:
    """The text of the nearest architecture with another name, and the open points in it."""
    found, expected = _patterns(headers), _expected(near)
    lost = {weight for weight, pattern in expected.items() if pattern not in found}
    lines: list[str] = []
    for line in near_file.read_text(encoding="utf-8").splitlines():
        if line.startswith("architecture:"):
            line = f"architecture: {name}"
        elif line.startswith("hf:"):
            line = f"hf: [{hf_class(headers)}]"
            lines += ["undecided:  # decide each, change the file, and remove its line"]
            lines += [f"  - {json.dumps(point)}" for point in points]
        weight = re.match(r"  (\w+): \{", line)
        if weight and weight[1] in lost:
            line += "  # undecided: there is no such tensor"
        if not line.startswith("# ") or line.startswith("# yaml-language-server"):
            lines.append(line)
    lines.insert(1, f"# Draft of {hf_class(headers)} after {near.name}, by ttc new.")
    return "\n".join(lines) + "\n"
