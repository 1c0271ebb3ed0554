"""Matmuls and their programs: the same form as ttnn's, or both refuse."""

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.mock

HIDDEN = 576
FFN = 1536
QKV = (9 + 2 * 3) * 64


def bank_matmul(
    m: Any, cores: int = 18, block: int = 1, per_core: int = 2, out: Any = None, **changed: Any
) -> Any:
    a = changed.pop("a", None) or m.tensor((1, 1, 32, HIDDEN), memory=m.wide(HIDDEN, cores))
    b = changed.pop("b", None) or m.tensor(
        (1, 1, HIDDEN, QKV), "bfloat8_b", m.in_banks(HIDDEN, QKV)
    )
    program = m.t.MatmulMultiCoreReuseMultiCastDRAMShardedProgramConfig(
        in0_block_w=block, per_core_M=changed.pop("per_core_m", 1), per_core_N=per_core
    )
    return m.t.linear(
        a,
        b,
        program_config=program,
        compute_kernel_config=m.kernel(),
        memory_config=out or m.t.L1_WIDTH_SHARDED_MEMORY_CONFIG,
        **changed,
    )


def grid_matmul(m: Any, rows: int = 512, block: int = 1, **changed: Any) -> Any:
    settings: dict[str, Any] = {
        "compute_with_storage_grid_size": (8, 8),
        "in0_block_w": block,
        "out_subblock_h": 1,
        "out_subblock_w": 1,
        "per_core_M": 2,
        "per_core_N": 4,
        "transpose_mcast": False,
        "fused_activation": None,
        "fuse_batch": True,
    }
    memory = changed.pop("memory", m.t.DRAM_MEMORY_CONFIG)
    dtype = changed.pop("dtype", "bfloat16")
    return m.t.linear(
        m.tensor((1, 1, rows, HIDDEN)),
        m.tensor((1, 1, HIDDEN, QKV), "bfloat8_b", m.in_banks(HIDDEN, QKV)),
        program_config=m.t.MatmulMultiCoreReuseMultiCastProgramConfig(**settings | changed),
        compute_kernel_config=m.kernel(),
        memory_config=memory,
        dtype=getattr(m.t, dtype),
    )


def line_matmul(m: Any, rows: int = 32, width: int = QKV, **changed: Any) -> Any:
    settings: dict[str, Any] = {
        "compute_with_storage_grid_size": (8, 8),
        "in0_block_w": 1,
        "out_subblock_h": 1,
        "out_subblock_w": 1,
        "per_core_M": 1,
        "per_core_N": 1,
        "fuse_batch": True,
        "fused_activation": None,
        "mcast_in0": True,
    }
    memory = changed.pop("memory", m.t.DRAM_MEMORY_CONFIG)
    a = m.tensor((1, 1, rows, HIDDEN), memory=changed.pop("a_memory", None))
    b = m.tensor((1, 1, HIDDEN, width), "bfloat8_b", changed.pop("b_memory", None))
    return m.t.linear(
        a,
        b,
        program_config=m.t.MatmulMultiCoreReuseMultiCast1DProgramConfig(**settings | changed),
        compute_kernel_config=m.kernel(),
        memory_config=memory,
    )


