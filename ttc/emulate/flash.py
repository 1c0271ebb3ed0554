# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
"""Flash attention as ttnn's kernels compute it.

Scores, probabilities, running maximum, sums and output pass through BF16 buffers whatever the
width of Dst, which only widens what happens inside one step. The scale is part of the exponential.

prefill   chunks of keys one after the other, each rescaling what came before
decode    every chunk of keys on its own core; the results are brought to one maximum and added
          (ttnn merges them in a tree, which rescales more often)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ttc.emulate import fpu
from ttc.emulate.configs import MathFidelity
from ttc.emulate.dtypes import TILE, round_to_bf16_, round_to_nearest_even
from ttc.emulate.sfpu import exp_accurate, exp_approximate

_LOWEST = -1.0e30  # stands for minus infinity: small enough for exp, far from float32's limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """The numbers of one attention.

    approximate   the main exponential is the fast one, which is off by up to 3.4 %
    sums          what products are summed in, see `fpu.dot`
    """

    scale: float
    fidelity: MathFidelity
    wide_dst: bool
    approximate: bool
    sums: torch.dtype = torch.float32


def prefill(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    causal: bool,
    window: int = 0,
    offset: int = 0,
    q_chunk: int,
    k_chunk: int,
    numbers: Attention,
) -> torch.Tensor:
    """q [heads, rows, head_dim], k and v [kv_heads, keys, head_dim] -> [heads, rows, head_dim].

    A chunk of keys meets all chunks of queries that see any of it, side by side. With a window a
    query sees so many keys, the last its own; chunks of keys before all windows weigh nothing.
    `offset` keys come before the first query's own, a multiple of q_chunk.
    """
    kv_heads, rows = k.shape[0], q.shape[1]
    queries = q.unflatten(0, (kv_heads, -1))
    maximum = queries.new_full((*queries.shape[:-1], 1), _LOWEST)
    state = queries.new_zeros(*queries.shape[:-1], q.shape[-1] + TILE)
    before_windows = max(0, offset + 1 - window) // k_chunk * k_chunk if window else 0
    for first in range(before_windows, k.shape[1], k_chunk):
        start = max(0, first // q_chunk * q_chunk - offset) if causal else 0
        if start >= rows:
            break
        keys, values = k[:, first : first + k_chunk], v[:, first : first + k_chunk]
        scores = _product(queries[:, :, start:], keys.transpose(1, 2), numbers)
        hidden = None
        if causal and (window or first + keys.shape[1] - 1 > offset + start):
            row = torch.arange(offset + start, offset + rows, device=q.device).unsqueeze(1)
            key = torch.arange(first, first + keys.shape[1], device=q.device).unsqueeze(0)
            hidden = (key > row) | (key <= row - (window or offset + rows))
            scores.masked_fill_(hidden, _LOWEST)
        before = maximum[:, :, start:]
        highest = torch.maximum(scores.amax(-1, keepdim=True), before)
        weights = _weights(scores, highest, hidden, numbers)
        added = torch.cat((_product(weights, values, numbers), _tile_columns(weights)), dim=-1)
        if first > before_windows:
            rescaled = _rescale(state[:, :, start:], before, highest, numbers)
            added = round_to_nearest_even(rescaled.add_(added))
        maximum[:, :, start:] = highest
        state[:, :, start:] = added
    return _divide_by_sums(state, numbers).flatten(0, 1)


def decode(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    first: int = 0,
    count: int,
    chunks: int,
    numbers: Attention,
) -> torch.Tensor:
    """q [heads, head_dim] of one token, k and v [kv_heads, keys, head_dim] -> [heads, head_dim].

    Keys from `first` to `count` are seen; the others (finite values) only fill up equal chunks,
    and a chunk of which none is seen weighs nothing.
    """
    kv_heads, head_dim = k.shape[0], k.shape[2]
    queries = q.view(kv_heads, 1, -1, head_dim)
    scores = _product(queries, k.transpose(1, 2), numbers)
    scores[..., count:] = _LOWEST
    scores[..., :first] = _LOWEST
    group = scores.shape[2]
    scores = scores.view(kv_heads, group, chunks, -1).transpose(1, 2).contiguous()
    # [kv_heads, chunks, group, ...]
    maximum = scores.amax(-1, keepdim=True)
    weights = _weights(scores, maximum, None, numbers)
    in_chunks = weights.view(kv_heads * chunks, 1, group, -1)
    out = _product(in_chunks, v.view(kv_heads * chunks, -1, head_dim), numbers)
    out = out.view(kv_heads, chunks, group, head_dim)
    state = torch.cat((out, _tile_columns(weights)), dim=-1)
    if chunks > 1:
        highest = maximum.amax(1, keepdim=True)
        state = _sum_rounded(_rescale(state, maximum, highest, numbers).unbind(1))
    return _divide_by_sums(state, numbers).reshape(-1, head_dim)


def _product(
    x: torch.Tensor, w: torch.Tensor, numbers: Attention, fidelity: MathFidelity | None = None
) -> torch.Tensor:
    """x [batch, group, rows, K] @ w [batch, K, N] on the matrix unit, packed to BF16."""
    flat = x.reshape(x.shape[0], -1, x.shape[3])
    fidelity = fidelity or numbers.fidelity
    if numbers.wide_dst:
        result = round_to_bf16_(fpu.wide_matmul(flat, w, fidelity, numbers.sums))
    else:
        phases = fpu.PHASES[fidelity]
        products = [
            fpu.group_matmul(
                rows,
                [fpu.group_weights(weights, phase).to(numbers.sums) for phase in phases],
                phases,
                in0_block_w=-(-x.shape[-1] // TILE),
                accumulate_in_l1=False,
            )
            for rows, weights in zip(flat.unbind(0), w.unbind(0), strict=True)
        ]
        result = torch.stack(products)
    return result.view(*x.shape[:3], -1)


def _weights(
    scores: torch.Tensor, maximum: torch.Tensor, hidden: torch.Tensor | None, numbers: Attention
) -> torch.Tensor:
    """exp(scale * (scores - maximum)) in BF16, zero where a key is hidden."""
    wide = numbers.wide_dst
    distance = fpu.add(scores, -maximum, wide_dst=wide)
    function = exp_approximate if numbers.approximate else exp_accurate
    weights = round_to_bf16_(function(distance, numbers.scale, wide_dst=wide))
    return weights if hidden is None else weights.masked_fill_(hidden, 0.0)


def _rescale(
    state: torch.Tensor, before: torch.Tensor, maximum: torch.Tensor, numbers: Attention
) -> torch.Tensor:
    """State of an old maximum under a new one: times exp(scale * (before - maximum)), accurate."""
    wide = numbers.wide_dst
    distance = fpu.add(before, -maximum, wide_dst=wide)
    factor = round_to_bf16_(exp_accurate(distance, numbers.scale, wide_dst=wide))
    return _multiply(state, factor, numbers)


def _multiply(values: torch.Tensor, factor: torch.Tensor, numbers: Attention) -> torch.Tensor:
    exact = numbers.fidelity is MathFidelity.HiFi4
    fidelity = MathFidelity.HiFi4 if exact else MathFidelity.HiFi2
    product = fpu.multiply(values, factor, fidelity, wide_dst=numbers.wide_dst)
    return round_to_bf16_(product) if numbers.wide_dst else product


def _tile_columns(weights: torch.Tensor) -> torch.Tensor:
    """[..., keys] summed over tiles of 32 columns in L1: BF16, nearest even -> [..., 32]."""
    missing = -weights.shape[-1] % TILE
    if missing:
        weights = torch.nn.functional.pad(weights, (0, missing))
    return _sum_rounded(weights.view(*weights.shape[:-1], -1, TILE).unbind(-2))


def _sum_rounded(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """One after the other in L1: adding BF16 tensors rounds to nearest even."""
    if len(parts) == 1:
        return parts[0]
    total = parts[0].to(torch.bfloat16)
    for part in parts[1:]:
        total = total + part.to(torch.bfloat16)
    return total.to(torch.float32)


def _divide_by_sums(state: torch.Tensor, numbers: Attention) -> torch.Tensor:
    """[..., head_dim + 32] -> [..., head_dim]: tile columns times ones in HiFi2, a reciprocal."""
    out, sums = state[..., :-TILE], state[..., -TILE:]
    if numbers.wide_dst:
        total = round_to_bf16_(fpu.row_sums(fpu.activation_slice(sums, 0)))
    else:
        ones = sums.new_ones(1, TILE, 1)
        rows = sums.reshape(1, 1, -1, TILE)
        total = _product(rows, ones, numbers, MathFidelity.HiFi2).view(*sums.shape[:-1], 1)
    return _multiply(out, round_to_bf16_(total.reciprocal_()), numbers)
