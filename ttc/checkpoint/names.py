"""Bind every weight an architecture declares to the tensor of a checkpoint that holds it.

Canonical names are the architecture's: `embed`, and `decoders.3.wq` for a weight of decoder 3. What
is missing, unexpected or misshapen is an error that lists it; nothing is skipped silently.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np

from ttc.checkpoint.config_check import check_config, check_rope_factors
from ttc.checkpoint.files import Checkpoint, Headers, RowOrder
from ttc.checkpoint.gguf_file import ROPE_FACTORS
from ttc.errors import CheckpointError, Problem
from ttc.spec.architecture import ROW, WeightSpec
from ttc.spec.model import ModelSpec

LISTED = 10
COMPARED_ROWS = 64
EMBEDDING, HEAD = "embedding", "lm_head"  # precision groups, which say what a weight is for
FORMAT_NAMES = {"hf": "Hugging Face", "meta": "Meta", "gguf": "GGUF"}

# Tensors that a checkpoint may hold beside the architecture's, by format, and why they do no harm.
HARMLESS: dict[str, tuple[tuple[str, str], ...]] = {
    "hf": (
        (r"(.*\.)?rotary_emb\.inv_freq", "RoPE frequencies, which follow from the spec"),
        (
            r"(model\.)?(vision_tower|vision_model|visual|multi_modal_projector)\..*",
            "of the vision part, which the text model does not read",
        ),
    ),
    "meta": ((r"rope\.freqs", "RoPE frequencies, which follow from the spec"),),
    "gguf": ((re.escape(ROPE_FACTORS), "RoPE factors, compared with the spec"),),
}
BODY = "model."  # before every tensor but the head's, in a file that holds one model

# (what stands in the place of BODY, before the head) in files of transformers that hold the text
# model as a part, and in files that hold it without its head.
PREFIXES = (
    ("model.language_model.", ""),  # since 4.52
    ("language_model.model.", "language_model."),  # before
    ("language_model.", ""),
    ("", ""),
)
COPY_OF_EMBEDDING = "a copy of the embedding, which the spec ties the head to"


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundTensor:
    """The tensor that holds a canonical weight, or those that hold its rows.

    name: with ROW in it where each row is a tensor, whose number stands there;
    shape: that of the weight;
    first: the row of the tensor that is its first;
    heads: the number of heads its rows are split into if RoPE turns them, else 0;
    rows: how each head's rows are stored (of no meaning when heads is 0).
    """

    name: str
    shape: tuple[int, ...]
    first: int
    rows: RowOrder
    heads: int

    @property
    def tensors(self) -> tuple[str, ...]:
        """The tensors: one, or as many as there are rows."""
        return _tensors_named(self.name, self.shape[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """Tensors by canonical weight name, and the (tensor, reason) pairs that are not used."""

    tensors: Mapping[str, BoundTensor]
    ignored: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """One weight the architecture declares, and its tensor's expected name (see BoundTensor), with
    the names of all tensors if it stands for several; decoder -1: none.
    """

    canonical: str
    tensor: str
    tensors: tuple[str, ...]
    weight: WeightSpec
    decoder: int


def bind(spec: ModelSpec, checkpoint: Checkpoint) -> Binding:
    """The checkpoint's tensor for every weight of the architecture.

    CheckpointError if config and spec differ, or if tensors are missing, unexpected, misshapen or
    of a dtype that cannot be read. With tie_embeddings the head is the embedding.
    """
    binding = bind_headers(spec, checkpoint)
    check_rope_factors(spec, checkpoint)
    if spec.tie_embeddings:
        embedding = _of_group(spec, EMBEDDING)
        _check_tied_copies(spec, checkpoint, binding.tensors[embedding].name, binding.ignored)
    return binding


def bind_headers(spec: ModelSpec, checkpoint: Headers) -> Binding:
    """As `bind`, from what headers say: no tensor is read."""
    check_config(spec, checkpoint)
    present = frozenset(checkpoint.names())
    wanted = tuple(_wanted(spec, checkpoint, present))
    tied = frozenset(w.canonical for w in wanted if spec.tie_embeddings and w.weight.group == HEAD)
    needed = [want for want in wanted if want.canonical not in tied]
    found = [want for want in needed if present.issuperset(want.tensors)]
    ignored = _ignored(checkpoint, [w for w in wanted if w.canonical in tied], present)
    expected = {tensor for want in needed for tensor in want.tensors}
    extra = present - expected - {name for name, _ in ignored}
    missing = [want for want in needed if not present.issuperset(want.tensors)]
    problems = [
        *_missing(spec, checkpoint, missing, present),
        *_unexpected(spec, checkpoint, sorted(extra)),
        *_misshapen(spec, checkpoint, found),
        *_unreadable(checkpoint, found),
    ]
    if problems:
        raise CheckpointError(problems)
    tensors = {want.canonical: _bound(spec, checkpoint, want) for want in found}
    tensors |= dict.fromkeys(tied, tensors[_of_group(spec, EMBEDDING)])
    return Binding(tensors=tensors, ignored=ignored)


def _of_group(spec: ModelSpec, group: str) -> str:
    """The name of the model's one weight of a group."""
    return next(each.name for each in spec.architecture.weights if each.group == group)


