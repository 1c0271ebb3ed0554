"""Chips and meshes, read from `chips.yaml` and `meshes.yaml`; no hardware number is in Python."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from ttc.errors import Problem, UsageError, did_you_mean
from ttc.located import Located, raise_problems
from ttc.schema import load_yaml

DATA = Path(__file__).parent

Topology = Literal["line", "ring"]
"""What a user may ask of the wires of a mesh."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A rectangle of cores: x columns, y rows."""

    x: int
    y: int

    @property
    def cores(self) -> int:
        return self.x * self.y

    def __str__(self) -> str:
        return f"{self.x}x{self.y}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Harvest:
    """Bit masks of the parts of a chip that are switched off, as a cluster descriptor states them.

    `tensix` counts rows on wormhole and columns on blackhole. `pcie` has one mask for each chip
    of a board.
    """

    tensix: int
    dram: int
    ethernet: int
    pcie: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chip:
    """One chip as programs see it. Sizes are for one chip, per core or per bank where named so.

    `l1_bytes_per_core` is what tensors and circular buffers may use; `flops_per_core_cycle` is
    the rate at LoFi; `link_bytes_per_second` is one ethernet link in one direction.
    `sources` says where each number comes from.
    """

    name: str
    arch: str
    compute_config: str
    dispatch: str
    grid: Grid
    harvest: Harvest
    tile: int
    dram_banks: int
    dram_bank_bytes: int
    dram_alignment_bytes: int
    l1_bytes_per_core: int
    l1_total_bytes_per_core: int
    clock_hz: float
    dram_bytes_per_second: float
    dram_bytes_per_second_attainable: float
    flops_per_core_cycle: int
    link_bytes_per_second: float
    sources: Mapping[str, str] = field(compare=False, repr=False)

    @property
    def dram_bytes(self) -> int:
        return self.dram_banks * self.dram_bank_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """`links` ethernet links between two chips of a cluster."""

    a: int
    b: int
    links: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """The machine below a mesh, as a cluster descriptor states it. Chips are numbered from 0.

    `boards` has the chips of each board, `host_chips` those with a PCIe link of their own.
    `grid` is (rows, columns) where the wiring is a grid of chips numbered row by row, `wrap`
    whether that grid closes into a torus, `coordinates` (x, y) of each chip where ttnn needs them.
    """

    board_type: str
    boards: tuple[tuple[int, ...], ...]
    host_chips: tuple[int, ...]
    wiring: tuple[Wire, ...]
    grid: tuple[int, int] | None
    wrap: bool
    coordinates: tuple[tuple[int, int], ...]

    @property
    def chips(self) -> int:
        return sum(len(board) for board in self.boards)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mesh:
    """`rows` x `cols` chips of one kind, opened as one device.

    `name` is what the user typed: `T3K` or `T3K:2x4`. `fabric` is the name of a
    ttnn.FabricConfig or "none", `topology` is none, linear or ring. `links` are usable by a
    collective between neighbours along axis 0 (rows) and axis 1 (columns).
    """

    name: str
    chip: Chip
    rows: int
    cols: int
    fabric: str
    topology: str
    links: tuple[int, int]
    cluster: Cluster

    @property
    def devices(self) -> int:
        return self.rows * self.cols

    @property
    def dram_bytes(self) -> int:
        """Of all chips together."""
        return self.devices * self.chip.dram_bytes


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
        for rows, cols in map(_shape, shapes[1:]):
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
    rows, cols = _shape(shape)
    part = replace(mesh, name=name, rows=rows, cols=cols)
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


def load_chip(name: str) -> Chip:
    """The chip `name` of `chips.yaml`: its family's numbers, and its own where they differ."""
    return _shipped_chips()[name]


@cache
def _shipped_chips() -> Mapping[str, Chip]:
    data = load_yaml(DATA / "chips.yaml", "chips", shown="ttc/hardware/chips.yaml")
    return MappingProxyType(
        {
            name: _chip(name, each, data["families"], data["sources"])
            for name, each in data["chips"].fields().items()
        }
    )


@cache
def _meshes(folder: Path) -> Mapping[str, tuple[Mesh, tuple[str, ...]]]:
    """Each mesh in its default shape, and the shapes it can be opened in: ttc's, then the user's.

    Raises SpecError for a file of the user's that says what cannot be.
    """
    meshes = dict(_shipped_meshes())
    for path in sorted((folder / "meshes").glob("*.yaml")):
        own = load_yaml(path, "meshes", shown=path.relative_to(folder).as_posix())
        raise_problems(
            Problem(
                message=f"there is a mesh '{name}' already",
                at=each.key_at,
                help="choose another name",
            )
            for name, each in own["meshes"].fields().items()
            if name in meshes
        )
        meshes |= _meshes_of(own)
    return MappingProxyType(meshes)


@cache
def _shipped_meshes() -> Mapping[str, tuple[Mesh, tuple[str, ...]]]:
    shown = "ttc/hardware/meshes.yaml"
    return MappingProxyType(_meshes_of(load_yaml(DATA / "meshes.yaml", "meshes", shown=shown)))


def _meshes_of(data: Located) -> dict[str, tuple[Mesh, tuple[str, ...]]]:
    meshes = data["meshes"].fields()
    raise_problems(problem for each in meshes.values() for problem in _check_mesh(each))
    return {name: _mesh(name, each) for name, each in meshes.items()}


