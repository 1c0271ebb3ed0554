"""The cluster descriptor: the YAML text from which ttnn opens a mock cluster.

On a real machine ttnn discovers the boards, the chips and the ethernet links between them; on a
mock cluster it reads them from a file. The format is that of tt-umd's cluster descriptors, checked
by opening each with ttnn 0.81.1.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Harvesting:
    """Which parts of a chip are switched off, as bit masks.

    `tensix` counts physical rows on Wormhole and columns on Blackhole; it decides the grid.
    """

    tensix: int
    dram: int
    ethernet: int
    pcie: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """A board and the chips on it; `kind` is tt-umd's name, such as n150, ubb or p150."""

    kind: str
    chips: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EthernetLink:
    """One cable or trace between two ethernet channels."""

    chip: int
    channel: int
    to_chip: int
    to_channel: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Everything ttnn would discover about the chips of one host.

    `arch` is "wormhole_b0" or "blackhole"; `harvesting` has one entry per chip. `coordinates` (x, y
    of each chip) are needed only on boards with chips that are reached through another chip;
    `bus_ids` and `asic_locations` (one per chip) only where chips share a board.
    """

    arch: str
    harvesting: tuple[Harvesting, ...]
    boards: tuple[Board, ...]
    mmio_chips: tuple[int, ...]
    links: tuple[EthernetLink, ...] = ()
    coordinates: tuple[tuple[int, int], ...] = ()
    bus_ids: tuple[int, ...] = ()
    asic_locations: tuple[int, ...] = ()


# ttnn's host side asks for a cluster when it packs a tensor, and then uses nothing of it.
HOST_ONLY = Cluster(
    arch="wormhole_b0",
    harvesting=(Harvesting(tensix=0, dram=0, ethernet=0, pcie=0),),
    boards=(Board(kind="unknown", chips=(0,)),),
    mmio_chips=(0,),
    coordinates=((0, 0),),
)

# Identities only have to differ from chip to chip and from board to board.
_FIRST_CHIP_ID = 143238000000000
_FIRST_BOARD_ID = 4400000000000


def cluster_descriptor(cluster: Cluster) -> str:
    """The text of the descriptor file."""
    chips = range(len(cluster.harvesting))
    blackhole = cluster.arch == "blackhole"
    lines = [
        _mapping("arch", {chip: cluster.arch for chip in chips}),
        _mapping(
            "chips",
            {chip: f"[{x}, {y}, 0, 0]" for chip, (x, y) in enumerate(cluster.coordinates)},
        ),
        _mapping("chip_unique_ids", {chip: str(_FIRST_CHIP_ID + chip) for chip in chips}),
        _sequence("ethernet_connections", [_link_text(link) for link in cluster.links]),
        _sequence(
            "chips_with_mmio",
            [f"{chip}: {pcie}" for pcie, chip in enumerate(cluster.mmio_chips)],
        ),
        _mapping(
            "harvesting",
            {chip: _harvesting_text(cluster.harvesting[chip], blackhole) for chip in chips},
        ),
        _sequence(
            "boards",
            [
                f"[{{board_id: {_FIRST_BOARD_ID + i}}}, {{board_type: {board.kind}}}, "
                f"{{chips: {list(board.chips)}}}]"
                for i, board in enumerate(cluster.boards)
            ],
        ),
    ]
    if blackhole:
        locations = cluster.asic_locations or (0,) * len(chips)
        lines += [
            "ethernet_connections_to_remote_devices: []",
            "io_device_type: PCIe",
            _mapping("asic_locations", {chip: str(locations[chip]) for chip in chips}),
        ]
    if cluster.bus_ids:
        lines.append(
            _mapping(
                "chip_to_bus_id",
                {c: f'"{bus:#06x}"' for c, bus in enumerate(cluster.bus_ids)},
            )
        )
    return "\n".join(lines) + "\n"


def _mapping(name: str, entries: dict[int, str]) -> str:
    return f"{name}: {{{', '.join(f'{key}: {value}' for key, value in entries.items())}}}"


def _sequence(name: str, entries: list[str]) -> str:
    return f"{name}: [{', '.join(entries)}]"


def _link_text(link: EthernetLink) -> str:
    return (
        f"[{{chip: {link.chip}, chan: {link.channel}}}, "
        f"{{chip: {link.to_chip}, chan: {link.to_channel}}}]"
    )


def _harvesting_text(harvesting: Harvesting, blackhole: bool) -> str:
    fields = {
        "noc_translation": "true",
        "harvest_mask": harvesting.tensix,
        "dram_harvesting_mask": harvesting.dram,
        "eth_harvesting_mask": harvesting.ethernet,
        "pcie_harvesting_mask": harvesting.pcie,
    }
    if blackhole:
        fields["l2cpu_harvesting_mask"] = 0
    return f"{{{', '.join(f'{name}: {value}' for name, value in fields.items())}}}"