def _wanted(spec: ModelSpec, checkpoint: Headers, present: Set[str]) -> Iterator[_Wanted]:
    """Every weight of the architecture, those of all decoders included."""
    architecture = spec.architecture
    embedding = next(each for each in architecture.weights if each.group == EMBEDDING)
    where = _stored_as(_tensor_name(embedding, checkpoint), present)
    prefix = architecture.prefixes.get(checkpoint.format, "")
    every = [(-1, weight) for weight in architecture.weights]
    decoders = range(spec.dims.layers)
    every += [(decoder, weight) for decoder in decoders for weight in architecture.decoder_weights]
    for decoder, weight in every:
        place, before = "", ""
        if decoder >= 0:
            place, before = f"decoders.{decoder}.", prefix.format(i=decoder)
        tensor = where(before + _tensor_name(weight, checkpoint))
        yield _Wanted(
            canonical=place + weight.name,
            tensor=tensor,
            tensors=_tensors_named(tensor, _shape(spec, weight)[0]),
            weight=weight,
            decoder=decoder,
        )


def _tensors_named(name: str, rows: int) -> tuple[str, ...]:
    """The tensors of a weight: where ROW stands in the name, one for each of its rows."""
    return tuple(name.replace(ROW, str(i)) for i in range(rows)) if ROW in name else (name,)


def _stored_as(embedding: str, present: Set[str]) -> Callable[[str], str]:
    """How a file of a model with other parts, or of a bare one, spells a tensor name; the
    embedding tells which of PREFIXES it has.
    """
    for stored, head in PREFIXES:
        if embedding not in present and stored + embedding.removeprefix(BODY) in present:
            return lambda name: (
                stored + name.removeprefix(BODY) if name.startswith(BODY) else head + name
            )
    return lambda name: name


def _tensor_name(weight: WeightSpec, checkpoint: Headers) -> str:
    name = {"hf": weight.hf, "meta": weight.meta, "gguf": weight.gguf}[checkpoint.format]
    if not name:
        raise CheckpointError(
            Problem(
                message=f"'{weight.name}' has no {FORMAT_NAMES[checkpoint.format]} name",
                at=weight.at,
                note=f"{checkpoint.description} is in that format",
                help=f"add `{checkpoint.format}:` to the weight, or give another checkpoint",
            )
        )
    return name


def _bound(spec: ModelSpec, checkpoint: Headers, want: _Wanted) -> BoundTensor:
    return BoundTensor(
        name=want.tensor,
        shape=_shape(spec, want.weight),
        first=_rows_before(spec, want.weight),
        rows=checkpoint.rotary_rows,
        heads=0 if want.weight.rotary is None else spec.dims.product(want.weight.rotary),
    )


