"""softmax, caches without pages, and products with a matrix for each batch."""

import pytest
import torch

from ttc.emulate import ttnn
from ttc.emulate.errors import EmulationError

pytestmark = pytest.mark.emulate

KV_HEADS, HEAD_DIM, TOKENS = 2, 32, 64


def tiles(values: torch.Tensor, device: ttnn.MeshDevice, dtype=ttnn.bfloat16) -> ttnn.Tensor:
    return ttnn.from_torch(values, dtype=dtype, layout=ttnn.TILE_LAYOUT, device=device)


def kernel(*, wide: bool, approximate: bool = False) -> ttnn.WormholeComputeKernelConfig:
    return ttnn.WormholeComputeKernelConfig(
        math_fidelity=ttnn.MathFidelity.HiFi4,
        math_approx_mode=approximate,
        fp32_dest_acc_en=wide,
        packer_l1_acc=True,
    )


@pytest.mark.parametrize(
    ("wide", "approximate", "tolerance"),
    [(True, False, 0.004), (False, False, 0.01), (True, True, 0.04)],
)
def test_softmax(device, random, wide: bool, approximate: bool, tolerance: float) -> None:
    x = (4 * torch.randn(1, 3, 32, 96, generator=random)).bfloat16().float()
    x[..., 50:] = -1.0e9  # hidden keys
    config = kernel(wide=wide, approximate=approximate)
    result = ttnn.softmax(tiles(x, device), dim=3, compute_kernel_config=config)
    ours, exact = ttnn.to_torch(result).float(), x.softmax(-1)
    assert 0 < (ours - exact).norm() / exact.norm() < tolerance
    assert not ours[..., 50:].any()


def test_softmax_without_rounding(exact_device, random) -> None:
    x = torch.randn(1, 1, 5, 40, generator=random)
    result = ttnn.softmax(tiles(x, exact_device, ttnn.float32), dim=-1)
    torch.testing.assert_close(ttnn.to_torch(result), x.softmax(-1))


def test_softmax_of_another_dimension_is_refused(device) -> None:
    with pytest.raises(EmulationError, match="last dimension"):
        ttnn.softmax(tiles(torch.ones(1, 1, 32, 32), device), dim=2)


def test_products_see_what_was_written_to_a_cache(exact_device, random) -> None:
    """fill_cache and an update without a page table, each between two products with the cache."""
    users, device = 3, exact_device
    cache = tiles(torch.zeros(users, KV_HEADS, TOKENS, HEAD_DIM), device)
    q = torch.randn(users, KV_HEADS, 2, HEAD_DIM, generator=random)

    def scores() -> torch.Tensor:
        return ttnn.to_torch(ttnn.matmul(tiles(q, device), cache, transpose_b=True))

    def weighted() -> torch.Tensor:
        weights = tiles(torch.ones(users, KV_HEADS, 1, TOKENS), device)
        return ttnn.to_torch(ttnn.matmul(weights, cache))

    assert not scores().any()
    assert not weighted().any()
    prompt = torch.randn(1, KV_HEADS, 32, HEAD_DIM, generator=random)
    ttnn.fill_cache(cache, tiles(prompt, device), batch_idx=1)
    held = torch.zeros(users, KV_HEADS, TOKENS, HEAD_DIM)
    held[1, :, :32] = prompt[0]
    torch.testing.assert_close(scores(), q @ held.transpose(2, 3))
    torch.testing.assert_close(weighted(), held.sum(2, keepdim=True))

    later = torch.randn(1, KV_HEADS, 32, HEAD_DIM, generator=random)
    ttnn.fill_cache(cache, tiles(later, device), batch_idx=1, update_idx=32)
    held[1, :, 32:64] = later[0]
    torch.testing.assert_close(scores(), q @ held.transpose(2, 3))

    tokens = torch.randn(1, users, KV_HEADS, HEAD_DIM, generator=random)
    cores = ttnn.CoreRangeSet([ttnn.CoreRange(ttnn.CoreCoord(0, 0), ttnn.CoreCoord(2, 0))])
    spec = ttnn.ShardSpec(cores, [32, HEAD_DIM], ttnn.ShardOrientation.ROW_MAJOR)
    layout = ttnn.TensorMemoryLayout.HEIGHT_SHARDED
    placed = ttnn.MemoryConfig(layout, ttnn.BufferType.L1, spec)
    positions = torch.tensor([5, 32, -1], dtype=torch.int32)
    ttnn.experimental.paged_update_cache(
        cache,
        ttnn.to_memory_config(tiles(tokens, device), placed),
        update_idxs_tensor=ttnn.from_torch(positions, dtype=ttnn.int32, device=device),
    )
    held[0, :, 5], held[1, :, 32] = tokens[0, 0], tokens[0, 1]
    torch.testing.assert_close(scores(), q @ held.transpose(2, 3))
    torch.testing.assert_close(weighted(), held.sum(2, keepdim=True))


def test_a_prompt_longer_than_the_cache_is_refused(device) -> None:
    cache = tiles(torch.zeros(1, KV_HEADS, 32, HEAD_DIM), device)
    with pytest.raises(EmulationError, match="do not fit the cache"):
        ttnn.fill_cache(cache, tiles(torch.ones(1, KV_HEADS, 64, HEAD_DIM), device), batch_idx=0)
    cache = tiles(torch.zeros(1, KV_HEADS, 64, HEAD_DIM), device)
    tile = tiles(torch.ones(1, KV_HEADS, 32, HEAD_DIM), device)
    for start, why in ((64, "do not fit the cache"), (16, "not a multiple of 32")):
        with pytest.raises(EmulationError, match=why):
            ttnn.fill_cache(cache, tile, batch_idx=0, update_idx=start)
