"""linear: what the element types, compute config and program config do to the numbers."""

import pytest
import torch

from ttc.emulate import block_float, ttnn
from ttc.emulate.configs import MathFidelity
from ttc.emulate.fpu import wide_matmul

pytestmark = pytest.mark.emulate

LOFI, HIFI2, HIFI4 = (
    ttnn.MathFidelity.LoFi,
    ttnn.MathFidelity.HiFi2,
    ttnn.MathFidelity.HiFi4,
)


def kernel(fidelity: MathFidelity, wide: bool, in_l1: bool = True):
    return ttnn.WormholeComputeKernelConfig(
        math_fidelity=fidelity, fp32_dest_acc_en=wide, packer_l1_acc=in_l1
    )


def line(block: int = 1, columns: int = 1) -> ttnn.MatmulMultiCoreReuseMultiCast1DProgramConfig:
    return ttnn.MatmulMultiCoreReuseMultiCast1DProgramConfig(
        compute_with_storage_grid_size=(8, 8),
        in0_block_w=block,
        out_subblock_h=1,
        out_subblock_w=1,
        per_core_M=1,
        per_core_N=columns,
        fuse_batch=True,
        mcast_in0=True,
    )


@pytest.fixture
def x(random: torch.Generator) -> torch.Tensor:
    return torch.randn(1, 1, 32, 256, generator=random).bfloat16().float()


@pytest.fixture
def w(random: torch.Generator) -> torch.Tensor:
    return torch.randn(1, 1, 256, 96, generator=random).bfloat16().float() / 16


def tiles(values: torch.Tensor, device: ttnn.MeshDevice, dtype=ttnn.bfloat16) -> ttnn.Tensor:
    return ttnn.from_torch(values, dtype=dtype, layout=ttnn.TILE_LAYOUT, device=device)


def distance(values: torch.Tensor, reference: torch.Tensor) -> float:
    return ((values.float() - reference).norm() / reference.norm()).item()


def run(x: torch.Tensor, w: torch.Tensor, device: ttnn.MeshDevice, **settings) -> torch.Tensor:
    weights = settings.pop("weights", ttnn.bfloat16)
    result = ttnn.linear(tiles(x, device), tiles(w, device, weights), **settings)
    return ttnn.to_torch(result)


def test_hifi4_with_a_wide_dst_is_the_product_rounded_once(x, w, device) -> None:
    ours = run(x, w, device, compute_kernel_config=kernel(HIFI4, True))
    assert distance(ours, x @ w) < 2.5e-3
    assert distance(run(x, w, device, compute_kernel_config=kernel(LOFI, True)), x @ w) > 2e-2


@pytest.mark.parametrize(("dtype", "form"), [
    (ttnn.bfloat8_b, block_float.BFP8), (ttnn.bfloat4_b, block_float.BFP4),
])  # fmt: skip
def test_block_format_weights(x, w, device, dtype, form) -> None:
    stored = block_float.quantize_on_host(w, form)
    ours = run(x, w, device, weights=dtype, compute_kernel_config=kernel(HIFI4, True))
    assert distance(ours, x @ stored) < 2.5e-3
    assert distance(ours, x @ w) > 5e-3


def test_bfp4_weights_need_no_more_than_lofi(x, w, device) -> None:
    """3 significant bits fit into the first phase; only the activation's last bit is lost."""
    lofi, hifi2 = (
        run(x, w, device, weights=ttnn.bfloat4_b, compute_kernel_config=kernel(one, wide))
        for one, wide in ((LOFI, False), (HIFI2, False))
    )
    assert torch.equal(lofi, hifi2)


def test_a_program_config_alone_means_lofi(x, w, device) -> None:
    narrow = ttnn.WormholeComputeKernelConfig(math_fidelity=LOFI, packer_l1_acc=True)
    alone = run(x, w, device, program_config=line())
    assert torch.equal(
        alone, run(x, w, device, program_config=line(), compute_kernel_config=narrow)
    )
    wide = run(x, w, device, program_config=line(), compute_kernel_config=kernel(HIFI4, True))
    assert distance(alone, wide.float()) > 2e-2


def test_without_any_config_it_is_hifi2(x, w, device) -> None:
    reference = wide_matmul(x, w, MathFidelity.HiFi2)
    assert distance(run(x, w, device), reference) < 1.5e-2
    assert distance(run(x, w, device), wide_matmul(x, w, MathFidelity.LoFi)) > 2e-2


