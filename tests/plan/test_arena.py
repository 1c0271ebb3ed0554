"""The model of ttnn's DRAM allocator."""

import pytest

from ttc.plan.arena import Arena

pytestmark = pytest.mark.fast


def held(*sizes: int) -> Arena:
    """Values of these sizes side by side, named by their place."""
    arena = Arena()
    for i, size in enumerate(sizes):
        arena.hold(str(i), size)
    return arena


def test_a_value_goes_to_the_lowest_hole_that_takes_it() -> None:
    arena = held(8, 1, 5, 1)
    arena.free("0")
    arena.free("2")
    arena.hold("new", 5)
    assert arena.blocks["new"] == (0, 5)
    arena.hold("next", 4)
    assert arena.blocks["next"] == (9, 13)
    assert arena.highest == 15


def test_a_hole_that_is_too_small_costs_memory() -> None:
    arena = held(4, 1)
    arena.free("0")
    arena.hold("new", 5)
    assert arena.blocks["new"] == (5, 10)
    assert arena.highest == 10
    assert sum(after - first for first, after in arena.blocks.values()) == 6


def test_what_is_free_can_be_held_again() -> None:
    arena = held(4)
    arena.free("0")
    arena.free("0")
    arena.hold("0", 4)
    assert arena.highest == 4
    with pytest.raises(AssertionError, match="0 is held already"):
        arena.hold("0", 4)


def test_a_value_in_l1_takes_nothing() -> None:
    arena = held(0)
    assert arena.blocks == {}
    assert arena.highest == 0
