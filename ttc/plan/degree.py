"""How a mesh is divided: how many chips work on one user, and along which axis of the mesh."""

from dataclasses import dataclass
from typing import Literal

from ttc.errors import PlanError, Problem, Source
from ttc.graph.nodes import Node
from ttc.hardware.hardware import Mesh, check_row_length
from ttc.plan.plan import Choice


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """`dp` replicas of `tp` chips, each `shape` (rows, columns) of the mesh, along `axis`."""

    tp: int
    dp: int
    shape: tuple[int, int]
    axis: int
    topology: Literal["none", "line", "ring"]
    links: int


def divisions(mesh: Mesh) -> tuple[Division, ...]:
    """Every way to cut a mesh into equal rows of chips, most chips to a replica first."""
    found: dict[int, Division] = {}
    for axis in (1, 0):
        for tp in mesh.row_lengths(axis):
            division = Division(
                tp=tp,
                dp=mesh.devices // tp,
                shape=(1, tp) if axis == 1 else (tp, 1),
                axis=axis,
                topology=_topology(mesh, axis, tp),
                links=mesh.links[axis] if tp > 1 else 0,
            )
            better = found.get(tp)
            if better is None or (division.topology, better.topology) == ("ring", "line"):
                found[tp] = division
    return tuple(found[tp] for tp in sorted(found, reverse=True))


def choose_division(
    mesh: Mesh, wanted: int | None, whole: Node | None = None, at: Source | None = None
) -> tuple[Division, Choice]:
    """The division with `wanted` chips to a replica; None takes the longer axis of the mesh.

    `whole` is an operation that needs all of a width that ranks would divide: one chip then. `at`
    is where a file says what is wanted.

    The most chips to a user divide weights and caches furthest: the longest context, and the
    least to read for a token. Fewer serve more users at once. Raises PlanError if the mesh cannot
    be cut like that.
    """
    known = {division.tp: division for division in divisions(mesh)}
    if whole is not None and wanted not in (None, 1):
        raise PlanError(
            Problem(
                message=f"replicas of {wanted} chips cannot be planned",
                at=at or whole.at,
                note=f"'{', '.join(whole.writes)}' needs all heads on one chip",
                help="tp can be 1",
            )
        )
    if whole is not None:
        known = {1: known[1]}
    wrong = [*check_row_length(mesh, wanted, at)] if wanted is not None else []
    if wrong:
        raise PlanError(wrong)
    taken = known[max(known) if wanted is None else wanted]
    alternatives = tuple((str(tp), _describe(division)) for tp, division in known.items())
    return taken, Choice(name="tp", taken=str(taken.tp), alternatives=alternatives)


def _describe(division: Division) -> str:
    replicas = "1 replica" if division.dp == 1 else f"{division.dp} replicas"
    rows, columns = division.shape
    wires = "" if division.tp == 1 else f", a {division.topology} of {division.links} links"
    return f"{replicas} of {rows}x{columns} chips{wires}"


def _topology(mesh: Mesh, axis: int, tp: int) -> Literal["none", "line", "ring"]:
    """A ring only where the wires close it: the whole mesh in a row, or an axis of a torus."""
    if tp == 1:
        return "none"
    length = (mesh.rows, mesh.cols)[axis]
    grid = mesh.cluster.grid
    whole = tp == mesh.devices and mesh.topology == "ring"
    torus = mesh.cluster.wrap and grid is not None and tp == length and tp in grid
    closed = mesh.topology == "ring" and (whole or torus) and tp > 2
    return "ring" if closed else "line"
