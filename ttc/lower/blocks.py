"""The functions of one decoder: its blocks, and the decoder that runs them in turn."""

from collections.abc import Sequence
from dataclasses import dataclass

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
    PlannedLinear,
    PlannedNorm,
    PlannedOp,
    PlannedRope,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Operations between two points where only one value is alive."""

    ops: tuple[PlannedOp, ...]
    reads: str
    writes: str

    @property
    def attends(self) -> bool:
        """Whether the block needs positions, page table and cache."""
        return any(isinstance(op, PlannedAttention) for op in self.ops)


def lower_decoder(
    decoder: DecoderPlan, phase: PhasePlan, constants: Constants
) -> tuple[Function, ...]:
    """One function for each block of a decoder and one for the decoder itself."""
    suffix = "decode" if phase.decode else f"prefill_{phase.tokens}"
    blocks = cut_blocks(decoder.ops)
    shapes = {blocks[0].reads: phase.residual}
    shapes |= {name: tensor for op in decoder.ops for name, tensor in results_of(op)}
    functions: list[Function] = []
    calls: list[Statement] = []
    for block in blocks:
        kind = "attention" if block.attends else "feed_forward"
        name = f"{decoder.name.replace('decoder', kind)}_{suffix}"
        context = _context(phase) if block.attends else ()
        parameters = (block.reads, *context, "w")
        functions.append(
            _block_function(block, phase, constants, name=name, parameters=parameters, at=shapes)
        )
        calls.append(Local(function=name, args=parameters, results=(block.writes,)))
    first, final = blocks[0].reads, blocks[-1].writes
    functions.append(
        Function(
            name=f"{decoder.name}_{suffix}",
            parameters=(first, *_context(phase), "w"),
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


def cut_blocks(ops: Sequence[PlannedOp]) -> tuple[Block, ...]:
    """Cut a decoder where a single value is alive: the residual stream between its halves."""
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


def rope_names(phase: PhasePlan) -> tuple[str, ...]:
    """The names under which a decoder unpacks `rope`, in the order `enter` packs them."""
    positions = phase.positions
    ropes = [op for op in phase.decoders[0].ops if isinstance(op, PlannedRope)]
    kinds = ("cos", "sin")
    if positions.decode and len(positions.placements) > 1:
        names = tuple(name for kind in kinds for name in position_names(positions, kind))
    else:
        names = kinds
    return (*names, "swap") if any(op.form == "pairs" for op in ropes) else names


def _context(phase: PhasePlan) -> tuple[str, ...]:
    """What an attention needs beside x and its weights."""
    if phase.decode:
        return ("rope", "positions", "page_table", "cache")
    return ("rope", "page_table", "user", "cache")


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
        body.append(Unpack(names=rope_names(phase), source="rope"))
        body.append(Unpack(names=("k_cache", "v_cache"), source="cache"))
    for op in block.ops:
        body += lower_op(op, constants)
    weights = dict.fromkeys(w for op in block.ops for w in _weights(op))
    width = max(len(block.reads), 2)
    doc = (
        f"{'Attention' if block.attends else 'Feed-forward'} and residual of {_rows(phase)}.",
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
            return op.weights
        case PlannedNorm():
            return op.node.reads_weights
        case _:
            return ()


def _rows(phase: PhasePlan) -> str:
    return "one token of each user" if phase.decode else f"a prompt of up to {phase.tokens} tokens"


def _layers(layers: tuple[int, ...]) -> str:
    if len(layers) == 1:
        return f"Decoder {layers[0]}"
    if layers == tuple(range(layers[0], layers[-1] + 1)):
        return f"Decoders {layers[0]} to {layers[-1]}"
    return "Decoders " + ", ".join(str(layer) for layer in layers)
