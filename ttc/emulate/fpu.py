# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
"""The matrix unit: multiplier slices per fidelity, and how products are summed.

Weights go to the 5-bit port of the multiplier (SrcA), activations to the 7-bit port (SrcB). Each
phase multiplies one slice of either mantissa: LoFi runs phase 0, HiFi2 phases 0-1, HiFi3 0-2 and
HiFi4 all four. With BF16 operands HiFi4 is exact, LoFi cuts weights to 5 and activations to 7
significant bits.

wide Dst (fp32_dest_acc_en)   products are summed in float32: a plain GEMM of the slices differs
                              from the exact datapath by 0.03 %, see `dot`
16-bit Dst                    the running sum is rounded to BF16, half away from zero, after every
                              16 products of every phase; that makes results grow by up to a few
                              percent, so it is modelled step by step (`group_matmul`)

`fpu_exact` holds the bit-exact datapath that both are tested against.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch

from ttc.emulate.configs import MathFidelity

PHASES = {
    MathFidelity.LoFi: (0,),
    MathFidelity.HiFi2: (0, 1),
    MathFidelity.HiFi3: (0, 1, 2),
    MathFidelity.HiFi4: (0, 1, 2, 3),
}


def _bits(value: int) -> torch.Tensor:
    """An int32 constant as a tensor, which torch combines faster than a Python number."""
    return torch.tensor(value, dtype=torch.int32)


# Bits of float32 that stay when a significand is cut to 5, 7 or 11 bits.
_KEEP_5 = _bits(-1 << 19)
_KEEP_7 = _bits(-1 << 17)
_KEEP_TF32 = _bits(-1 << 13)
_KEEP_TF32_WEIGHT = _bits(-1 << 14)  # the lowest bit of a TF32 weight is never used
_SIGN_AND_EXPONENT = _bits(-1 << 23)
_EXPONENT = _bits(0x7F800000)
_HALF = _bits(0x8000)
_UPPER = _bits(-0x10000)
_ONE = _bits(1)
_MANTISSA = _bits(0x7F)
_SECOND_TABLE = _bits(128 * 128)
_HALF_WORD = _bits(16)
_SIGN_SHIFT = _bits(31)
# 1.5 * 2^13: added to a value with exponent 0, float32 keeps exactly 10 bits below that exponent.
_ANCHOR = 12288.0

_GROUP_SUM_BUDGET = 1 << 20  # floats of group sums held at a time, so that they stay in cache


def cut(values: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    return values.view(torch.int32).bitwise_and(keep).view(torch.float32)


def as_tf32(values: torch.Tensor) -> torch.Tensor:
    """What the unpacker makes of float32 in L1 for a wide Dst: 10 mantissa bits, truncated."""
    return cut(values, _KEEP_TF32)


def activation_slice(x: torch.Tensor, phase: int) -> torch.Tensor:
    """SrcB in a phase: the top 7 significant bits, or what they leave."""
    high = cut(x, _KEEP_7)
    return x - high if phase & 2 else high


def weight_slice(w: torch.Tensor, phase: int) -> torch.Tensor:
    """SrcA in a phase: the top 5 significant bits, or the next 5."""
    high = cut(w, _KEEP_5)
    return cut(w, _KEEP_TF32_WEIGHT) - high if phase & 1 else high


def effective_products(x: torch.Tensor, fidelity: MathFidelity) -> list[tuple[torch.Tensor, str]]:
    """The products a fidelity realises: activation values and the name of a weight form.

    Weight forms are "w" (all bits) and "w5" (the top 5), see `weight_form`.
    """
    match fidelity:
        case MathFidelity.LoFi:
            return [(activation_slice(x, 0), "w5")]
        case MathFidelity.HiFi2:
            return [(activation_slice(x, 0), "w")]
        case MathFidelity.HiFi3:
            return [(activation_slice(x, 0), "w"), (activation_slice(x, 2), "w5")]
        case _:
            return [(x, "w")]


def weight_form(w: torch.Tensor, form: str) -> torch.Tensor:
    match form:
        case "w":
            return w
        case "w5":
            return weight_slice(w, 0)
        case _:
            return weight_slice(w, 1)


def dot(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """x [..., M, K] in float32 @ w [..., K, N] -> float32, summed in the type of w.

    In float64 sums are exact but for products 2^30 times smaller than others, so that the order
    that a library adds in, which differs between processors, thread counts and GPUs, does not
    show. In float32 it does: a last bit moves a rounding, and after some decoders all of them.
    """
    return (x.to(w.dtype) @ w).to(torch.float32)


def row_sums(x: torch.Tensor) -> torch.Tensor:
    """x [..., N] -> [..., 1], always added in float64, see `dot`."""
    return x.sum(-1, keepdim=True, dtype=torch.float64).to(torch.float32)


def wide_matmul(
    x: torch.Tensor,
    w: torch.Tensor,
    fidelity: MathFidelity,
    sums: torch.dtype = torch.float32,
) -> torch.Tensor:
    """x [..., M, K] @ w [..., K, N] with a wide Dst; `sums` is float32 or float64, see `dot`."""
    products = effective_products(x, fidelity)
    total = dot(products[0][0], weight_form(w, products[0][1]).to(sums))
    for values, form in products[1:]:
        total += dot(values, weight_form(w, form).to(sums))
    return total


class _Accumulator:
    """A 16-bit Dst of one shape where `like` is, empty or with the values of `start`."""

    def __init__(
        self, like: torch.Tensor, shape: Sequence[int], start: torch.Tensor | None = None
    ) -> None:
        self.dst = like.new_empty(shape) if start is None else start.clone()
        self._empty = start is None
        self._dst_bits = self.dst.view(torch.int32)
        self._top_bits = torch.empty_like(self._dst_bits)
        self._top = self._top_bits.view(torch.float32)
        self._sum = torch.empty_like(self.dst)

    def add(self, exponents: torch.Tensor, *terms: torch.Tensor) -> None:
        """Add group sums as one MVMUL does.

        The terms and Dst are rounded to 11 bits below their largest exponent, the sum to BF16,
        both half away from zero. Adding 1.5 * 2^13 times the largest power of two makes float32
        addition round at exactly that bit. `terms` are lifted a little, so that ties go up.
        `exponents` are those of the terms, as int32 patterns.
        """
        top = exponents.view(torch.float32)
        if self._empty:
            torch.mul(top, _ANCHOR, out=self._sum)
            self._empty = False
        else:
            top = self._top
            torch.bitwise_and(self._dst_bits, _EXPONENT, out=self._top_bits)
            torch.maximum(self._top_bits, exponents, out=self._top_bits)
            torch.add(self.dst, top, alpha=_ANCHOR, out=self._sum)
        for term in terms:
            self._sum.add_(term)
        torch.sub(self._sum, top, alpha=_ANCHOR, out=self.dst)
        self._dst_bits.add_(_HALF).bitwise_and_(_UPPER)


def _exponents(values: torch.Tensor) -> torch.Tensor:
    return values.view(torch.int32).bitwise_and(_EXPONENT)


def group_weights(w: torch.Tensor, phase: int) -> torch.Tensor:
    """w [K, N] as `group_matmul` takes it: the slice of a phase, [K / 8, 9, N], K padded to tiles.

    The ninth row of a group is its largest magnitude, see `_group_activations`.
    """
    missing = -w.shape[0] % 32
    if missing:
        w = torch.nn.functional.pad(w, (0, 0, 0, missing))
    groups = weight_slice(w, phase).unflatten(0, (-1, 8))
    return torch.cat((groups, groups.abs().amax(1, keepdim=True)), dim=1)


def _group_activations(x: torch.Tensor, phase: int, groups: int) -> torch.Tensor:
    """x [M, K] -> the slice of a phase, [groups, M, 9].

    The ninth column lifts each sum of 8 products by a little less than its last bit. A sum that
    lies halfway between two values of Dst is then rounded up, as the hardware does.
    """
    missing = 8 * groups - x.shape[1]
    if missing:
        x = torch.nn.functional.pad(x, (0, missing))
    parts = activation_slice(x, phase).unflatten(1, (groups, 8))
    lift = parts.abs().amax(2, keepdim=True).mul_(2.0**-18)
    return torch.cat((parts, lift), dim=2).transpose(0, 1)


def group_matmul(
    x: torch.Tensor,
    weights: Sequence[torch.Tensor],
    phases: Sequence[int],
    *,
    in0_block_w: int,
    accumulate_in_l1: bool,
    pack_partial: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """x [M, K] @ w [K, N] with a 16-bit Dst -> BF16 values as float32.

    weights            `group_weights` of w for each entry of `phases`, in float32 or float64
    in0_block_w        32-wide K tiles per block; Dst starts from zero in each block
    accumulate_in_l1   blocks before the last are added in L1 in BF16, the last starts from that
                       sum; otherwise every block starts from what the one before it packed
    pack_partial       the rounding of that packing, where the output is not BF16
    """
    rows = x.shape[0]
    groups, _, width = weights[0].shape
    per_block = 4 * in0_block_w
    missing = -groups % per_block
    if missing:
        weights = [torch.nn.functional.pad(w, (0, 0, 0, 0, 0, missing)) for w in weights]
        groups += missing
    activations = [_group_activations(x, phase, groups) for phase in phases]
    row_step = max(1, min(rows, _GROUP_SUM_BUDGET // (groups * width)))
    column_step = max(64, _GROUP_SUM_BUDGET // (groups * row_step))
    if row_step == rows and column_step >= width:
        sums = [dot(*pair) for pair in zip(activations, weights, strict=True)]
        return _sum_groups(sums, per_block, accumulate_in_l1, pack_partial)
    out = x.new_empty(rows, width)
    for column in range(0, width, column_step):
        columns = slice(column, column + column_step)
        for row in range(0, rows, row_step):
            span = slice(row, row + row_step)
            sums = [
                dot(a[:, span], w[:, :, columns]) for a, w in zip(activations, weights, strict=True)
            ]
            out[span, columns] = _sum_groups(sums, per_block, accumulate_in_l1, pack_partial)
    return out


def _sum_groups(
    sums: list[torch.Tensor],
    per_block: int,
    accumulate_in_l1: bool,
    pack_partial: Callable[[torch.Tensor], torch.Tensor] | None,
) -> torch.Tensor:
    """Sums of 8 products, [groups, M, N] for each phase, through Dst and L1 -> [M, N]."""
    shape = sums[0].shape[1:]
    blocks = sums[0].shape[0] // per_block
    exponents = [_exponents(one).unflatten(0, (blocks, per_block // 2, 2)) for one in sums]
    exponents = [torch.maximum(one[:, :, 0], one[:, :, 1]) for one in exponents]
    terms = [one.unflatten(0, (blocks, per_block)) for one in sums]

    def run(start: torch.Tensor | None, first: int, last: int) -> torch.Tensor:
        """Blocks `first` to before `last` side by side, all from `start` -> [blocks, M, N]."""
        tops = [one[first:last].unbind(1) for one in exponents]
        groups = [one[first:last].unbind(1) for one in terms]
        accumulator = _Accumulator(sums[0], (last - first, *shape), start)
        for half in range(0, per_block // 2, 2):
            # Within a tile of K the phases are the outer loop; one MVMUL adds two groups.
            for top, group in zip(tops, groups, strict=True):
                for one in (half, half + 1):
                    accumulator.add(top[one], group[2 * one], group[2 * one + 1])
        return accumulator.dst

    if accumulate_in_l1 and blocks > 1:
        # Adding BF16 tensors rounds to nearest even, as the packer does in L1.
        total, *others = run(None, 0, blocks - 1).to(torch.bfloat16).unbind(0)
        for partial in others:
            total = total + partial
        return run(total.to(torch.float32).unsqueeze(0), blocks - 1, blocks)[0]
    dst = None
    for block in range(blocks):
        if pack_partial is not None and dst is not None:
            dst = pack_partial(dst)
        dst = run(dst, block, block + 1)
    assert dst is not None, "there is at least one block"
    return dst[0]


def multiply(
    a: torch.Tensor,
    b: torch.Tensor,
    fidelity: MathFidelity,
    *,
    wide_dst: bool,
    from_tf32: bool = False,
) -> torch.Tensor:
    """Element-wise product on the matrix unit (a in SrcA, b in SrcB), broadcast as in torch.

    from_tf32   `a` was read from float32 in L1: SrcA then loses its lowest bit

    With a 16-bit Dst, a and b are BF16 values and each phase is one rounded accumulation. The
    roundings depend on the two significands only, so the products of all of them are a table.
    """
    if not wide_dst:
        scale = cut(a, _SIGN_AND_EXPONENT) * cut(b, _SIGN_AND_EXPONENT)
        index = scale.view(torch.int32).bitwise_right_shift(_SIGN_SHIFT).bitwise_and_(_SECOND_TABLE)
        index.add_(_significand(a), alpha=128).add_(_significand(b))
        products = _significand_products(fidelity, a.device).index_select(0, index.reshape(-1))
        return scale.mul_(products.view(scale.shape))
    whole = cut(a, _KEEP_TF32_WEIGHT) if from_tf32 else a
    if fidelity is MathFidelity.HiFi4:
        return whole * b
    high = cut(b, _KEEP_7)
    if fidelity is MathFidelity.LoFi:
        return weight_slice(a, 0) * high
    product = whole * high
    if fidelity is MathFidelity.HiFi3:
        product.add_(weight_slice(a, 0) * (b - high))
    return product


def _significand(values: torch.Tensor) -> torch.Tensor:
    """The 7 mantissa bits of BF16 values held as float32."""
    return values.view(torch.int32).bitwise_right_shift(_HALF_WORD).bitwise_and_(_MANTISSA)


@lru_cache(maxsize=8)
def _significand_products(fidelity: MathFidelity, place: torch.device) -> torch.Tensor:
    """Products of all BF16 significands in [1, 2) through a 16-bit Dst.

    Index 128 * a + b for products above zero and, as ties round up, another table for the
    magnitudes of those below.
    """
    ones = torch.arange(128, dtype=torch.int32).bitwise_left_shift_(16).add_(0x3F800000)
    a, b = ones.view(torch.float32).unsqueeze(1), ones.view(torch.float32).unsqueeze(0)
    above, below = (accumulate_products(sign * a, b, fidelity).abs() for sign in (1.0, -1.0))
    return torch.cat((above.flatten(), below.flatten())).to(place)


def accumulate_products(a: torch.Tensor, b: torch.Tensor, fidelity: MathFidelity) -> torch.Tensor:
    """a * b, phase by phase into a 16-bit Dst."""
    a, b = torch.broadcast_tensors(a, b)
    product = _Accumulator(a, a.shape)
    exponents = _exponents(a).add_(_exponents(b)).sub_(127 << 23)
    for phase in PHASES[fidelity]:
        # A product is aligned by the exponents of its operands, not by its own.
        shift = 5 * (phase & 1) + 7 * (phase >> 1)
        term = weight_slice(a, phase) * activation_slice(b, phase)
        product.add(exponents.sub(shift << 23).clamp_(min=0), term.add_(term.abs(), alpha=2.0**-23))
    return product.dst


def add(a: torch.Tensor, b: torch.Tensor, *more: torch.Tensor, wide_dst: bool) -> torch.Tensor:
    """Element-wise sum on the matrix unit: all cut to 11 bits below the largest exponent.

    A third term is what Dst held before.
    """
    bits = [term.view(torch.int32) for term in (a, b, *more)]
    exponents = torch.maximum(bits[0].bitwise_and(_EXPONENT), bits[1].bitwise_and(_EXPONENT))
    for term in bits[2:]:
        exponents = torch.maximum(exponents, term.bitwise_and(_EXPONENT))
    top = exponents.view(torch.float32)
    # One unit away from zero, so that a tie of the smaller operand goes there.
    total = torch.add(bits[0].bitwise_or(_ONE).view(torch.float32), top, alpha=_ANCHOR)
    for term in bits[1:]:
        total.add_(term.bitwise_or(_ONE).view(torch.float32))
    total.sub_(top, alpha=_ANCHOR)
    if not wide_dst:
        total.view(torch.int32).add_(_HALF).bitwise_and_(_UPPER)
    return total
