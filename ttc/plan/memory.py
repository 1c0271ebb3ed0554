"""Bytes on a chip: what the plan needs at its fullest moment, and what would still fit."""

from collections.abc import Callable, Mapping, Sequence
from math import ceil

from ttc.hardware.hardware import Chip
from ttc.plan.operations import decoder_inputs, last_reads, operations_of, results_of
from ttc.plan.placement import ELEMENT_BYTES, TILE, TILE_BYTES, TensorPlan, tiles
from ttc.plan.plan import (
    DecoderPlan,
    KvCachePlan,
    Largest,
    MemoryPlan,
    PhasePlan,
    PlannedLinear,
    PlannedNorm,
    PlannedOp,
    WeightPlan,
)
from ttc.plan.setting import Setting

# DRAM pages are aligned to this many bytes (64 on Blackhole, 32 on Wormhole: the larger).
DRAM_ALIGNMENT = 64

# A replayed operation is stored as the commands that launch it: a header, and for each core the
# arguments of its kernels (two that move data, three that compute). 32 words of 4 bytes for each
# kernel give 24 MB for the 527 operations of a 32-decoder model on 64 cores, where
# tt-transformers reserves 25 MB for 661.
TRACE_HEADER_BYTES = 4096
TRACE_BYTES_PER_CORE = 5 * 32 * 4

# Operations of a decode step outside its decoders: embedding, positions, head, sampling.
OPERATIONS_OUTSIDE = 16


def dram_bytes(tensor: TensorPlan, chip: Chip) -> int:
    """Bytes that a tensor takes over all banks of a chip, the fullest bank counted for each.

    Pages (a tile, or a row of a row-major tensor) go round the banks, and every bank reserves as
    many pages as the fullest one: this is what ttnn's allocator does.
    """
    if tensor.placement.buffer != "dram":
        return 0
    if tensor.placement.grid:
        return tensor.stored_bytes
    batch, heads, rows, columns = tensor.shape
    if tensor.layout == "row_major":
        page = ceil(columns * ELEMENT_BYTES[tensor.dtype] / DRAM_ALIGNMENT) * DRAM_ALIGNMENT
        pages = batch * heads * rows
    else:
        page = ceil(TILE_BYTES[tensor.dtype] / DRAM_ALIGNMENT) * DRAM_ALIGNMENT
        pages = batch * heads * tiles(rows) * tiles(columns)
    return ceil(pages / chip.dram_banks) * page * chip.dram_banks


def plan_memory(
    setting: Setting,
    *,
    weights: Sequence[WeightPlan],
    kv_cache: KvCachePlan,
    decode: PhasePlan,
    prefill: Sequence[PhasePlan],
    head: Sequence[PlannedOp],
) -> MemoryPlan:
    """Sum what lives in DRAM and find the fullest core."""
    chip = setting.chip
    groups: dict[str, int] = {}
    rope_bytes = 0
    for weight in weights:
        size = dram_bytes(weight.tensor, chip)
        if weight.group == "rope":
            rope_bytes += size
        else:
            groups[weight.group] = groups.get(weight.group, 0) + size
    resident = sum(weight.tensor.bytes_per_core(chip.grid.cores) for weight in weights)
    decoding = (_l1_peak([*decoder.ops, *head], chip) for decoder in decode.decoders)
    prefilling = (_l1_peak(decoder.ops, chip) for phase in prefill for decoder in phase.decoders)
    kv_bytes = sum(2 * dram_bytes(tensor, chip) for tensor in kv_cache.tensor)
    return MemoryPlan(
        weights_by_group=tuple(sorted(groups.items())),
        kv_cache_bytes=kv_bytes,
        rope_bytes=rope_bytes,
        activation_bytes=max((activation_bytes(phase, chip) for phase in prefill), default=0),
        trace_region_bytes=trace_region_bytes(decode, setting),
        dram_limit_bytes=chip.dram_banks * chip.dram_bank_bytes,
        l1_peak_bytes_per_core=resident + max(*decoding, *prefilling),
        l1_limit_bytes_per_core=chip.l1_bytes_per_core,
    )


