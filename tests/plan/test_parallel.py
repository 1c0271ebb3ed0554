"""Shares: what part of a dim a rank holds, and that all ranks together hold all of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttc.plan.parallel import ZEROS, even_share, head_share

pytestmark = pytest.mark.fast


def test_runs_join_neighbours_and_add_zeros_beyond_the_end() -> None:
    share = even_share("ffn", "out", width=32, ranks=4)
    assert share.runs(0, 80) == ((0, 32, 0),)
    assert share.runs(2, 80) == ((64, 80, 16),)
    assert share.runs(3, 80) == ((80, 80, 32),)


def test_runs_of_heads() -> None:
    share = head_share("query heads", "out", ((0, 1, 2), (3, ZEROS, 5)), 64)
    assert share.width == 192
    assert share.runs(0, 384) == ((0, 192, 0),)
    assert share.runs(1, 384) == ((192, 256, 64), (320, 384, 0))


def test_a_rank_of_zeros_takes_nothing() -> None:
    share = head_share("kv heads", "out", ((0,), (ZEROS,)), 64)
    assert share.runs(1, 64) == ((64, 64, 64),)


@given(size=st.integers(1, 400), width=st.integers(1, 100), ranks=st.integers(1, 32))
def test_even_shares_cover_the_dim_once(size: int, width: int, ranks: int) -> None:
    share = even_share("vocab", "out", width=width, ranks=ranks)
    held = [
        element
        for rank in range(ranks)
        for start, stop, _ in share.runs(rank, size)
        for element in range(start, stop)
    ]
    assert held == list(range(min(size, width * ranks)))
    for rank in range(ranks):
        runs = share.runs(rank, size)
        assert sum(stop - start + zeros for start, stop, zeros in runs) == width
