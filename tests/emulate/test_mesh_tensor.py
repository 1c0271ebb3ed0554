"""Operations of one device on a mesh: once where devices share, in place without mixing them up."""

import pytest
import torch

from ttc.emulate import ttnn
from ttc.emulate.errors import EmulationError
from ttc.emulate.mesh_tensor import MeshTensor, per_device

pytestmark = pytest.mark.emulate


@pytest.fixture
def mesh() -> ttnn.MeshDevice:
    return ttnn.open_mesh_device(ttnn.MeshShape(1, 4))


def tiles(values: torch.Tensor, mesh: ttnn.MeshDevice, dim: int | None = None) -> MeshTensor:
    """The same on every device, or pieces of a dimension."""
    mapper = None if dim is None else ttnn.ShardTensorToMesh(mesh, dim)
    return ttnn.from_torch(values, layout=ttnn.TILE_LAYOUT, device=mesh, mesh_mapper=mapper)


def each(tensor: MeshTensor) -> list[torch.Tensor]:
    return [ttnn.to_torch(one) for one in ttnn.get_device_tensors(tensor)]


def test_what_devices_share_is_computed_once(mesh) -> None:
    calls: list[str] = []

    def noted(x: ttnn.Tensor, y: ttnn.Tensor) -> ttnn.Tensor:
        calls.append("add")
        return ttnn.add(x, y)

    add = per_device(noted)
    shared, own = tiles(torch.ones(32, 32), mesh), tiles(torch.ones(32, 128), mesh, 1)
    result = add(shared, shared)
    assert calls == ["add"]
    assert len({id(one) for one in result.shards}) == 1
    add(shared, own)
    assert len(calls) == 5


def test_every_device_computes_with_its_own(mesh) -> None:
    values = torch.arange(4.0).repeat_interleave(32)[None].expand(32, 128)
    own, shared = tiles(values, mesh, 1), tiles(torch.ones(32, 32), mesh)
    result = ttnn.add(own, shared)
    assert [one.mean().item() for one in each(result)] == [1.0, 2.0, 3.0, 4.0]
    assert (result.shape, result.device()) == ((32, 32), mesh)
    joined = ttnn.concat([own, shared], dim=1)
    assert [one.mean().item() for one in each(joined)] == [0.5, 1.0, 1.5, 2.0]


def test_shared_memory_is_parted_when_devices_write_different_values(mesh) -> None:
    target = tiles(torch.zeros(32, 32), mesh)
    untouched = ttnn.add(target, target)
    own = tiles(torch.arange(4.0).repeat_interleave(32)[None].expand(32, 128), mesh, 1)
    assert ttnn.copy(own, target) is target
    assert [one.mean().item() for one in each(target)] == [0.0, 1.0, 2.0, 3.0]
    assert [one.mean().item() for one in each(untouched)] == [0.0] * 4
    ttnn.add(target, target, output_tensor=target)
    assert [one.mean().item() for one in each(target)] == [0.0, 2.0, 4.0, 6.0]


def test_shared_memory_stays_shared_when_devices_write_the_same(mesh) -> None:
    positions = ttnn.from_torch(torch.tensor([3, -1], dtype=torch.int32), device=mesh)
    ttnn.plus_one(positions, skip_negative_entries=True)
    assert [one.tolist() for one in each(positions)] == [[4, -1]] * 4
    assert len({id(one) for one in positions.shards}) == 1
    host = ttnn.from_torch(torch.tensor([7, 8], dtype=torch.int32))
    ttnn.copy_host_to_device_tensor(host, positions)
    assert [one.tolist() for one in each(positions)] == [[7, 8]] * 4


def test_what_is_not_moved_is_the_tensor_itself(mesh) -> None:
    x = tiles(torch.ones(32, 128), mesh, 1)
    assert ttnn.to_memory_config(x, ttnn.DRAM_MEMORY_CONFIG) is x
    ttnn.deallocate(x)
    assert not x.is_allocated()
    with pytest.raises(EmulationError, match="not allocated"):
        ttnn.add(x, x)


def test_operands_of_two_meshes_are_refused(mesh) -> None:
    other = ttnn.open_mesh_device(ttnn.MeshShape(1, 4))
    with pytest.raises(EmulationError, match="must be on one device"):
        ttnn.add(tiles(torch.ones(32, 32), mesh), tiles(torch.ones(32, 32), other))


def test_a_tensor_of_a_mesh_needs_a_composer(mesh) -> None:
    values = torch.randn(32, 128).bfloat16()
    own = tiles(values, mesh, 1)
    with pytest.raises(EmulationError, match="supply a mesh composer"):
        ttnn.to_torch(own)
    composer = ttnn.ConcatMeshToTensor(mesh, dim=1)
    assert torch.equal(ttnn.to_torch(own, mesh_composer=composer), values)


def test_a_mapper_deals_along_both_axes() -> None:
    square = ttnn.open_mesh_device(ttnn.MeshShape(2, 2))
    values = torch.arange(8.0).view(2, 4)
    config = ttnn.MeshMapperConfig([ttnn.PlacementShard(1), ttnn.PlacementReplicate()])
    rows = ttnn.from_torch(
        values, device=square, mesh_mapper=ttnn.create_mesh_mapper(square, config)
    )
    assert [one.tolist() for one in each(rows)] == [[[0, 1], [4, 5]]] * 2 + [[[2, 3], [6, 7]]] * 2
    assert rows.shards[0] is rows.shards[1]
    host = [ttnn.from_torch(values + place) for place in range(4)]
    assert len(ttnn.from_host_shards(host, ttnn.MeshShape(2, 2)).shards) == 4
    with pytest.raises(EmulationError, match="4 shards"):
        ttnn.from_host_shards(host, ttnn.MeshShape(1, 2))


def test_submeshes_are_one_object() -> None:
    galaxy = ttnn.open_mesh_device(ttnn.MeshShape(8, 4))
    columns = galaxy.create_submeshes(ttnn.MeshShape(8, 1))
    assert len(columns) == 4
    assert len({id(one) for one in columns}) == 1
    assert tuple(columns[0].shape) == (8, 1)
    with pytest.raises(EmulationError, match="does not divide"):
        galaxy.create_submeshes(ttnn.MeshShape(3, 1))
