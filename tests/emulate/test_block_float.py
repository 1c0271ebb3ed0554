"""Block formats: known codes, both quantisers, and ttnn's own packing as the witness."""

# pyright: reportUnknownMemberType=false, reportPossiblyUnboundVariable=false
from collections.abc import Iterator
from functools import partial
from itertools import count
from typing import Any

import pytest
import torch

from ttc.emulate import block_float
from ttc.emulate.block_float import BFP4, BFP8, BlockFormat
from ttc.verify.mock_mesh import MockHost

FORMATS = {"bfloat8_b": BFP8, "bfloat4_b": BFP4}
ROWS, COLUMNS = 512, 2048


def block(*values: float) -> torch.Tensor:
    return torch.tensor([*values, *([0.0] * (16 - len(values)))])


def from_bits(sign: torch.Tensor, exponent: torch.Tensor, mantissa: torch.Tensor) -> torch.Tensor:
    bits = (sign << 31) | (exponent << 23) | mantissa
    return bits.to(torch.int64).sub(bits.ge(2**31) * 2**32).to(torch.int32).view(torch.float32)


@pytest.mark.emulate
@pytest.mark.parametrize(
    ("value", "in_block_with", "on_host", "on_device"),
    [
        (1.0, 1.0, 1.0, 1.0),
        (1.0078125, 1.0, 1.0, 1.015625),  # a tie: to even on the host, away on the device
        (1.0234375, 1.0, 1.03125, 1.03125),
        (1.9999, 1.0, 1.984375, 2.0),  # the host saturates, the device rounds up before it packs
        (0.25, 64.0, 0.0, 0.0),
        (-0.25, 32.0, 0.0, -0.5),  # half of the last bit
        (1e-40, 1.0, 0.0, 0.0),  # denormals count as zero
    ],
)
def test_known_values_of_bfp8(
    value: float, in_block_with: float, on_host: float, on_device: float
) -> None:
    values = block(value, in_block_with)
    assert block_float.quantize_on_host(values, BFP8)[0].item() == on_host
    assert block_float.quantize_on_device(values, BFP8)[0].item() == on_device


@pytest.mark.emulate
def test_the_device_truncates_bfp4_and_inflates_bfp8(random: torch.Generator) -> None:
    values = torch.randn(256, 256, generator=random).bfloat16().float()

    def slope(rounded: torch.Tensor) -> float:
        return ((rounded * values).sum() / values.square().sum()).item()

    assert slope(block_float.quantize_on_host(values, BFP8)) == pytest.approx(1.0, abs=2e-4)
    assert slope(block_float.quantize_on_device(values, BFP8)) == pytest.approx(1.0054, abs=5e-4)
    assert slope(block_float.quantize_on_device(values, BFP8, "bf16")) == pytest.approx(
        1.0028, abs=5e-4
    )
    assert slope(block_float.quantize_on_device(values, BFP4)) == pytest.approx(0.858, abs=3e-3)


@pytest.mark.emulate
@pytest.mark.parametrize("form", FORMATS.values())
@pytest.mark.parametrize("early", ["six_bits", "bf16", "truncate"])
def test_float_steps_are_the_packer_bit_by_bit(
    form: BlockFormat, early: block_float.Early, random: torch.Generator
) -> None:
    values = torch.randn(64, 512, generator=random)
    spread = values * torch.exp(3 * torch.randn(64, 512, generator=random))
    halves = torch.randint(-300, 301, (64, 512), generator=random) / 2
    sparse = torch.where(values > 1.5, values, values.sign() * 0.0)
    for case in (values, spread, spread * 1e20, spread * 1e-20, halves, sparse):
        encoded = block_float.encode_on_device(case.bfloat16().float(), form, early)
        decoded = block_float.decode(*encoded, form).flatten(1)
        ours = block_float.quantize_on_device(case.bfloat16().float(), form, early)
        assert torch.equal(ours, decoded)