def _check_mesh(data: Located) -> Iterator[Problem]:
    """A mesh that its own wires contradict: a ring asked of a line, more links than there are."""
    chip, chips = data["chip"], _shipped_chips()
    if chip.text not in chips:
        yield Problem(
            message=f"there is no chip '{chip.text}'",
            at=chip.at,
            help=did_you_mean(chip.text, chips),
        )
        return
    shapes = data["shapes"].elements()
    count = prod(_shape(shapes[0].text))
    for shape in shapes:
        if prod(_shape(shape.text)) > count:
            yield Problem(
                message=f"the shape {shape.text} has more than the {count} chips of the first",
                at=shape.at,
            )
    wires = _wires(data["wiring"]) if data.get("wiring") else ()
    for wire in wires:
        if max(wire.a, wire.b) >= count:
            yield Problem(
                message=f"a wire goes to chip {max(wire.a, wire.b)}",
                at=data["wiring"].key_at,
                note=f"the chips are 0 to {count - 1}",
            )
    ends = Counter(end for wire in wires for end in {wire.a, wire.b})
    if data["topology"].text == "ring" and min(ends[chip] for chip in range(count)) < 2:
        lonely = min(range(count), key=lambda chip: ends[chip])
        yield Problem(
            message="the wires do not close into a ring",
            at=data["topology"].at,
            note=f"chip {lonely} has wires to {ends[lonely]} other chips, a ring needs 2",
            help="write 'topology: linear', or add the missing wire",
        )
    most = max((wire.links for wire in wires), default=0)
    for axis in ("axis0", "axis1"):
        if data["links"][axis].integer > most:
            yield Problem(
                message=f"{data['links'][axis].integer} links between neighbours do not exist",
                at=data["links"][axis].at,
                note=f"the wiring has {most} at most",
                help=f"write {most}",
            )


def _shape(text: str) -> tuple[int, int]:
    rows, cols = text.split("x")
    return int(rows), int(cols)


def _chip(name: str, own: Located, families: Located, sources: Located) -> Chip:
    fields = families[own["family"].text].fields() | own.fields()
    numbers = {key: each for key, each in fields.items() if "value" in _keys(each)}
    grid, harvest = fields["grid"], fields["harvest"]
    named = {key: each["source"].text for key, each in numbers.items()}
    named |= {"grid": grid["source"].text, "harvest": harvest["source"].text}
    integer = {key: each["value"].integer for key, each in numbers.items() if _is_integer(each)}
    rate = {key: each["value"].number for key, each in numbers.items() if not _is_integer(each)}
    return Chip(
        name=name,
        arch=fields["arch"].text,
        compute_config=fields["compute_config"].text,
        dispatch=fields["dispatch"].text,
        grid=Grid(x=grid["x"].integer, y=grid["y"].integer),
        harvest=Harvest(
            tensix=harvest["tensix"].integer,
            dram=harvest["dram"].integer,
            ethernet=harvest["ethernet"].integer,
            pcie=_integers(harvest["pcie"]),
        ),
        tile=integer["tile"],
        dram_banks=integer["dram_banks"],
        dram_bank_bytes=integer["dram_bank_bytes"],
        dram_alignment_bytes=integer["dram_alignment_bytes"],
        l1_bytes_per_core=integer["l1_bytes_per_core"],
        l1_total_bytes_per_core=integer["l1_total_bytes_per_core"],
        clock_hz=rate["clock_hz"],
        dram_bytes_per_second=rate["dram_bytes_per_second"],
        dram_bytes_per_second_attainable=rate["dram_bytes_per_second_attainable"],
        flops_per_core_cycle=integer["flops_per_core_cycle"],
        link_bytes_per_second=rate["link_bytes_per_second"],
        sources=MappingProxyType({key: sources[each].text for key, each in named.items()}),
    )


def _keys(each: Located) -> set[str]:
    return set(each.fields()) if isinstance(each.value, dict) else set()


def _is_integer(each: Located) -> bool:
    return isinstance(each["value"].value, int)


def _mesh(name: str, data: Located) -> tuple[Mesh, tuple[str, ...]]:
    shapes = tuple(each.text for each in data["shapes"].elements())
    rows, cols = _shape(shapes[0])
    mesh = Mesh(
        name=name,
        chip=load_chip(data["chip"].text),
        rows=rows,
        cols=cols,
        fabric=data["fabric"].text,
        topology=data["topology"].text,
        links=(data["links"]["axis0"].integer, data["links"]["axis1"].integer),
        cluster=_cluster(data, max(prod(_shape(each)) for each in shapes)),
    )
    return mesh, shapes


def _cluster(data: Located, chips: int) -> Cluster:
    wiring, coordinates = data.get("wiring"), data.get("coordinates")
    host_chips = data["boards"].get("host_chips")
    grid = wiring.get("grid") if wiring else None
    wrap = wiring.get("wrap") if wiring else None
    return Cluster(
        board_type=data["boards"]["type"].text,
        boards=_boards(data["boards"], chips),
        host_chips=_integers(host_chips) if host_chips else tuple(range(chips)),
        wiring=_wires(wiring) if wiring else (),
        grid=_pair(grid) if grid else None,
        wrap=wrap.flag if wrap else False,
        coordinates=tuple(_pair(each) for each in coordinates.elements()) if coordinates else (),
    )


def _boards(boards: Located, chips: int) -> tuple[tuple[int, ...], ...]:
    listed = boards.get("chips")
    if listed:
        return tuple(_integers(each) for each in listed.elements())
    size = boards["chips_per_board"].integer
    return tuple(tuple(range(start, start + size)) for start in range(0, chips, size))


def _integers(data: Located) -> tuple[int, ...]:
    return tuple(each.integer for each in data.elements())


def _pair(data: Located) -> tuple[int, int]:
    first, second = _integers(data)
    return first, second


def _wires(wiring: Located) -> tuple[Wire, ...]:
    if "pairs" in wiring.fields():
        triples = (_integers(each) for each in wiring["pairs"].elements())
        return tuple(Wire(a=a, b=b, links=links) for a, b, links in triples)
    rows, cols = _pair(wiring["grid"])
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
