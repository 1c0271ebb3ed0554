"""Operations on several prompts at once: bit for bit what they do to each alone."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from typing import Any

import pytest
import torch

from ttc.emulate import ttnn
from ttc.emulate.errors import EmulationError

pytestmark = pytest.mark.emulate

PROMPTS, HEADS, KV_HEADS, HEAD_DIM, TOKENS, BLOCK, BLOCKS = 3, 4, 2, 64, 128, 32, 24
PAGES = TOKENS // BLOCK
PRECISE = ttnn.WormholeComputeKernelConfig(
    math_fidelity=ttnn.MathFidelity.HiFi4, fp32_dest_acc_en=True
)
PROGRAM = ttnn.SDPAProgramConfig(
    compute_with_storage_grid_size=(8, 8), q_chunk_size=64, k_chunk_size=128, exp_approx_mode=False
)


class Chip:
    """Random tensors on a device."""

    def __init__(self, device: ttnn.MeshDevice) -> None:
        self.device = device
        self._random = torch.Generator().manual_seed(5)

    def random(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self._random).bfloat16()

    def tiles(self, values: torch.Tensor) -> Any:
        return ttnn.from_torch(
            values, dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT, device=self.device
        )

    def integers(self, values: torch.Tensor) -> Any:
        return ttnn.from_torch(
            values.int(), dtype=ttnn.int32, layout=ttnn.ROW_MAJOR_LAYOUT, device=self.device
        )

    def pages(self) -> torch.Tensor:
        order = torch.randperm(BLOCKS, generator=self._random)
        return order[: PROMPTS * 2 * PAGES].reshape(PROMPTS, 2 * PAGES)


@pytest.fixture
def chip(device: ttnn.MeshDevice) -> Chip:
    return Chip(device)


def test_heads(chip: Chip) -> None:
    values = chip.random(PROMPTS, 1, TOKENS, (HEADS + 2 * KV_HEADS) * HEAD_DIM)

    def split(some: torch.Tensor) -> tuple[Any, ...]:
        return ttnn.experimental.nlp_create_qkv_heads(
            chip.tiles(some),
            num_heads=HEADS,
            num_kv_heads=KV_HEADS,
            transpose_k_heads=False,
            memory_config=ttnn.DRAM_MEMORY_CONFIG,
        )

    together = [ttnn.to_torch(each) for each in split(values)]
    assert together[0].shape == (PROMPTS, HEADS, TOKENS, HEAD_DIM)
    for row in range(PROMPTS):
        for all_, one in zip(together, split(values[row : row + 1]), strict=True):
            assert torch.equal(all_[row : row + 1], ttnn.to_torch(one))


@pytest.mark.parametrize("window", [None, 70])
def test_attention(chip: Chip, window: int | None) -> None:
    q = chip.random(PROMPTS, HEADS, TOKENS, HEAD_DIM)
    k, v = (chip.random(PROMPTS, KV_HEADS, TOKENS, HEAD_DIM) for _ in "kv")

    def attend(rows: slice) -> torch.Tensor:
        result = ttnn.transformer.scaled_dot_product_attention(
            *(chip.tiles(each[rows]) for each in (q, k, v)),
            is_causal=True,
            sliding_window_size=window,
            program_config=PROGRAM,
            compute_kernel_config=PRECISE,
            output_concat_heads=True,
        )
        return ttnn.to_torch(result)

    together = attend(slice(None))
    assert together.shape == (PROMPTS, 1, TOKENS, HEADS * HEAD_DIM)
    alone = [attend(slice(row, row + 1)) for row in range(PROMPTS)]
    assert torch.equal(together, torch.cat(alone))


def test_caches_and_later_chunks(chip: Chip) -> None:
    """The second chunk of each prompt is written where its user's pages say, and attends to both;
    what -1 marks is not written."""
    pages = chip.pages()
    first, second = chip.random(2, PROMPTS, KV_HEADS, TOKENS, HEAD_DIM)
    q = chip.random(PROMPTS, HEADS, TOKENS, HEAD_DIM)
    start, empty = chip.integers(torch.tensor([TOKENS])), torch.zeros(BLOCKS, KV_HEADS, BLOCK, 64)
    together, alone = (chip.tiles(empty.bfloat16()) for _ in "ab")
    skipped = pages.clone()
    skipped[1, -1] = -1

    def attend(cache: Any, rows: slice) -> torch.Tensor:
        result = ttnn.transformer.chunked_scaled_dot_product_attention(
            chip.tiles(q[rows]), cache, cache, chip.integers(pages[rows]),
            chunk_start_idx_tensor=start, program_config=PROGRAM, compute_kernel_config=PRECISE,
        )  # fmt: skip
        return ttnn.to_torch(result)

    users = chip.integers(torch.arange(PROMPTS))
    for values, at in ((first, slice(0, PAGES)), (second, slice(PAGES, 2 * PAGES))):
        fill = ttnn.experimental.paged_fill_cache
        blocks = skipped[:, at]
        fill(together, chip.tiles(values), chip.integers(blocks), batch_idx_tensor=users)
        for row in range(PROMPTS):
            line = slice(row, row + 1)
            fill(alone, chip.tiles(values[line]), chip.integers(blocks[line]))
    assert torch.equal(ttnn.to_torch(together), ttnn.to_torch(alone))
    assert not ttnn.to_torch(together)[pages[1, -1]].any()
    each = [attend(alone, slice(row, row + 1)) for row in range(PROMPTS)]
    assert torch.equal(attend(together, slice(None)), torch.cat(each))


def test_sequences_need_their_users(chip: Chip) -> None:
    cache = chip.tiles(chip.random(BLOCKS, KV_HEADS, BLOCK, HEAD_DIM))
    tokens = chip.tiles(chip.random(PROMPTS, KV_HEADS, TOKENS, HEAD_DIM))
    table = chip.integers(chip.pages())
    with pytest.raises(EmulationError, match="3 sequences need a batch_idx_tensor"):
        ttnn.experimental.paged_fill_cache(cache, tokens, table)
    users = chip.integers(torch.arange(2))
    with pytest.raises(EmulationError, match="2 users for 3 sequences"):
        ttnn.experimental.paged_fill_cache(cache, tokens, table, batch_idx_tensor=users)


def test_padding_between_prompts_is_zeros_and_changes_nothing(chip: Chip) -> None:
    """What belongs to nobody is left out of sums, and is zeros up to the results of attention."""
    table, weight = chip.tiles(chip.random(1, 1, 50, 64)), chip.tiles(chip.random(1, 1, 64, 192))
    rows = ttnn.untilize(table)
    ids = torch.arange(PROMPTS * 64, dtype=torch.int32)[None] % 50

    def heads(live: bool) -> torch.Tensor:
        tokens = ttnn.from_torch(
            ids, dtype=ttnn.uint32, layout=ttnn.ROW_MAJOR_LAYOUT, device=chip.device
        )
        if live:
            ttnn.mark_live_rows(tokens, 64, 7, parts=PROMPTS)
        x = ttnn.embedding(tokens, rows, layout=ttnn.TILE_LAYOUT)
        qkv = ttnn.linear(
            ttnn.reshape(x, (1, 1, PROMPTS * 64, 64)), weight, compute_kernel_config=PRECISE
        )
        q, k, v = ttnn.experimental.nlp_create_qkv_heads(
            ttnn.reshape(qkv, (PROMPTS, 1, 64, 192)),
            num_heads=1, num_kv_heads=1, transpose_k_heads=False,
        )  # fmt: skip
        return ttnn.to_torch(
            ttnn.transformer.scaled_dot_product_attention(q, k, v, program_config=PROGRAM)
        )

    every, marked = heads(live=False), heads(live=True)
    assert torch.equal(marked[0], every[0])
    assert torch.equal(marked[1, :, :7], every[1, :, :7])
    assert not marked[1, :, 7:].any()
    assert not marked[2].any()
