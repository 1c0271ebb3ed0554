"""Which wirings hold a grid, a line or a ring of chips."""

from collections.abc import Iterable
from itertools import combinations

import pytest

from ttc.hardware.cluster import Wire
from ttc.hardware.layout import GridForm, can_stand, unreached

pytestmark = pytest.mark.fast

type Pairs = Iterable[tuple[int, int]]

TRIANGLES = [(0, 1), (1, 2), (2, 0), (3, 4), (4, 5), (5, 3)]
STAR = [(0, 1), (0, 2), (0, 3), (0, 4)]
TWO_AND_THREE = [(a, b) for a in (0, 1) for b in (2, 3, 4)]
PETERSEN = [
    pair for i in range(5) for pair in ((i, (i + 1) % 5), (i, i + 5), (5 + i, 5 + (i + 2) % 5))
]
CUBE = [(a, a | 1 << bit) for a in range(8) for bit in range(3) if not a >> bit & 1]


def wires(pairs: Pairs) -> list[Wire]:
    return [Wire(a=a, b=b, links=2) for a, b in pairs]


def grid(rows: int, cols: int) -> list[Wire]:
    across = [(n, n + 1) for n in range(rows * cols) if (n + 1) % cols]
    down = [(n, n + cols) for n in range((rows - 1) * cols)]
    return wires(across + down)


def row(length: int, *, closed: bool = False) -> GridForm:
    return GridForm(rows=1, cols=length, closed=(False, closed))


@pytest.mark.parametrize(
    ("pairs", "chips", "line", "ring"),
    [
        ([(0, 1)], 2, True, True),  # no closing wire is asked of two
        ([(0, 1), (1, 2)], 3, True, False),
        ([(0, 1), (1, 2), (2, 0)], 3, True, True),
        (TRIANGLES, 6, False, False),
        ([*TRIANGLES, (0, 3)], 6, True, False),
        (STAR, 5, False, False),
        (TWO_AND_THREE, 5, True, False),
        (PETERSEN, 10, True, False),
        (CUBE, 8, True, True),
        (combinations(range(8), 2), 8, True, True),
    ],
)
def test_lines_and_rings_of_all_chips(pairs: Pairs, chips: int, line: bool, ring: bool) -> None:
    found = wires(pairs)
    assert can_stand(row(chips), chips, found) == line
    assert can_stand(row(chips, closed=True), chips, found) == ring


@pytest.mark.parametrize("shape", [(2, 4), (3, 3), (8, 4), (5, 12), (8, 8), (16, 16)])
def test_a_grid_holds_a_line_and_a_ring_where_it_has_as_many_black_chips_as_white(
    shape: tuple[int, int],
) -> None:
    rows, cols = shape
    chips, found = rows * cols, grid(rows, cols)
    assert can_stand(row(chips), chips, found)
    assert can_stand(row(chips, closed=True), chips, found) == (chips % 2 == 0)
    assert can_stand(GridForm(rows=rows, cols=cols), chips, found)
    assert can_stand(GridForm(rows=cols, cols=rows), chips, found)


def test_a_grid_is_no_torus_and_no_other_grid() -> None:
    found = grid(4, 4)
    assert not can_stand(GridForm(rows=4, cols=4, closed=(True, True)), 16, found)
    assert not can_stand(GridForm(rows=4, cols=4, closed=(False, True)), 16, found)
    assert not can_stand(GridForm(rows=2, cols=8), 16, found)
    assert can_stand(GridForm(rows=2, cols=4), 16, found)  # a part of it


def test_neighbours_want_so_many_links() -> None:
    found = [*wires([(0, 1), (2, 3)]), Wire(a=0, b=2, links=1), Wire(a=1, b=3, links=1)]
    assert can_stand(GridForm(rows=2, cols=2, links=(1, 2)), 4, found)
    assert can_stand(GridForm(rows=2, cols=2, links=(2, 1)), 4, found)
    assert not can_stand(GridForm(rows=2, cols=2, links=(2, 2)), 4, found)


def test_chips_that_no_wire_reaches() -> None:
    assert unreached(6, wires(TRIANGLES)) == [3, 4, 5]
    assert unreached(3, wires([(0, 1)])) == [2]
    assert unreached(1, []) == []
