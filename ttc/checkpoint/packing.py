"""Pack matrices into tiles as ttnn stores them, with numpy alone: bf16, float32, bfp8 and bfp4.

A bf16 value is a uint16 that holds its bits, so that nothing here needs torch. A block of the block
formats is 16 neighbours of a row of the stored matrix; the matrix of a checkpoint is its transpose,
so a strip of 32 checkpoint rows is a column of tiles and every step below runs along the inputs.

The bytes are those of ttnn.from_torch for the same bf16 values (ttnn 0.81.1): shifted-out bits are
dropped while aligning to the block's exponent, then nearest, ties to even, no negative zero.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttc.plan.placement import TILE, DType

type Bits = NDArray[np.uint16]
type Array = NDArray[Any]

FACE = 16
STRIP_COLUMNS = 2048  # inputs packed at once: the steps of a strip then stay in a core's L2 cache


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockFormat:
    """Magnitude bits of a datum (without its sign)."""

    magnitude_bits: int

    @property
    def code_bits(self) -> int:
        return self.magnitude_bits + 1


BLOCK_FORMATS: dict[DType, BlockFormat] = {
    "bfp8": BlockFormat(magnitude_bits=7),
    "bfp4": BlockFormat(magnitude_bits=3),
}
EXPONENT_BYTES = 64  # of a tile in a block format: one for each row of each of its four faces

# A block whose largest exponent lies within takes the short way through float32 arithmetic: there
# the unit of the format is a normal number, and no denormal reaches half of it.
LOWEST_EXPONENT, HIGHEST_EXPONENT = 9, 230
INFINITY, NEGATIVE_INFINITY = 0x7F80, 0xFF80  # bf16 bits; a NaN of the same sign is above
ABSOLUTE, HIDDEN = np.uint16(0x7FFF), np.uint16(0x80)


def round_to_bf16(values: NDArray[np.float32]) -> Bits:
    """Float32 as bf16 bits, to nearest with ties to even; a NaN stays one (as torch has it)."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    with np.errstate(over="ignore"):  # a NaN may wrap around; it is replaced below
        rounded = ((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)).astype(np.uint16)
    nan = np.isnan(values)
    if nan.any():
        rounded[nan] = 0x7FC0
    return rounded


def widen_bf16(bits: Bits) -> NDArray[np.float32]:
    """The float32 values of bf16 bits."""
    return np.left_shift(bits, 16, dtype=np.uint32).view(np.float32)


def all_finite(values: Array) -> bool:
    """Whether there is neither a NaN nor an infinity in bf16 bits or in float32 values."""
    if values.dtype != np.uint16:
        return bool(np.isfinite(values).all())
    # Of the patterns that are not finite the positive ones are the largest int16, the negative
    # ones the largest uint16: two maxima, no copy.
    if not values.size:
        return True
    return int(values.view(np.int16).max()) < INFINITY and int(values.max()) < NEGATIVE_INFINITY


