"""Chips and boards, read from `chips.yaml`; no hardware number is in Python."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType

from ttc.located import Located
from ttc.schema import load_yaml

DATA = Path(__file__).parent


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
    the rate at LoFi; `link_bytes_per_second` is one ethernet link in one direction, and
    `ethernet_channels` counts the ends of links, those that are switched off included. `odd_grids`
    says whether ttnn opens a machine of an odd number of rows and of columns.
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
    ethernet_channels: int
    odd_grids: bool
    link_bytes_per_second: float
    sources: Mapping[str, str] = field(compare=False, repr=False)

    @property
    def dram_bytes(self) -> int:
        return self.dram_banks * self.dram_bank_bytes

    @property
    def links(self) -> int:
        """How many ethernet links can end at the chip."""
        off = self.harvest.ethernet & ((1 << self.ethernet_channels) - 1)
        return self.ethernet_channels - off.bit_count()


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """A type of board: `chips` of architecture `arch`, the first `host_chips` with a PCIe link.

    `trays` is the grid (rows, columns) of the chips on a board of four trays.
    """

    name: str
    arch: str
    chips: int
    host_chips: int
    trays: tuple[int, int] | None


def load_chip(name: str) -> Chip:
    """The chip `name` of `chips.yaml`: its family's numbers, and its own where they differ."""
    return known_chips()[name]


@cache
def known_chips() -> Mapping[str, Chip]:
    """The chips of `chips.yaml` by name."""
    data = _data()
    return MappingProxyType(
        {
            name: _chip(name, each, data["families"], data["sources"])
            for name, each in data["chips"].fields().items()
        }
    )


@cache
def known_boards() -> Mapping[str, Board]:
    """The types of board of `chips.yaml` by name."""
    data = _data()
    return MappingProxyType(
        {
            name: Board(
                name=name,
                arch=data["families"][each["family"].text]["arch"].text,
                chips=each["chips"].integer,
                host_chips=each["host_chips"].integer,
                trays=_trays(each.get("trays")),
            )
            for name, each in data["boards"].fields().items()
        }
    )


def _trays(data: Located | None) -> tuple[int, int] | None:
    if data is None:
        return None
    rows, cols = data.elements()
    return rows.integer, cols.integer


@cache
def _data() -> Located:
    return load_yaml(DATA / "chips.yaml", "chips", shown="ttc/hardware/chips.yaml")


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
            pcie=tuple(each.integer for each in harvest["pcie"].elements()),
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
        ethernet_channels=integer["ethernet_channels"],
        odd_grids=fields["odd_grids"]["value"].flag,
        link_bytes_per_second=rate["link_bytes_per_second"],
        sources=MappingProxyType({key: sources[each].text for key, each in named.items()}),
    )


def _keys(each: Located) -> set[str]:
    return set(each.fields()) if isinstance(each.value, dict) else set()


def _is_integer(each: Located) -> bool:
    return isinstance(each["value"].value, int)
