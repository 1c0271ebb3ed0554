"""Attention and the paged caches against plain torch."""

import pytest
import torch

from ttc.emulate import block_float, ttnn
from ttc.emulate.configs import MathFidelity

pytestmark = pytest.mark.emulate

HEADS, KV_HEADS, HEAD_DIM = 6, 2, 64
SCALE = HEAD_DIM**-0.5


def kernel(fidelity: MathFidelity, wide: bool) -> ttnn.WormholeComputeKernelConfig:
    return ttnn.WormholeComputeKernelConfig(math_fidelity=fidelity, fp32_dest_acc_en=wide)


PRECISE = kernel(ttnn.MathFidelity.HiFi4, True)


def program(q: int = 32, k: int = 32, approximate: bool | None = False) -> ttnn.SDPAProgramConfig:
    return ttnn.SDPAProgramConfig(
        compute_with_storage_grid_size=(8, 8),
        q_chunk_size=q,
        k_chunk_size=k,
        exp_approx_mode=approximate,
    )


def tiles(values: torch.Tensor, device: ttnn.MeshDevice, dtype=ttnn.bfloat16) -> ttnn.Tensor:
    return ttnn.from_torch(values, dtype=dtype, layout=ttnn.TILE_LAYOUT, device=device)


def integers(values: torch.Tensor, device: ttnn.MeshDevice) -> ttnn.Tensor:
    return ttnn.from_torch(values.int(), dtype=ttnn.int32, device=device)


def bf16(shape: tuple[int, ...], random: torch.Generator) -> torch.Tensor:
    return torch.randn(shape, generator=random).bfloat16().float()


def distance(ours: torch.Tensor, reference: torch.Tensor) -> float:
    return ((ours.float() - reference).norm() / reference.norm()).item()


def reference(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool) -> torch.Tensor:
    return torch.nn.functional.scaled_dot_product_attention(
        q, k, v, is_causal=causal, scale=SCALE, enable_gqa=True
    )


@pytest.mark.parametrize(
    ("config", "approximate", "low", "high"),
    [
        (PRECISE, False, 1e-3, 1e-2),
        (kernel(ttnn.MathFidelity.HiFi2, True), False, 3e-3, 1.5e-2),
        (kernel(ttnn.MathFidelity.HiFi2, False), False, 5e-3, 3e-2),
        (PRECISE, True, 1e-2, 4e-2),
        (None, None, 1e-2, 6e-2),  # ttnn's defaults: HiFi2, 16-bit Dst, approximate
    ],
)
def test_causal_attention_by_precision(
    device, random, config, approximate, low: float, high: float
) -> None:
    q = bf16((1, HEADS, 128, HEAD_DIM), random)
    k, v = (bf16((1, KV_HEADS, 128, HEAD_DIM), random) for _ in range(2))
    ours = ttnn.transformer.scaled_dot_product_attention(
        tiles(q, device),
        tiles(k, device),
        tiles(v, device),
        scale=SCALE,
        program_config=program(approximate=approximate),
        compute_kernel_config=config,
    )
    assert low < distance(ttnn.to_torch(ours), reference(q, k, v, True)) < high


@pytest.mark.parametrize("chunks", [(32, 32), (64, 128), (128, 32), (512, 512)])
@pytest.mark.parametrize("rows", [40, 160])
def test_chunks_and_partial_tiles(device, random, chunks: tuple[int, int], rows: int) -> None:
    q = bf16((1, HEADS, rows, HEAD_DIM), random)
    k, v = (bf16((1, KV_HEADS, rows, HEAD_DIM), random) for _ in range(2))
    ours = ttnn.transformer.scaled_dot_product_attention(
        tiles(q, device),
        tiles(k, device),
        tiles(v, device),
        scale=SCALE,
        program_config=program(*chunks),
        compute_kernel_config=PRECISE,
        output_concat_heads=True,
    )
    expected = reference(q, k, v, True)
    joined = expected.transpose(1, 2).flatten(2).unsqueeze(1)
    assert distance(ttnn.to_torch(ours), joined) < 1e-2
    assert distance(ttnn.to_torch(ours), joined.roll(1, 2)) > 0.1


def test_attention_to_everything(device, random) -> None:
    q = bf16((1, HEADS, 32, HEAD_DIM), random)
    k, v = (bf16((1, KV_HEADS, 96, HEAD_DIM), random) for _ in range(2))
    ours = ttnn.transformer.scaled_dot_product_attention(
        tiles(q, device),
        tiles(k, device),
        tiles(v, device),
        is_causal=False,
        scale=SCALE,
        program_config=program(),
        compute_kernel_config=PRECISE,
    )
    assert distance(ttnn.to_torch(ours), reference(q, k, v, False)) < 1e-2


class Paged:
    """Caches of three users in shuffled blocks, and what they hold as plain sequences."""

    def __init__(self, device: ttnn.MeshDevice, random: torch.Generator, dtype) -> None:
        self.device = device
        blocks = torch.randperm(24, generator=random).view(3, 8)
        self.table = integers(blocks, device)
        self.caches = [
            ttnn.empty(
                (24, KV_HEADS, 32, HEAD_DIM), dtype=dtype, layout=ttnn.TILE_LAYOUT, device=device
            )
            for _ in range(2)
        ]
        self.plain = torch.zeros(2, 3, KV_HEADS, 256, HEAD_DIM)

    def fill(self, user: int, sequences: torch.Tensor, dtype) -> None:
        """sequences [2, kv_heads, seq, head_dim] for k and v."""
        for cache, values in zip(self.caches, sequences, strict=True):
            tokens = tiles(values[None], self.device, dtype)
            ttnn.experimental.paged_fill_cache(cache, tokens, self.table, batch_idx=user)
        self.plain[:, user, :, : sequences.shape[2]] = sequences

    def positions(self, *at: int) -> ttnn.Tensor:
        return integers(torch.tensor(at), self.device)

    def step(self, q: torch.Tensor, positions: ttnn.Tensor, **settings) -> torch.Tensor:
        result = ttnn.transformer.paged_scaled_dot_product_attention_decode(
            tiles(q, self.device),
            *self.caches,
            page_table_tensor=self.table,
            cur_pos_tensor=positions,
            scale=SCALE,
            **settings,
        )
        return ttnn.to_torch(result)

    def expected(self, q: torch.Tensor, user: int, position: int) -> torch.Tensor:
        k, v = self.plain[:, user, :, : position + 1]
        return reference(q[:, user].unsqueeze(2), k[None], v[None], False)[0, :, 0]


