"""The functions of one decoder: its blocks, and the decoder that runs them in turn."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ttc.graph.nodes import Activate
from ttc.lower.attention import position_names
from ttc.lower.calls import Function, Local, Statement, Unpack
from ttc.lower.constants import Constants
from ttc.lower.liveness import free_after_last_use
from ttc.lower.operations import lower_op
from ttc.plan.operations import decoder_inputs, last_reads, reads_of, results_of
from ttc.plan.placement import TensorPlan
from ttc.plan.plan import (
    DecoderPlan,
    PhasePlan,
    PlannedAttention,
    PlannedGated,
    PlannedLinear,
    PlannedNorm,
    PlannedOp,
    PlannedPositions,
    PlannedRope,
    PlannedScale,
    PlannedUnary,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Operations between two points where only one value is alive."""

    ops: tuple[PlannedOp, ...]
    reads: str
    writes: str

    @property
    def attends(self) -> bool:
        """Whether the block needs positions, blocks and cache."""
        return any(isinstance(op, PlannedAttention) for op in self.ops)

    @property
    def parts(self) -> tuple[str, ...]:
        """What it is of: both parts of a decoder whose feed-forward reads what attention reads."""
        functions = (op.node for op in self.ops if isinstance(op, PlannedUnary))
        activates = any(isinstance(node, Activate) for node in functions)
        feeds = activates or any(isinstance(op, PlannedGated) for op in self.ops)
        return (
            *(("attention",) if self.attends else ()),
            *(("feed-forward",) if feeds or not self.attends else ()),
        )


def lower_decoder(
    decoder: DecoderPlan, phase: PhasePlan, constants: Constants, known: dict[str, Block]
) -> tuple[Function, ...]:
    """One function for each block of a decoder and one for the decoder itself.

    What does not attend is the same for all prefills of as many rows: it is lowered once. `known`
    has those blocks, by the names of their functions; this adds to it.
    """
    blocks = cut_blocks(decoder.ops)
    shapes = {blocks[0].reads: phase.residual}
    shapes |= {name: tensor for op in decoder.ops for name, tensor in results_of(op)}
    functions: list[Function] = []
    calls: list[Statement] = []
    for block in blocks:
        kind = "_".join(block.parts).replace("-", "_")
        of = phase if block.attends or phase.decode else _of_any_prompts(phase)
        name = f"{decoder.name.replace('decoder', kind)}_{of.name}"
        context = _context(block, phase)
        assert known.get(name, block) == block, "blocks of one name are alike"
        if name not in known:
            known[name] = block
            functions.append(
                _block_function(
                    block,
                    phase,
                    constants,
                    name=name,
                    parameters=(block.reads, *(parameter for parameter, _ in context), "w"),
                    at=shapes,
                )
            )
        arguments = (block.reads, *(argument for _, argument in context), "w")
        calls.append(Local(function=name, args=arguments, results=(block.writes,)))
    first, final = blocks[0].reads, blocks[-1].writes
    functions.append(
        Function(
            name=f"{decoder.name}_{phase.name}",
            parameters=(first, *decoder_arguments(phase), "w"),
            doc=(
                f"{_layers(decoder.layers)}: {_rows(phase)}.",
                "",
                f"{first} -> {final}, both {describe(shapes[first])}; {first} is freed.",
            ),
            body=tuple(calls),
            returns=(final,),
        )
    )
    return tuple(functions)


def _of_any_prompts(phase: PhasePlan) -> PhasePlan:
    """A prefill of as many rows, however many prompts they are of and wherever these start."""
    return replace(phase, continues=False, tokens=phase.rows, prompts=1)


def cut_blocks(ops: Sequence[PlannedOp]) -> tuple[Block, ...]:
    """Cut a decoder where a single value is alive: the residual stream between its halves.

    Where both halves read the same norm, as in a parallel residual, the decoder is one block.
    """
    last = last_reads(ops)
    (entry,) = decoder_inputs(ops)
    blocks: list[Block] = []
    live = {entry}
    start, reads = 0, entry
    for i, op in enumerate(ops):
        written = {name for name, _ in results_of(op)}
        live = {name for name in live | written if last.get(name, len(ops)) > i}
        done = i == len(ops) - 1
        if live == written and len(written) == 1 and (done or len(_readers(ops, written)) > 1):
            (writes,) = written
            blocks.append(Block(ops=tuple(ops[start : i + 1]), reads=reads, writes=writes))
            start, reads = i + 1, writes
    return tuple(blocks)


def _readers(ops: Sequence[PlannedOp], names: set[str]) -> list[PlannedOp]:
    return [op for op in ops if names & set(reads_of(op))]


def describe(tensor: TensorPlan) -> str:
    """`[1, 1, 32, 576] bf16 HIDDEN_L1`, as docstrings give shapes."""
    return f"{list(tensor.shape)} {tensor.dtype} {tensor.placement.name}"


def table_names(positions: PlannedPositions) -> tuple[str, ...]:
    """Names of the gathered cos and sin of a table, in the order in which `enter` packs them."""
    return tuple(name for kind in ("cos", "sin") for name in position_names(positions, kind))


def swap_name(phase: PhasePlan) -> tuple[str, ...]:
    """The stored tiles that swap pairs, which `enter` packs last; () where halves rotate."""
    ropes = (op for each in phase.decoders for op in each.ops if isinstance(op, PlannedRope))
    if all(op.form != "pairs" for op in ropes):
        return ()
    return ("w.rope_swap_users" if phase.decode else "w.rope_swap",)


