# pyright: reportUnknownMemberType=false
"""How one tensor becomes the tensors of a mesh and back: mappers, composers, shards."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from ttc.emulate.device import MeshDevice, MeshShape
from ttc.emulate.errors import require
from ttc.emulate.mesh_tensor import MeshTensor
from ttc.emulate.tensor import Tensor


class PlacementReplicate:
    """The same values along a mesh axis."""


class PlacementShard(NamedTuple):
    """A tensor dimension cut into one piece per device along a mesh axis."""

    dim: int


class MeshMapperConfig(NamedTuple):
    """A placement for the rows of a mesh and one for its columns."""

    placements: Sequence[PlacementReplicate | PlacementShard]


class MeshMapper:
    """Deals the values of one tensor out to the devices of a mesh."""

    def __init__(
        self, shape: MeshShape, placements: Sequence[PlacementReplicate | PlacementShard]
    ) -> None:
        self._shape = shape
        self._placements = placements

    def deal(self, op: str, values: torch.Tensor) -> list[torch.Tensor]:
        """One piece per device, row by row; devices that get the same share one object."""
        pieces = [values]
        for count, placement in zip(self._shape, self._placements, strict=True):
            pieces = [part for piece in pieces for part in _parts(op, piece, placement, count)]
        return pieces


def _parts(
    op: str, values: torch.Tensor, placement: PlacementReplicate | PlacementShard, count: int
) -> list[torch.Tensor]:
    if isinstance(placement, PlacementReplicate):
        return [values] * count
    size = values.shape[placement.dim]
    require(size % count == 0, op, f"{size} does not divide among {count} devices")
    return list(values.chunk(count, placement.dim))


def create_mesh_mapper(mesh: MeshDevice | MeshShape, config: MeshMapperConfig) -> MeshMapper:
    shape = mesh.shape if isinstance(mesh, MeshDevice) else mesh
    return MeshMapper(shape, config.placements)


class ReplicateTensorToMesh(MeshMapper):
    """The same tensor on every device."""

    def __init__(self, mesh_device: MeshDevice) -> None:
        super().__init__(mesh_device.shape, (PlacementReplicate(), PlacementReplicate()))


class ShardTensorToMesh(MeshMapper):
    """Pieces of a dimension for the devices of a mesh, counted row by row."""

    def __init__(self, mesh_device: MeshDevice, dim: int) -> None:
        count = MeshShape(1, mesh_device.get_num_devices())
        super().__init__(count, (PlacementReplicate(), PlacementShard(dim)))


class MeshComposer:
    """Joins the values of the devices of a mesh, counted row by row."""

    def __init__(self, dim: int) -> None:
        self._dim = dim

    def join(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.cat(list(parts), self._dim)


class ConcatMeshToTensor(MeshComposer):
    """The tensors of all devices one after the other along a dimension."""

    def __init__(self, mesh_device: MeshDevice, dim: int) -> None:
        del mesh_device
        super().__init__(dim)


def get_device_tensors(tensor: Tensor | MeshTensor) -> list[Tensor]:
    """The tensor of each device, row by row."""
    return list(tensor.shards) if isinstance(tensor, MeshTensor) else [tensor]


def from_host_shards(tensors: Sequence[Tensor], mesh_shape: MeshShape) -> MeshTensor:
    """Host tensors of one form, one per device, as one tensor for a mesh."""
    op = "from_host_shards"
    count = mesh_shape.mesh_size()
    require(len(tensors) == count, op, f"{len(tensors)} shards for {mesh_shape}")
    forms = {(one.shape, one.dtype, one.layout) for one in tensors}
    require(len(forms) == 1, op, "all shards must have one shape, element type and layout")
    return MeshTensor(None, tensors)
