"""Attention of a prompt in chunks: bit for bit the rows of the prompt in one piece."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from typing import Any

import pytest
import torch

from ttc.emulate import ttnn
from ttc.emulate.errors import EmulationError

pytestmark = pytest.mark.emulate

HEADS, KV_HEADS, HEAD_DIM, TOKENS, BLOCK = 4, 2, 64, 384, 32
PRECISE = ttnn.WormholeComputeKernelConfig(
    math_fidelity=ttnn.MathFidelity.HiFi4, fp32_dest_acc_en=True
)


def program(q: int, k: int) -> ttnn.SDPAProgramConfig:
    return ttnn.SDPAProgramConfig(
        compute_with_storage_grid_size=(8, 8), q_chunk_size=q, k_chunk_size=k, exp_approx_mode=False
    )


class Prompt:
    """A prompt whose keys and values lie in shuffled blocks, and the page table of its user."""

    def __init__(self, device: ttnn.MeshDevice, random: torch.Generator) -> None:
        self.device = device
        shape = (1, HEADS, TOKENS, HEAD_DIM), (1, KV_HEADS, TOKENS, HEAD_DIM)
        self.q, self.k, self.v = (
            torch.randn(one, generator=random).bfloat16() for one in (shape[0], *shape[1:] * 2)
        )
        pages = TOKENS // BLOCK
        self.blocks = torch.randperm(24, generator=random)[:16]
        self.table = self.integers(self.blocks[None])
        self.caches: list[Any] = []
        for values in (self.k, self.v):
            cache = torch.randn((24, KV_HEADS, BLOCK, HEAD_DIM), generator=random).bfloat16()
            paged = values[0].unflatten(1, (pages, BLOCK)).transpose(0, 1)
            cache[self.blocks[:pages]] = paged
            self.caches.append(self.tiles(cache))

    def tiles(self, values: torch.Tensor) -> Any:
        return ttnn.from_torch(
            values, dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT, device=self.device
        )

    def integers(self, values: torch.Tensor) -> Any:
        return ttnn.from_torch(values.int(), dtype=ttnn.int32, device=self.device)

    def whole(self, config: ttnn.SDPAProgramConfig, **changed: Any) -> torch.Tensor:
        q, k, v = map(self.tiles, (self.q, self.k, self.v))
        attend = ttnn.transformer.scaled_dot_product_attention
        return ttnn.to_torch(
            attend(q, k, v, program_config=config, compute_kernel_config=PRECISE, **changed)
        )

    def chunk(
        self, start: int, rows: int, config: ttnn.SDPAProgramConfig, **changed: Any
    ) -> torch.Tensor:
        attend = ttnn.transformer.chunked_scaled_dot_product_attention
        out = attend(
            self.tiles(self.q[:, :, start : start + rows]),
            self.caches[0],
            self.caches[1],
            self.table,
            chunk_start_idx_tensor=self.integers(torch.tensor([start])),
            program_config=config,
            compute_kernel_config=PRECISE,
            **changed,
        )
        return ttnn.to_torch(out)


@pytest.mark.parametrize("window", [None, 40, 128])
@pytest.mark.parametrize(("rows", "q", "k"), [(64, 64, 64), (128, 32, 128), (192, 64, 32)])
def test_chunks_are_rows_of_the_whole(
    device: ttnn.MeshDevice, random: torch.Generator, rows: int, q: int, k: int, window: int | None
) -> None:
    prompt = Prompt(device, random)
    settings = {"scale": 0.25, "sliding_window_size": window}
    whole = prompt.whole(program(q, k), **settings)
    for start in range(0, TOKENS, rows):
        chunk = prompt.chunk(start, rows, program(q, k), **settings)
        assert torch.equal(chunk, whole[:, :, start : start + rows])


def test_the_window_and_the_scale_matter(device: ttnn.MeshDevice, random: torch.Generator) -> None:
    prompt = Prompt(device, random)
    plain = prompt.chunk(128, 64, program(64, 64), scale=0.125)
    assert not torch.equal(plain, prompt.chunk(128, 64, program(64, 64), scale=0.25))
    windowed = prompt.chunk(128, 64, program(64, 64), scale=0.125, sliding_window_size=100)
    assert not torch.equal(plain, windowed)


def test_without_rounding_it_is_the_exact_attention(random: torch.Generator) -> None:
    device = ttnn.open_mesh_device(ttnn.MeshShape(1, 1), grid=(8, 8), rounding=False)
    prompt = Prompt(device, random)
    for window in (None, 100):
        whole = prompt.whole(program(64, 64), sliding_window_size=window)
        chunk = prompt.chunk(192, 192, program(64, 64), sliding_window_size=window)
        assert torch.allclose(chunk, whole[:, :, 192:], atol=1e-6)


def test_a_start_between_chunks_is_refused(
    device: ttnn.MeshDevice, random: torch.Generator
) -> None:
    with pytest.raises(EmulationError, match="a start of 32 is no multiple of 64"):
        Prompt(device, random).chunk(32, 64, program(64, 64))
