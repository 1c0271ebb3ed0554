"""The emulated mesh: a shape, one compute grid, DRAM banks, and whether values are rounded."""

from collections.abc import Iterator, Sequence
from enum import Enum
from typing import NamedTuple, TypedDict, Unpack

import torch

from ttc.emulate.configs import CoreCoord, Topology
from ttc.emulate.errors import require


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
    torch_device  where torch keeps and computes all values of the mesh: "cpu", "cuda", "cuda:1"
    sums       what products are summed in: float32, or float64 for the same bits on every machine
               (see `fpu.dot`)
    topology   whether the chips along an axis form a line or a ring
    chip       one of its chips, all being alike; a mesh of one chip is its own
    """

    def __init__(
        self,
        shape: MeshShape,
        *,
        grid: tuple[int, int],
        dram_banks: int,
        arch: Arch,
        rounding: bool,
        topology: Topology,
        torch_device: str = "cpu",
        sums: torch.dtype = torch.float32,
    ) -> None:
        self.torch_device = torch_device
        self.sums = sums
        self.shape = shape
        self.rounding = rounding
        self.topology = topology
        self.banks = Banks(grid, dram_banks)
        self._arch = arch
        self._submeshes: list[MeshDevice] = []
        self.chip: MeshDevice = self if shape.mesh_size() == 1 else self._part(MeshShape(1, 1))

    def _part(self, shape: MeshShape) -> "MeshDevice":
        return MeshDevice(
            shape,
            grid=self.banks.grid,
            dram_banks=self.banks.dram_banks,
            arch=self._arch,
            rounding=self.rounding,
            topology=self.topology,
            torch_device=self.torch_device,
            sums=self.sums,
        )

    def create_submeshes(self, submesh_shape: MeshShape) -> "list[MeshDevice]":
        """As many meshes of a shape as this one divides into, row by row.

        They are one object: a chip owns no memory here, so that a weight loaded on one of them
        can be used on all.
        """
        op = "create_submeshes"
        for have, want in zip(self.shape, submesh_shape, strict=True):
            require(have % want == 0, op, f"{self.shape} does not divide into {submesh_shape}")
        count = self.get_num_devices() // submesh_shape.mesh_size()
        self._submeshes = [self if count == 1 else self._part(submesh_shape)] * count
        return self._submeshes

    def get_submeshes(self) -> "list[MeshDevice]":
        return self._submeshes

    def compute_with_storage_grid_size(self) -> CoreCoord:
        return CoreCoord(*self.banks.grid)

    def dram_grid_size(self) -> CoreCoord:
        return CoreCoord(self.banks.dram_banks, 1)

    def get_num_devices(self) -> int:
        return self.shape.mesh_size()

    def arch(self) -> Arch:
        return self._arch

    def lines(self, op: str, axis: int | None) -> list[list[int]]:
        """The devices (counted row by row) that stand in line along a mesh axis; None: all of them.

        ttnn takes no axis only where the mesh is one line.
        """
        rows, columns = self.shape
        if axis is None:
            require(1 in (rows, columns), op, "a mesh of two dimensions needs a cluster_axis")
            return [list(range(rows * columns))]
        require(axis in (0, 1), op, f"a mesh has the axes 0 and 1, not {axis}")
        grid = [[row * columns + column for column in range(columns)] for row in range(rows)]
        return grid if axis == 1 else [list(line) for line in zip(*grid, strict=True)]

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
    topology: Topology = Topology.Linear,
    torch_device: str = "cpu",
    sums: torch.dtype = torch.float32,
    **ignored: Unpack[_Allocation],
) -> MeshDevice:
    """A mesh without hardware. The defaults of grid and DRAM banks are those of one Wormhole chip.

    The sizes of memory regions that ttnn takes here are accepted and have no effect.
    """
    del ignored
    return MeshDevice(
        mesh_shape or MeshShape(1, 1),
        grid=grid,
        dram_banks=dram_banks,
        arch=arch,
        rounding=rounding,
        topology=topology,
        torch_device=torch_device,
        sums=sums,
    )


def close_mesh_device(mesh_device: MeshDevice) -> None:
    """Nothing to release: tensors are freed with their last reference."""
    del mesh_device
