# pyright: reportUnknownMemberType=false
"""Block floating point: 16 neighbours of a row share one exponent (BFP8 and BFP4).

A datum is sign and magnitude without a hidden bit; its value is magnitude * 2^(E - 127 - (w - 1))
with w magnitude bits and the shared, biased exponent E. Two quantisers exist and they disagree:

host      shifted-out bits are dropped while aligning, then nearest, ties to even
device    (the packer) an early conversion to 16 bits, then nearest, ties away from zero; BFP4 is
          the BFP8 result with its low bits cut off

Bit exact with ttnn 0.81.1 on the host side (tests/emulate/test_block_float.py compares them); the
device side follows the packer of Tenstorrent's functional simulator, not checked on silicon.
"""

from dataclasses import dataclass
from typing import Literal

import torch

BLOCK = 16
Early = Literal["six_bits", "bf16", "truncate"]


@dataclass(frozen=True, slots=True)
class BlockFormat:
    """Magnitude bits (without the sign) and bytes of a 32 x 32 tile, 64 of them exponents."""

    magnitude_bits: int
    tile_bytes: int


BFP8 = BlockFormat(7, 1088)
BFP4 = BlockFormat(3, 576)


def _in_blocks(values: torch.Tensor) -> torch.Tensor:
    """[..., width] as contiguous [..., blocks, 16], zero padded."""
    missing = -values.shape[-1] % BLOCK
    if missing:
        values = torch.nn.functional.pad(values, (0, missing))
    return values.contiguous().view(*values.shape[:-1], -1, BLOCK)


def _out_of_blocks(values: torch.Tensor, width: int) -> torch.Tensor:
    flat = values.reshape(*values.shape[:-2], -1)
    return flat if flat.shape[-1] == width else flat[..., :width].contiguous()


def encode_on_host(values: torch.Tensor, form: BlockFormat) -> tuple[torch.Tensor, torch.Tensor]:
    """Values [..., width] -> signed magnitudes [..., blocks, 16], exponents [..., blocks, 1].

    Both are int32; the sign of a datum is the sign of the integer, so there is no negative zero.
    """
    bits = _in_blocks(values.to(torch.float32)).view(torch.int32)
    exponents = bits.bitwise_and(0x7F800000).bitwise_right_shift_(23)
    shared = exponents.amax(dim=-1, keepdim=True)
    magnitude = bits.bitwise_and(0x7FFFFF).bitwise_or_(0x800000)
    magnitude.bitwise_right_shift_((shared - exponents).clamp_(max=31))
    cut = 24 - form.magnitude_bits
    odd = magnitude.bitwise_right_shift(cut).bitwise_and_(1)
    magnitude.add_((1 << (cut - 1)) - 1).add_(odd).bitwise_right_shift_(cut)
    magnitude.clamp_(max=(1 << form.magnitude_bits) - 1)
    magnitude.masked_fill_(exponents == 0, 0)
    return torch.where(bits < 0, -magnitude, magnitude), shared


def _bits(value: int) -> torch.Tensor:
    """An int32 constant as a tensor, which torch combines faster than a Python number."""
    return torch.tensor(value, dtype=torch.int32)


_MAGNITUDE, _SIGN, _INFINITY = _bits(0x7FFFFFFF), _bits(-0x80000000), _bits(0x7F800000)
_SMALLEST, _HIDDEN, _MANTISSA = _bits(0x800000), _bits(0x80), _bits(0x7F)
_ROUND = {"six_bits": _bits(0x10000), "bf16": _bits(0x8000), "truncate": _bits(0)}
_KEEP = {"six_bits": _bits(-0x20000), "bf16": _bits(-0x10000), "truncate": _bits(-0x10000)}
_ZERO, _ONE, _FARTHEST, _LARGEST = _bits(0), _bits(1), _bits(15), _bits(127)
_MANTISSA_BITS, _HALF_WORD = _bits(23), _bits(16)
_SEVEN = _bits(7)
_ANCHOR = 1.5 * 2.0**17
_LARGEST_VALUE = 127 / 64


