"""Programs for matmuls: how a product is cut over the cores so that it fits in L1."""

from math import ceil

from ttc.hardware.chips import Chip
from ttc.plan.placement import (
    TILE,
    TILE_BYTES,
    DType,
    Placement,
    divisors,
    largest_divisor,
    tiles,
)
from ttc.plan.programs import DramShardedMatmul, MulticastMatmul
from ttc.spec.precision import Fidelity

# in0_block_w above 8 tiles buys nothing and costs L1 (tt-transformers caps it at 8 as well).
MAX_BLOCK_TILES = 8

# L1 that other things than a matmul's own buffers may hold while it runs: residual stream, norm
# result, the other factor of a gated product, semaphores, kernel arguments.
L1_RESERVE_BYTES = 160 * 1024


def dst_tiles(compute: Fidelity) -> int:
    """Tiles that the destination registers hold: 4 in 32 bits, 8 in 16 bits (half sync)."""
    return 4 if compute.fp32_dest_acc else 8


def partial_bytes(compute: Fidelity, out: DType) -> int:
    """Bytes of one tile of partial sums in L1; 0 where they share the buffer of the result."""
    partial = "fp32" if compute.fp32_dest_acc else "bf16"
    return 0 if partial == out else TILE_BYTES[partial]


def dram_sharded_weight(name: str, rows: int, columns: int, chip: Chip) -> Placement:
    """A weight [rows, columns] cut by columns over the DRAM banks, whole tiles to each."""
    shard_columns = ceil(tiles(columns) / chip.dram_banks) * TILE
    return Placement(
        name=name,
        buffer="dram",
        layout="width_sharded",
        grid=((0, 0, chip.dram_banks - 1, 0),),
        shard=(rows, shard_columns),
    )


def dram_sharded_bytes(
    *,
    in0_block_w: int,
    bank_tiles: int,
    per_core_n: int,
    x_dtype: DType,
    weight_dtype: DType,
    out: DType,
    compute: Fidelity,
) -> int:
    """Bytes of buffers on the fullest core of a DRAM-sharded matmul.

    The cores beside the banks hold three blocks of weights and one bank's columns of result and
    partial sums; each core also has two blocks of x and its shard of the result. Source: the
    totals that ttnn 0.81.1 reports when they do not fit ("grow to ... B").
    """
    bank = bank_tiles * (
        3 * in0_block_w * TILE_BYTES[weight_dtype] + TILE_BYTES[out] + partial_bytes(compute, out)
    )
    shared = 2 * in0_block_w * TILE_BYTES[x_dtype] + per_core_n * TILE_BYTES[out]
    return bank + shared


def plan_dram_sharded(
    *,
    rows: int,
    columns: int,
    in_cores: int,
    per_core_n: int,
    x_dtype: DType,
    weight_dtype: DType,
    out: DType,
    compute: Fidelity,
    chip: Chip,
    kept_bytes: int = 0,
) -> tuple[DramShardedMatmul, int]:
    """The program with the widest K block that fits in L1, else the narrowest, and its bytes.

    `rows` x `columns` is the weight [in, out]; x is width sharded over `in_cores` cores. Each core
    keeps `kept_bytes` for other things.
    """
    limit = matmul_limit(chip, kept_bytes)
    bank_tiles = ceil(tiles(columns) / chip.dram_banks)
    blocks = [each for each in divisors(tiles(rows) // in_cores) if each <= MAX_BLOCK_TILES]
    sizes = {
        block: dram_sharded_bytes(
            in0_block_w=block,
            bank_tiles=bank_tiles,
            per_core_n=per_core_n,
            x_dtype=x_dtype,
            weight_dtype=weight_dtype,
            out=out,
            compute=compute,
        )
        for block in blocks
    }
    taken = max((block for block in blocks if sizes[block] <= limit), default=blocks[0])
    program = DramShardedMatmul(in0_block_w=taken, per_core_m=1, per_core_n=per_core_n)
    return program, sizes[taken]


def matmul_limit(chip: Chip, kept_bytes: int) -> int:
    """L1 of a core that buffers of a matmul may take beside what it keeps."""
    return chip.l1_bytes_per_core - L1_RESERVE_BYTES - kept_bytes


def plan_multicast(
    *,
    tokens: int,
    rows: int,
    columns: int,
    x_dtype: DType,
    weight_dtype: DType,
    out: DType,
    compute: Fidelity,
    chip: Chip,
    kept_bytes: int = 0,
) -> tuple[MulticastMatmul, int]:
    """The program for x [tokens, rows] @ weight [rows, columns], and its bytes per core.

    The weight stays in its DRAM shards. The grid has as many columns as fit both the cores and
    the banks: on Blackhole a core's columns must be those of one bank, or the result is silently
    wrong (tt-transformers' rule for its prefill matmuls); on Wormhole any 8 columns do.
    """
    grid_x = min(chip.grid.x, chip.dram_banks)
    grid_y = largest_grid_rows(tiles(tokens), chip)
    per_core_m = ceil(tiles(tokens) / grid_y)
    per_core_n = ceil(tiles(columns) / grid_x)
    block = largest_divisor(tiles(rows), MAX_BLOCK_TILES)
    out_tile = TILE_BYTES[out] + partial_bytes(compute, out)

    def buffers(height: int, width: int, block_w: int) -> int:
        operands = height * TILE_BYTES[x_dtype] + width * TILE_BYTES[weight_dtype]
        return 2 * block_w * operands + height * width * out_tile

    limit = matmul_limit(chip, kept_bytes)
    blocks = [
        (height, width)
        for height in divisors(per_core_m)
        for width in divisors(per_core_n)
        if buffers(height, width, block) <= limit
    ]
    # The largest area reuses operands best; among equals, the squarest.
    height, width = max(blocks, key=lambda size: (size[0] * size[1], -abs(size[0] - size[1])))
    sub_w = largest_divisor(width, dst_tiles(compute))
    sub_h = largest_divisor(height, dst_tiles(compute) // sub_w) if sub_w == width else 1
    program = MulticastMatmul(
        grid=(grid_x, grid_y),
        in0_block_w=block,
        per_core_m=per_core_m,
        per_core_n=per_core_n,
        out_block_h=height,
        out_block_w=width,
        out_subblock_h=sub_h,
        out_subblock_w=sub_w,
    )
    return program, buffers(height, width, block)


def largest_grid_rows(row_tiles: int, chip: Chip) -> int:
    """Grid rows over which `row_tiles` divide evenly, at most 8.

    8 keeps the programs of chips with 8 and with 10 rows of cores alike for power-of-two lengths.
    """
    return largest_divisor(row_tiles, min(8, chip.grid.y))
