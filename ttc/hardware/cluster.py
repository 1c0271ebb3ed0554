"""The machine below a mesh: boards, host links and wires, as an entry of `meshes.yaml` says."""

from dataclasses import dataclass

from ttc.hardware.chips import Board
from ttc.located import Located

RING_FABRICS = ("FABRIC_1D_RING", "FABRIC_2D_TORUS_XY")
"""Fabrics that pass messages round: they want wires that close."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """`links` ethernet links between two chips of a cluster."""

    a: int
    b: int
    links: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """The machine below a mesh, as a cluster descriptor states it. Chips are numbered from 0.

    `boards` has the chips of each board, `trays` their grid where a board has four trays,
    `host_chips` those with a PCIe link of their own. `grid` is (rows, columns) where the wiring is
    a grid of chips numbered row by row, `wrap` whether that grid closes into a torus,
    `coordinates` (x, y) of each chip where ttnn needs them.
    """

    board_type: str
    trays: tuple[int, int] | None
    boards: tuple[tuple[int, ...], ...]
    host_chips: tuple[int, ...]
    wiring: tuple[Wire, ...]
    grid: tuple[int, int] | None
    wrap: bool
    coordinates: tuple[tuple[int, int], ...]

    @property
    def chips(self) -> int:
        return sum(len(board) for board in self.boards)


def read_cluster(data: Located, chips: int, board: Board) -> Cluster:
    """The cluster of an entry that `mesh_check` accepted; `board` is the type of its boards."""
    wiring, coordinates = data.get("wiring"), data.get("coordinates")
    grid = wiring.get("grid") if wiring else None
    wrap = wiring.get("wrap") if wiring else None
    boards = read_boards(data["boards"], chips, board)
    listed = data["boards"].get("host_chips")
    first = tuple(chip for each in boards for chip in each[: board.host_chips])
    return Cluster(
        board_type=board.name,
        trays=board.trays,
        boards=boards,
        host_chips=integers(listed) if listed else first,
        wiring=read_wires(wiring) if wiring else (),
        grid=pair(grid) if grid else None,
        wrap=wrap.flag if wrap else False,
        coordinates=tuple(map(pair, coordinates.elements())) if coordinates else (),
    )


def read_boards(boards: Located, chips: int, board: Board) -> tuple[tuple[int, ...], ...]:
    """The chips of each board: as listed, or counted through, a board after the other."""
    listed = boards.get("chips")
    if listed:
        return tuple(map(integers, listed.elements()))
    return tuple(tuple(range(start, start + board.chips)) for start in range(0, chips, board.chips))


def read_wires(wiring: Located) -> tuple[Wire, ...]:
    """The wires that `pairs` lists, or those between the neighbours of a `grid`."""
    if "pairs" in wiring.fields():
        triples = map(integers, wiring["pairs"].elements())
        return tuple(Wire(a=a, b=b, links=links) for a, b, links in triples)
    rows, cols = pair(wiring["grid"])
    links, wrap = wiring["links"].integer, wiring.get("wrap")
    closed = wrap is not None and wrap.flag
    wires: list[Wire] = []
    for row in range(rows):
        for col in range(cols):
            here = row * cols + col
            if col + 1 < cols or (closed and cols > 2):
                wires.append(Wire(a=here, b=row * cols + (col + 1) % cols, links=links))
            if row + 1 < rows or (closed and rows > 2):
                wires.append(Wire(a=here, b=(row + 1) % rows * cols + col, links=links))
    return tuple(wires)


def integers(data: Located) -> tuple[int, ...]:
    """A list of whole numbers."""
    return tuple(each.integer for each in data.elements())


def pair(data: Located) -> tuple[int, int]:
    """A list of two whole numbers."""
    first, second = integers(data)
    return first, second
