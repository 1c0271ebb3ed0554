"""What ttnn is told of a machine: the cluster descriptor and the mesh graph descriptor.

On a real machine ttnn discovers the boards, the chips and the ethernet links between them; on a
mock cluster it reads them from a file. The format is that of tt-umd's cluster descriptors; the
text for each mesh of `meshes.yaml` was checked by opening it with ttnn 0.81.1.

ttnn also wants to know in which grid it shall see the chips. It has descriptors of that, of mesh
graphs, for the machines that are sold, and asks for one where the chips form another.
"""

from collections.abc import Iterable, Mapping
from itertools import count

from ttc.hardware.cluster import RING_FABRICS
from ttc.hardware.hardware import Mesh
from ttc.hardware.layout import GridForm, can_stand

MESH_GRAPH_VARIABLE = "TT_MESH_GRAPH_DESC_PATH"
"""Where ttnn looks for the path of a mesh graph descriptor."""

# Identities only have to differ from chip to chip and from board to board.
_FIRST_CHIP_ID = 143238000000000
_FIRST_BOARD_ID = 4400000000000

# A chip that has no host link of its own is reached over channels 8 and up of its board's host
# chip, which arrive at its channels 0 and up: tt-umd's descriptors of two-chip wormhole boards.
_HOST_SIDE_CHANNEL = 8
_REMOTE_SIDE_CHANNEL = 0

# One chip that has nothing: ttnn's host side asks for a cluster when it packs a tensor, and then
# uses nothing of it.
HOST_ONLY = """\
arch: {0: wormhole_b0}
chips: {0: [0, 0, 0, 0]}
chip_unique_ids: {0: 143238000000000}
ethernet_connections: []
chips_with_mmio: [0: 0]
harvesting: {0: {noc_translation: true, harvest_mask: 0, dram_harvesting_mask: 0, \
eth_harvesting_mask: 0, pcie_harvesting_mask: 0}}
boards: [[{board_id: 4400000000000}, {board_type: unknown}, {chips: [0]}]]
"""


def cluster_descriptor(mesh: Mesh) -> str:
    """The text of the descriptor file for the whole machine below `mesh`."""
    cluster = mesh.cluster
    chips = range(cluster.chips)
    coordinates = enumerate(cluster.coordinates)
    boards = [
        f"[{{board_id: {_FIRST_BOARD_ID + number}}}, {{board_type: {cluster.board_type}}}, "
        f"{{chips: {list(board)}}}]"
        for number, board in enumerate(cluster.boards)
    ]
    lines = [
        _mapping("arch", dict.fromkeys(chips, mesh.chip.arch)),
        _mapping("chips", {chip: f"[{x}, {y}, 0, 0]" for chip, (x, y) in coordinates}),
        _mapping("chip_unique_ids", {chip: str(_FIRST_CHIP_ID + chip) for chip in chips}),
        _sequence("ethernet_connections", _links(mesh)),
        _sequence("chips_with_mmio", (f"{c}: {n}" for n, c in enumerate(cluster.host_chips))),
        _mapping("harvesting", {chip: _harvesting(mesh, chip) for chip in chips}),
        _sequence("boards", boards),
    ]
    bus_ids = _bus_ids(mesh)
    if bus_ids:
        lines.append(_mapping("chip_to_bus_id", {c: f'"{bus:#06x}"' for c, bus in bus_ids.items()}))
    if mesh.chip.arch == "blackhole":
        places = {c: bus & 0xF for c, bus in bus_ids.items()} or _places_on_board(mesh)
        lines += [
            "ethernet_connections_to_remote_devices: []",
            "io_device_type: PCIe",
            _mapping("asic_locations", {chip: str(places[chip]) for chip in chips}),
        ]
    return "\n".join(lines) + "\n"


def mesh_graph_descriptor(mesh: Mesh) -> str:
    """The text of the mesh graph descriptor for the machine below `mesh`; "" where ttnn has one.

    Links are counted as `RELAXED`: ttnn takes those that it finds.
    """
    if mesh.known_to_ttnn:
        return ""
    rows, cols = mesh.machine
    kinds = ("RING" if closed else "LINE" for closed in _closed_axes(mesh))
    links = min((wire.links for wire in mesh.cluster.wiring), default=1)
    return f"""\
mesh_descriptors {{
  name: "machine"
  arch: {mesh.chip.arch.upper()}
  device_topology {{ dims: [ {rows}, {cols} ] dim_types: [ {", ".join(kinds)} ] }}
  host_topology {{ dims: [ 1, 1 ] }}
  channels {{ count: {links} policy: RELAXED }}
}}
top_level_instance {{ mesh {{ mesh_descriptor: "machine" mesh_id: 0 }} }}
"""


