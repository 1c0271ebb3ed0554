"""Meshes by name, read from `meshes.yaml` and from the files in the user's `meshes/`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from ttc.errors import Problem, Source, UsageError, did_you_mean
from ttc.hardware.chips import Chip, known_boards, load_chip
from ttc.hardware.cluster import Cluster, read_cluster
from ttc.hardware.mesh_check import check_mesh
from ttc.hardware.shapes import machine_shape, shape_of
from ttc.located import Located, raise_problems
from ttc.schema import load_yaml

SHIPPED = Path(__file__).parent / "meshes.yaml"
"""The meshes that everyone has."""

USER_FOLDER = "meshes"
"""Where a user's own lie, below the working directory."""

Topology = Literal["line", "ring"]
"""What a user may ask of the wires of a mesh."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mesh:
    """`rows` x `cols` chips of one kind, opened as one device.

    `name` is what the user typed: `T3K` or `T3K:2x4`. `fabric` is the name of a
    ttnn.FabricConfig or "none", `topology` is none, linear or ring. `links` are usable by a
    collective between neighbours along axis 0 (rows) and axis 1 (columns). `machine` is the
    (rows, columns) in which ttnn opens all chips of the machine, itself or what it is a part of.
    `known_to_ttnn` says whether ttnn has a mesh graph descriptor of its own for the machine.
    """

    name: str
    chip: Chip
    rows: int
    cols: int
    fabric: str
    topology: str
    links: tuple[int, int]
    machine: tuple[int, int]
    known_to_ttnn: bool
    cluster: Cluster

    @property
    def devices(self) -> int:
        return self.rows * self.cols

    @property
    def dram_bytes(self) -> int:
        """Of all chips together."""
        return self.devices * self.chip.dram_bytes

    def row_lengths(self, axis: int) -> tuple[int, ...]:
        """Into rows of how many chips the mesh can be cut along an axis, to work on one user.

        A row has an even number of chips, or one: ttnn's all_reduce_async adds no other.
        """
        length = (self.rows, self.cols)[axis]
        return tuple(n for n in range(1, length + 1) if length % n == 0 and (n == 1 or n % 2 == 0))


def check_row_length(mesh: Mesh, wanted: int, at: Source | None = None) -> Iterator[Problem]:
    """That a mesh cannot be cut into rows of so many chips; `at` is where a file asks for it."""
    known = sorted({*mesh.row_lengths(0), *mesh.row_lengths(1)})
    if wanted not in known:
        yield Problem(
            message=f"{mesh.name} cannot be cut into replicas of {wanted} chips",
            at=at,
            note=f"it has {mesh.rows} rows and {mesh.cols} columns of chips",
            details=("ttnn adds up over an even number of chips",) if wanted % 2 else (),
            help=f"tp can be {', '.join(map(str, known))}",
        )


def mesh_names() -> tuple[str, ...]:
    """The meshes that `load_mesh` knows: those of `meshes.yaml`, then the user's own."""
    return tuple(_meshes(Path.cwd()))


def shipped_mesh_names() -> tuple[str, ...]:
    """The meshes of `meshes.yaml`, the default first."""
    return tuple(_shipped_meshes())


def whole_mesh_names() -> tuple[str, ...]:
    """Every mesh as `load_mesh` opens it, and as `NAME:RxC` in its other grids of all chips.

    A machine whose chips may also be opened in one row is named in that shape only if it is the
    default one.
    """
    names: list[str] = []
    for name, (mesh, shapes) in _meshes(Path.cwd()).items():
        names.append(name)
        for rows, cols in map(shape_of, shapes[1:]):
            if rows * cols == mesh.devices and min(rows, cols) > 1:
                names.append(f"{name}:{rows}x{cols}")
    return tuple(names)


