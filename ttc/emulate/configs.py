"""Memory, program and compute configurations with ttnn's names, arguments and defaults.

All are immutable values: equal when their fields are equal, usable as dictionary keys. Which
combinations an operation accepts is checked by the operation.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Any


class TensorMemoryLayout(Enum):
    """How the pages of a tensor are spread over memory banks or cores."""

    INTERLEAVED = 0
    HEIGHT_SHARDED = 2
    WIDTH_SHARDED = 3
    BLOCK_SHARDED = 4


class BufferType(Enum):
    """The memory a tensor lives in."""

    DRAM = 0
    L1 = 1


class ShardOrientation(Enum):
    """The order in which shards are dealt to the cores of a grid."""

    ROW_MAJOR = 0
    COL_MAJOR = 1


class MathFidelity(Enum):
    """How many multiplier phases the matrix unit runs per product."""

    LoFi = 0
    HiFi2 = 2
    HiFi3 = 3
    HiFi4 = 4
    Invalid = 255


class Topology(Enum):
    """How the chips of a collective are connected."""

    Linear = 1
    Ring = 2


class UnaryOpType(Enum):
    """Functions of each element that can be a step of another operation."""

    SILU = "silu"
    GELU = "gelu"
    GELU_TANH = "gelu_tanh"
    RELU = "relu"
    TANH = "tanh"
    EXP = "exp"
    MUL_UNARY_SFPU = "mul_unary_sfpu"


class GeluVariant(Enum):
    """Ways to compute GELU: exact, or with tanh. ttnn's table of straight lines is not emulated."""

    Accurate = "accurate"
    Tanh = "tanh"


@dataclass(frozen=True)
class UnaryWithParam:
    """A function of each element with its number: the factor of MUL_UNARY_SFPU, and whether GELU
    and TANH may be approximate."""

    op_type: UnaryOpType
    param: float | None = None


class CoreCoord:
    """One core (x, y), also accepted as a tuple wherever ttnn accepts one."""

    __slots__ = ("x", "y")

    def __init__(self, x: "int | tuple[int, int]", y: int | None = None, /) -> None:
        if isinstance(x, int):
            if y is None:
                raise TypeError("CoreCoord takes x and y, or one tuple")
            self.x, self.y = x, y
        else:
            self.x, self.y = x

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CoreCoord) and (self.x, self.y) == (other.x, other.y)

    def __hash__(self) -> int:
        return hash((self.x, self.y))

    def __repr__(self) -> str:
        return f"{self.x}-{self.y}"


def core_coord(grid: CoreCoord | Sequence[int]) -> CoreCoord:
    """The grid size a program config was given, as a CoreCoord."""
    return grid if isinstance(grid, CoreCoord) else CoreCoord(grid[0], grid[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreGrid:
    """A rectangle of x times y cores from the origin."""

    x: int
    y: int

    @property
    def num_cores(self) -> int:
        return self.x * self.y


@dataclass(frozen=True, slots=True)
class CoreRange:
    """The cores from `start` to `end`, both included."""

    start: CoreCoord
    end: CoreCoord

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for y in range(self.start.y, self.end.y + 1):
            for x in range(self.start.x, self.end.x + 1):
                yield x, y

    def __repr__(self) -> str:
        return f"[{self.start} - {self.end}]"


class CoreRangeSet:
    """Disjoint core ranges. Cores are counted range by range, row by row inside a range."""

    __slots__ = ("_box", "_cores", "_hash", "_ranges")

    def __init__(self, core_ranges: Iterable[CoreRange]) -> None:
        self._ranges = tuple(core_ranges)
        self._cores = tuple(core for one in self._ranges for core in one)
        self._hash = hash(frozenset(self._cores))
        if len(set(self._cores)) != len(self._cores):
            raise RuntimeError(f"core ranges {list(self._ranges)} overlap")
        xs, ys = zip(*self._cores, strict=True)
        self._box = CoreRange(CoreCoord(min(xs), min(ys)), CoreCoord(max(xs), max(ys)))

    @property
    def cores(self) -> tuple[tuple[int, int], ...]:
        """(x, y) of every core, in the order in which shards are dealt."""
        return self._cores

    def num_cores(self) -> int:
        return len(self._cores)

    def ranges(self) -> list[CoreRange]:
        return list(self._ranges)

    def bounding_box(self) -> CoreRange:
        return self._box

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CoreRangeSet) and set(self._cores) == set(other._cores)

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return "{" + ", ".join(map(repr, self._ranges)) + "}"


class ShardSpec:
    """The cores of a sharded tensor and the [height, width] each of them holds."""

    __slots__ = ("grid", "orientation", "shape")

    def __init__(
        self, grid: CoreRangeSet, shard_shape: Sequence[int], shard_orientation: ShardOrientation
    ) -> None:
        self.grid = grid
        self.shape = [int(size) for size in shard_shape]
        self.orientation = shard_orientation

    def num_cores(self) -> int:
        return self.grid.num_cores()

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, ShardSpec)
            and self.shape == other.shape
            and self.orientation is other.orientation
            and self.grid == other.grid
        )

    def __hash__(self) -> int:
        return hash((self.grid, *self.shape, self.orientation))

    def __repr__(self) -> str:
        return f"ShardSpec({self.grid}, {self.shape}, {self.orientation.name})"


