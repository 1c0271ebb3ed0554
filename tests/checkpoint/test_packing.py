"""Packing in numpy; tests/checkpoint/test_convert.py compares whole files with ttnn's."""

import numpy as np
import pytest
from numpy.typing import NDArray

from ttc.checkpoint.packing import BLOCK_FORMATS, Packer, all_finite, round_to_bf16, widen_bf16
from ttc.plan.placement import TILE_BYTES, DType

pytestmark = pytest.mark.fast

INPUTS = 96
EVERY_BF16 = np.arange(1 << 16, dtype=np.uint16)


def strips() -> list[NDArray[np.uint16]]:
    """[32, 96] of bf16 bits: like weights, any bits, any bits in a narrow range of exponents."""
    random = np.random.default_rng(3)
    weights = round_to_bf16(random.standard_normal((32, INPUTS), dtype=np.float32) * 0.02)
    weights[random.random(weights.shape) < 0.1] = 0
    weights[16:, :40] = 0x8000  # blocks of negative zeros
    bits = random.integers(0, 1 << 16, (32, INPUTS)).astype(np.uint16)
    near = (bits & 0x81FF) | 0x3E00
    tiny = bits & 0x83FF  # denormals among the smallest normal numbers
    large = bits | 0x7E00  # infinities and NaNs among the largest
    return [weights, bits, near, tiny, large]


def blocks_by_definition(values: NDArray[np.uint16], magnitude_bits: int) -> list[list[int]]:
    """[exponent, 16 codes] of each block of 16 rows in each column, in Python's own integers."""
    blocks: list[list[int]] = []
    for face in range(2):
        for column in range(values.shape[1]):
            bits = [int(value) for value in values[16 * face : 16 * face + 16, column]]
            shared = max(value >> 7 & 0xFF for value in bits)
            codes: list[int] = []
            for value in bits:
                exponent = value >> 7 & 0xFF
                mantissa = ((value & 0x7F | 0x80) << 16) >> (shared - exponent) if exponent else 0
                cut = 24 - magnitude_bits
                half, odd = 1 << (cut - 1), mantissa >> cut & 1
                magnitude = min((mantissa + half - 1 + odd) >> cut, (1 << magnitude_bits) - 1)
                sign = value >> 15 if magnitude else 0
                codes.append(sign << magnitude_bits | magnitude)
            blocks.append([shared, *codes])
    return blocks


def unpacked(tiles: NDArray[np.uint8], magnitude_bits: int) -> list[list[int]]:
    """The same out of a column of tiles: 64 exponents, then four faces row by row."""
    blocks: list[list[int]] = []
    for face_column in range(2):
        for column in range(32 * len(tiles)):  # a column of the strip is a row of the tiles
            tile, row = divmod(column, 32)
            face = 2 * (row // 16) + face_column
            place = 16 * face + row % 16
            width = 16 * (magnitude_bits + 1) // 8
            data = tiles[tile, 64 + width * place : 64 + width * (place + 1)].tolist()
            if magnitude_bits == 3:
                data = [code for byte in data for code in (byte & 15, byte >> 4)]
            blocks.append([int(tiles[tile, place]), *data])
    return blocks


@pytest.mark.parametrize("dtype", ["bfp8", "bfp4"])
@pytest.mark.parametrize("number", range(5))
def test_blocks_by_their_definition(dtype: DType, number: int) -> None:
    strip = strips()[number]
    tiles = np.empty((INPUTS // 32, TILE_BYTES[dtype]), np.uint8)
    Packer(dtype).pack(strip, tiles)
    bits = BLOCK_FORMATS[dtype].magnitude_bits
    assert unpacked(tiles, bits) == blocks_by_definition(strip, bits)


@pytest.mark.parametrize(("dtype", "element"), [("bf16", np.uint16), ("fp32", np.float32)])
def test_plain_tiles(dtype: DType, element: type) -> None:
    strip = np.arange(32 * INPUTS).reshape(32, INPUTS).astype(element)
    columns = np.empty((INPUTS // 32, 2, TILE_BYTES[dtype]), np.uint8)
    Packer(dtype).pack(strip, columns[:, 1])  # one column of several
    faces = np.ascontiguousarray(columns[:, 1]).view(element).reshape(-1, 2, 2, 16, 16)
    assert np.array_equal(faces.swapaxes(2, 3).reshape(INPUTS, 32), strip.T)


def test_wide_strips_are_packed_in_parts() -> None:
    strip = np.random.default_rng(0).integers(0, 1 << 15, (32, 4096 + 64)).astype(np.uint16)
    whole, parts = (np.empty((strip.shape[1] // 32, TILE_BYTES["bfp8"]), np.uint8) for _ in "ab")
    Packer("bfp8").pack(strip, whole)
    for tile in range(len(parts)):
        columns = np.ascontiguousarray(strip[:, 32 * tile : 32 * tile + 32])
        Packer("bfp8").pack(columns, parts[tile : tile + 1])
    assert np.array_equal(whole, parts)


def test_bf16_there_and_back() -> None:
    values = widen_bf16(EVERY_BF16)
    kept = ~np.isnan(values)
    assert np.array_equal(round_to_bf16(values)[kept], EVERY_BF16[kept])
    assert np.isnan(widen_bf16(round_to_bf16(values)[~kept])).all()


def test_rounding_to_bf16_is_to_nearest_with_ties_to_even() -> None:
    bits = np.array([0x3F800000, 0x3F808000, 0x3F808001, 0x3F818000, 0x7F7FFFFF], np.uint32)
    rounded = round_to_bf16(bits.view(np.float32))
    assert rounded.tolist() == [0x3F80, 0x3F80, 0x3F81, 0x3F82, 0x7F80]


def test_all_finite_over_every_pattern() -> None:
    every = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16)
    finite = np.isfinite(widen_bf16(every))
    assert all_finite(every[finite])
    assert all_finite(np.empty(0, np.uint16))
    assert not any(all_finite(np.array([0, bits], np.uint16)) for bits in every[~finite])