@pytest.mark.emulate
@pytest.mark.parametrize("form", FORMATS.values())
def test_quantised_values_stay(form: BlockFormat, random: torch.Generator) -> None:
    values = torch.randn(64, 100, generator=random)
    once = block_float.quantize_on_host(values, form)
    assert once.shape == values.shape
    assert torch.equal(block_float.quantize_on_host(once, form), once)
    assert not torch.equal(once, values)


@pytest.mark.emulate
def test_tiles_are_unpacked_face_by_face() -> None:
    tile = torch.zeros(1, BFP8.tile_bytes, dtype=torch.uint8)
    tile[0, :64] = 127
    tile[0, 64 + 3 * 256 + 16 * 2 + 5] = 0x80 | 96  # face 3, row 2, column 5
    faces = block_float.unpack_tiles(tile, BFP8)
    assert faces[0, 3, 2, 5].item() == -1.5
    assert faces.count_nonzero() == 1


def patterns(seed: int) -> Iterator[tuple[str, torch.Tensor]]:
    """Values that have gone wrong in quantisers before, a million of each."""
    random = torch.Generator().manual_seed(seed)
    shape = (ROWS, COLUMNS)

    def integers(low: int, high: int) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=random, dtype=torch.int64)

    normal = torch.randn(shape, generator=random)
    chance = torch.rand(shape, generator=random)
    yield "normal", normal
    yield "heavy tails", normal * torch.exp(3 * torch.randn(shape, generator=random))
    yield "any finite pattern", from_bits(integers(0, 2), integers(0, 255), integers(0, 1 << 23))
    ties = (integers(0, 256) << 15) + (integers(0, 2) << 14) + integers(-1, 2)
    yield "ties", from_bits(integers(0, 2), integers(120, 129), ties & 0x7FFFFF)
    saturated = 0x7FFFFF - integers(0, 1 << 18)
    yield "saturating", from_bits(integers(0, 2), integers(126, 128), saturated)
    yield "zeros of both signs", torch.where(chance < 0.9, normal.sign() * 0.0, normal)
    yield "denormal or tiny", from_bits(integers(0, 2), integers(0, 12), integers(0, 1 << 23))
    yield "huge", from_bits(integers(0, 2), integers(240, 255), integers(0, 1 << 23))
    yield "infinite", torch.where(chance < 0.02, normal.sign() / 0.0, normal)


def count_mismatches(ttnn: Any, wanted: float) -> tuple[int, dict[str, int], int]:
    """How many values were packed, of which so many bits differ from ttnn's host packing by format
    and pattern; and how many would with the device's rounding."""
    packed, counts, wrong = 0, dict[str, int](), 0
    for seed in count(7):
        for name, values in patterns(seed):
            for dtype, form in FORMATS.items():
                tiles = ttnn.from_torch(values, dtype=getattr(ttnn, dtype), layout=ttnn.TILE_LAYOUT)
                theirs = ttnn.to_torch(tiles).float().view(torch.int32)
                ours = block_float.quantize_on_host(values, form).view(torch.int32)
                case = f"{dtype}, {name}"
                counts[case] = counts.get(case, 0) + int((theirs != ours).sum())
                packed += values.numel()
            wrong += int(
                (theirs != block_float.quantize_on_device(values, form).view(torch.int32)).sum()
            )
        if packed >= wanted:
            return packed, counts, wrong
    raise AssertionError("seeds do not end")


@pytest.mark.mock
def test_host_packing_is_bit_exact(mock_host: MockHost, request: pytest.FixtureRequest) -> None:
    """18.9 million values, or as many as --packing-values asks for. The last count shows that the
    comparison can fail."""
    wanted: float = request.config.getoption("--packing-values")
    job = partial(count_mismatches, wanted=wanted)
    packed, counts, wrong = mock_host.run_without_device(job)
    print(f"{packed:,} values in {len(counts)} cases, {sum(counts.values())} mismatches")
    assert packed >= max(10e6, wanted)
    assert counts == dict.fromkeys(counts, 0)
    assert wrong > 0
