"""Bytes of one chip's DRAM: what ttnn's allocator will have handed out at the fullest moment.

Every bank takes the same part of each tensor, so that sizes here are those of the fullest bank
times the number of banks. Sources of the rules, unless they name another: ttnn 0.81.1 on mock
meshes (`get_memory_view` before and after each allocation); `tests/verify/test_memory.py` compares
whole programs.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil

from ttc.hardware.chips import Chip
from ttc.plan.arena import Arena, Size, run, run_decoders
from ttc.plan.capacity import MemoryPlan
from ttc.plan.l1 import l1_peak_bytes
from ttc.plan.operations import decode_operations, sampling_operations
from ttc.plan.placement import (
    DRAM,
    ELEMENT_BYTES,
    TILE,
    TILE_BYTES,
    DType,
    TensorPlan,
    tiles,
)
from ttc.plan.plan import (
    HeadPlan,
    KvCachePlan,
    PhasePlan,
    PlannedPositions,
    WeightPlan,
)
from ttc.plan.setting import Setting
from ttc.plan.tables import PlannedMask

# ttnn rounds the part of a trace region that lies in one bank up to this many bytes.
TRACE_ALIGNMENT = 8192

# The attention of a chunk takes page tables whose rows are a multiple of this many entries, which
# are 32 bytes (the error of ttnn 0.81.1 says so).
PAGE_TABLE_ENTRIES = 8

# A replayed operation is stored as the commands that launch it: what all cores are sent alike
# (buffer configurations, semaphores, launch messages, addresses of the kernels), and for each core
# the arguments of its kernels. What kernels take can only be measured on a device: a mock mesh
# captures no trace. The bound used is 1.4 times what tt-transformers has room for: 10,000,000
# bytes for the decode step of 28 decoders of 20 operations on 64 cores (Llama-3.2-3B on N150).
TRACE_BYTES_PER_OPERATION = 4096
TRACE_BYTES_PER_CORE = 80 * 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """The weights of a chip, added up: by group in DRAM, tables for positions apart."""

    by_group: Mapping[str, int]
    rope_bytes: int
    l1_bytes_per_core: int


def dram_bytes(tensor: TensorPlan, chip: Chip) -> int:
    """Bytes that a tensor takes from all banks of a chip; 0 for a tensor in L1.

    Pages (a tile, or a row of a row-major tensor) are padded to the bank's alignment and go round
    the banks; a tensor in shards takes a shard of every bank.
    """
    if tensor.placement.buffer != "dram":
        return 0
    if tensor.placement.grid:
        rows, columns = tensor.placement.shard
        return tiles(rows) * tiles(columns) * TILE_BYTES[tensor.dtype] * chip.dram_banks
    batch, heads, rows, columns = tensor.shape
    if tensor.layout == "row_major":
        page = columns * ELEMENT_BYTES[tensor.dtype]
        pages = batch * heads * rows
    else:
        page = TILE_BYTES[tensor.dtype]
        pages = batch * heads * tiles(rows) * tiles(columns)
    aligned = ceil(page / chip.dram_alignment_bytes) * chip.dram_alignment_bytes
    return ceil(pages / chip.dram_banks) * aligned * chip.dram_banks


def add_up(weights: Iterable[WeightPlan], setting: Setting) -> Stored:
    """What the stored tensors take."""
    chip = setting.chip
    groups: dict[str, int] = {}
    rope_bytes = l1_bytes = 0
    sizes: dict[TensorPlan, int] = {}
    for weight in weights:
        size = sizes.get(weight.tensor)
        if size is None:
            size = sizes[weight.tensor] = dram_bytes(weight.tensor, chip)
        l1_bytes += weight.tensor.bytes_per_core(chip.grid.cores)
        if weight.group == "rope":
            rope_bytes += size
        else:
            groups[weight.group] = groups.get(weight.group, 0) + size
    return Stored(by_group=groups, rope_bytes=rope_bytes, l1_bytes_per_core=l1_bytes)


def plan_memory(
    setting: Setting,
    *,
    stored: Stored,
    kv_cache: KvCachePlan,
    decode: PhasePlan,
    prefill: Sequence[PhasePlan],
    head: HeadPlan,
) -> MemoryPlan:
    """Sum what lives in DRAM and find the fullest core. `prefill` has all phases but `decode`."""
    chip, inputs = setting.chip, chunk_inputs(setting, max(phase.tokens for phase in prefill))
    steps = [step_bytes(phase, head, chip, inputs) for phase in (decode, *prefill)]
    return MemoryPlan(
        weights_by_group=tuple(sorted(stored.by_group.items())),
        kv_cache_bytes=kv_bytes(kv_cache, chip),
        rope_bytes=stored.rope_bytes,
        input_bytes=input_bytes(setting, decode, head),
        activation_bytes=max(steps),
        trace_region_bytes=trace_region_bytes(decode, head, chip),
        dram_limit_bytes=chip.dram_bytes,
        l1_peak_bytes_per_core=stored.l1_bytes_per_core
        + setting.kept_l1_bytes
        + l1_peak_bytes(
            decode=decode,
            prefill=prefill,
            head=head,
            chip=chip,
            kept_bytes=stored.l1_bytes_per_core + setting.kept_l1_bytes,
        ),
        l1_limit_bytes_per_core=chip.l1_bytes_per_core,
    )


def kv_bytes(kv_cache: KvCachePlan, chip: Chip) -> int:
    """Keys and values of all layers."""
    counts = Counter(kv_cache.tensor)
    return sum(2 * layers * dram_bytes(tensor, chip) for tensor, layers in counts.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkInputs:
    """Tokens of a cache block, and entries of the page table of a chunk that continues a prompt."""

    block_tokens: int
    pages: int


def chunk_inputs(setting: Setting, chunk: int) -> ChunkInputs:
    """For chunks of up to so many tokens.

    A page table has the blocks of the context and of the chunk at least, and rows of whole 32
    bytes.
    """
    block = setting.context if setting.whole_caches else setting.paging.block_tokens
    blocks = ceil(max(setting.context, chunk) / block)
    pages = ceil(blocks / PAGE_TABLE_ENTRIES) * PAGE_TABLE_ENTRIES
    return ChunkInputs(block_tokens=block, pages=pages)


def step_bytes(phase: PhasePlan, head: HeadPlan, chip: Chip, inputs: ChunkInputs) -> int:
    """How far one decode step or one prefill reaches in DRAM beyond what stays there.

    A prefill brings its tokens, their positions and the blocks they go to along, a chunk that
    continues a prompt also where it starts and a page table; it keeps the tables it gathers over
    all decoders. One of several prompts numbers them, and picks the last token of each out of all
    rows. A decode step moves each table to L1 as soon as it is gathered.
    """

    def size(tensor: TensorPlan) -> int:
        return dram_bytes(tensor, chip)

    arena = Arena()
    if not phase.decode:
        _hold_prompts(arena, phase, inputs, size)
    run(arena, phase.enter, size, {})
    tables = {
        f"{kind}_{i}": table for i, table in enumerate(phase.positions) for kind in ("cos", "sin")
    }
    for name, gathered in tables.items():
        shape = (1, 1, gathered.rows, gathered.head_dim)
        if gathered.rows % TILE:  # rows that do not fill tiles are gathered first, padded then
            arena.hold("rows", size(_row_major(shape, "bf16")))
        arena.hold(name, size(TensorPlan(shape=shape, dtype="bf16", placement=DRAM)))
        arena.free("rows")
        if phase.decode:
            arena.free(name)
    for mask in phase.masks:
        _hold_mask(arena, mask, size)
    value = run_decoders(arena, phase.decoders, size, phase.value, phase.residual)
    for name in (*tables, *(mask.name for mask in phase.masks)):
        arena.free(name)
    if phase.prompts > 1:
        rows = replace(phase.residual, dtype="bf16", layout="row_major")
        arena.hold("rows", size(rows))
        arena.hold("head", size(head.from_prefill.sliced))
        arena.free("rows")
    elif not phase.decode:
        arena.hold("head", size(head.from_prefill.sliced))
    run(arena, head.ops, size, {head.value: head.from_prefill.out})
    if phase.decode:
        _hold_choices(arena, head, size)
    assert phase.decode or value in arena.blocks, "the caller frees what a prefill returns"
    return arena.highest


def _hold_prompts(arena: Arena, phase: PhasePlan, inputs: ChunkInputs, size: Size) -> None:
    """What a prefill is given, in the order in which it is brought to the device."""
    prompts, blocks = phase.prompts, ceil(phase.tokens / inputs.block_tokens)
    given: dict[str, tuple[tuple[int, int, int, int], DType]] = {
        "prompt": ((1, 1, 1, phase.rows), "uint32"),
        "prompt_positions": ((1, 1, 1, phase.tokens), "uint32"),
        "prompt_blocks": ((1, 1, prompts, blocks), "int32"),
    }
    if prompts > 1:
        given |= {"prompts": ((1, 1, 1, prompts), "int32"), "last": ((1, 1, 1, TILE), "uint32")}
    if phase.continues:
        given |= {
            "start": ((1, 1, 1, 1), "int32"),
            "pages": ((1, 1, prompts, inputs.pages), "int32"),
        }
    for name, (shape, dtype) in given.items():
        arena.hold(name, size(_row_major(shape, dtype)))


def _hold_choices(arena: Arena, head: HeadPlan, size: Size) -> None:
    """A token is chosen in one of two ways: as the likeliest, or by a draw."""
    before = dict(arena.blocks)
    if head.gather and head.sampling.whole:
        arena.hold("whole", size(head.gather.out))
    for part in head.sampling.ranges:  # cut out and padded; the candidates found are in L1
        columns = replace(head.logits, shape=(1, 1, TILE, part.columns), placement=DRAM)
        if head.sampling.cut:
            arena.hold("columns", size(columns))
        if part.width > part.columns:
            arena.hold("padded", size(replace(columns, shape=(1, 1, TILE, part.width))))
        arena.free("columns")
        arena.free("padded")
    _hold_powers(arena, head, size)
    arena.blocks = before
    if size(head.chosen_from):
        _hold_likeliest(arena, head, size)


def _hold_powers(arena: Arena, head: HeadPlan, size: Size) -> None:
    """The sums for log-probabilities: logits in fp32, and their powers."""
    sampling, logits = head.sampling, head.logits
    given = replace(logits, shape=(1, 1, TILE, sampling.columns), placement=DRAM)
    exact = size(replace(given, dtype="fp32"))
    if sampling.trimmed:
        arena.hold("trimmed", size(given))
        arena.free("whole")
    if sampling.narrow:
        arena.hold("exact", exact)
        arena.free("trimmed")
    for name in ("filled",) * sampling.odd:
        arena.hold(name, exact)
        arena.free(name)
    arena.hold("powers", exact)
    arena.free("exact")
    arena.free("trimmed")
    if sampling.odd:
        arena.hold("filled", exact)


def _hold_likeliest(arena: Arena, head: HeadPlan, size: Size) -> None:
    """The choice of a token: all columns, then as rows, put together where they come in ranges."""
    whole, parts = head.chosen_from, head.choice_columns

    def rows(columns: int) -> int:
        return size(_row_major((1, 1, TILE, columns), whole.dtype))

    if head.gather:
        arena.hold("whole", size(whole))
    if len(parts) > 1:
        for i, columns in enumerate(parts):
            arena.hold("range", size(replace(whole, shape=(1, 1, TILE, columns))))
            arena.hold(f"rows_{i}", rows(columns))
            arena.free("range")
    arena.hold("rows", rows(sum(parts)))


def _hold_mask(arena: Arena, mask: PlannedMask, size: Size) -> None:
    """A mask, made of the rows that are gathered for it."""
    gathered, rows = mask.gathered, mask.gathered.shape[2]
    name = mask.name if gathered == mask.out else "gathered"
    if rows < mask.positions:
        arena.hold("positions", size(_row_major((1, 1, 1, rows), "uint32")))
    if rows % TILE:  # rows that do not fill tiles are gathered first, padded then
        arena.hold("rows", size(replace(gathered, layout="row_major")))
    arena.hold(name, size(gathered))
    arena.free("rows")
    arena.free("positions")
    if name == "gathered":
        arena.hold(mask.name, size(mask.out))
        arena.free(name)


def trace_region_bytes(decode: PhasePlan, head: HeadPlan, chip: Chip) -> int:
    """Bytes to set aside when the device is opened: a decode step, and both choices after it."""
    per_operation = TRACE_BYTES_PER_OPERATION + chip.grid.cores * TRACE_BYTES_PER_CORE
    wanted = (decode_operations(decode, head) + sampling_operations(head)) * per_operation
    per_bank = ceil(wanted / chip.dram_banks)
    return ceil(per_bank / TRACE_ALIGNMENT) * TRACE_ALIGNMENT * chip.dram_banks


def input_bytes(setting: Setting, decode: PhasePlan, head: HeadPlan) -> int:
    """What stays on the device between steps: tokens, positions, rows of tables, page table, and
    the users' settings."""
    blocks = 1 if setting.whole_caches else setting.paging.per_user(setting.context)
    tensors = (
        _row_major((1, 1, 1, TILE), "uint32"),
        _row_major((1, 1, 1, setting.slots), "int32"),
        _row_major((1, 1, 1, rope_positions(setting, decode.positions)), "uint32"),
        _row_major((1, 1, setting.slots, blocks), "int32"),
        *(tensor for _, tensor in head.sampling.inputs),
    )
    return sum(dram_bytes(tensor, setting.chip) for tensor in tensors)


def rope_positions(setting: Setting, positions: Sequence[PlannedPositions]) -> int:
    """Positions that a decode step rotates by: the users', once or twice."""
    return max((each.rows for each in positions), default=setting.slots)


def _row_major(shape: tuple[int, int, int, int], dtype: DType) -> TensorPlan:
    return TensorPlan(shape=shape, dtype=dtype, placement=DRAM, layout="row_major")
