"""Collectives against plain sums, and the order and rounding of each kind of sum by hand."""

import pytest
import torch

from ttc.emulate import ttnn
from ttc.emulate.errors import EmulationError
from ttc.emulate.mesh_tensor import MeshTensor

pytestmark = pytest.mark.emulate

LINE, RING = ttnn.Topology.Linear, ttnn.Topology.Ring


def open_line(count: int, *, rounding: bool = True) -> ttnn.MeshDevice:
    return ttnn.open_mesh_device(ttnn.MeshShape(1, count), rounding=rounding)


def per_device(
    values: torch.Tensor, mesh: ttnn.MeshDevice, dtype: ttnn.DataType = ttnn.bfloat16
) -> MeshTensor:
    """values [devices, height, width]: one [1, 1, height, width] for each device."""
    parts = values.flatten(0, 1)[None, None]
    return ttnn.from_torch(
        parts,
        dtype,
        layout=ttnn.TILE_LAYOUT,
        device=mesh,
        mesh_mapper=ttnn.ShardTensorToMesh(mesh, 2),
    )


def each(tensor: MeshTensor) -> torch.Tensor:
    """[devices, ...]"""
    return torch.stack([ttnn.to_torch(one).float() for one in ttnn.get_device_tensors(tensor)])


def semaphores(mesh: ttnn.MeshDevice, count: int) -> list[ttnn.GlobalSemaphore]:
    core = ttnn.CoreRange(ttnn.CoreCoord(0, 0), ttnn.CoreCoord(0, 0))
    cores = ttnn.CoreRangeSet([core])
    return [ttnn.create_global_semaphore(mesh, cores, 0) for _ in range(count)]


@pytest.mark.parametrize("topology", [LINE, RING])
@pytest.mark.parametrize("count", [2, 3, 4, 8])
def test_sums_without_rounding(count: int, topology: ttnn.Topology, random) -> None:
    mesh = open_line(count, rounding=False)
    values = torch.randn(count, 32, 32 * count, generator=random)
    x, total = per_device(values, mesh, ttnn.float32), values.sum(0)
    reduced = each(ttnn.all_reduce(x, cluster_axis=1, topology=topology))
    assert torch.allclose(reduced[:, 0, 0], total.expand(count, -1, -1), atol=1e-5)
    for scattered in (
        ttnn.reduce_scatter(x, 3, cluster_axis=1, topology=topology),
        ttnn.experimental.reduce_scatter_minimal_async(
            x, dim=3, multi_device_global_semaphore=semaphores(mesh, 3), topology=topology
        ),
    ):
        slices = torch.stack(total.chunk(count, -1))
        assert torch.allclose(each(scattered)[:, 0, 0], slices, atol=1e-5)
    gathered = ttnn.all_gather(scattered, 3, cluster_axis=1)
    assert torch.allclose(each(gathered)[:, 0, 0], total.expand(count, -1, -1), atol=1e-5)
    assert len({id(one) for one in gathered.shards}) == 1


@pytest.mark.parametrize(("axis", "count"), [(0, 2), (1, 4)])
def test_each_line_of_a_mesh_by_itself(axis: int, count: int, random) -> None:
    mesh = ttnn.open_mesh_device(ttnn.MeshShape(2, 4), rounding=False)
    values = torch.randn(8, 32, 128, generator=random)
    x = per_device(values, mesh, ttnn.float32)
    grid = values.view(2, 4, 32, 128)
    total = grid.sum(axis, keepdim=True).expand_as(grid).reshape(values.shape)
    assert torch.allclose(each(ttnn.all_reduce(x, cluster_axis=axis))[:, 0, 0], total, atol=1e-5)
    gathered = each(ttnn.all_gather(x, 2, cluster_axis=axis))
    assert gathered.shape == (8, 1, 1, 32 * count, 128)
    column = torch.cat([grid[0, 1], grid[1, 1]]) if axis == 0 else torch.cat([*grid[0]])
    assert torch.equal(gathered[1, 0, 0], column)
    parts = each(ttnn.mesh_partition(x, 3, axis))
    place = 1 if axis == 0 else 3
    assert torch.equal(parts[7, 0, 0], values[7].chunk(count, -1)[place])
    with pytest.raises(EmulationError, match="needs a cluster_axis"):
        ttnn.all_reduce(x)


def sums(values: list[float], topology: ttnn.Topology, dtype=ttnn.bfloat16, **changed) -> list:
    """What each owner gets from devices that hold `values` everywhere."""
    mesh = open_line(len(values))
    count = len(values)
    filled = torch.tensor(values)[:, None, None].expand(count, 32, 32 * count).contiguous()
    x = per_device(filled, mesh, dtype)
    result = ttnn.reduce_scatter(x, 3, cluster_axis=1, topology=topology, **changed)
    return each(result)[:, 0, 0, 0, 0].tolist()


