"""Cores, rectangles and bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttc.plan.placement import (
    DRAM,
    L1,
    Placement,
    TensorPlan,
    core_run,
    largest_divisor,
    rectangle,
    row_major_cores,
)

pytestmark = pytest.mark.fast


@given(first=st.integers(0, 60), count=st.integers(1, 60), columns=st.integers(1, 14))
def test_a_run_of_cores_is_exact_and_in_order(first: int, count: int, columns: int) -> None:
    cores = [
        y * columns + x
        for x0, y0, x1, y1 in core_run(first, count, columns)
        for y in range(y0, y1 + 1)
        for x in range(x0, x1 + 1)
    ]
    assert cores == list(range(first, first + count))


@given(count=st.integers(1, 140), columns=st.integers(1, 14), rows=st.integers(1, 10))
def test_a_rectangle_has_the_cores_or_does_not_exist(count: int, columns: int, rows: int) -> None:
    found = rectangle(count, columns, rows)
    possible = any(count % w == 0 and count // w <= rows for w in range(1, columns + 1))
    assert (found is not None) == possible
    if found:
        x0, y0, x1, y1 = found
        assert (x1 - x0 + 1) * (y1 - y0 + 1) == count
        assert x1 < columns
        assert y1 < rows


def test_row_major_cores_are_whole_rows_and_a_rest() -> None:
    assert row_major_cores(18, 8) == ((0, 0, 7, 1), (0, 2, 1, 2))


def test_largest_divisor_is_at_least_one() -> None:
    assert largest_divisor(18, 8) == 6
    assert largest_divisor(19, 8) == 1
    assert largest_divisor(4, 0) == 1


@pytest.mark.parametrize(
    ("shape", "dtype", "placement", "layout", "expected"),
    [
        ((1, 1, 32, 64), "bf16", DRAM, "tile", 2 * 2048),
        ((1, 1, 33, 33), "bfp8", DRAM, "tile", 4 * 1088),
        ((1, 1, 10, 100), "bf16", DRAM, "row_major", 2000),
        ((2, 3, 32, 32), "bfp4", L1, "tile", 6 * 576),
    ],
)
def test_stored_bytes(shape, dtype, placement, layout, expected) -> None:
    assert (
        TensorPlan(shape=shape, dtype=dtype, placement=placement, layout=layout).stored_bytes
        == expected
    )


def test_sharded_bytes_include_the_padding_of_the_banks() -> None:
    banks = Placement(
        name="W", buffer="dram", layout="width_sharded", grid=((0, 0, 11, 0),), shard=(576, 96)
    )
    tensor = TensorPlan(shape=(1, 1, 576, 960), dtype="bfp8", placement=banks)
    assert tensor.stored_bytes == 12 * 18 * 3 * 1088  # 30 tile columns need 36 on 12 banks


def test_bytes_per_core() -> None:
    spread = TensorPlan(shape=(1, 1, 32, 32 * 65), dtype="bf16", placement=L1)
    assert spread.bytes_per_core(64) == 2 * 2048
    assert TensorPlan(shape=(1, 1, 32, 32), dtype="bf16", placement=DRAM).bytes_per_core(64) == 0