def load_mesh(name: str) -> Mesh:
    """The mesh called `NAME` or `NAME:RxC`. Raises UsageError that names the nearest valid one.

    It is one of ttc's `meshes.yaml`, or of a file in `meshes/` of the working directory.
    """
    base, colon, shape = name.partition(":")
    known = _meshes(Path.cwd())
    if base not in known:
        hint = did_you_mean(base, known)
        raise UsageError(Problem(message=f"there is no mesh '{base}'", help=hint))
    mesh, shapes = known[base]
    if not colon:
        return mesh
    if shape not in shapes:
        raise UsageError(
            Problem(
                message=f"mesh {base} cannot be opened as '{shape}'",
                note="a shape is rows x columns, such as 1x1",
                help=f"valid shapes are {', '.join(f'{base}:{each}' for each in shapes)}",
            )
        )
    rows, cols = shape_of(shape)
    opened = machine_shape(shape, shapes)
    assert opened is not None, "every shape is a part of one of all chips"
    part = replace(mesh, name=name, rows=rows, cols=cols, machine=shape_of(opened))
    if part.devices == 1:
        return replace(part, fabric="none", topology="none", links=(0, 0))
    if part.devices < mesh.devices:  # a part of a ring is a line
        return replace(part, fabric="FABRIC_1D", topology="linear")
    return part


def with_wires(mesh: Mesh, *, topology: Topology | None = None, links: int | None = None) -> Mesh:
    """The mesh with no more of its wires than asked for; None takes all there are.

    Raises UsageError for a ring that the wires do not close and for links that do not exist: ttnn
    accepts the first on a mock mesh and hangs with it on a device.
    """
    problems: list[Problem] = []
    if topology == "ring" and mesh.topology != "ring":
        problems.append(
            Problem(
                message=f"{mesh.name} cannot be used as a ring",
                note="its chips form a line" if mesh.devices > 1 else "it is a single chip",
                help="leave --topology out" if mesh.devices == 1 else "use --topology line",
            )
        )
    most = max(mesh.links)
    if links is not None and not 1 <= links <= most:
        problems.append(
            Problem(
                message=f"{mesh.name} has no {links} links between neighbours",
                note=f"a collective can use 1 to {most}" if most else "it is a single chip",
                help=f"use --links {min(max(links, 1), most)}" if most else "leave --links out",
            )
        )
    if problems:
        raise UsageError(problems)
    first, second = (min(each, links or each) for each in mesh.links)
    asked = "linear" if topology == "line" and mesh.devices > 1 else mesh.topology
    return replace(mesh, topology=asked, links=(first, second))


@cache
def _meshes(folder: Path) -> Mapping[str, tuple[Mesh, tuple[str, ...]]]:
    """Each mesh in its default shape, and the shapes it can be opened in: ttc's, then the user's.

    Raises SpecError for a file of the user's that says what cannot be.
    """
    meshes = dict(_shipped_meshes())
    for path in sorted((folder / USER_FOLDER).glob("*.yaml")):
        own = _checked(path, shown=path.relative_to(folder).as_posix())
        raise_problems(
            Problem(
                message=f"there is a mesh '{name}' already",
                at=each.key_at,
                help="choose another name",
            )
            for name, each in own["meshes"].fields().items()
            if name in meshes
        )
        meshes |= _read(own)
    return MappingProxyType(meshes)


@cache
def _shipped_meshes() -> Mapping[str, tuple[Mesh, tuple[str, ...]]]:
    """The meshes of `meshes.yaml`, which a test checks, and no command again."""
    return MappingProxyType(_read(load_yaml(SHIPPED, "meshes", shown="ttc/hardware/meshes.yaml")))


def read_meshes(path: Path, *, shown: str = "") -> tuple[str, ...]:
    """The names of the meshes in a file. Raises SpecError for one that says what cannot be."""
    return tuple(_read(_checked(path, shown=shown)))


def _checked(path: Path, *, shown: str) -> Located:
    data = load_yaml(path, "meshes", shown=shown)
    sources = data["sources"].fields()
    entries = data["meshes"].fields().values()
    raise_problems(problem for each in entries for problem in check_mesh(each, sources))
    return data


def _read(data: Located) -> dict[str, tuple[Mesh, tuple[str, ...]]]:
    return {name: _mesh(name, each) for name, each in data["meshes"].fields().items()}


def _mesh(name: str, data: Located) -> tuple[Mesh, tuple[str, ...]]:
    shapes = tuple(each.text for each in data["shapes"].elements())
    rows, cols = shape_of(shapes[0])
    mesh = Mesh(
        name=name,
        chip=load_chip(data["chip"].text),
        rows=rows,
        cols=cols,
        fabric=data["fabric"].text,
        topology=data["topology"].text,
        links=(data["links"]["axis0"].integer, data["links"]["axis1"].integer),
        machine=(rows, cols),
        known_to_ttnn=data.get("mesh_graph") is not None,
        cluster=read_cluster(data, rows * cols, known_boards()[data["boards"]["type"].text]),
    )
    return mesh, shapes