# BFLOAT16 has steps of 2 from 256 on; a tie goes away from zero.
def test_a_line_rounds_at_every_hop() -> None:
    # Owner 0: 1 + 1 + 1 from the back, 256 + 3 -> 260. Owner 3: 256 + 1 -> 258 -> 260 -> 262.
    assert sums([256, 1, 1, 1], LINE) == [260, 260, 262, 262]


def test_a_ring_adds_two_chains_to_the_owner_at_once() -> None:
    # Owner 0: 0.75 + own 256 + 0.25 -> 258. Owner 1: (0.25 + 256 -> 256) + own 0.25 + 0.5 -> 256.
    tuned = {"intermediate_memory_config": ttnn.DRAM_MEMORY_CONFIG}
    assert sums([256, 0.25, 0.5, 0.25], RING, **tuned) == [258, 256, 256, 258]
    assert sums([0.25, 256, 1, 0.75], RING, **tuned) == [258, 258, 258, 260]


def test_a_sum_in_fp32_is_rounded_once() -> None:
    """BFLOAT8_B has steps of 4 here: 257.5 is 258 in a 16-bit Dst, and then a tie."""
    narrow, wide = (ttnn.WormholeComputeKernelConfig(fp32_dest_acc_en=on) for on in (False, True))
    for config, expected in ((narrow, 260), (wide, 256)):
        changed = {"compute_kernel_config": config}
        assert sums([256, 1.5], LINE, ttnn.bfloat8_b, **changed) == [expected] * 2


def test_a_direct_sum_packs_once() -> None:
    # In Dst: own + the first other, then the other two at once. Never 1 at once beside 256.
    assert sums([256, 0.25, 0.5, 0.25], RING) == [256, 256, 256, 256]
    assert sums([256, 1, 1, 1], RING) == [260, 260, 260, 260]


def test_the_mesh_says_the_topology_if_the_call_does_not() -> None:
    values = torch.tensor([256.0, 1, 1, 1])[:, None, None].expand(4, 32, 128).contiguous()
    for topology, expected in ((LINE, [260, 260, 262, 262]), (RING, [260] * 4)):
        mesh = ttnn.open_mesh_device(ttnn.MeshShape(1, 4), topology=topology)
        scattered = ttnn.reduce_scatter(per_device(values, mesh), 3, cluster_axis=1)
        assert each(scattered)[:, 0, 0, 0, 0].tolist() == expected


def test_blocks_travel_as_blocks(random) -> None:
    """Every hop of a line packs in the element type; a sum in Dst packs once."""
    mesh = open_line(8)
    values = torch.randn(8, 32, 256, generator=random)
    x = per_device(values, mesh, ttnn.bfloat8_b)
    exact = each(x)[:, 0, 0].sum(0)

    def error(topology: ttnn.Topology) -> float:
        total = each(ttnn.all_reduce(x, cluster_axis=1, topology=topology))[0, 0, 0]
        again = ttnn.from_torch(total, ttnn.bfloat8_b)
        assert torch.equal(ttnn.to_torch(again), total)
        return ((total - exact).norm() / exact.norm()).item()

    assert 0 < error(RING) < 0.7 * error(LINE) < 0.03


def test_a_width_that_does_not_divide_into_tiles(random) -> None:
    """Along the height, or all parts on all devices; the sum is on every device all the same."""
    mesh = open_line(4)
    for height in (32, 128):
        values = torch.randn(4, height, 96, generator=random).bfloat16().float()
        result = ttnn.all_reduce(per_device(values, mesh), cluster_axis=1)
        assert result.shape == (1, 1, height, 96)
        for one in each(result)[:, 0, 0]:
            assert ((one - values.sum(0)).norm() / values.sum(0).norm()).item() < 6e-3


def test_rows_that_are_not_live_stay_out(random) -> None:
    mesh = open_line(2)
    tokens = ttnn.from_torch(torch.zeros(1, 32, dtype=torch.int64), ttnn.uint32, device=mesh)
    ttnn.mark_live_rows(tokens, 3)
    weight = ttnn.from_torch(torch.randn(1, 1, 4, 64, generator=random), device=mesh)
    x = ttnn.embedding(tokens, weight, layout=ttnn.TILE_LAYOUT)
    results = ttnn.all_reduce(x), ttnn.all_gather(x, 2), ttnn.reduce_scatter(x, 2)
    stored = [result.shards[0].stored[0].shape for result in results]
    assert stored == [(1, 3, 64), (1, 3, 128), (1, 3, 32)]


