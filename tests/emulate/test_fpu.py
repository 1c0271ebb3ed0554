"""The matrix unit: known answers, and the fast models against the exact datapath."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
import pytest
import torch

from ttc.emulate import fpu, fpu_exact
from ttc.emulate.configs import MathFidelity

pytestmark = pytest.mark.emulate

FIDELITIES = [
    MathFidelity.LoFi,
    MathFidelity.HiFi2,
    MathFidelity.HiFi3,
    MathFidelity.HiFi4,
]


def bf16(shape: tuple[int, ...], random: torch.Generator, scale: float = 1.0) -> torch.Tensor:
    return (torch.randn(shape, generator=random) * scale).bfloat16().float()


def distance(values: torch.Tensor, reference: torch.Tensor) -> float:
    return ((values - reference).norm() / reference.norm()).item()


def group_matmul(
    x: torch.Tensor, w: torch.Tensor, fidelity: MathFidelity, block: int, in_l1: bool
) -> torch.Tensor:
    phases = fpu.PHASES[fidelity]
    return fpu.group_matmul(
        x,
        [fpu.group_weights(w, phase) for phase in phases],
        phases,
        in0_block_w=block,
        accumulate_in_l1=in_l1,
    )


def one_product(x: float, w: float, phase: int, dst: float = 0.0, wide: bool = True) -> float:
    values, weights = torch.zeros(1, 16), torch.zeros(16, 1)
    values[0, 0], weights[0, 0] = x, w
    return fpu_exact.mvmul(torch.full((1, 1), dst), values, weights, phase, wide_dst=wide).item()


@pytest.mark.parametrize(
    ("x", "w", "phase", "expected"),
    [
        (1.5, 1.5, 0, 2.25),
        (1.0, 1.0078125, 0, 1.0),  # the weight's last bit is not among its top 5
        (1.0, 1.0078125, 1, 0.0078125),
        (1.0078125, 1.0, 0, 1.0),  # nor the activation's among its top 7
        (1.0078125, 1.0, 2, 0.0078125),
        (1.0078125, 1.0078125, 3, 2.0**-14),
        (-1.5, 2.0, 0, -3.0),
        (1e-39, 1.0, 0, 0.0),  # denormals count as zero
    ],
)
def test_one_product_by_phase(x: float, w: float, phase: int, expected: float) -> None:
    assert one_product(x, w, phase) == expected


@pytest.mark.parametrize(
    ("dst", "x", "expected"),
    [
        (1.0, 2.0**-7, 1.0078125),
        (1.0, 2.0**-8, 1.0078125),  # a tie of a 16-bit Dst goes away from zero
        (-1.0, -(2.0**-8), -1.0078125),
        (1.0, 2.0**-9, 1.0),
        (256.0, 2.0**-12, 256.0),
    ],
)
def test_adding_to_a_narrow_dst(dst: float, x: float, expected: float) -> None:
    assert one_product(x, 1.0, 0, dst, wide=False) == expected
    assert one_product(x, 1.0, 0, dst, wide=True) == dst + x


def test_products_far_below_the_largest_of_their_group_are_lost() -> None:
    x, w = torch.zeros(1, 16), torch.ones(16, 1)
    x[0, 0], x[0, 1], x[0, 8] = 4096.0, 1.0, 1.0
    dst = torch.zeros(1, 1)
    # Lane 1 keeps the last bit of the largest product, 2^-10 of it; lane 8 is another group.
    assert fpu_exact.mvmul(dst, x, w, 0, wide_dst=True).item() == 4097.0
    x[0, 8] = 0.0
    assert fpu_exact.mvmul(dst, x, w, 0, wide_dst=True).item() == 4096.0


@pytest.mark.parametrize("fidelity", FIDELITIES)
@pytest.mark.parametrize(
    ("block", "in_l1"),
    [*((block, False) for block in range(1, 9)), *((block, True) for block in (1, 4, 8))],
)
def test_wide_dst_is_a_gemm_of_the_slices(
    fidelity: MathFidelity, block: int, in_l1: bool, random: torch.Generator
) -> None:
    x, w = bf16((8, 512), random), bf16((512, 64), random)
    exact = fpu_exact.matmul(
        x, w, fidelity, wide_dst=True, in0_block_w=block, accumulate_in_l1=in_l1
    )
    assert distance(fpu.wide_matmul(x, w, fidelity), exact) < 5e-4
    if fidelity is MathFidelity.LoFi:
        assert distance(fpu.wide_matmul(x, w, MathFidelity.HiFi4), exact) > 0.02


@pytest.mark.parametrize("fidelity", FIDELITIES)
@pytest.mark.parametrize(
    ("block", "in_l1"),
    [*((block, True) for block in range(1, 9)), *((block, False) for block in (1, 4, 8))],
)
def test_narrow_dst_follows_the_exact_accumulator(
    fidelity: MathFidelity, block: int, in_l1: bool, random: torch.Generator
) -> None:
    x, w = bf16((8, 512), random), bf16((512, 64), random)
    exact = fpu_exact.matmul(
        x, w, fidelity, wide_dst=False, in0_block_w=block, accumulate_in_l1=in_l1
    )
    ours = group_matmul(x, w, fidelity, block, in_l1)
    assert distance(ours, exact) < 7e-3
    assert torch.equal(ours, ours.bfloat16().float())
    product = x @ w

    def slope(values: torch.Tensor) -> float:
        return ((values * product).sum() / product.square().sum()).item()

    assert slope(ours) == pytest.approx(slope(exact), abs=1e-3)


def test_a_plain_product_is_not_a_narrow_dst(random: torch.Generator) -> None:
    """The tolerance above can fail: rounding only the result is 1 % away."""
    x, w = bf16((8, 1024), random), bf16((1024, 64), random)
    exact = fpu_exact.matmul(
        x, w, MathFidelity.HiFi4, wide_dst=False, in0_block_w=32, accumulate_in_l1=False
    )
    assert distance((x @ w).bfloat16().float(), exact) > 1e-2
    assert distance(group_matmul(x, w, MathFidelity.HiFi4, 32, False), exact) < 7e-3


def test_the_block_width_changes_a_narrow_dst(random: torch.Generator) -> None:
    x, w = bf16((4, 512), random), bf16((512, 64), random)
    small, large = (group_matmul(x, w, MathFidelity.HiFi2, block, True) for block in (1, 8))
    assert 1e-3 < distance(small, large) < 3e-2


@pytest.mark.parametrize("rows", [1, 3])
def test_splitting_into_pieces_changes_nothing(
    rows: int, random: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, w = bf16((rows, 96), random), bf16((96, 300), random)
    whole = group_matmul(x, w, MathFidelity.HiFi2, 1, True)
    monkeypatch.setattr(fpu, "_GROUP_SUM_BUDGET", 1 << 10)
    assert torch.equal(group_matmul(x, w, MathFidelity.HiFi2, 1, True), whole)


def test_depth_is_padded_to_tiles_and_blocks(random: torch.Generator) -> None:
    x, w = bf16((2, 70), random), bf16((70, 32), random)
    pad = torch.nn.functional.pad
    padded = group_matmul(pad(x, (0, 58)), pad(w, (0, 0, 0, 58)), MathFidelity.HiFi2, 2, False)
    assert torch.equal(group_matmul(x, w, MathFidelity.HiFi2, 2, False), padded)


@pytest.mark.parametrize("fidelity", FIDELITIES)
@pytest.mark.parametrize("wide", [True, False])
def test_element_wise_products_are_exact(
    fidelity: MathFidelity, wide: bool, random: torch.Generator
) -> None:
    a, b = bf16((64, 16), random), bf16((64, 16), random)
    ours = fpu.multiply(a, b, fidelity, wide_dst=wide)
    for row in range(4):
        for column in range(16):
            dst = 0.0
            for phase in fpu.PHASES[fidelity]:
                product = (b[row, column].item(), a[row, column].item())
                dst = one_product(*product, phase, dst, wide)
            assert ours[row, column].item() == dst


def test_sums_keep_11_bits(random: torch.Generator) -> None:
    one = torch.ones(3)
    small = torch.tensor([2.0**-8, -(2.0**-8), 2.0**-12])
    wide = fpu.add(one, small, wide_dst=True)
    assert wide.tolist() == [1 + 2.0**-8, 1 - 2.0**-8, 1.0]
    assert fpu.add(one, small, wide_dst=False).tolist() == [1.0078125, 1 - 2.0**-8, 1.0]
    a, b = bf16((1000,), random), bf16((1000,), random)
    narrow = fpu.add(a, b, wide_dst=False)
    assert torch.equal(narrow, narrow.bfloat16().float())
    assert distance(narrow, a + b) < 3e-3


def test_sums_in_float64_do_not_depend_on_their_order() -> None:
    """Which differs between BLAS libraries, processors and GPUs; in float32 it shows."""
    generator = torch.Generator().manual_seed(8)
    x, w = (
        torch.randn(shape, generator=generator).to(torch.bfloat16).to(torch.float32)
        for shape in ((64, 576), (576, 256))
    )
    shuffled = torch.randperm(576, generator=generator)

    def sums(kind: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        return fpu.dot(x, w.to(kind)), fpu.dot(x[:, shuffled], w[shuffled].to(kind))

    assert torch.equal(*sums(torch.float64))
    assert not torch.equal(*sums(torch.float32))
