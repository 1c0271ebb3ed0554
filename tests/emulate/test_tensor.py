"""Tensors and the host functions: conversions, freeing, placement, live rows, several devices."""

import pytest
import torch

from ttc.emulate import ttnn
from ttc.emulate.errors import EmulationError

pytestmark = pytest.mark.emulate


def test_round_trips(device) -> None:
    values = torch.tensor([[1.0, 1.00390625, -3.0]])
    bf16 = ttnn.from_torch(values, dtype=ttnn.bfloat16, device=device)
    assert ttnn.to_torch(bf16).tolist() == [[1.0, 1.0, -3.0]]
    assert ttnn.to_torch(bf16).dtype is torch.bfloat16
    assert ttnn.to_torch(ttnn.from_torch(values)).tolist() == values.tolist()
    ids = ttnn.from_torch(torch.tensor([[2**31]]), dtype=ttnn.uint32)
    assert ttnn.to_torch(ids).tolist() == [[2**31]]
    assert ttnn.to_torch(ids).dtype is torch.uint32
    with pytest.raises(EmulationError, match="give a dtype"):
        ttnn.from_torch(torch.ones(2, dtype=torch.float64))


def test_an_exact_device_keeps_float32(exact_device) -> None:
    values = torch.tensor([[1.0001, 2.0]])
    tensor = ttnn.from_torch(
        values, dtype=ttnn.bfloat4_b, layout=ttnn.TILE_LAYOUT, device=exact_device
    )
    assert torch.equal(ttnn.to_torch(tensor), values)
    assert tensor.dtype is ttnn.bfloat4_b


def test_host_values_are_copied(device) -> None:
    values = torch.zeros(1, 4, dtype=torch.int32)
    tensor = ttnn.from_torch(values, dtype=ttnn.int32, device=device)
    ttnn.plus_one(tensor)
    assert values.count_nonzero() == 0
    read = ttnn.to_torch(tensor)
    ttnn.plus_one(tensor)
    assert read.tolist() == [[1, 1, 1, 1]]


def test_use_after_deallocate(device) -> None:
    tensor = ttnn.empty((32, 32), layout=ttnn.TILE_LAYOUT, device=device)
    ttnn.deallocate(tensor)
    ttnn.deallocate(tensor)
    assert tensor.shape == (32, 32)
    with pytest.raises(EmulationError, match=r"ttnn\.add: .*not allocated"):
        ttnn.add(tensor, tensor)
    with pytest.raises(EmulationError, match="not allocated"):
        ttnn.to_torch(tensor)


def test_operands_must_share_a_device(device, exact_device) -> None:
    a, b = (
        ttnn.empty((32, 32), layout=ttnn.TILE_LAYOUT, device=one) for one in (device, exact_device)
    )
    with pytest.raises(EmulationError, match="one device"):
        ttnn.add(a, b)
    with pytest.raises(EmulationError, match="on a device"):
        ttnn.untilize(ttnn.from_torch(torch.ones(32, 32), layout=ttnn.TILE_LAYOUT))


def test_live_rows_follow_the_tokens(device) -> None:
    table = ttnn.from_torch(torch.eye(32), dtype=ttnn.bfloat16, device=device)
    tokens = ttnn.from_torch(torch.arange(32)[None], dtype=ttnn.uint32, device=device)
    ttnn.mark_live_rows(tokens, 2)
    x = ttnn.embedding(tokens, table, layout=ttnn.TILE_LAYOUT)
    assert x.shape == (1, 32, 32)
    assert x.stored[0].shape == (1, 2, 32)
    assert ttnn.to_torch(x)[0].float().diagonal().tolist() == [1.0, 1.0, *([0.0] * 30)]
    fresh = ttnn.from_torch(torch.arange(32)[None], dtype=ttnn.uint32)
    ttnn.copy_host_to_device_tensor(fresh, tokens)
    assert tokens.stored[0].shape == (1, 32)
    with pytest.raises(EmulationError, match="33 of 32"):
        ttnn.mark_live_rows(tokens, 33)


def test_copying_from_the_host_needs_the_same_form(device) -> None:
    target = ttnn.from_torch(torch.zeros(1, 4, dtype=torch.int32), device=device)
    with pytest.raises(EmulationError, match="does not fit"):
        ttnn.copy_host_to_device_tensor(ttnn.from_torch(torch.ones(1, 4)), target)


def test_the_device_says_what_it_was_given() -> None:
    mesh = ttnn.open_mesh_device(
        ttnn.MeshShape(1, 1), grid=(11, 10), dram_banks=8, arch=ttnn.Arch.BLACKHOLE
    )
    assert mesh.compute_with_storage_grid_size() == ttnn.CoreCoord(11, 10)
    assert mesh.dram_grid_size() == ttnn.CoreCoord(8, 1)
    assert mesh.arch() is ttnn.Arch.BLACKHOLE
    assert tuple(mesh.shape) == (1, 1)
    ttnn.close_mesh_device(mesh)


def test_configs_are_values() -> None:
    def config() -> ttnn.MemoryConfig:
        cores = ttnn.CoreRangeSet([ttnn.CoreRange(ttnn.CoreCoord(0, 0), ttnn.CoreCoord(3, 1))])
        spec = ttnn.ShardSpec(cores, [32, 64], ttnn.ShardOrientation.ROW_MAJOR)
        return ttnn.MemoryConfig(ttnn.TensorMemoryLayout.WIDTH_SHARDED, ttnn.BufferType.L1, spec)

    assert config() == config()
    assert hash(config()) == hash(config())
    assert config() != ttnn.L1_MEMORY_CONFIG
    assert config().shard_spec.num_cores() == 8
    one = ttnn.CoreRange(ttnn.CoreCoord(0, 0), ttnn.CoreCoord(1, 1))
    with pytest.raises(RuntimeError, match="overlap"):
        ttnn.CoreRangeSet([one, one])
    with pytest.raises(TypeError):
        ttnn.WormholeComputeKernelConfig(fidelity=1)


def test_all_names_are_there() -> None:
    assert [name for name in ttnn.__all__ if not hasattr(ttnn, name)] == []
    assert ttnn.mul is ttnn.multiply
