# pyright: reportUnknownMemberType=false
"""Flash attention as ttnn's kernels compute it, over a sequence and over a paged cache.

Scores, probabilities, running maximum, sum and output pass through BF16 buffers whatever the
width of Dst, which only widens what happens inside one step. The scale is part of the exponential.
In decode the chunks of the keys are reduced one after the other; ttnn spreads them over cores and
merges in a tree, which is the same operation in another order.
"""

from dataclasses import dataclass

import torch

from ttc.emulate import fpu
from ttc.emulate.configs import (
    DRAM_MEMORY_CONFIG,
    BufferType,
    MathFidelity,
    MemoryConfig,
    SDPAProgramConfig,
    WormholeComputeKernelConfig,
)
from ttc.emulate.dtypes import TILE, DataType, round_to_bf16_, round_to_nearest_even
from ttc.emulate.errors import EmulationError, require
from ttc.emulate.kv_cache import check_blocks, check_page_table
from ttc.emulate.sfpu import exp_accurate, exp_approximate
from ttc.emulate.tensor import Tensor, device_of, output, require_tiles

_DEFAULT_CHUNK = 32
_LOWEST = -3.0e38


@dataclass(frozen=True, slots=True, kw_only=True)
class _Arithmetic:
    scale: float
    fidelity: MathFidelity
    wide_dst: bool
    approximate: bool
    rounding: bool

    @property
    def product_fidelity(self) -> MathFidelity:
        """Of the element-wise products by which output and sum are rescaled."""
        return (
            MathFidelity.HiFi4 if self.fidelity is MathFidelity.HiFi4 else MathFidelity.HiFi2
        )


def scaled_dot_product_attention(
    input_tensor_q: Tensor,
    input_tensor_k: Tensor,
    input_tensor_v: Tensor,
    *,
    is_causal: bool = True,
    scale: float | None = None,
    memory_config: MemoryConfig | None = None,
    program_config: SDPAProgramConfig | None = None,
    compute_kernel_config: WormholeComputeKernelConfig | None = None,
    output_concat_heads: bool = False,
) -> Tensor:
    """q [1, heads, seq, head_dim], k and v [1, kv_heads, seq, head_dim] -> the shape of q.

    With output_concat_heads -> [1, 1, seq, heads * head_dim].
    """
    op = "transformer.scaled_dot_product_attention"
    q, k, v = input_tensor_q, input_tensor_k, input_tensor_v
    device = device_of(op, q, k, v)
    require_tiles(op, q, k, v)
    for tensor in (q, k, v):
        require(not tensor.is_sharded(), op, "operands must be interleaved")
    _check_heads(op, q, k, q.shape[1], k.shape[1])
    if is_causal:
        require(q.shape[2] == k.shape[2], op, "causal attention needs as many keys as queries")
    q_chunk, k_chunk = _chunks(op, program_config)
    arithmetic = _arithmetic(q, scale, program_config, compute_kernel_config, device.rounding)
    results: list[torch.Tensor] = []
    for index, queries in enumerate(q.values(op)):
        keys, values = k.values(op)[index], v.values(op)[index]
        if not is_causal:
            keys, values = k.dense(op)[index], v.dense(op)[index]
        result = _prefill(queries[0], keys[0], values[0], is_causal, q_chunk, k_chunk, arithmetic)
        results.append(
            result.transpose(0, 1).flatten(1)[None, None] if output_concat_heads else result[None]
        )
    shape = q.shape
    if output_concat_heads:
        shape = (q.shape[0], 1, q.shape[2], q.shape[1] * q.shape[3])
    placed = memory_config or DRAM_MEMORY_CONFIG
    return output(op, results, shape, q.dtype, placed, device, wide_dst=False)


