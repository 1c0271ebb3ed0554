"""Bytes of a core's L1: the shards that are alive and the buffers of the running operation.

Buffers of matmuls and of attention over prompts are planned with their programs; those of the other
operations are what ttnn 0.81.1 reports on mock boards (`extract_resource_usage_per_core`) for
widths of 512 to 16384.
"""

from collections.abc import Sequence
from math import ceil

from ttc.hardware.chips import Chip
from ttc.plan.operations import peak_bytes
from ttc.plan.placement import ELEMENT_BYTES, TILE_BYTES, TensorPlan, tiles
from ttc.plan.plan import (
    HeadPlan,
    PhasePlan,
    PlannedAttention,
    PlannedEmbedding,
    PlannedLinear,
    PlannedNorm,
    PlannedOp,
)

BF16_TILE = TILE_BYTES["bf16"]

# The most that an embedding takes for rows that wait twice, before and after they become tiles.
EMBEDDING_DOUBLE_TILES = 256


def l1_peak_bytes(
    *,
    decode: PhasePlan,
    prefill: Sequence[PhasePlan],
    head: HeadPlan,
    chip: Chip,
    kept_bytes: int = 0,
) -> int:
    """The fullest core at its fullest moment, beside `kept_bytes` of tensors that stay in L1."""
    free = chip.l1_bytes_per_core - kept_bytes
    steps = [list(phase.enter) for phase in (decode, *prefill)]
    steps += [[*decoder.ops, *head.ops] for decoder in decode.decoders]
    steps += [list(decoder.ops) for phase in prefill for decoder in phase.decoders]
    cores = chip.grid.cores
    return max(
        greedy_bytes(head.logits, head.chosen_from, len(head.choice_columns), cores),
        head.logits.bytes_per_core(cores) + head.sampling.buffer_bytes,
        *(
            peak_bytes(
                ops,
                lambda tensor: tensor.bytes_per_core(cores),
                buffers=lambda op: buffer_bytes(op, free, cores),
            )
            for ops in steps
        ),
    )


def buffer_bytes(op: PlannedOp, free: int, cores: int) -> int:
    """Circular and dataflow buffers of one operation on its fullest core of `cores`, of which
    `free` bytes are not taken by tensors that stay; and the parts of a result that is put together.
    """
    match op:
        case PlannedLinear() if len(op.programs) > 1:
            return _parts_bytes(op, cores)
        case PlannedLinear():
            return max(op.buffer_bytes)
        case PlannedAttention() if op.buffer_bytes:
            return op.buffer_bytes
        case PlannedNorm(program=None):
            return _interleaved_norm_bytes(op, free)
        case PlannedNorm(program=program) if program is not None:
            return 8 * program.block_w * BF16_TILE
        case PlannedEmbedding() if op.out.placement.buffer == "dram":
            width = tiles(op.out.shape[3])
            copies = 4 if 4 * width <= EMBEDDING_DOUBLE_TILES else 2
            return copies * width * BF16_TILE
        case _:
            return 16 * BF16_TILE


def _parts_bytes(op: PlannedLinear, cores: int) -> int:
    """Parts wait in their shards for the last one, then are moved to where they become one."""
    parts = [part.bytes_per_core(cores) for part in op.split_outs]
    waiting = [sum(parts[:i]) for i in range(len(parts))]
    return max(
        *(sum(each) for each in zip(op.buffer_bytes, waiting, strict=True)),
        sum(parts) + op.out.bytes_per_core(cores),
    )


def _interleaved_norm_bytes(op: PlannedNorm, free: int) -> int:
    """A norm keeps whole rows of tiles while they fit, else it reads them twice in pieces."""
    wide = op.compute.fp32_dest_acc
    block = 4 if wide else 8
    width = ceil(tiles(op.out.shape[3]) / block) * block
    x_tile = TILE_BYTES[op.out.dtype]
    rest = 3 * width + 40 if wide else 2 * width + 30
    whole = (width + 2 * block) * x_tile + rest * BF16_TILE
    if whole <= free:
        return whole
    return 36 * x_tile + 182 * BF16_TILE if wide else 72 * x_tile + 199 * BF16_TILE


def greedy_bytes(logits: TensorPlan, whole: TensorPlan, parts: int, cores: int) -> int:
    """The choice of a token: logits of a rank, and those of all while they become rows.

    That takes four times a core's tiles of one of `parts` equal ranges of columns. Rows of logits
    in L1 are there as well, one user's on a core.
    """
    columns = ceil(tiles(whole.shape[3]) / parts)
    strips = 4 * ceil(columns / cores) * max(TILE_BYTES[whole.dtype], BF16_TILE)
    row = whole.shape[3] * ELEMENT_BYTES.get(whole.dtype, ELEMENT_BYTES["bf16"])
    in_l1 = whole.placement.buffer == "l1"
    return logits.bytes_per_core(cores) + strips + (row if in_l1 else 0)