def _ignored(
    checkpoint: Headers, tied: Sequence[_Wanted], present: Set[str]
) -> tuple[tuple[str, str], ...]:
    """The tensors that are present and not needed, each with the reason it does no harm."""
    ignored = {want.tensor: COPY_OF_EMBEDDING for want in tied if want.tensor in present}
    for pattern, reason in HARMLESS[checkpoint.format]:
        ignored |= {name: reason for name in present if re.fullmatch(pattern, name)}
    return tuple(sorted(ignored.items()))


def _check_tied_copies(
    spec: ModelSpec,
    checkpoint: Checkpoint,
    embedding: str,
    ignored: Sequence[tuple[str, str]],
) -> None:
    """Refuse a stored head that is not the embedding; the first and last rows tell them apart."""
    for name, reason in ignored:
        if reason != COPY_OF_EMBEDDING:
            continue
        rows = checkpoint.shape(embedding)[0]
        samples = (slice(0, COMPARED_ROWS), slice(max(0, rows - COMPARED_ROWS), rows))
        same = checkpoint.shape(name) == checkpoint.shape(embedding) and all(
            np.array_equal(checkpoint.read(name, sample), checkpoint.read(embedding, sample))
            for sample in samples
        )
        if not same:
            raise CheckpointError(
                Problem(
                    message=f"'{name}' is not a copy of '{embedding}'",
                    at=spec.source_of("tie_embeddings"),
                    note="says that the head is the embedding",
                    help="write tie_embeddings: false",
                )
            )


def _missing(
    spec: ModelSpec, checkpoint: Headers, missing: Sequence[_Wanted], present: Set[str]
) -> Iterator[Problem]:
    if not missing:
        return
    found = _decoders_found(spec, checkpoint)
    if all(want.weight.group == HEAD for want in missing):
        at, hint = "tie_embeddings", "if the head is the embedding, write tie_embeddings: true"
    elif all(want.decoder >= found for want in missing):
        at, hint = "dims.layers", f"layers: {found} would fit this checkpoint"
    else:
        at, hint = "architecture", "is this the checkpoint the spec is written for, all of it?"
    lines = [
        f"{want.canonical}: expected as '{tensor}'"
        for want in missing
        for tensor in want.tensors
        if tensor not in present
    ]
    yield Problem(
        message=f"{_tensors(len(lines))} missing from {checkpoint.description}",
        at=spec.source_of(at),
        details=_listed(lines),
        help=hint,
    )


def _decoders_found(spec: ModelSpec, checkpoint: Headers) -> int:
    """How many decoders, counted from the first, have a tensor in the checkpoint."""
    pattern = re.escape(spec.architecture.prefixes[checkpoint.format]).replace(r"\{i\}", r"(\d+)")
    numbers = {int(m[1]) for name in checkpoint.names() if (m := re.match(pattern, name))}
    return next(n for n in range(len(numbers) + 1) if n not in numbers)


def _unexpected(
    spec: ModelSpec, checkpoint: Headers, unexpected: Sequence[str]
) -> Iterator[Problem]:
    if not unexpected:
        return
    lines = [f"'{name}' {list(checkpoint.shape(name))}" for name in unexpected]
    options = {
        str(each.only_if)
        for each in spec.architecture.left_out
        for pattern in [_pattern(_tensor_name(each, checkpoint))]
        if any(re.search(pattern, name) for name in unexpected)
    }
    by_option = f"models with {' and '.join(sorted(options))} have them"
    yield Problem(
        message=f"{_tensors(len(unexpected))} unknown to architecture '{spec.architecture.name}'",
        at=spec.source_of("architecture"),
        note=f"does not use them, {checkpoint.description} holds them",
        details=_listed(lines),
        help=by_option
        if options
        else "choose the architecture that uses them, or add them to its weights",
    )


def _pattern(name: str) -> str:
    """A regular expression for what the tensors of a weight end in."""
    return re.escape(name).replace(re.escape(ROW), r"\d+") + "$"


