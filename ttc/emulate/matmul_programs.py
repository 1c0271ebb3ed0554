"""Which program configs ttnn accepts for a matmul, and where the result then lies.

Checked against ttnn 0.81.1 on a mock device (tests/emulate/test_against_ttnn.py).
"""

from math import prod

from ttc.emulate.configs import (
    BufferType,
    CoreCoord,
    MatmulMultiCoreReuseMultiCast1DProgramConfig,
    MatmulMultiCoreReuseMultiCastDRAMShardedProgramConfig,
    MatmulMultiCoreReuseMultiCastProgramConfig,
    MemoryConfig,
    TensorMemoryLayout,
    WormholeComputeKernelConfig,
    core_coord,
    cores_by_row,
    l1_sharded,
)
from ttc.emulate.dtypes import TILE
from ttc.emulate.errors import EmulationError, require
from ttc.emulate.tensor import Tensor, device_of

ProgramConfig = (
    MatmulMultiCoreReuseMultiCastDRAMShardedProgramConfig
    | MatmulMultiCoreReuseMultiCastProgramConfig
    | MatmulMultiCoreReuseMultiCast1DProgramConfig
)


def check_program(
    op: str,
    a: Tensor,
    b: Tensor,
    program: ProgramConfig | None,
    memory_config: MemoryConfig,
    kernel: WormholeComputeKernelConfig | None,
) -> MemoryConfig:
    """Raise what ttnn would refuse; otherwise the memory config of the result."""
    grid = device_of(op, a, b).compute_with_storage_grid_size()
    if program is None:
        return memory_config
    require(program.fused_activation is None, op, "fused activations are not emulated")
    if isinstance(program, MatmulMultiCoreReuseMultiCastDRAMShardedProgramConfig):
        _check_dram_sharded(op, a, b, program, memory_config)
        return _width_sharded(op, a, b, program.per_core_N, memory_config, grid)
    _check_blocks(op, a, program, kernel, grid)
    rows = prod(a.padded_shape[:-1]) // TILE
    if not program.fuse_batch:
        rows = a.padded_shape[-2] // TILE
    down = -(-rows // program.per_core_M)
    across = -(-b.padded_shape[-1] // TILE // program.per_core_N)
    limit = core_coord(program.compute_with_storage_grid_size)
    if isinstance(program, MatmulMultiCoreReuseMultiCast1DProgramConfig):
        cores = limit.x * limit.y
        require(down * across <= cores, op, f"{down * across} blocks exceed {cores} cores")
        if b.is_sharded() and b.memory_config().buffer_type is BufferType.DRAM:
            raise EmulationError(op, "a 1D program reads a sharded weight from L1 only")
        if memory_config.memory_layout is TensorMemoryLayout.WIDTH_SHARDED:
            return _width_sharded(op, a, b, program.per_core_N, memory_config, grid)
        return memory_config
    if program.transpose_mcast:
        down, across = across, down
    require(down <= limit.y, op, f"{down} output blocks along y exceed {limit.y} grid rows")
    require(across <= limit.x, op, f"{across} output blocks along x exceed {limit.x} grid columns")
    return memory_config


def _check_dram_sharded(
    op: str,
    a: Tensor,
    b: Tensor,
    program: MatmulMultiCoreReuseMultiCastDRAMShardedProgramConfig,
    memory_config: MemoryConfig,
) -> None:
    spec = a.memory_config().shard_spec
    if spec is None or a.memory_config().memory_layout is not TensorMemoryLayout.WIDTH_SHARDED:
        raise EmulationError(op, "a DRAM-sharded program needs its first operand width sharded")
    require(
        b.memory_config().memory_layout is TensorMemoryLayout.WIDTH_SHARDED
        and b.memory_config().buffer_type is BufferType.DRAM,
        op,
        "a DRAM-sharded program needs its weight width sharded in DRAM",
    )
    require(
        prod(a.padded_shape[:-1]) == TILE and program.per_core_M == 1,
        op,
        "a DRAM-sharded program takes one tile row of activations",
    )
    require(memory_config.is_sharded(), op, "the output of a DRAM-sharded program must be sharded")
    per_core, block = spec.shape[1] // TILE, program.in0_block_w
    require(
        per_core % block == 0 or block % per_core == 0,
        op,
        f"K tiles per core ({per_core}) and in0_block_w ({block}) must divide one another",
    )


def _check_blocks(
    op: str,
    a: Tensor,
    program: MatmulMultiCoreReuseMultiCastProgramConfig
    | MatmulMultiCoreReuseMultiCast1DProgramConfig,
    kernel: WormholeComputeKernelConfig | None,
    device_grid: CoreCoord,
) -> None:
    depth, block = a.padded_shape[-1] // TILE, program.in0_block_w
    require(depth % block == 0, op, f"K tiles ({depth}) must be divisible by in0_block_w ({block})")
    spec = a.memory_config().shard_spec
    if spec is not None and a.is_sharded():
        shard = spec.shape[1] // TILE
        require(shard % block == 0, op, f"in0_block_w ({block}) must divide the shard ({shard})")
    grid = core_coord(program.compute_with_storage_grid_size)
    require(
        grid.x <= device_grid.x and grid.y <= device_grid.y,
        op,
        f"grid {grid} does not fit the device grid {device_grid}",
    )
    height, width = program.out_subblock_h, program.out_subblock_w
    fit = 4 if kernel is not None and kernel.fp32_dest_acc_en else 8
    require(height * width <= fit, op, f"subblock {height} x {width} exceeds {fit} tiles of Dst")
    for name, total, part in (
        ("out_block_h", program.out_block_h or program.per_core_M, height),
        ("out_block_w", program.out_block_w or program.per_core_N, width),
    ):
        require(total % part == 0, op, f"{name} ({total}) must be divisible by its subblock {part}")


def _width_sharded(
    op: str, a: Tensor, b: Tensor, per_core_n: int, asked: MemoryConfig, grid: CoreCoord
) -> MemoryConfig:
    """The grid of the result follows per_core_N, whatever shards were asked for."""
    require(
        asked.memory_layout is TensorMemoryLayout.WIDTH_SHARDED,
        op,
        "the result of this program can only be width sharded",
    )
    cores = -(-b.padded_shape[-1] // TILE // per_core_n)
    require(
        cores <= grid.x * grid.y, op, f"per_core_N {per_core_n} needs {cores} cores for the output"
    )
    return l1_sharded(
        TensorMemoryLayout.WIDTH_SHARDED,
        prod(a.padded_shape[:-1]),
        per_core_n * TILE,
        cores_by_row(cores, grid),
    )