@pytest.fixture
def paged(device, random) -> Paged:
    caches = Paged(device, random, ttnn.bfloat16)
    for user, seq in enumerate((256, 40, 96)):
        caches.fill(user, bf16((2, KV_HEADS, seq, HEAD_DIM), random), ttnn.bfloat16)
    return caches


@pytest.mark.parametrize("chunk", [0, 32, 64, 128, 512])
def test_a_step_of_three_users(paged: Paged, random, chunk: int) -> None:
    q = bf16((1, 3, HEADS, HEAD_DIM), random)
    ours = paged.step(
        q,
        paged.positions(200, 37, 95),
        program_config=program(chunk, chunk),
        compute_kernel_config=PRECISE,
    )
    for user, position in enumerate((200, 37, 95)):
        assert distance(ours[0, user], paged.expected(q, user, position)) < 1e-2
        assert distance(ours[0, user], paged.expected(q, user, position - 20)) > 2e-2


def test_idle_users_are_skipped(paged: Paged, random) -> None:
    q = bf16((1, 3, HEADS, HEAD_DIM), random)
    ours = paged.step(q, paged.positions(-1, 5, -1), compute_kernel_config=PRECISE)
    assert ours[0, 0].count_nonzero() == 0
    assert ours[0, 2].count_nonzero() == 0
    assert ours[0, 1].count_nonzero() > 0


def test_positions_outside_the_table_are_refused(paged: Paged, random) -> None:
    q = bf16((1, 3, HEADS, HEAD_DIM), random)
    with pytest.raises(RuntimeError, match="beyond the page table"):
        paged.step(q, paged.positions(256, 0, 0))
    paged.table.stored[0][1, 0] = 99
    with pytest.raises(RuntimeError, match="page table entries"):
        paged.step(q, paged.positions(0, 0, 0))


def test_step_and_sequence_agree_on_an_exact_device(exact_device, random) -> None:
    caches = Paged(exact_device, random, ttnn.bfloat8_b)
    caches.fill(0, torch.randn(2, KV_HEADS, 64, HEAD_DIM, generator=random), ttnn.bfloat8_b)
    q = torch.randn(1, 3, HEADS, HEAD_DIM, generator=random)
    ours = caches.step(q, caches.positions(50, -1, -1))
    assert distance(ours[0, 0], caches.expected(q, 0, 50)) < 1e-6


def by_user(first: int) -> ttnn.MemoryConfig:
    cores = ttnn.CoreRangeSet(
        [ttnn.CoreRange(ttnn.CoreCoord(first, 0), ttnn.CoreCoord(first + 2, 0))]
    )
    spec = ttnn.ShardSpec(cores, [32, HEAD_DIM], ttnn.ShardOrientation.ROW_MAJOR)
    layout = ttnn.TensorMemoryLayout.HEIGHT_SHARDED
    return ttnn.MemoryConfig(layout, ttnn.BufferType.L1, spec)


@pytest.mark.parametrize("fused", [True, False])
def test_update_writes_one_token_per_user(device, random, fused: bool) -> None:
    caches = Paged(device, random, ttnn.bfloat8_b)
    tokens = [bf16((1, 3, KV_HEADS, HEAD_DIM), random) for _ in range(2)]
    k, v = (
        ttnn.to_memory_config(tiles(one, device), by_user(3 * first))
        for first, one in enumerate(tokens)
    )
    positions = caches.positions(33, -1, 255)
    places = {"update_idxs_tensor": positions, "page_table": caches.table}
    if fused:
        ttnn.experimental.paged_fused_update_cache(
            caches.caches[0], k, caches.caches[1], v, **places
        )
    else:
        ttnn.experimental.paged_update_cache(caches.caches[0], k, **places)
        ttnn.experimental.paged_update_cache(caches.caches[1], v, **places)
    table = ttnn.to_torch(caches.table)
    for cache, values in zip(caches.caches, tokens, strict=True):
        held = ttnn.to_torch(cache)
        packed = block_float.quantize_on_device(values, block_float.BFP8)
        assert torch.equal(held[table[0, 1], :, 1], packed[0, 0])
        assert torch.equal(held[table[2, 7], :, 31], packed[0, 2])
        assert held.count_nonzero() <= 2 * KV_HEADS * HEAD_DIM


def test_fill_leaves_blocks_marked_minus_one(device, random) -> None:
    caches = Paged(device, random, ttnn.bfloat16)
    caches.table.stored[0][0, 1] = -1
    tokens = tiles(torch.ones(1, KV_HEADS, 96, HEAD_DIM), device)
    ttnn.experimental.paged_fill_cache(caches.caches[0], tokens, caches.table, batch_idx=0)
    assert ttnn.to_torch(caches.caches[0]).count_nonzero() == 64 * KV_HEADS * HEAD_DIM