def paged_scaled_dot_product_attention_decode(
    input_tensor_q: Tensor,
    input_tensor_k: Tensor,
    input_tensor_v: Tensor,
    page_table_tensor: Tensor,
    *,
    is_causal: bool = True,
    cur_pos_tensor: Tensor | None = None,
    scale: float | None = None,
    memory_config: MemoryConfig | None = None,
    program_config: SDPAProgramConfig | None = None,
    compute_kernel_config: WormholeComputeKernelConfig | None = None,
) -> Tensor:
    """q [1, batch, heads, head_dim] against caches [blocks, kv_heads, block, head_dim].

    User u attends to positions 0 .. cur_pos[u]; a user at -1 is skipped (its rows are zero here
    and undefined in ttnn).
    """
    op = "transformer.paged_scaled_dot_product_attention_decode"
    q, k, v, table = input_tensor_q, input_tensor_k, input_tensor_v, page_table_tensor
    if cur_pos_tensor is None or not is_causal:
        raise EmulationError(op, "causal attention needs cur_pos_tensor")
    device = device_of(op, q, k, v, table, cur_pos_tensor)
    require_tiles(op, q, k, v)
    check_page_table(op, table)
    _check_heads(op, q, k, q.shape[2], k.shape[1])
    _check_decode(op, q, k, table, cur_pos_tensor, memory_config)
    chunk = program_config.k_chunk_size if program_config is not None else 0
    power_of_two = chunk & (chunk - 1) == 0
    require(power_of_two, op, f"k_chunk_size must be a power of 2, got {chunk}")
    arithmetic = _arithmetic(q, scale, program_config, compute_kernel_config, device.rounding)
    results: list[torch.Tensor] = []
    for index, queries in enumerate(q.values(op)):
        result = torch.zeros_like(queries)
        positions = cur_pos_tensor.values(op)[index].reshape(-1).tolist()
        for user in range(min(queries.shape[1], len(positions))):
            last = int(positions[user])
            if last < 0:
                continue
            pages = table.values(op)[index][user, : last // k.shape[2] + 1]
            require(last < table.shape[1] * k.shape[2], op, "a position is beyond the page table")
            check_blocks(op, pages, k)
            keys, values = (_gather(one.stored[index], pages, last + 1) for one in (k, v))
            size = chunk or _dynamic_chunk(last)
            result[0, user] = _decode(queries[0, user], keys, values, size, arithmetic)
        results.append(result)
    placed = memory_config or DRAM_MEMORY_CONFIG
    return output(op, results, q.shape, q.dtype, placed, device, wide_dst=False)


def _check_heads(op: str, q: Tensor, k: Tensor, heads: int, kv_heads: int) -> None:
    require(
        kv_heads > 0 and heads % kv_heads == 0,
        op,
        f"{heads} query heads must be a multiple of {kv_heads} key heads",
    )
    require(q.shape[-1] == k.shape[-1], op, "queries and keys must have one head dimension")


def _check_decode(
    op: str,
    q: Tensor,
    k: Tensor,
    table: Tensor,
    positions: Tensor,
    memory_config: MemoryConfig | None,
) -> None:
    grouped = q.shape[2] != k.shape[1]
    if grouped or k.shape[1] > 1:
        require(q.dtype is DataType.BFLOAT16, op, "grouped queries must be BFLOAT16")
        sharded = memory_config is not None and memory_config.is_sharded()
        require(not sharded, op, "sharded output is not supported for grouped queries")
    if not q.is_sharded():
        in_dram = q.memory_config().buffer_type is BufferType.DRAM
        require(in_dram, op, "queries must be in DRAM when they are not sharded")
    require(positions.dtype is DataType.INT32, op, "cur_pos must be INT32")
    batch = q.shape[1]
    require(
        positions.shape[-1] == batch and table.shape[0] == batch,
        op,
        f"{batch} users, {positions.shape[-1]} positions, {table.shape[0]} page table rows",
    )


def _chunks(op: str, program: SDPAProgramConfig | None) -> tuple[int, int]:
    if program is None:
        return _DEFAULT_CHUNK, _DEFAULT_CHUNK
    sizes = program.q_chunk_size, program.k_chunk_size
    for size in sizes:
        require(size > 0 and size % TILE == 0, op, f"chunk of {size} is not a multiple of {TILE}")
    return sizes


def _dynamic_chunk(last: int) -> int:
    """Keys per chunk where the program leaves it open: a power of two of up to 8 tiles."""
    tiles = last // TILE + 1
    return TILE * min(8, 1 << (tiles - 1).bit_length())


def _arithmetic(
    q: Tensor,
    scale: float | None,
    program: SDPAProgramConfig | None,
    kernel: WormholeComputeKernelConfig | None,
    rounding: bool,
) -> _Arithmetic:
    config = kernel or WormholeComputeKernelConfig()
    fidelity = config.math_fidelity
    approximate = program.exp_approx_mode if program is not None else None
    return _Arithmetic(
        scale=scale if scale is not None else q.shape[-1] ** -0.5,
        fidelity=MathFidelity.HiFi2 if fidelity is MathFidelity.Invalid else fidelity,
        wide_dst=config.fp32_dest_acc_en,
        approximate=True if approximate is None else approximate,
        rounding=rounding,
    )


def _gather(cache: torch.Tensor, pages: torch.Tensor, count: int) -> torch.Tensor:
    """The first `count` tokens of a user: [kv_heads, count, head_dim] float32."""
    blocks = cache[pages].transpose(0, 1).flatten(1, 2)
    return blocks[:, :count].to(torch.float32)


def _prefill(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    causal: bool,
    q_chunk: int,
    k_chunk: int,
    arithmetic: _Arithmetic,
) -> torch.Tensor:
    """q [heads, rows, head_dim], k and v [kv_heads, keys, head_dim] -> [heads, rows, head_dim].

    A chunk of keys meets all chunks of queries that see any of it, side by side.
    """
    kv_heads, group = k.shape[0], q.shape[0] // k.shape[0]
    queries = q.unflatten(0, (kv_heads, group))
    rows = q.shape[1]
    if not arithmetic.rounding:
        result = torch.nn.functional.scaled_dot_product_attention(
            queries, k[:, None], v[:, None], is_causal=causal, scale=arithmetic.scale
        )
        return result.flatten(0, 1)
    state = _State.start(queries, arithmetic)
    for first in range(0, k.shape[1], k_chunk):
        start = first // q_chunk * q_chunk if causal else 0
        if start >= rows:
            break
        keys, values = k[:, first : first + k_chunk], v[:, first : first + k_chunk]
        mask = None
        if causal:
            row = torch.arange(start, rows).unsqueeze(1)
            mask = torch.arange(first, first + keys.shape[1]).unsqueeze(0) > row
        state.add(start, queries[:, :, start:], keys, values, mask, arithmetic)
    return state.finish(arithmetic).flatten(0, 1)


def _decode(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, chunk: int, arithmetic: _Arithmetic
) -> torch.Tensor:
    """q [heads, head_dim] of one token, k and v [kv_heads, keys, head_dim] -> [heads, head_dim]."""
    kv_heads, group = k.shape[0], q.shape[0] // k.shape[0]
    queries = q.view(kv_heads, 1, group, -1)
    if not arithmetic.rounding:
        weights = (queries[:, 0] @ k.transpose(1, 2)).mul_(arithmetic.scale).softmax(-1)
        return (weights @ v).flatten(0, 1)
    queries = queries.transpose(1, 2)
    state = _State.start(queries, arithmetic)
    for first in range(0, k.shape[1], chunk):
        state.add(
            0, queries, k[:, first : first + chunk], v[:, first : first + chunk], None, arithmetic
        )
    return state.finish(arithmetic).flatten(0, 1).squeeze(1)


def _product(
    x: torch.Tensor, w: torch.Tensor, fidelity: MathFidelity, arithmetic: _Arithmetic
) -> torch.Tensor:
    """x [kv_heads, group, rows, K] @ w [kv_heads, K, N] on the matrix unit, packed to BF16."""
    flat = x.flatten(1, 2)
    if arithmetic.wide_dst:
        result = round_to_bf16_(fpu.wide_matmul(flat, w, fidelity))
    else:
        phases = fpu.PHASES[fidelity]
        result = torch.stack(
            [
                fpu.group_matmul(
                    flat[head],
                    [fpu.weight_slice(w[head].contiguous(), phase) for phase in phases],
                    phases,
                    in0_block_w=-(-x.shape[-1] // TILE),
                    accumulate_in_l1=False,
                )
                for head in range(x.shape[0])
            ]
        )
    return result.unflatten(1, x.shape[1:3])


def _rescale(values: torch.Tensor, factor: torch.Tensor, arithmetic: _Arithmetic) -> torch.Tensor:
    product = fpu.multiply(
        values, factor, arithmetic.product_fidelity, wide_dst=arithmetic.wide_dst
    )
    return round_to_bf16_(product) if arithmetic.wide_dst else product


@dataclass(slots=True)
class _State:
    """Running maximum [..., rows, 1], row sums by tile column [..., rows, 32], output."""

    maximum: torch.Tensor
    sums: torch.Tensor
    out: torch.Tensor
    empty: bool

    @staticmethod
    def start(queries: torch.Tensor, arithmetic: _Arithmetic) -> "_State":
        del arithmetic
        lead = queries.shape[:-1]
        return _State(
            torch.full((*lead, 1), _LOWEST),
            torch.zeros(*lead, TILE),
            torch.zeros_like(queries, memory_format=torch.contiguous_format),
            True,
        )

    def add(
        self,
        start: int,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        mask: torch.Tensor | None,
        arithmetic: _Arithmetic,
    ) -> None:
        """One chunk of keys for the rows from `start` on; `mask` is true where a key is hidden."""
        wide, scale = arithmetic.wide_dst, arithmetic.scale
        scores = _product(queries, keys.transpose(1, 2), arithmetic.fidelity, arithmetic)
        if mask is not None:
            scores.masked_fill_(mask, _LOWEST)
        before = self.maximum[:, :, start:]
        maximum = torch.maximum(scores.amax(-1, keepdim=True), before)
        weights = self._exponential(fpu.add(scores, -maximum, wide_dst=wide), arithmetic)
        if mask is not None:
            weights.masked_fill_(mask, 0.0)
        sums = _tile_columns(weights)
        out = _product(weights, values, arithmetic.fidelity, arithmetic)
        if not self.empty:
            factor = exp_accurate(fpu.add(before, -maximum, wide_dst=wide), scale, wide_dst=wide)
            factor = round_to_bf16_(factor)
            out = round_to_nearest_even(
                _rescale(self.out[:, :, start:], factor, arithmetic).add_(out)
            )
            sums = round_to_nearest_even(
                _rescale(self.sums[:, :, start:], factor, arithmetic).add_(sums)
            )
        self.maximum[:, :, start:] = maximum
        self.sums[:, :, start:] = sums
        self.out[:, :, start:] = out
        self.empty = False

    def _exponential(self, values: torch.Tensor, arithmetic: _Arithmetic) -> torch.Tensor:
        function = exp_approximate if arithmetic.approximate else exp_accurate
        return round_to_bf16_(function(values, arithmetic.scale, wide_dst=arithmetic.wide_dst))

    def finish(self, arithmetic: _Arithmetic) -> torch.Tensor:
        """Divide by the row sums: the tile columns times ones, then a BF16 reciprocal."""
        ones = torch.ones(self.sums.shape[0], TILE, 1)
        total = _product(self.sums, ones, MathFidelity.HiFi2, arithmetic)
        return _rescale(self.out, round_to_bf16_(total.reciprocal_()), arithmetic)


def _tile_columns(weights: torch.Tensor) -> torch.Tensor:
    """[..., keys] summed over tiles of 32 columns in L1: BF16, nearest even."""
    missing = -weights.shape[-1] % TILE
    if missing:
        weights = torch.nn.functional.pad(weights, (0, missing))
    columns = weights.unflatten(-1, (-1, TILE)).unbind(-2)
    total = columns[0]
    for column in columns[1:]:
        total = round_to_nearest_even(total + column)
    return total
