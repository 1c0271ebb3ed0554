"""What planned operations launch, read and define: the facts that planning and memory share."""

from collections.abc import Iterable, Sequence

from ttc.plan.placement import TensorPlan
from ttc.plan.plan import (
    PlannedAdd,
    PlannedAttention,
    PlannedEmbedding,
    PlannedGated,
    PlannedLinear,
    PlannedNorm,
    PlannedOp,
    PlannedRope,
    PlannedRows,
    PlannedSplitQkv,
)


def operations_of(ops: Iterable[PlannedOp]) -> int:
    """Device operations that planned operations launch."""
    return sum(_operations(op) for op in ops)


def _operations(op: PlannedOp) -> int:
    match op:
        case PlannedLinear():
            return len(op.programs) + (len(op.programs) > 1)
        case PlannedRope():
            return 1 if op.fused else 2
        case PlannedAttention(decode=True):
            return (1 if op.fused_update else 2) + 3  # update, attention, shards, joined heads
        case PlannedAttention():
            return (2 if op.cast_kv else 0) + 2 + 1  # casts, fills, attention
        case PlannedRows():
            return 2
        case PlannedEmbedding() | PlannedNorm() | PlannedSplitQkv() | PlannedGated() | PlannedAdd():
            return 1


def results_of(op: PlannedOp) -> tuple[tuple[str, TensorPlan], ...]:
    """The values an operation defines, with their plans."""
    match op:
        case PlannedSplitQkv():
            return ((op.node.q, op.q), (op.node.k, op.k), (op.node.v, op.v))
        case PlannedRope():
            return ((op.node.q_out, op.q), (op.node.k_out, op.k))
        case PlannedRows():
            return ((op.value, op.out),)
        case _:
            return ((op.node.out, op.out),)


def reads_of(op: PlannedOp) -> tuple[str, ...]:
    """The values an operation reads."""
    match op:
        case PlannedRows():
            return (op.value,)
        case _:
            return op.node.reads


def last_reads(ops: Sequence[PlannedOp]) -> dict[str, int]:
    """For each value, the place of the last operation that reads it."""
    return {name: i for i, op in enumerate(ops) for name in reads_of(op)}


def decoder_inputs(ops: Sequence[PlannedOp]) -> set[str]:
    """The values that operations read and none of them defines."""
    return last_reads(ops).keys() - {name for op in ops for name, _ in results_of(op)}