def _rope_names(phase: PhasePlan) -> tuple[str, ...]:
    """The names under which a block unpacks a table, whichever it is."""
    names: tuple[str, ...] = ("cos", "sin")
    if phase.decode and len(phase.positions[0].placements) > 1:
        names = ("cos_q", "cos_k", "sin_q", "sin_k")
    return (*names, "swap") if swap_name(phase) else names


def _tables(phase: PhasePlan) -> tuple[str, ...]:
    return tuple(positions.table for positions in phase.positions)


def decoder_arguments(phase: PhasePlan) -> tuple[str, ...]:
    """What a decoder takes between x and its weights."""
    tables = (*_tables(phase), *mask_names(phase))
    if phase.decode:
        return (*tables, "positions", "page_table", "cache", *sum_names(phase))
    return (*tables, "blocks", *_places(phase), "cache")


def _places(phase: PhasePlan) -> tuple[str, ...]:
    """Where a prefill finds the caches of its users: in blocks, or as a whole, as masks tell."""
    others = ("start", "page_table") if phase.masks else ("user", "first")
    if not phase.continues or phase.prompts > 1:
        others = ()
    return tuple(name for name in prefill_arguments(phase) if name not in others)


def prefill_arguments(phase: PhasePlan) -> tuple[str, ...]:
    """What a prefill takes between blocks and caches."""
    where = ("start", "page_table") if phase.continues else ()
    if phase.prompts > 1:
        return ("prompts", *where)
    return (*where, "user", "first") if phase.continues else ("user",)


def mask_names(phase: PhasePlan) -> tuple[str, ...]:
    """The masks that a phase gathers."""
    return tuple(mask.name for mask in phase.masks)


def _context(block: Block, phase: PhasePlan) -> tuple[tuple[str, str], ...]:
    """What a block takes between x and its weights, and what its decoder calls that.

    An attention needs what the decoder was given, and of the tables only the one it rotates by,
    which it calls `rope`, and the mask it adds, which it calls `mask`.
    """
    sums = tuple((name, name) for name in _sums(block.ops))
    if not block.attends:
        return sums
    tables = dict.fromkeys(op.node.table for op in block.ops if isinstance(op, PlannedRope))
    attentions = (op for op in block.ops if isinstance(op, PlannedAttention))
    masks = dict.fromkeys(op.scores.mask for op in attentions if op.scores)
    others = (*_tables(phase), *mask_names(phase), *sum_names(phase))
    given = (name for name in decoder_arguments(phase) if name not in others)
    named = (*(("rope", table) for table in tables), *(("mask", mask) for mask in masks))
    return (*named, *((name, name) for name in given), *sums)


def sum_names(phase: PhasePlan) -> tuple[str, ...]:
    """The sums over ranks for which a decoder gets a buffer, by the name of the buffer."""
    return tuple(dict.fromkeys(name for each in phase.decoders for name in _sums(each.ops)))


def _sums(ops: Sequence[PlannedOp]) -> tuple[str, ...]:
    collectives = (op.collective for op in ops if isinstance(op, PlannedLinear))
    return tuple(each.buffer for each in collectives if each is not None and each.buffer)


def _block_function(
    block: Block,
    phase: PhasePlan,
    constants: Constants,
    *,
    name: str,
    parameters: tuple[str, ...],
    at: dict[str, TensorPlan],
) -> Function:
    body: list[Statement] = []
    if block.attends:
        if "rope" in parameters:
            body.append(Unpack(names=_rope_names(phase), source="rope"))
        body.append(Unpack(names=("k_cache", "v_cache"), source="cache"))
    for op in block.ops:
        body += lower_op(op, constants)
    weights = dict.fromkeys(w for op in block.ops for w in _weights(op))
    width = max(len(block.reads), 2)
    rows = _rows(phase) if block.attends else _any_rows(phase)
    doc = (
        f"{', '.join(block.parts).capitalize()} and residual of {rows}.",
        "",
        f"{block.reads:<{width}}  {describe(at[block.reads])}; freed here",
        f"{'w':<{width}}  weights of the layer: {', '.join(weights)}",
        f"{'->':<{width}}  {describe(at[block.writes])}",
    )
    return Function(
        name=name,
        parameters=parameters,
        doc=doc,
        body=free_after_last_use(body, owned=(block.reads,), keep=(block.writes,)),
        returns=(block.writes,),
    )


def _weights(op: PlannedOp) -> tuple[str, ...]:
    match op:
        case PlannedLinear():
            return (*op.weights, *op.biases)
        case PlannedNorm():
            return op.node.reads_weights
        case PlannedScale():
            return (op.weight,)
        case _:
            return ()


def _rows(phase: PhasePlan) -> str:
    if phase.decode:
        return "one token of each user"
    what = "a later chunk" if phase.continues else "the first chunk"
    of = "a prompt" if phase.prompts == 1 else f"each of {phase.prompts} prompts"
    return f"{what} of {of}, {phase.tokens} tokens"


def _any_rows(phase: PhasePlan) -> str:
    return _rows(phase) if phase.decode else f"{phase.rows} tokens of a prefill"


def _layers(layers: tuple[int, ...]) -> str:
    if len(layers) == 1:
        return f"Decoder {layers[0]}"
    if layers == tuple(range(layers[0], layers[-1] + 1)):
        return f"Decoders {layers[0]} to {layers[-1]}"
    return "Decoders " + ", ".join(str(layer) for layer in layers)
