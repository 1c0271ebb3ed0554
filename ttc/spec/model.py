"""Model specs: one Hugging Face model of a known architecture."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal, cast

from ttc.errors import Problem, Source, UsageError, did_you_mean
from ttc.hardware.hardware import check_row_length, load_mesh
from ttc.located import Located, parse_yaml, raise_problems, read_text
from ttc.schema import load_yaml
from ttc.spec import library
from ttc.spec.agreement import check_agreement
from ttc.spec.architecture import Architecture, load_architecture
from ttc.spec.fidelity import load_fidelities
from ttc.spec.groups import Settings, check_decoders, read_settings
from ttc.spec.options import check_options, read_options, with_options
from ttc.spec.rope import Rope, read_rope
from ttc.spec.steps import Option

MERGED = (
    "dims",
    "numbers",
    "options",
)  # mappings of which a variant gives only the entries that differ


@dataclass(frozen=True, slots=True, kw_only=True)
class Dims:
    """The sizes of a model. `hidden` is the residual stream's width, `ffn` the feed-forward's;
    the first `rotary_dim` of a head's `head_dim` elements turn with their position.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    rotary_dim: int

    def product(self, names: tuple[str, ...]) -> int:
        """The value of one size of a weight, such as ("heads", "head_dim")."""
        size = 1
        for name in names:
            size *= int(getattr(self, name))
        return size


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelWish:
    """What a spec says of the chips of a mesh. None is the planner's choice.

    tp                chips that share one user
    prefill_residual  whether each has a part of the width of a prefill's residual stream
    """

    tp: int | None = None
    prefill_residual: Literal["fractured", "replicated"] | None = None
    tp_at: Source | None = field(default=None, compare=False)
    prefill_residual_at: Source | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A spec, checked against itself and its architecture, which has what `options` leave of it.

    `name` is the file's name, `model` the Hugging Face id, `weights` where the checkpoint is when
    it is not on the hub. `numbers` are named scalars that the architecture's steps use, and
    `layer_kinds` the kinds of the decoders, repeated over the layers; `local_rope` is a second RoPE
    table, for the steps that name it. `known_on` are meshes that tt-transformers lists for the
    model. `prefill_chunk_tokens` has an entry for each mesh that the spec names,
    `parallel` one for each mesh or shape of which it says how chips are used,
    `precision_exceptions` one for each profile it changes. `file` is the path to write into
    emitted files: it does not depend on the working directory.
    """

    name: str
    model: str
    architecture: Architecture
    dims: Dims
    norm_eps: float
    rope: Rope
    local_rope: Rope | None
    numbers: Mapping[str, int | float]
    options: Mapping[str, Option]
    layer_kinds: tuple[str, ...]
    tie_embeddings: bool
    max_context_tokens: int
    known_on: tuple[str, ...]
    prefill_chunk_tokens: Mapping[str, int]
    parallel: Mapping[str, ParallelWish]
    weights: str | None
    precision_exceptions: Mapping[str, Settings]
    file: str
    at: Source
    sources: Mapping[str, Source] = field(compare=False, repr=False)

    def kind_of(self, layer: int) -> str:
        """The kind of a decoder, counted from 0; "" when the spec tells no kinds apart."""
        return self.layer_kinds[layer % len(self.layer_kinds)] if self.layer_kinds else ""

    def wish_for(self, mesh: str) -> ParallelWish:
        """What the spec says of a mesh in this shape, else of the mesh in any."""
        named = self.parallel.get(mesh) or self.parallel.get(mesh.partition(":")[0])
        return named or ParallelWish()

    def source_of(self, path: str) -> Source:
        """The place of a field such as `dims.kv_heads`, or of the nearest field around it."""
        while path and path not in self.sources:
            path = path.rpartition(".")[0]
        return self.sources.get(path, self.at)


def load_model(wanted: str | Path) -> ModelSpec:
    """The spec in a file, of that name in specs/, or of that Hugging Face id.

    Raises SpecError with every problem of the file, UsageError when there is no such file.
    """
    path = find_spec(wanted)
    data = _read(path)
    dims = _dims(data["dims"])
    rope, problems = read_rope(data["rope"], dims.rotary_dim)
    local = data.get("local_rope")
    local_rope, local_problems = read_rope(local, dims.rotary_dim) if local else (None, [])
    exceptions, precision_problems = _exceptions(data, dims, path)
    problems += local_problems + precision_problems
    problems += _check_dims(data["dims"], dims) + _check_kinds(data, dims) + _check_meshes(data)
    architecture, architecture_problems = _architecture(data["architecture"], path)
    raise_problems(problems + architecture_problems)
    assert architecture is not None, "an architecture that is not found is a problem"
    raise_problems(
        check_agreement(data, architecture)
        + check_options(data.get("options"), architecture)
        + _check_tied(data["tie_embeddings"], architecture)
    )
    chunks, weights = data.get("prefill_chunk_tokens"), data.get("weights")
    parallel = data.get("parallel")
    options = read_options(data.get("options"), architecture)
    numbers, kinds = data.get("numbers"), data.get("layer_kinds")
    known_on = data.get("known_on")
    return ModelSpec(
        name=path.stem,
        model=data["model"].text,
        architecture=with_options(architecture, options),
        dims=dims,
        norm_eps=data["norm_eps"].number,
        rope=rope,
        local_rope=local_rope,
        numbers=MappingProxyType(
            {name: _scalar(each) for name, each in numbers.fields().items()} if numbers else {}
        ),
        options=options,
        layer_kinds=tuple(each.text for each in kinds.elements()) if kinds else (),
        tie_embeddings=data["tie_embeddings"].flag,
        max_context_tokens=data["max_context_tokens"].integer,
        known_on=tuple(each.text for each in known_on.elements()) if known_on else (),
        prefill_chunk_tokens=MappingProxyType(
            {mesh: each.integer for mesh, each in chunks.fields().items()} if chunks else {}
        ),
        parallel=MappingProxyType(
            {mesh: _wish(each) for mesh, each in parallel.fields().items()} if parallel else {}
        ),
        weights=weights.text if weights else None,
        precision_exceptions=MappingProxyType(exceptions),
        file=library.stable(path),
        at=data["model"].at,
        sources=MappingProxyType(data.sources()),
    )


def _read(path: Path) -> Located:
    """The fields of a spec, those of the spec it extends included; their schemas hold."""
    data = _load(path)
    name = data.get("extends")
    if name is None:
        return data
    found = library.find(library.SPECS, name.text, near=path)
    if found is None:
        hint = did_you_mean(name.text, library.names(library.SPECS, near=path))
        raise_problems([Problem(message=f"unknown spec '{name.text}'", at=name.at, help=hint)])
    assert found is not None, "a spec that is not found is a problem"
    base = _load(found)
    if "extends" in base.fields():
        message = f"'{name.text}' extends another spec itself"
        hint = f"extend '{base['extends'].text}', and write out what differs"
        raise_problems([Problem(message=message, at=name.at, help=hint)])
    return _extended(data, base)


def _load(path: Path) -> Located:
    shown = library.shown(path)
    return load_yaml(path, "model", shown=shown, variants={"extends": "variant"})


def _extended(data: Located, base: Located) -> Located:
    """The fields of `data` over those of `base`: single sizes and numbers, and whole other fields.

    Where the weights of the base are is nothing that a variant inherits.
    """
    given = data.fields()
    fields = {name: each for name, each in base.fields().items() if name != "weights"} | given
    for name in MERGED:
        if name in given and name in base.fields():
            merged = base[name].fields() | given[name].fields()
            fields[name] = replace(given[name], value=merged)
    return replace(data, value=fields)


def _dims(data: Located) -> Dims:
    sizes = {name: each.integer for name, each in data.fields().items()}
    return Dims(**{"rotary_dim": sizes["head_dim"], **sizes})


def _scalar(number: Located) -> int | float:
    assert isinstance(number.value, int | float), f"{number.at} is not a number"
    return number.value


def find_spec(wanted: str | Path) -> Path:
    """The file of a command line argument; an ORG/NAME that is no file is a Hugging Face id.

    Raises UsageError when there is no such name or id.
    """
    is_id = isinstance(wanted, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", wanted)
    if not is_id or Path(wanted).exists() or Path(wanted).suffix in library.SUFFIXES:
        return library.resolve(library.SPECS, wanted)
    here = Path.cwd() / "_"
    files: dict[str, Path] = {}
    for name in library.names(library.SPECS, near=here):
        path = library.resolve(library.SPECS, name)
        root, _ = parse_yaml(read_text(path), library.shown(path))
        model = root.get("model") if root and isinstance(root.value, dict) else None
        files.setdefault(model.written if model else "", path)
    if str(wanted) in files:
        return files[str(wanted)]
    message = f"there is no spec for the model '{wanted}', and no file of that name"
    hint = did_you_mean(str(wanted), files.keys() - {""})
    raise UsageError(Problem(message=message, help=hint))


def _architecture(name: Located, path: Path) -> tuple[Architecture | None, list[Problem]]:
    found = library.find(library.ARCHITECTURES, name.text, near=path)
    if found:
        return load_architecture(found), []
    known = library.names(library.ARCHITECTURES, near=path)
    message, hint = f"unknown architecture '{name.text}'", did_you_mean(name.text, known)
    return None, [Problem(message=message, at=name.at, help=hint)]


def _check_dims(data: Located, dims: Dims) -> list[Problem]:
    problems: list[Problem] = []
    if dims.heads % dims.kv_heads:
        nearest = [n for n in range(1, dims.heads + 1) if dims.heads % n == 0]
        problems.append(
            Problem(
                message=f"{dims.heads} heads cannot share {dims.kv_heads} kv_heads evenly",
                at=data["kv_heads"].at,
                note=f"heads is {dims.heads}",
                help=f"kv_heads must divide heads: {', '.join(map(str, nearest))}",
            )
        )
    if dims.head_dim % 2:
        message = "'head_dim' must be even"
        note = "rotary embedding turns pairs of values"
        problems.append(Problem(message=message, at=data["head_dim"].at, note=note))
    rotary = data.get("rotary_dim")
    if rotary and (dims.rotary_dim % 2 or dims.rotary_dim > dims.head_dim):
        message = "'rotary_dim' must be even and at most head_dim"
        note = f"head_dim is {dims.head_dim}"
        problems.append(Problem(message=message, at=rotary.at, note=note))
    return problems


def _check_kinds(data: Located, dims: Dims) -> list[Problem]:
    kinds = data.get("layer_kinds")
    if kinds is None or len(kinds.elements()) <= dims.layers:
        return []
    message = f"{len(kinds.elements())} layer_kinds for {dims.layers} layers"
    return [Problem(message=message, at=kinds.at, help="list the kinds once, they repeat")]


def _wish(entry: Located) -> ParallelWish:
    tp, residual = entry.get("tp"), entry.get("prefill_residual")
    return ParallelWish(
        tp=tp.integer if tp else None,
        prefill_residual=cast(Literal["fractured", "replicated"], residual.text)
        if residual
        else None,
        tp_at=tp.at if tp else None,
        prefill_residual_at=residual.at if residual else None,
    )


def _check_meshes(data: Located) -> list[Problem]:
    parts = [data.get("prefill_chunk_tokens"), data.get("parallel")]
    fields = [item for part in parts if part for item in part.fields().items()]
    known_on = data.get("known_on")
    named = [(mesh, each.key_at) for mesh, each in fields]
    named += [(each.text, each.at) for each in (known_on.elements() if known_on else ())]
    problems: list[Problem] = []
    for mesh, at in named:
        try:
            load_mesh(mesh)
        except UsageError as error:
            problems += [replace(each, at=at) for each in error.problems]
    parallel = data.get("parallel") if not problems else None
    for mesh, entry in parallel.fields().items() if parallel else ():
        if tp := entry.get("tp"):
            problems += check_row_length(load_mesh(mesh), tp.integer, tp.at)
    return problems


def _exceptions(data: Located, dims: Dims, path: Path) -> tuple[dict[str, Settings], list[Problem]]:
    precision = data.get("precision")
    known = library.names(library.PROFILES, near=path)
    exceptions: dict[str, Settings] = {}
    problems: list[Problem] = []
    for profile, entry in precision.fields().items() if precision else ():
        named = [(profile, entry.key_at)]
        named += [(entry.text, entry.at)] if isinstance(entry.value, str) else []
        for name, at in named:
            if name not in known:
                message, hint = f"unknown precision profile '{name}'", did_you_mean(name, known)
                problems.append(Problem(message=message, at=at, help=hint))
        if isinstance(entry.value, str):
            instead = library.find(library.PROFILES, entry.text, near=path)
            exceptions[profile] = Settings(groups={}, decoders={}, instead=instead, at=entry.at)
            continue
        groups = {name: each for name, each in entry.fields().items() if name != "decoders"}
        decoders = entry.get("decoders")
        exceptions[profile], found = read_settings(groups, decoders, load_fidelities())
        problems += found + check_decoders(decoders, dims.layers, "the model")
    return exceptions, problems


def _check_tied(tied: Located, architecture: Architecture) -> list[Problem]:
    head, embedding = (
        next(each for each in architecture.weights if each.group == group)
        for group in ("lm_head", "embedding")
    )
    if not tied.flag or head.shape == embedding.shape:
        return []
    message = f"'{head.name}' and '{embedding.name}' cannot be tied: their shapes differ"
    details = (f"declared at {head.at} and {embedding.at}",)
    return [Problem(message=message, at=tied.at, details=details)]