def encode_on_device(
    values: torch.Tensor, form: BlockFormat, early: Early = "six_bits"
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `encode_on_host`, by the packer's rules. `values` are float32 Dst values.

    early   the 16-bit intermediate: 6 mantissa bits, BF16, or BF16 by truncation
    """
    bits = _in_blocks(values).view(torch.int32)
    pattern = torch.minimum(bits.bitwise_and(_MAGNITUDE), _INFINITY)
    pattern.add_(_ROUND[early]).bitwise_and_(_KEEP[early])
    pattern.mul_(pattern >= _SMALLEST)
    exponents = pattern.bitwise_right_shift(_MANTISSA_BITS)
    shared = exponents.amax(dim=-1, keepdim=True)
    magnitude = pattern.bitwise_right_shift_(_HALF_WORD).bitwise_and_(_MANTISSA)
    magnitude.bitwise_or_(torch.minimum(exponents, _ONE).bitwise_left_shift_(_SEVEN))
    shift = torch.minimum(shared - exponents, _FARTHEST)
    magnitude.add_(torch.bitwise_left_shift(_ONE, shift)).bitwise_right_shift_(shift.add_(_ONE))
    magnitude = torch.minimum(magnitude, _LARGEST)
    if form.magnitude_bits < 7:
        magnitude.bitwise_right_shift_(7 - form.magnitude_bits)
    return torch.where(bits < _ZERO, -magnitude, magnitude), shared


def decode(magnitude: torch.Tensor, shared: torch.Tensor, form: BlockFormat) -> torch.Tensor:
    """Signed magnitudes and shared exponents -> float32 [..., blocks, 16].

    An exponent that underflows wraps modulo 256, as in the unpacker; with E = 255 infinities and
    NaNs come back as ttnn's host decoder gives them.
    """
    values = magnitude.to(torch.float32)
    bits = values.view(torch.int32)
    scale = shared.sub(126 + form.magnitude_bits).bitwise_left_shift_(_MANTISSA_BITS)
    sign = bits.bitwise_and(_SIGN)
    bits.add_(scale).bitwise_and_(_MAGNITUDE).bitwise_or_(sign)
    return values.masked_fill_(magnitude == _ZERO, 0.0)


def quantize_on_host(values: torch.Tensor, form: BlockFormat) -> torch.Tensor:
    """Float values after a round trip through ttnn's host packing, float32 of the same shape."""
    magnitude, shared = encode_on_host(values, form)
    return _out_of_blocks(decode(magnitude, shared, form), values.shape[-1])


def quantize_on_device(
    values: torch.Tensor, form: BlockFormat, early: Early = "six_bits"
) -> torch.Tensor:
    """Float32 Dst values as a later operation reads them from a block format tensor.

    Encoding and decoding in a few float steps: adding 1.5 * 2^17 times the block's power of two
    makes float32 round at the last bit of the format. Finite values only; blocks below 2^-112,
    where the unpacker's exponent wraps, come back as zeros or tiny values.
    """
    blocks = _in_blocks(values)
    bits = blocks.view(torch.int32).add(_ROUND[early]).bitwise_and_(_KEEP[early])
    rounded = bits.view(torch.float32)
    power = rounded.abs().amax(-1, keepdim=True)
    power.view(torch.int32).bitwise_and_(_INFINITY)
    bits.bitwise_or_(_ONE)  # one unit away from zero, where ties go
    rounded.add_(power, alpha=_ANCHOR).sub_(power, alpha=_ANCHOR)
    bits.bitwise_and_(_KEEP["bf16"])  # what was lifted from zero
    if early != "six_bits":
        limit = power * _LARGEST_VALUE
        rounded = torch.minimum(torch.maximum(rounded, -limit), limit)
    if form.magnitude_bits < 7:
        step = power * 2.0 ** (1 - form.magnitude_bits)
        rounded = torch.where(step > 0, rounded.div_(step).trunc_().mul_(step), 0.0)
    return _out_of_blocks(rounded, values.shape[-1])


def unpack_tiles(tiles: torch.Tensor, form: BlockFormat) -> torch.Tensor:
    """uint8 [tiles, tile_bytes] -> float32 [tiles, 4 faces, 16 rows, 16 columns].

    A tile stores 64 exponents (faces in order, one per row), then the data face by face, the
    lower of two neighbours in the low bits of a byte.
    """
    count = tiles.shape[0]
    shared = tiles[:, :64].to(torch.int32).view(count, 4, 16, 1)
    data = tiles[:, 64:]
    if form.magnitude_bits == 3:
        data = torch.stack((data.bitwise_and(15), data.bitwise_right_shift(4)), dim=-1)
    codes = data.reshape(count, 4, 16, 16).to(torch.int32)
    sign_bit = 1 << form.magnitude_bits
    magnitude = codes.bitwise_and(sign_bit - 1)
    return decode(torch.where(codes >= sign_bit, -magnitude, magnitude), shared, form)