def test_two_chips_compute_a_feed_forward(random) -> None:
    """Columns of the first weight and rows of the second on each chip, then one sum."""
    up, down = (torch.randn(*size, generator=random) / 8 for size in ((64, 128), (128, 64)))
    tokens = torch.randn(32, 64, generator=random)

    def run(mesh: ttnn.MeshDevice, columns=None, rows=None) -> MeshTensor:
        def put(values: torch.Tensor, mapper=None):
            return ttnn.from_torch(
                values[None, None],
                ttnn.bfloat16,
                layout=ttnn.TILE_LAYOUT,
                device=mesh,
                mesh_mapper=mapper,
            )

        x = ttnn.linear(put(tokens), put(up, columns))
        return ttnn.linear(x, put(down, rows))

    alone = ttnn.to_torch(run(ttnn.open_mesh_device(ttnn.MeshShape(1, 1)))).float()
    mesh = open_line(2)
    columns, rows = ttnn.ShardTensorToMesh(mesh, 3), ttnn.ShardTensorToMesh(mesh, 2)
    for one in each(ttnn.all_reduce(run(mesh, columns, rows), cluster_axis=1)):
        assert ((one - alone).norm() / alone.norm()).item() < 6e-3


def test_a_sum_in_a_buffer_adds_pairs_by_position() -> None:
    """(256 + 1) -> 258 in a Dst of 16 bits, + (1 + 0.5) -> 260; a wide Dst rounds 258.5 once."""
    mesh = open_line(4)
    cores = ttnn.CoreRangeSet([ttnn.CoreRange(ttnn.CoreCoord(0, 0), ttnn.CoreCoord(0, 0))])

    def placed(width: int) -> ttnn.MemoryConfig:
        spec = ttnn.ShardSpec(cores, [32, width], ttnn.ShardOrientation.ROW_MAJOR)
        return ttnn.MemoryConfig(ttnn.TensorMemoryLayout.WIDTH_SHARDED, ttnn.BufferType.L1, spec)

    values = torch.tensor([256, 1, 1, 0.5])[:, None, None].expand(4, 32, 64).contiguous()
    x = ttnn.to_memory_config(per_device(values, mesh), placed(64))
    buffer = ttnn.empty(
        (1, 1, 32, 256), layout=ttnn.TILE_LAYOUT, device=mesh, memory_config=placed(256)
    )
    (semaphore,) = semaphores(mesh, 1)
    for wide, expected in ((False, 260), (True, 258)):
        total = ttnn.experimental.all_reduce_async(
            x, buffer, 1, mesh, semaphore, memory_config=placed(64), fp32_dest_acc=wide
        )
        assert each(total).unique().tolist() == [expected]


class TestRefusals:
    def test_one_device(self, device) -> None:
        x = ttnn.from_torch(torch.ones(32, 32), layout=ttnn.TILE_LAYOUT, device=device)
        with pytest.raises(EmulationError, match="several devices"):
            ttnn.all_gather(x, 1)

    def test_an_axis_of_one_device(self) -> None:
        x = per_device(torch.ones(2, 32, 64), open_line(2))
        with pytest.raises(EmulationError, match=r"axis 0 .* has one device"):
            ttnn.all_reduce(x, cluster_axis=0)
        assert ttnn.mesh_partition(x, 3, 0) is x

    def test_dimensions_and_sizes(self) -> None:
        x = per_device(torch.ones(3, 32, 64), open_line(3))
        with pytest.raises(EmulationError, match="dim 5"):
            ttnn.all_gather(x, 5)
        with pytest.raises(EmulationError, match="does not divide among 3"):
            ttnn.reduce_scatter(x, 3)
        halves = per_device(torch.ones(2, 32, 96), open_line(2))
        with pytest.raises(EmulationError, match="no whole tiles"):
            ttnn.mesh_partition(halves, 3)

    def test_too_few_semaphores(self) -> None:
        mesh = open_line(2)
        x = per_device(torch.ones(2, 32, 64), mesh)
        with pytest.raises(EmulationError, match="2 semaphores needed, got 1"):
            ttnn.experimental.all_gather_async(
                x, dim=3, multi_device_global_semaphore=semaphores(mesh, 1)
            )
        gathered = ttnn.experimental.all_gather_async(
            x, dim=3, multi_device_global_semaphore=semaphores(mesh, 2)
        )
        assert gathered.shape == (1, 1, 32, 128)

    def test_a_placement_that_does_not_fit(self) -> None:
        x = per_device(torch.ones(2, 32, 64), open_line(2))
        core = ttnn.CoreRangeSet([ttnn.CoreRange(ttnn.CoreCoord(0, 0), ttnn.CoreCoord(0, 0))])
        spec = ttnn.ShardSpec(core, [32, 64], ttnn.ShardOrientation.ROW_MAJOR)
        placed = ttnn.MemoryConfig(ttnn.TensorMemoryLayout.WIDTH_SHARDED, ttnn.BufferType.L1, spec)
        with pytest.raises(EmulationError, match="2 shards along the width"):
            ttnn.all_gather(x, 3, memory_config=placed)

    def test_sums_of_bfp4(self) -> None:
        x = per_device(torch.ones(2, 32, 64), open_line(2), ttnn.bfloat4_b)
        with pytest.raises(EmulationError, match="BFLOAT4_B"):
            ttnn.all_reduce(x)