CASES: dict[str, Callable[[Any], Any]] = {
    "banks": lambda m: bank_matmul(m),
    "banks, one column per core": lambda m: bank_matmul(m, per_core=1),
    "banks, uneven columns": lambda m: bank_matmul(m, per_core=7),
    "banks, 9 cores": lambda m: bank_matmul(m, 9, 2, 4),
    "banks, smaller block": lambda m: bank_matmul(m, 9, 1, 4),
    "banks, block across cores": lambda m: bank_matmul(m, 9, 3, 4),
    "banks to DRAM": lambda m: bank_matmul(m, out=m.t.DRAM_MEMORY_CONFIG),
    "banks to height shards": lambda m: bank_matmul(m, out=m.t.L1_HEIGHT_SHARDED_MEMORY_CONFIG),
    "banks to other shards": lambda m: bank_matmul(m, out=m.sharded("WIDTH", 32, 32, m.cores(30))),
    "banks, interleaved weight": lambda m: bank_matmul(
        m, b=m.tensor((1, 1, HIDDEN, QKV), "bfloat8_b")
    ),
    "banks, interleaved input": lambda m: bank_matmul(m, a=m.x(m.t.L1_MEMORY_CONFIG)),
    "banks, two rows of tiles": lambda m: bank_matmul(
        m, a=m.x(m.sharded("WIDTH", 64, 32, m.cores(18)), rows=64), per_core_m=2
    ),
    "banks, depth": lambda m: bank_matmul(
        m, b=m.tensor((1, 1, 512, QKV), "bfloat8_b", m.in_banks(512, QKV))
    ),
    "banks to blocks": lambda m: bank_matmul(m, dtype=m.t.bfloat8_b),
    "banks, one row": lambda m: bank_matmul(m, a=m.x(m.wide(HIDDEN, 18), rows=1)),
    "plain": lambda m: m.t.linear(m.x(), m.tensor((1, 1, HIDDEN, QKV), "bfloat8_b")),
    "plain blocks": lambda m: m.t.linear(
        m.x(dtype="bfloat8_b"), m.tensor((1, 1, HIDDEN, QKV), "bfloat8_b")
    ),
    "plain of shards": lambda m: m.t.linear(
        m.x(m.wide(HIDDEN, 18)), m.tensor((1, 1, HIDDEN, QKV), "bfloat8_b")
    ),
    "rows of a weight": lambda m: m.t.linear(m.x(), m.ids(1, 1, HIDDEN, QKV, dtype="bfloat16")),
    "ids": lambda m: m.t.linear(m.x(dtype="uint32"), m.tensor((1, 1, HIDDEN, QKV))),
    "batches": lambda m: m.t.matmul(m.tensor((1, 4, 32, 64)), m.tensor((1, 4, 64, 32))),
    "batches, transposed": lambda m: m.t.matmul(
        m.tensor((1, 4, 32, 64)), m.tensor((1, 4, 32, 64)), transpose_b=True
    ),
    "grid": lambda m: grid_matmul(m),
    "grid to L1": lambda m: grid_matmul(m, memory=m.t.L1_MEMORY_CONFIG),
    "grid, blocks of 6": lambda m: grid_matmul(m, block=6),
    "grid, blocks of 4": lambda m: grid_matmul(m, block=4),
    "grid, too many rows": lambda m: grid_matmul(m, per_core_M=1),
    "grid, too many columns": lambda m: grid_matmul(m, per_core_N=3),
    "grid, subblock": lambda m: grid_matmul(m, out_subblock_h=2, out_subblock_w=2),
    "grid, subblock too large": lambda m: grid_matmul(m, out_subblock_h=2, out_subblock_w=4),
    "grid, subblock does not divide": lambda m: grid_matmul(m, out_subblock_w=3),
    "grid too large": lambda m: grid_matmul(m, compute_with_storage_grid_size=(9, 8)),
    "line": lambda m: line_matmul(m),
    "line to shards": lambda m: line_matmul(
        m, memory=m.t.L1_WIDTH_SHARDED_MEMORY_CONFIG, per_core_N=2
    ),
    "line of shards": lambda m: line_matmul(m, a_memory=m.wide(HIDDEN, 18)),
    "line, block over shards": lambda m: line_matmul(m, a_memory=m.wide(HIDDEN, 18), in0_block_w=2),
    "line, weight in banks": lambda m: line_matmul(m, b_memory=m.in_banks(HIDDEN, QKV)),
    "line, blocks of 4": lambda m: line_matmul(m, in0_block_w=4),
    "line, too many columns": lambda m: line_matmul(m, width=3 * FFN),
    "line by rows": lambda m: line_matmul(m, 512, mcast_in0=False, per_core_N=30),
    "minimal": lambda m: m.t.experimental.minimal_matmul(
        m.x(rows=512), m.tensor((1, 1, HIDDEN, QKV), "bfloat8_b")
    ),
    "minimal from banks": lambda m: m.t.experimental.minimal_matmul(
        m.x(rows=512),
        m.tensor((1, 1, HIDDEN, QKV), memory=m.in_banks(HIDDEN, QKV)),
        dtype=m.t.bfloat8_b,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_same_form_or_both_refuse(name: str, compare: Callable[[str], None]) -> None:
    compare(name)


def test_the_comparison_sees_a_difference(outcomes: Any) -> None:
    """Another grid moves the shards of a matmul's result."""
    name = "banks, one column per core"
    assert outcomes.emulated(name) == outcomes.real[name]
    assert outcomes.emulated(name, grid=(4, 8)) != outcomes.real[name]
