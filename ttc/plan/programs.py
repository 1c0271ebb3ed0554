"""How an operation is cut over cores: what ttnn calls a program config."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardedNorm:
    """A norm over shards in L1: core grid (x, y), tiles of one shard, tiles per subblock."""

    grid: tuple[int, int]
    block_h: int
    block_w: int
    subblock_w: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DramShardedMatmul:
    """Weights stream from the DRAM banks to cores beside them; x is width sharded in L1.

    Sizes in tiles. The result is width sharded, `per_core_n` tiles on each core.
    """

    in0_block_w: int
    per_core_m: int
    per_core_n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MulticastMatmul:
    """Rows of x along y and columns of the weights along x of a core grid. Sizes in tiles.

    `fuse_batch`: the weights are one matrix for all rows of x; else each batch of x has its own.
    """

    grid: tuple[int, int]
    in0_block_w: int
    per_core_m: int
    per_core_n: int
    out_block_h: int
    out_block_w: int
    out_subblock_h: int
    out_subblock_w: int
    fuse_batch: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class SdpaProgram:
    """Core grid (x, y) and chunk sizes in tokens; 0 leaves the chunk to the operation."""

    grid: tuple[int, int]
    q_chunk_tokens: int
    k_chunk_tokens: int