def _unreadable(checkpoint: Headers, found: Sequence[_Wanted]) -> Iterator[Problem]:
    tensors = [tensor for want in found for tensor in want.tensors]
    lines = [f"'{name}' {why}" for name in tensors if (why := checkpoint.unreadable(name))]
    if lines:
        yield Problem(
            message=f"{_tensors(len(lines))} of a kind that ttc cannot read",
            note=f"in {checkpoint.description}",
            details=_listed(lines),
            help="give a checkpoint in bf16, or convert this one",
        )


def _misshapen(spec: ModelSpec, checkpoint: Headers, found: Sequence[_Wanted]) -> Iterator[Problem]:
    """One problem for each weight and wrong shape, however many decoders repeat it."""
    wrong: dict[tuple[str, tuple[int, ...]], list[_Wanted]] = {}
    for want in found:
        shape = _stored_shape(checkpoint, want, _shape(spec, want.weight))
        if not spec.architecture.is_last(want.weight):
            continue  # the last of the weights in a tensor says where it must end
        rows, *columns = _shape(spec, want.weight)
        if shape != (_rows_before(spec, want.weight) + rows, *columns):
            wrong.setdefault((want.weight.name, shape), []).append(want)
    for number, ((_, shape), wants) in enumerate(wrong.items()):
        if number == LISTED:
            yield Problem(message=f"{len(wrong) - LISTED} more weights have a wrong shape")
            return
        yield _misshapen_problem(spec, wants, shape)


def _stored_shape(checkpoint: Headers, want: _Wanted, expected: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a weight as it is stored; of rows that are tensors, by the first wrong one."""
    if ROW not in want.tensor:
        return checkpoint.shape(want.tensor)
    shapes = [(len(want.tensors), *checkpoint.shape(tensor)) for tensor in want.tensors]
    return next((shape for shape in shapes if shape != expected), expected)


def _misshapen_problem(spec: ModelSpec, wants: list[_Wanted], found: tuple[int, ...]) -> Problem:
    weight, expected = wants[0].weight, _shape(spec, wants[0].weight)
    names = ", ".join(" * ".join(factors) for factors in weight.shape)
    before = _rows_before(spec, weight)
    more = f" and {len(wants) - 1} more" if len(wants) > 1 else ""
    details = (f"in '{wants[0].tensor}'{more}",)
    if before and len(found) == len(expected):
        found = (found[0] - before, *found[1:])
        details += (f"of its rows, {before} are of {', '.join(weight.after)}",)
    message = f"{weight.name}: expected {list(expected)} = [{names}], found {list(found)}"
    if len(found) != len(expected):
        return Problem(
            message=message,
            at=weight.at,
            note=f"has {len(expected)} dims, the checkpoint {len(found)}",
            details=details,
            help="correct the shape in the architecture, or give another checkpoint",
        )
    axis = next(i for i, size in enumerate(found) if size != expected[i])
    suspect = weight.shape[axis][0]
    others = spec.dims.product(weight.shape[axis][1:])
    fits = found[axis] % others == 0
    return Problem(
        message=message,
        at=spec.source_of(f"dims.{suspect}"),
        note=f"does {suspect} fit this checkpoint?",
        details=details,
        help=f"{suspect}: {found[axis] // others} would fit it"
        if fits
        else "give the checkpoint the spec is written for",
    )


def _shape(spec: ModelSpec, weight: WeightSpec) -> tuple[int, ...]:
    return tuple(spec.dims.product(names) for names in weight.shape)


def _rows_before(spec: ModelSpec, weight: WeightSpec) -> int:
    """Rows of the weights that come before this one in the same tensor."""
    before = (spec.architecture.weight(name) for name in weight.after)
    return sum(spec.dims.product(other.shape[0]) for other in before)


def _tensors(count: int) -> str:
    return "1 tensor is" if count == 1 else f"{count} tensors are"


def _listed(lines: Sequence[str]) -> tuple[str, ...]:
    """The first lines of a list, and how many more there are."""
    more = len(lines) - LISTED
    return (*lines[:LISTED], *((f"and {more} more",) if more > 0 else ()))
