"""Compare what a checkpoint says of itself with the spec: a difference means wrong numbers."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from math import isclose
from typing import Any, cast

from ttc.checkpoint.config_places import Places
from ttc.checkpoint.config_reading import Reading, read_config, shortest_cycle
from ttc.checkpoint.files import Checkpoint, Headers
from ttc.checkpoint.gguf_file import ROPE_FACTORS
from ttc.checkpoint.rope_config import SPELLINGS, fill_scaling
from ttc.checkpoint.spec_text import yaml_value
from ttc.errors import CheckpointError, Problem
from ttc.spec.config_keys import with_shared
from ttc.spec.model import ModelSpec
from ttc.spec.rope import Rope, inverse_frequencies, rope_fields

FLOAT_TOLERANCE = 1e-6  # GGUF stores float32
FACTOR_TOLERANCE = 1e-4


def check_config(spec: ModelSpec, checkpoint: Headers) -> None:
    """CheckpointError with every field in which config.json (or metadata) and spec differ.

    A field that a Hugging Face file does not give is taken as transformers takes it; metadata of
    another format says nothing by silence. A checkpoint without any configuration passes with a
    warning, its tensor shapes are all there is to compare.
    """
    config = checkpoint.config()
    if config is None:
        logging.getLogger(__name__).warning(
            "no config.json in %s: the spec was not compared, but for the shapes of tensors",
            checkpoint.description,
        )
        return
    silence = checkpoint.format == "hf"
    if not silence:
        config, _ = fill_scaling(config, spec.rope)
    reading = read_config(config, with_shared(spec.architecture.config))
    problems = [*_architecture(spec, config), *_wrong(spec, reading, Places(checkpoint))]
    problems += _values(spec, reading, silence=silence)
    scaled = silence or any(name in config for name in SPELLINGS)
    problems += _rope(spec, "rope", spec.rope, reading.rope, scaled=scaled)
    if spec.local_rope is not None:
        problems += _rope(spec, "local_rope", spec.local_rope, reading.local_rope, scaled=scaled)
    problems += _kinds(spec, reading)
    if problems:
        raise CheckpointError(problems)


def check_rope_factors(spec: ModelSpec, checkpoint: Checkpoint) -> None:
    """Compare the frequencies that a GGUF file stores as factors with those of the spec."""
    if checkpoint.format != "gguf" or ROPE_FACTORS not in checkpoint.names():
        return
    rotary_dim = spec.dims.rotary_dim
    factors = cast(list[float], checkpoint.read(ROPE_FACTORS).tolist())
    expected = inverse_frequencies(spec.rope, rotary_dim, spec.max_context_tokens)
    found = [
        spec.rope.theta ** (-2 * i / rotary_dim) / factor if factor else float("inf")
        for i, factor in enumerate(factors)
    ]
    if len(found) != len(expected):
        message = f"{len(expected)} RoPE frequencies in the spec, {len(found)} in the checkpoint"
        raise CheckpointError(_frequencies_differ(spec, message))
    for i, (ours, theirs) in enumerate(zip(expected, found, strict=True)):
        if not isclose(ours, theirs, rel_tol=FACTOR_TOLERANCE):
            message = (
                f"RoPE frequency {i} is {ours:.6g} in the spec, {theirs:.6g} in the checkpoint"
            )
            raise CheckpointError(_frequencies_differ(spec, message))


def _frequencies_differ(spec: ModelSpec, message: str) -> Problem:
    return Problem(
        message=message,
        at=spec.source_of("rope"),
        help="correct rope in the spec, or give another checkpoint",
    )


def _architecture(spec: ModelSpec, config: Mapping[str, Any]) -> Iterator[Problem]:
    classes = cast(list[object], config.get("architectures") or [])
    known = spec.architecture.hf_classes
    if classes and not any(name in known for name in classes):
        yield Problem(
            message=f"the checkpoint is a {classes[0]}, the spec's architecture "
            f"'{spec.architecture.name}' is {' or '.join(known)}",
            at=spec.source_of("architecture"),
            help="choose the architecture of the checkpoint, or give another checkpoint",
        )


def _wrong(spec: ModelSpec, reading: Reading, places: Places) -> Iterator[Problem]:
    for each in reading.wrong:
        yield Problem(
            message=f"the checkpoint does not fit the architecture '{spec.architecture.name}'",
            at=places.of(each) or spec.source_of("architecture"),
            details=(each,),
            help="choose the architecture of the checkpoint, or give another checkpoint",
        )


def _values(spec: ModelSpec, reading: Reading, *, silence: bool) -> Iterator[Problem]:
    """Sizes, numbers and flags. `silence`: a key that is missing says its value all the same."""
    ours: dict[str, Any] = {f"dims.{name}": value for name, value in asdict(spec.dims).items()}
    ours |= {"norm_eps": spec.norm_eps, "tie_embeddings": spec.tie_embeddings}
    numbers = {**spec.architecture.numbers, **spec.numbers}
    ours |= {f"numbers.{name}": value for name, value in numbers.items()}
    ours |= {f"options.{name}": value for name, value in spec.options.items()}
    same_heads = ours["dims.head_dim"] == reading.values.get("dims.head_dim")
    for path, theirs in reading.values.items():
        keys = reading.keys[path]
        if not keys and not (silence and (path != "dims.rotary_dim" or same_heads)):
            continue
        if path == "max_context_tokens":
            if spec.max_context_tokens > theirs:  # a spec may promise less than the model can do
                yield _differs(spec, path, spec.max_context_tokens, keys, theirs)
        elif path in ours and not _same(theirs, ours[path]):
            yield _differs(spec, path, ours[path], keys, theirs)


def _rope(
    spec: ModelSpec, field: str, ours: Rope, theirs: Rope | None, *, scaled: bool
) -> Iterator[Problem]:
    """A RoPE table. Not `scaled`: the checkpoint says only theta."""
    if theirs is None:
        return  # what is wrong with it is told already
    mine, given = rope_fields(ours), rope_fields(theirs)
    if mine["kind"] != given["kind"] and scaled:
        yield _differs(spec, f"{field}.kind", mine["kind"], SPELLINGS[1:], given["kind"])
        return
    for name, value in given.items():
        if (scaled or name == "theta") and name in mine and not _same(value, mine[name]):
            yield _differs(spec, f"{field}.{name}", mine[name], (), value)


def _kinds(spec: ModelSpec, reading: Reading) -> Iterator[Problem]:
    for layer, theirs in enumerate(reading.kinds[: spec.dims.layers]):
        ours = spec.kind_of(layer)
        if ours != theirs:
            yield Problem(
                message=f"decoder {layer} is '{ours}' in the spec, '{theirs}' in the checkpoint",
                at=spec.source_of("layer_kinds"),
                help=f"write layer_kinds: [{', '.join(shortest_cycle(reading.kinds))}], or give "
                "another checkpoint",
            )
            return


def _same(value: object, expected: object) -> bool:
    if isinstance(expected, bool) or isinstance(value, bool):
        return value is expected
    if isinstance(expected, tuple) and isinstance(value, tuple):
        mine, given = cast(tuple[object, ...], expected), cast(tuple[object, ...], value)
        return len(given) == len(mine) and all(map(_same, given, mine))
    if isinstance(value, int | float) and isinstance(expected, int | float):
        return isclose(value, expected, rel_tol=FLOAT_TOLERANCE)
    return value == expected


def _differs(
    spec: ModelSpec, path: str, ours: object, keys: tuple[str, ...], theirs: object
) -> Problem:
    name = path.split(".")[-1]
    help_text = f"write {name}: {_yaml(theirs)}, or give another checkpoint"
    if path == "dims.vocab":
        help_text = (
            f"a fine-tune with tokens of its own has a spec of its own: extends: {spec.name}, and "
            f"dims: {{vocab: {_yaml(theirs)}}}"
        )
    return Problem(
        message=f"{name} is {_yaml(ours)} in the spec, {_yaml(theirs)} in the checkpoint",
        at=spec.source_of(path),
        note=f"the checkpoint has {' or '.join(keys)}: {_yaml(theirs)}" if keys else "",
        help=help_text,
    )


def _yaml(value: object) -> str:
    """A value to print; of a long list the start."""
    if isinstance(value, tuple):
        numbers = [yaml_value(each) for each in cast(tuple[object, ...], value)]
        return f"[{', '.join(numbers[:4])}{', ...' if len(numbers) > 4 else ''}]"
    return yaml_value(value)
