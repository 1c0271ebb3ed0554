# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
"""The matrix unit bit by bit: what `fpu` is tested against. Far too slow for a model.

One MVMUL multiplies 16 values of K in one phase, for every output:
  1. products of a 5-bit and a 7-bit slice, exponent of a product = sum of its operands' exponents
  2. in each half (8 values) products are aligned to the largest exponent, rounded half away from
     zero to the last bit of that product, and summed exactly
  3. Dst and both sums are aligned to the largest of the three exponents with 24 bits, rounding
     half up; a 16-bit Dst keeps 11 of them
  4. the exact sum is normalised and rounded half away from zero to 24 (wide Dst) or 8 bits

The order is that of ttnn's kernels: per K tile, phase by phase, first K half before second.
Source: the ISA documentation and Tenstorrent's functional simulator. Wormhole's off-by-27 exponent
of a sum of exactly minus one unit is left out, as Blackhole corrects it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from ttc.emulate.configs import MathFidelity
from ttc.emulate.dtypes import round_to_nearest_even
from ttc.emulate.fpu import PHASES

_FAR = 30  # a shift by this much leaves nothing of a mantissa


class _Float(NamedTuple):
    """Sign (0 or 1), biased exponent, and an integer mantissa, all int32."""

    sign: torch.Tensor
    exponent: torch.Tensor
    mantissa: torch.Tensor


def _operand(values: torch.Tensor) -> _Float:
    """Values as 11-bit significands (hidden bit on top)."""
    bits = values.contiguous().view(torch.int32)
    return _Float((bits >> 31) & 1, (bits >> 23) & 0xFF, ((bits >> 13) & 0x3FF) | 0x400)


def _shift_right(mantissa: torch.Tensor, by: torch.Tensor, sign: torch.Tensor) -> torch.Tensor:
    """Shift with rounding half up in value: a tie of a negative number goes towards zero."""
    near = by.clamp(max=_FAR - 1)
    half = torch.where(near > 0, (1 << (near - 1).clamp(min=0)) - sign, 0)
    return torch.where(by >= _FAR, 0, (mantissa + half) >> near)


def _half_sum(x: _Float, w: _Float, lanes: slice, phase: int) -> _Float:
    """Steps 1 and 2 for 8 of the 16 values: x [M, 16], w [16, N] -> [M, N], 24-bit mantissa."""
    a = (w.mantissa >> 1) & 31 if phase & 1 else w.mantissa >> 6
    b = (x.mantissa & 15) << 3 if phase & 2 else x.mantissa >> 4
    lift = -127 - 5 * (phase & 1) - 7 * (phase >> 1)
    exponents_x, exponents_w = x.exponent[:, lanes, None], w.exponent[None, lanes]
    dead = (exponents_x == 0) | (exponents_w == 0)
    exponent = torch.where(dead, 0, exponents_x + exponents_w + lift)
    product = torch.where(dead, 0, b[:, lanes, None] * a[None, lanes])
    top = exponent.amax(1, keepdim=True)
    aligned = _shift_right(product, top - exponent, torch.zeros_like(product))
    negative = (x.sign[:, lanes, None] ^ w.sign[None, lanes]) == 1
    total = torch.where(negative, -aligned, aligned).sum(1, dtype=torch.int32)
    top = top[:, 0]
    total = torch.where(top > 0, total, 0)
    return _Float((total < 0).to(torch.int32), top.clamp(min=0), total.abs() << 13)


def _accumulate(dst: torch.Tensor, terms: Sequence[_Float], wide_dst: bool) -> torch.Tensor:
    """Steps 3 and 4. dst holds float32 patterns as int32."""
    sign, exponent = (dst >> 31) & 1, (dst >> 23) & 0xFF
    mantissa = torch.where(exponent > 0, (dst & 0x7FFFFF) | 0x800000, 0)
    top = exponent
    for term in terms:
        top = torch.maximum(top, term.exponent)
    total = _shift_right(mantissa, top - exponent, torch.zeros_like(sign))
    if not wide_dst:
        total = (total + 0x1000) & ~0x1FFF
    total = torch.where(sign == 1, -total, total)
    for term in terms:
        part = _shift_right(term.mantissa, top - term.exponent, term.sign)
        if not wide_dst:
            part = (part + 0x1000 - term.sign) & ~0x1FFF
        total = total + torch.where(term.sign == 1, -part, part)
    magnitude = total.abs().to(torch.float64)
    length = torch.frexp(magnitude).exponent.to(torch.int32)
    kept = 24 if wide_dst else 8
    scale = torch.exp2((length - kept).clamp(min=0).to(torch.float64))
    rounded = torch.floor(magnitude / scale + 0.5) * scale
    value = torch.ldexp(rounded, top - 127 - 23)
    value = torch.where(value < 2.0**-126, 0.0, value).copysign(total.to(torch.float64))
    return torch.where(total == 0, 0.0, value).to(torch.float32).view(torch.int32)


def mvmul(
    dst: torch.Tensor, x: torch.Tensor, w: torch.Tensor, phase: int, *, wide_dst: bool
) -> torch.Tensor:
    """dst [M, N] + x [M, 16] @ w [16, N] in one phase; float32 in and out."""
    left, right = _operand(x), _operand(w)
    terms = [_half_sum(left, right, lanes, phase) for lanes in (slice(0, 8), slice(8, 16))]
    return _accumulate(dst.contiguous().view(torch.int32), terms, wide_dst).view(torch.float32)


def matmul(
    x: torch.Tensor,
    w: torch.Tensor,
    fidelity: MathFidelity,
    *,
    wide_dst: bool,
    in0_block_w: int,
    accumulate_in_l1: bool,
) -> torch.Tensor:
    """x [M, K] @ w [K, N], K in whole tiles; blocks and L1 sums as in `fpu.group_matmul`."""
    tiles = x.shape[1] // 32
    blocks = [range(at, min(tiles, at + in0_block_w)) for at in range(0, tiles, in0_block_w)]
    total: torch.Tensor | None = None
    for number, block in enumerate(blocks):
        continues = total is not None and (not accumulate_in_l1 or number == len(blocks) - 1)
        dst = total if continues and total is not None else torch.zeros(x.shape[0], w.shape[1])
        for tile in block:
            for phase in PHASES[fidelity]:
                for first in (32 * tile, 32 * tile + 16):
                    span = slice(first, first + 16)
                    dst = mvmul(dst, x[:, span], w[span], phase, wide_dst=wide_dst)
        if total is None or continues:
            total = dst
        else:
            total = total + dst if wide_dst else round_to_nearest_even(total + dst)
    assert total is not None, "K has at least one tile"
    return total