class Packer:
    """Packs strips of one dtype; each thread needs its own, for the arrays that it keeps."""

    def __init__(self, dtype: DType) -> None:
        self._dtype = dtype
        self._form = BLOCK_FORMATS.get(dtype)
        self._sizes: tuple[int, ...] = ()
        self._buffers: tuple[Array, ...] = ()

    def pack(self, strip: Array, tiles: NDArray[np.uint8]) -> None:
        """Fill a column of tiles from 32 rows [32, inputs] of a checkpoint matrix.

        strip   uint16 (bf16 bits), or float32 for fp32; inputs are a multiple of 32
        tiles   uint8 [inputs / 32, bytes of a tile], which may be a view with strides
        """
        for first in range(0, strip.shape[1], STRIP_COLUMNS):
            part = strip[:, first : first + STRIP_COLUMNS]
            out = tiles[first // TILE : (first + part.shape[1]) // TILE]
            faces = part.reshape(2, FACE, part.shape[1])
            if self._form is None:
                _scatter(_join_rows(faces), out)
            else:
                self._pack_blocks(faces, self._form, out)

    def _pack_blocks(self, faces: Bits, form: BlockFormat, out: NDArray[np.uint8]) -> None:
        codes, shared = self._encode(faces, form)
        # Codes of neighbours are joined into 16 bits, and those into 64, before anything moves.
        bits, joined = form.code_bits, codes
        while bits < 16:
            low, high = joined[:, 0::2], joined[:, 1::2]
            joined = np.bitwise_or(low, np.left_shift(high, np.uint16(bits)))
            bits *= 2
        _scatter(_join_rows(joined), out[:, EXPONENT_BYTES:])
        tiles = out.shape[0]
        exponents = shared.reshape(2, tiles, 2, FACE).transpose(1, 2, 0, 3)
        np.copyto(out[:, :EXPONENT_BYTES].reshape(tiles, 2, 2, FACE), exponents, casting="unsafe")

    def _encode(self, faces: Bits, form: BlockFormat) -> tuple[Bits, Bits]:
        """bf16 bits [2, 16, inputs] -> codes [2, 16, inputs] and exponents [2, 1, inputs].

        The short way: a power of two is added whose last mantissa bit is the unit of the block, so
        that float32 itself rounds; the low bits of the sum are then the magnitude.
        """
        if faces.shape != self._sizes:
            self._sizes = faces.shape
            self._buffers = (
                np.empty(faces.shape, np.uint16),
                np.empty(faces.shape, np.uint16),
                np.empty(faces.shape, np.uint32),
                np.empty((2, 1, faces.shape[2]), np.uint32),
            )
        codes, other, wide, anchor = self._buffers
        np.bitwise_and(faces, ABSOLUTE, out=other)
        largest = np.max(other, axis=1, keepdims=True)
        shared = largest >> np.uint16(7)
        if np.any((shared > HIGHEST_EXPONENT) | ((largest > 0) & (shared < LOWEST_EXPONENT))):
            return _encode_exactly(faces, form)
        np.copyto(anchor, shared)
        np.add(anchor, np.uint32(24 - form.magnitude_bits), out=anchor)
        np.left_shift(anchor, np.uint32(23), out=anchor)
        np.copyto(wide, other)
        np.left_shift(wide, np.uint32(16), out=wide)
        values = wide.view(np.float32)
        np.add(values, anchor.view(np.float32), out=values)
        np.copyto(codes, wide, casting="unsafe")
        np.bitwise_and(codes, np.uint16((1 << form.code_bits) - 1), out=codes)
        np.right_shift(codes, np.uint16(form.magnitude_bits), out=other)
        np.subtract(codes, other, out=codes)  # the largest that fits
        _add_signs(codes, faces, form, other)
        return codes, shared


def _encode_exactly(faces: Bits, form: BlockFormat) -> tuple[Bits, Bits]:
    """As `Packer._encode`, in integers: for denormals, infinities, NaNs and very large values."""
    one = np.uint16(1)
    exponents = (faces & ABSOLUTE) >> np.uint16(7)
    shared = exponents.max(axis=1, keepdims=True)
    significands = np.where(exponents > 0, faces & np.uint16(0x7F) | HIDDEN, np.uint16(0))
    # The 8 bits of a bf16 significand are gone after 9 places, whatever the distance.
    places = np.minimum(shared - exponents, np.uint16(8)) + np.uint16(8 - form.magnitude_bits)
    odd = (significands >> places) & one
    codes = (significands + ((one << (places - one)) - one) + odd) >> places
    np.minimum(codes, np.uint16((1 << form.magnitude_bits) - 1), out=codes)
    _add_signs(codes, faces, form, np.empty_like(codes))
    return codes, shared


def _add_signs(codes: Bits, values: Bits, form: BlockFormat, other: Bits) -> None:
    """Put the sign above the magnitude, in place; a magnitude of 0 has none."""
    # magnitude + largest magnitude reaches the place of the sign exactly if it is not 0.
    np.add(codes, np.uint16((1 << form.magnitude_bits) - 1), out=other)
    np.bitwise_and(other, np.uint16(1 << form.magnitude_bits), out=other)
    np.bitwise_and(other, np.right_shift(values, np.uint16(15 - form.magnitude_bits)), out=other)
    np.bitwise_or(codes, other, out=codes)


def _join_rows(rows: Array) -> Array:
    """[faces, n, inputs] of small units -> uint64 [faces, n', inputs]: neighbours in one word."""
    while rows.dtype.itemsize < 8 and rows.shape[1] > 1:
        bits = 8 * rows.dtype.itemsize
        wide = np.dtype(f"u{2 * rows.dtype.itemsize}")
        high = rows[:, 1::2].view(f"u{rows.dtype.itemsize}").astype(wide)
        np.left_shift(high, wide.type(bits), out=high)
        np.bitwise_or(high, rows[:, 0::2].view(f"u{rows.dtype.itemsize}"), out=high)
        rows = high
    return rows


def _scatter(words: NDArray[np.uint64], out: NDArray[np.uint8]) -> None:
    """Words [2 faces, words of a row, inputs] into tiles [inputs / 32, face, face, row, word]."""
    count, inputs = words.shape[1:]
    tiles = inputs // TILE
    target = np.lib.stride_tricks.as_strided(
        out.view(np.uint64) if out.strides[-1] == 1 else out,
        (tiles, 2, 2, FACE, count),
        (out.strides[0], 2 * 2 * FACE * count * 8 // 2, FACE * count * 8, count * 8, 8),
    )
    np.copyto(target, words.reshape(2, count, tiles, 2, FACE).transpose(2, 3, 0, 4, 1))