def test_the_block_width_and_l1_matter_with_a_narrow_dst(x, w, device) -> None:
    def narrow(block: int, in_l1: bool = True) -> torch.Tensor:
        config = kernel(HIFI2, False, in_l1)
        return run(x, w, device, program_config=line(block), compute_kernel_config=config)

    assert not torch.equal(narrow(1), narrow(4))
    assert not torch.equal(narrow(1), narrow(1, in_l1=False))
    # Reloading Dst after each block is one long block.
    assert torch.equal(narrow(1, in_l1=False), narrow(8, in_l1=False))

    def wide(block: int) -> torch.Tensor:
        config = kernel(HIFI2, True)
        return run(x, w, device, program_config=line(block), compute_kernel_config=config)

    assert torch.equal(wide(1), wide(4))


def test_the_output_packs_as_the_device_does(x, w, device) -> None:
    config = kernel(HIFI4, True)
    ours = run(x, w, device, dtype=ttnn.bfloat8_b, compute_kernel_config=config)
    assert torch.equal(ours, block_float.quantize_on_device(x @ w, block_float.BFP8))
    with pytest.raises(RuntimeError, match="BFLOAT4_B"):
        run(x, w, device, dtype=ttnn.bfloat4_b)


def test_bias(x, w, device) -> None:
    bias = torch.arange(96.0).view(1, 1, 1, 96)
    result = ttnn.linear(
        tiles(x, device), tiles(w, device), bias=tiles(bias, device),
        compute_kernel_config=kernel(HIFI4, True),
    )  # fmt: skip
    assert distance(ttnn.to_torch(result), x @ w + bias) < 2.5e-3


@pytest.mark.parametrize("wide", [True, False])
def test_batches(device, random, wide: bool) -> None:
    a = torch.randn(1, 3, 32, 64, generator=random).bfloat16().float()
    b = torch.randn(1, 3, 64, 32, generator=random).bfloat16().float()
    config = kernel(HIFI4, wide)
    straight = ttnn.matmul(tiles(a, device), tiles(b, device), compute_kernel_config=config)
    assert distance(ttnn.to_torch(straight), a @ b) < (2.5e-3 if wide else 1.5e-2)
    turned = tiles(b.transpose(2, 3).contiguous(), device)
    other = ttnn.matmul(tiles(a, device), turned, transpose_b=True, compute_kernel_config=config)
    assert torch.equal(ttnn.to_torch(straight), ttnn.to_torch(other))


def test_minimal_matmul(x, w, device) -> None:
    ours = ttnn.to_torch(ttnn.experimental.minimal_matmul(tiles(x, device), tiles(w, device)))
    assert distance(ours, wide_matmul(x, w, MathFidelity.HiFi2)) < 2.5e-3


def test_nothing_is_rounded_on_an_exact_device(x, w, exact_device) -> None:
    x, w = x + 1e-4, w + 1e-5
    ours = run(
        x, w, exact_device, weights=ttnn.bfloat4_b, compute_kernel_config=kernel(LOFI, False)
    )
    assert distance(ours, x @ w) < 1e-6


def test_only_live_rows_are_computed(x, w, device) -> None:
    full = tiles(x, device)
    part = ttnn.slice(full, (0, 0, 0, 0), (1, 1, 32, 256))
    part.stored = [part.stored[0][:, :, :3]]
    config = kernel(HIFI2, True)
    ours = ttnn.linear(part, tiles(w, device), compute_kernel_config=config)
    assert ours.stored[0].shape == (1, 1, 3, 96)
    whole = ttnn.to_torch(
        ttnn.linear(tiles(x, device), tiles(w, device), compute_kernel_config=config)
    )
    assert torch.equal(ttnn.to_torch(ours)[:, :, :3], whole[:, :, :3])
    assert ttnn.to_torch(ours)[:, :, 3:].count_nonzero() == 0


def test_unknown_arguments_are_refused(x, w, device) -> None:
    with pytest.raises(TypeError, match="fidelity"):
        run(x, w, device, fidelity=HIFI2)


@pytest.mark.parametrize("wide", [True, False])
def test_rows_of_zeros_alone_give_zeros(w, device, wide) -> None:
    """As the slice of a rank that has padding only: no row is live."""
    nothing = torch.zeros(1, 1, 64, 256)
    result = run(nothing, w, device, compute_kernel_config=kernel(LOFI, wide))
    assert torch.equal(result, torch.zeros(1, 1, 64, 96))