def solve_largest(setting: Setting, memory: MemoryPlan, prefill: Sequence[PhasePlan]) -> Largest:
    """The most context, users and prompt tokens that would fit with everything else as planned."""
    per_token = memory.kv_cache_bytes // (setting.slots * setting.context)
    table_per_token = memory.rope_bytes // setting.context
    limit = setting.spec.max_context_tokens
    free = memory.dram_limit_bytes - (
        memory.weight_bytes + memory.activation_bytes + memory.trace_region_bytes
    )
    context = _blocks(free // (per_token * setting.slots + table_per_token))
    batch = (free - memory.rope_bytes) // (per_token * setting.context)
    fitting = [
        phase.tokens
        for phase in prefill
        if memory.dram_bytes_per_chip
        - memory.activation_bytes
        + activation_bytes(phase, setting.chip)
        <= memory.dram_limit_bytes
    ]
    return Largest(
        context=max(0, min(context, limit)),
        batch=max(0, min(batch, TILE)),
        prefill_bucket=max(fitting, default=0),
        max_tokens_all_users=max(0, _blocks((free - memory.rope_bytes) // per_token)),
    )


def activation_bytes(phase: PhasePlan, chip: Chip) -> int:
    """The most bytes of DRAM that the values of one phase hold at once."""
    return max(_live_bytes(phase, decoder, chip) for decoder in phase.decoders)


def trace_region_bytes(decode: PhasePlan, setting: Setting) -> int:
    """Bytes of the buffer that holds a captured decode step."""
    operations = OPERATIONS_OUTSIDE + sum(
        len(decoder.layers) * operations_of(decoder.ops) for decoder in decode.decoders
    )
    per_operation = TRACE_HEADER_BYTES + setting.chip.grid.cores * TRACE_BYTES_PER_CORE
    return operations * per_operation


def _live_bytes(phase: PhasePlan, decoder: DecoderPlan, chip: Chip) -> int:
    """Peak of DRAM while the decoder runs; positions stay alive, its input dies with its reader."""
    tables = 2 * dram_bytes(phase.positions.out, chip)
    (entering,) = decoder_inputs(decoder.ops)
    return tables + _peak(
        decoder.ops,
        lambda tensor: dram_bytes(tensor, chip),
        entering={entering: dram_bytes(phase.residual, chip)},
    )


def _l1_peak(ops: Sequence[PlannedOp], chip: Chip) -> int:
    """The fullest core while `ops` run: live shards and the buffers of the running operation."""
    return _peak(ops, lambda tensor: tensor.bytes_per_core(chip.grid.cores), buffers=_buffer_bytes)


def _peak(
    ops: Sequence[PlannedOp],
    size: Callable[[TensorPlan], int],
    *,
    entering: Mapping[str, int] | None = None,
    buffers: Callable[[PlannedOp], int] = lambda op: 0,
) -> int:
    """The most bytes at once: values from their operation to their last reader, and buffers."""
    last = last_reads(ops)
    live = dict(entering or {})
    peak = 0
    for i, op in enumerate(ops):
        live |= {name: size(tensor) for name, tensor in results_of(op)}
        peak = max(peak, sum(live.values()) + buffers(op))
        live = {name: held for name, held in live.items() if last.get(name, i + 1) > i}
    return peak


def _buffer_bytes(op: PlannedOp) -> int:
    """Circular buffers of one operation on its fullest core; 0 where a few tiles are all."""
    match op:
        case PlannedLinear():
            return max(op.buffer_bytes)
        case PlannedNorm(program=program) if program is not None:
            return 8 * program.block_w * TILE_BYTES["bf16"]
        case _:
            return 16 * TILE_BYTES["bf16"]


def _blocks(tokens: int) -> int:
    """Whole blocks of the KV cache, in tokens."""
    return tokens // TILE * TILE
