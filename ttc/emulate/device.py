"""The emulated mesh: a shape, one compute grid, DRAM banks, and whether values are rounded."""

from collections.abc import Iterator, Sequence
from enum import Enum
from typing import NamedTuple, TypedDict, Unpack

from ttc.emulate.configs import CoreCoord


class Arch(Enum):
    """Chip generations, as `MeshDevice.arch()` reports them."""

    WORMHOLE_B0 = 2
    BLACKHOLE = 3


class MeshShape:
    """Rows and columns of a mesh of devices."""

    def __init__(self, rows: int | Sequence[int], columns: int | None = None, /) -> None:
        if isinstance(rows, int):
            if columns is None:
                raise TypeError("MeshShape takes rows and columns, or one sequence")
            self._sizes = (rows, columns)
        else:
            self._sizes = (rows[0], rows[1])

    def mesh_size(self) -> int:
        return self._sizes[0] * self._sizes[1]

    def __getitem__(self, axis: int) -> int:
        return self._sizes[axis]

    def __iter__(self) -> Iterator[int]:
        return iter(self._sizes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MeshShape) and self._sizes == other._sizes

    def __hash__(self) -> int:
        return hash(self._sizes)

    def __repr__(self) -> str:
        return f"MeshShape([{self._sizes[0]}, {self._sizes[1]}])"


class Banks(NamedTuple):
    """What sharded memory configs are checked against."""

    grid: tuple[int, int]
    dram_banks: int


class MeshDevice:
    """Device memory is host memory here, so the mesh only says what programs may use.

    rounding   False keeps every value in float32: all dtypes, fidelities and accumulator widths
               are then ignored, which shows whether a program computes the right thing at all
    """

    def __init__(
        self,
        shape: MeshShape,
        *,
        grid: tuple[int, int],
        dram_banks: int,
        arch: Arch,
        rounding: bool,
    ) -> None:
        self.shape = shape
        self.rounding = rounding
        self.banks = Banks(grid, dram_banks)
        self._arch = arch

    def compute_with_storage_grid_size(self) -> CoreCoord:
        return CoreCoord(*self.banks.grid)

    def dram_grid_size(self) -> CoreCoord:
        return CoreCoord(self.banks.dram_banks, 1)

    def get_num_devices(self) -> int:
        return self.shape.mesh_size()

    def arch(self) -> Arch:
        return self._arch

    def __repr__(self) -> str:
        return f"MeshDevice({self.shape}, grid {self.banks.grid}, emulated)"


class _Allocation(TypedDict, total=False):
    l1_small_size: int
    trace_region_size: int
    num_command_queues: int


def open_mesh_device(
    mesh_shape: MeshShape | None = None,
    *,
    grid: tuple[int, int] = (8, 8),
    dram_banks: int = 12,
    arch: Arch = Arch.WORMHOLE_B0,
    rounding: bool = True,
    **ignored: Unpack[_Allocation],
) -> MeshDevice:
    """A mesh without hardware. The defaults of grid and DRAM banks are those of one Wormhole chip.

    The sizes of memory regions that ttnn takes here are accepted and have no effect.
    """
    del ignored
    shape = mesh_shape or MeshShape(1, 1)
    return MeshDevice(shape, grid=grid, dram_banks=dram_banks, arch=arch, rounding=rounding)


def close_mesh_device(mesh_device: MeshDevice) -> None:
    """Nothing to release: tensors are freed with their last reference."""
    del mesh_device
