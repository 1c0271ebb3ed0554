"""Bytes of a core's L1: the shards that are alive and the buffers of the running operation."""

from collections.abc import Sequence

from ttc.hardware.hardware import Chip
from ttc.plan.operations import peak_bytes
from ttc.plan.placement import TILE_BYTES
from ttc.plan.plan import HeadPlan, PhasePlan, PlannedLinear, PlannedNorm, PlannedOp


def l1_peak_bytes(
    *, decode: PhasePlan, prefill: Sequence[PhasePlan], head: HeadPlan, chip: Chip
) -> int:
    """The fullest core at its fullest moment, tensors that stay in L1 not counted."""
    steps = [[*decoder.ops, *head.ops] for decoder in decode.decoders]
    steps += [list(decoder.ops) for phase in prefill for decoder in phase.decoders]
    return max(
        peak_bytes(
            ops, lambda tensor: tensor.bytes_per_core(chip.grid.cores), buffers=_buffer_bytes
        )
        for ops in steps
    )


def _buffer_bytes(op: PlannedOp) -> int:
    """Circular buffers of one operation on its fullest core; 0 where a few tiles are all."""
    match op:
        case PlannedLinear():
            return max(op.buffer_bytes)
        case PlannedNorm(program=program) if program is not None:
            return 8 * program.block_w * TILE_BYTES["bf16"]
        case _:
            return 16 * TILE_BYTES["bf16"]