class MemoryConfig:
    """Memory layout, buffer type and, for sharded layouts, the shards."""

    __slots__ = ("_hash", "buffer_type", "memory_layout", "shard_spec")

    def __init__(
        self,
        memory_layout: TensorMemoryLayout = TensorMemoryLayout.INTERLEAVED,
        buffer_type: BufferType = BufferType.DRAM,
        shard_spec: ShardSpec | None = None,
    ) -> None:
        self.memory_layout = memory_layout
        self.buffer_type = buffer_type
        self.shard_spec = shard_spec
        self._hash = hash((memory_layout, buffer_type, shard_spec))

    def is_sharded(self) -> bool:
        return self.memory_layout is not TensorMemoryLayout.INTERLEAVED

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, MemoryConfig)
            and self.memory_layout is other.memory_layout
            and self.buffer_type is other.buffer_type
            and self.shard_spec == other.shard_spec
        )

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        text = f"{self.memory_layout.name} in {self.buffer_type.name}"
        return f"{text} as {self.shard_spec}" if self.shard_spec is not None else text


DRAM_MEMORY_CONFIG = MemoryConfig()
L1_MEMORY_CONFIG = MemoryConfig(buffer_type=BufferType.L1)
L1_WIDTH_SHARDED_MEMORY_CONFIG = MemoryConfig(TensorMemoryLayout.WIDTH_SHARDED, BufferType.L1)
L1_HEIGHT_SHARDED_MEMORY_CONFIG = MemoryConfig(TensorMemoryLayout.HEIGHT_SHARDED, BufferType.L1)


@lru_cache(maxsize=1024)
def cores_by_row(count: int, grid: CoreCoord, first: int = 0) -> CoreRangeSet:
    """`count` cores of a grid counted row by row, starting with core number `first`."""
    rows: dict[int, list[int]] = {}
    for index in range(first, first + count):
        rows.setdefault(index // grid.x, []).append(index % grid.x)
    return CoreRangeSet(
        CoreRange(CoreCoord(min(xs), y), CoreCoord(max(xs), y)) for y, xs in rows.items()
    )


@lru_cache(maxsize=1024)
def l1_sharded(
    layout: TensorMemoryLayout, height: int, width: int, cores: CoreRangeSet
) -> MemoryConfig:
    """An L1 memory config with [height, width] on every core."""
    spec = ShardSpec(cores, (height, width), ShardOrientation.ROW_MAJOR)
    return MemoryConfig(layout, BufferType.L1, spec)


@dataclass(frozen=True, slots=True, kw_only=True)
class WormholeComputeKernelConfig:
    """Settings of the matrix unit; also used for Blackhole, as in ttnn."""

    math_fidelity: MathFidelity = MathFidelity.Invalid
    math_approx_mode: bool = True
    fp32_dest_acc_en: bool = False
    packer_l1_acc: bool = False
    dst_full_sync_en: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerNormShardedMultiCoreProgramConfig:
    """Sharded norm: block_h x block_w tiles per core, subblock_w tiles at a time."""

    compute_with_storage_grid_size: CoreCoord | Sequence[int]
    subblock_w: int
    block_h: int
    block_w: int
    inplace: bool
    legacy_reduction: bool = False
    legacy_rsqrt: bool = False
    use_welford: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MatmulMultiCoreReuseMultiCastDRAMShardedProgramConfig:
    """Matmul whose weight is width sharded over the DRAM banks; sizes in tiles."""

    in0_block_w: int
    per_core_M: int
    per_core_N: int
    fused_activation: Any = None
    num_workers_per_dram_bank: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class MatmulMultiCoreReuseMultiCastProgramConfig:
    """Matmul with both operands multicast over a two-dimensional grid; sizes in tiles."""

    compute_with_storage_grid_size: CoreCoord | Sequence[int]
    in0_block_w: int
    out_subblock_h: int
    out_subblock_w: int
    out_block_h: int | None = None
    out_block_w: int | None = None
    per_core_M: int
    per_core_N: int
    transpose_mcast: bool
    fused_activation: Any = None
    fuse_batch: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class MatmulMultiCoreReuseMultiCast1DProgramConfig:
    """Matmul with one operand multicast to a line of cores; sizes in tiles."""

    compute_with_storage_grid_size: CoreCoord | Sequence[int]
    in0_block_w: int
    out_subblock_h: int
    out_subblock_w: int
    out_block_h: int | None = None
    out_block_w: int | None = None
    per_core_M: int
    per_core_N: int
    fuse_batch: bool
    fused_activation: Any = None
    mcast_in0: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MinimalMatmulConfig:
    """Blocks of `experimental.minimal_matmul`; sizes in tiles."""

    M_block_size: int = 1
    K_block_size: int = 1
    N_block_size: int = 1
    subblock_h: int = 1
    subblock_w: int = 1
    compute_with_storage_grid_size: CoreCoord | Sequence[int] = (1, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class SDPAProgramConfig:
    """Attention: chunk sizes in tokens (0 in decode lets ttnn choose)."""

    compute_with_storage_grid_size: CoreCoord | Sequence[int]
    q_chunk_size: int
    k_chunk_size: int
    exp_approx_mode: bool | None = None
    max_cores_per_head_batch: int = 16