def _closed_axes(mesh: Mesh) -> tuple[bool, bool]:
    """Which axes of the machine are rings: those that its wires close, if its fabric goes round."""
    rows, cols = mesh.machine
    if mesh.fabric not in RING_FABRICS:
        return (False, False)
    for wanted in ((True, True), (True, False), (False, True)):
        closed = (wanted[0] and rows > 2, wanted[1] and cols > 2)
        form = GridForm(rows=rows, cols=cols, closed=closed)
        if form.is_closed and can_stand(form, mesh.cluster.chips, mesh.cluster.wiring):
            return closed
    return (False, False)


def _links(mesh: Mesh) -> list[str]:
    """One entry for each link, on the next free ethernet channel of both chips."""
    cluster, switched_off = mesh.cluster, mesh.chip.harvest.ethernet
    used: dict[int, set[int]] = {chip: set() for chip in range(cluster.chips)}

    def take(chip: int, first: int = 0) -> int:
        taken = used[chip]
        channel = next(c for c in count(first) if c not in taken and not switched_off >> c & 1)
        taken.add(channel)
        return channel

    def text(a: int, a_channel: int, b: int, b_channel: int) -> str:
        return f"[{{chip: {a}, chan: {a_channel}}}, {{chip: {b}, chan: {b_channel}}}]"

    entries: list[str] = []
    remote = [wire for wire in cluster.wiring if wire.b not in cluster.host_chips]
    to_remote = [wire for wire in remote if wire.a in cluster.host_chips]
    for wire in to_remote:
        for _ in range(wire.links):
            channels = take(wire.a, _HOST_SIDE_CHANNEL), take(wire.b, _REMOTE_SIDE_CHANNEL)
            entries.append(text(wire.a, channels[0], wire.b, channels[1]))
    for wire in cluster.wiring:
        if wire not in to_remote:
            for _ in range(wire.links):
                entries.append(text(wire.a, take(wire.a), wire.b, take(wire.b)))
    return entries


def _harvesting(mesh: Mesh, chip: int) -> str:
    harvest = mesh.chip.harvest
    fields = {
        "noc_translation": "true",
        "harvest_mask": harvest.tensix,
        "dram_harvesting_mask": harvest.dram,
        "eth_harvesting_mask": harvest.ethernet,
        "pcie_harvesting_mask": harvest.pcie[_places_on_board(mesh)[chip] % len(harvest.pcie)],
    }
    if mesh.chip.arch == "blackhole":
        fields["l2cpu_harvesting_mask"] = 0
    return f"{{{', '.join(f'{name}: {value}' for name, value in fields.items())}}}"


def _places_on_board(mesh: Mesh) -> dict[int, int]:
    return {chip: place for board in mesh.cluster.boards for place, chip in enumerate(board)}


def _bus_ids(mesh: Mesh) -> dict[int, int]:
    """Which tray each chip of a machine of one board of four trays is on, and where on it.

    The high digit of the PCIe bus id names one of four trays of 4 x 2 chips, the low digit the
    place on the tray: 1 to 4 along its outer column, 5 to 8 along its inner one.
    """
    cluster = mesh.cluster
    if cluster.trays is None or len(cluster.boards) > 1:
        return {}
    rows, cols = cluster.trays
    trays = {(True, True): 0xC0, (True, False): 0x00, (False, True): 0x40, (False, False): 0x80}
    bus_ids: dict[int, int] = {}
    for chip in range(cluster.chips):
        row, col = divmod(chip, cols)
        upper, left = row < rows // 2, col < cols // 2
        from_edge = row + 1 if upper else rows - row
        inner = 0 < col < cols - 1
        bus_ids[chip] = trays[upper, left] + from_edge + (rows // 2 if inner else 0)
    return bus_ids


def _mapping(name: str, entries: Mapping[int, str]) -> str:
    return f"{name}: {{{', '.join(f'{key}: {value}' for key, value in entries.items())}}}"


def _sequence(name: str, entries: Iterable[str]) -> str:
    return f"{name}: [{', '.join(entries)}]"
