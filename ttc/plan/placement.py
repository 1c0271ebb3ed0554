"""Where a tensor lives: buffer, layout, cores and shard, and how many bytes that takes."""

from dataclasses import dataclass
from functools import cache
from math import ceil
from typing import Literal

DType = Literal["bf16", "bfp8", "bfp4", "fp32", "uint32", "int32"]
Layout = Literal["tile", "row_major"]
CoreRange = tuple[int, int, int, int]  # x0, y0, x1, y1, both ends included

TILE = 32

# Bytes of one 32x32 tile: 1024 elements, for block formats 64 shared exponents and the mantissas.
# Source: ttnn 0.81.1, ttnn.Tile((32, 32)).get_tile_size(dtype).
TILE_BYTES: dict[str, int] = {
    "fp32": 4096,
    "bf16": 2048,
    "bfp8": 1088,
    "bfp4": 576,
    "uint32": 4096,
    "int32": 4096,
}
ELEMENT_BYTES: dict[str, int] = {"fp32": 4, "bf16": 2, "uint32": 4, "int32": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A memory config under the name that emitted code gives it.

    `grid` and `shard` (rows, columns of one shard) are empty and (0, 0) when interleaved. A
    placement without a grid but sharded leaves grid and shard to the operation that writes it.
    """

    name: str
    buffer: Literal["dram", "l1"]
    layout: Literal["interleaved", "width_sharded", "height_sharded"] = "interleaved"
    grid: tuple[CoreRange, ...] = ()
    shard: tuple[int, int] = (0, 0)

    @property
    def cores(self) -> int:
        """Number of cores (or DRAM banks) that hold a shard."""
        return sum((x1 - x0 + 1) * (y1 - y0 + 1) for x0, y0, x1, y1 in self.grid)


DRAM = Placement(name="DRAM", buffer="dram")
L1 = Placement(name="L1", buffer="l1")


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorPlan:
    """Shape (logical, 4-D), dtype, layout and placement of one tensor on the device."""

    shape: tuple[int, int, int, int]
    dtype: DType
    placement: Placement
    layout: Layout = "tile"

    @property
    def stored_bytes(self) -> int:
        """Bytes that the tensor takes on the chip, tile and shard padding included."""
        if self.layout == "row_major":
            return ELEMENT_BYTES[self.dtype] * _product(self.shape)
        if self.placement.grid:
            rows, columns = self.placement.shard
            return self.placement.cores * tiles(rows) * tiles(columns) * TILE_BYTES[self.dtype]
        batch, heads, rows, columns = self.shape
        return batch * heads * tiles(rows) * tiles(columns) * TILE_BYTES[self.dtype]

    def bytes_per_core(self, cores: int) -> int:
        """Bytes on the fullest core when the tensor is spread over `cores` L1 banks."""
        if self.placement.buffer != "l1":
            return 0
        if self.placement.grid:
            rows, columns = self.placement.shard
            return tiles(rows) * tiles(columns) * TILE_BYTES[self.dtype]
        pages = self.stored_bytes // TILE_BYTES[self.dtype]
        return ceil(pages / cores) * TILE_BYTES[self.dtype]


def tiles(elements: int) -> int:
    """Tiles that cover a number of rows or columns."""
    return ceil(elements / TILE)


def row_major_cores(count: int, columns: int) -> tuple[CoreRange, ...]:
    """The first `count` cores of a grid `columns` wide, row by row.

    This is the order in which ttnn itself lays out the shards of a matmul's or a head split's
    result (ttnn.num_cores_to_corerangeset with row_wise).
    """
    return core_run(0, count, columns)


def core_run(first: int, count: int, columns: int) -> tuple[CoreRange, ...]:
    """`count` cores from core number `first` on, row by row, as the fewest ranges."""
    ranges: list[CoreRange] = []
    while count > 0:
        x, y = first % columns, first // columns
        if x == 0 and count >= columns:
            rows = count // columns
            ranges.append((0, y, columns - 1, y + rows - 1))
            taken = rows * columns
        else:
            taken = min(count, columns - x)
            ranges.append((x, y, x + taken - 1, y))
        first += taken
        count -= taken
    return tuple(ranges)


def rectangle(count: int, columns: int, rows: int) -> CoreRange | None:
    """The widest rectangle of exactly `count` cores inside a grid, or None."""
    for width in range(min(count, columns), 0, -1):
        if count % width == 0 and count // width <= rows:
            return (0, 0, width - 1, count // width - 1)
    return None


@cache
def divisors(number: int) -> tuple[int, ...]:
    """All divisors of a number, smallest first."""
    return tuple(n for n in range(1, number + 1) if number % n == 0)


def largest_divisor(number: int, limit: int) -> int:
    """The largest divisor that is at most `limit`."""
    return max(n for n in divisors(number) if n <= max(1, limit))


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
