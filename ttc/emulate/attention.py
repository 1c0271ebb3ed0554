# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
"""Attention over a sequence and over a paged cache; the arithmetic is in `flash`."""

import torch

from ttc.emulate import flash
from ttc.emulate.configs import (
    DRAM_MEMORY_CONFIG,
    BufferType,
    MathFidelity,
    MemoryConfig,
    SDPAProgramConfig,
    WormholeComputeKernelConfig,
)
from ttc.emulate.dtypes import TILE, DataType
from ttc.emulate.errors import EmulationError, require
from ttc.emulate.kv_cache import check_blocks, check_page_table
from ttc.emulate.tensor import Tensor, device_of, extend, output, require_tiles

_DEFAULT_CHUNK = 32


def scaled_dot_product_attention(
    input_tensor_q: Tensor,
    input_tensor_k: Tensor,
    input_tensor_v: Tensor,
    *,
    is_causal: bool = True,
    scale: float | None = None,
    sliding_window_size: int | None = None,
    memory_config: MemoryConfig | None = None,
    program_config: SDPAProgramConfig | None = None,
    compute_kernel_config: WormholeComputeKernelConfig | None = None,
    output_concat_heads: bool = False,
) -> Tensor:
    """q [batch, heads, seq, head_dim], k and v [batch, kv_heads, seq, head_dim] -> the shape of q.

    With output_concat_heads -> [batch, 1, seq, heads * head_dim]. A query sees the last
    sliding_window_size positions up to its own, or all of them.
    """
    op = "transformer.scaled_dot_product_attention"
    q, k, v = input_tensor_q, input_tensor_k, input_tensor_v
    device = device_of(op, q, k, v)
    require_tiles(op, q, k, v)
    for tensor in (q, k, v):
        require(not tensor.is_sharded(), op, "operands must be interleaved")
    _check_heads(op, q, k, q.shape[1], k.shape[1])
    require(q.shape[0] == k.shape[0] == v.shape[0], op, "operands must have one batch")
    if is_causal:
        require(q.shape[2] == k.shape[2], op, "causal attention needs as many keys as queries")
    require(is_causal or not sliding_window_size, op, "a centred window is not emulated")
    q_chunk, k_chunk = _chunks(op, program_config)
    numbers = _numbers(q, scale, program_config, compute_kernel_config)
    results: list[torch.Tensor] = []
    for index, queries in enumerate(q.values(op)):
        keys, values = k.values(op)[index], v.values(op)[index]
        if not is_causal:
            keys, values = k.dense(op)[index], v.dense(op)[index]
        if device.rounding:
            each = list[torch.Tensor]()
            for asked, *known in zip(queries, keys, values, strict=True):
                live = _live_rows(asked, len(queries)) if is_causal else asked.shape[1]
                result = flash.prefill(
                    asked[:, :live],
                    *(one[:, :live] if is_causal else one for one in known),
                    causal=is_causal,
                    window=sliding_window_size or 0,
                    q_chunk=q_chunk,
                    k_chunk=k_chunk,
                    numbers=numbers,
                )
                each.append(extend(result, asked.shape))
            result = torch.stack(each)
        else:
            result = torch.nn.functional.scaled_dot_product_attention(
                queries,
                keys,
                values,
                attn_mask=_seen(queries.shape[2], sliding_window_size) if is_causal else None,
                scale=numbers.scale,
                enable_gqa=True,
            )
        if output_concat_heads:
            result = result.transpose(1, 2).flatten(2).unsqueeze(1)
        results.append(result)
    shape = q.shape
    if output_concat_heads:
        shape = (q.shape[0], 1, q.shape[2], q.shape[1] * q.shape[3])
    placed = memory_config or DRAM_MEMORY_CONFIG
    return output(op, results, shape, q.dtype, placed, device, wide_dst=False)


def chunked_scaled_dot_product_attention(
    input_tensor_q: Tensor,
    input_tensor_k: Tensor,
    input_tensor_v: Tensor,
    page_table_tensor: Tensor,
    *,
    chunk_start_idx_tensor: Tensor | None = None,
    scale: float | None = None,
    sliding_window_size: int | None = None,
    memory_config: MemoryConfig | None = None,
    program_config: SDPAProgramConfig | None = None,
    compute_kernel_config: WormholeComputeKernelConfig | None = None,
) -> Tensor:
    """q [batch, heads, seq, head_dim] against caches [blocks, kv_heads, block, head_dim] -> as q.

    Query i of each is at position start + i and sees the positions up to its own, or the last
    sliding_window_size of them; the page table [batch, pages] says where they lie. ttnn reads no
    page beyond start + seq, and none beyond the table.
    """
    op = "transformer.chunked_scaled_dot_product_attention"
    q, k, v, table = input_tensor_q, input_tensor_k, input_tensor_v, page_table_tensor
    if chunk_start_idx_tensor is None:
        raise EmulationError(op, "a chunk start that is no tensor is not emulated")
    device = device_of(op, q, k, v, table, chunk_start_idx_tensor)
    require_tiles(op, q, k, v)
    check_page_table(op, table)
    _check_heads(op, q, k, q.shape[1], k.shape[1])
    _check_chunked(op, q, k, table, chunk_start_idx_tensor)
    single = scale is None or torch.tensor(scale, dtype=torch.float32).item() == scale
    require(single, op, f"ttnn's binding takes no scale that float32 does not hold, got {scale}")
    q_chunk, k_chunk = _chunks(op, program_config)
    numbers = _numbers(q, scale, program_config, compute_kernel_config)
    block, results = k.shape[2], list[torch.Tensor]()
    for index, queries in enumerate(q.values(op)):
        start = int(chunk_start_idx_tensor.values(op)[index].reshape(-1)[0])
        for size in (q_chunk, k_chunk):
            require(start % size == 0, op, f"a start of {start} is no multiple of {size}")
        count = min(start + queries.shape[2], table.shape[1] * block)
        each = list[torch.Tensor]()
        for user, asked in enumerate(queries):
            pages = table.values(op)[index][user, : -(-count // block)]
            check_blocks(op, pages, k)
            keys, values = (_gather(one.stored[index], pages)[:, :count] for one in (k, v))
            if device.rounding:
                live = _live_rows(asked, len(queries))
                result = flash.prefill(
                    asked[:, :live],
                    keys[:, : start + live],
                    values[:, : start + live],
                    causal=True,
                    window=sliding_window_size or 0,
                    offset=start,
                    q_chunk=q_chunk,
                    k_chunk=k_chunk,
                    numbers=numbers,
                )
            else:
                result = torch.nn.functional.scaled_dot_product_attention(
                    asked[None],
                    keys[None],
                    values[None],
                    attn_mask=_seen(asked.shape[1], sliding_window_size, start)[:, :count],
                    scale=numbers.scale,
                    enable_gqa=True,
                )[0]
            each.append(extend(result, asked.shape))
        results.append(torch.stack(each))
    placed = memory_config or DRAM_MEMORY_CONFIG
    return output(op, results, q.shape, q.dtype, placed, device, wide_dst=False)


def paged_scaled_dot_product_attention_decode(
    input_tensor_q: Tensor,
    input_tensor_k: Tensor,
    input_tensor_v: Tensor,
    page_table_tensor: Tensor,
    *,
    is_causal: bool = True,
    cur_pos_tensor: Tensor | None = None,
    scale: float | None = None,
    sliding_window_size: int | None = None,
    memory_config: MemoryConfig | None = None,
    program_config: SDPAProgramConfig | None = None,
    compute_kernel_config: WormholeComputeKernelConfig | None = None,
) -> Tensor:
    """q [1, batch, heads, head_dim] against caches [blocks, kv_heads, block, head_dim].

    User u attends to positions 0 .. cur_pos[u], the last sliding_window_size of them; a user at -1
    is skipped (its rows are zero here and undefined in ttnn).
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
    numbers = _numbers(q, scale, program_config, compute_kernel_config)
    results: list[torch.Tensor] = []
    for index, queries in enumerate(q.values(op)):
        result = torch.zeros_like(queries)
        positions = cur_pos_tensor.values(op)[index].reshape(-1).tolist()
        for user in range(min(queries.shape[1], len(positions))):
            last = int(positions[user])
            if last < 0:
                continue
            size = chunk or _dynamic_chunk(last)
            pages, chunks = _pages(op, k, table, cur_pos_tensor, index, user, last, size)
            keys, values = (_gather(one.stored[index], pages) for one in (k, v))
            first = max(0, last + 1 - sliding_window_size) if sliding_window_size else 0
            if device.rounding:
                one = flash.decode(
                    queries[0, user],
                    keys,
                    values,
                    first=first,
                    count=last + 1,
                    chunks=chunks,
                    numbers=numbers,
                )
            else:
                one = torch.nn.functional.scaled_dot_product_attention(
                    queries[:, user].unsqueeze(2),
                    keys[None, :, first : last + 1],
                    values[None, :, first : last + 1],
                    scale=numbers.scale,
                    enable_gqa=True,
                )[0, :, 0]
            result[0, user] = one
        results.append(result)
    placed = memory_config or DRAM_MEMORY_CONFIG
    return output(op, results, q.shape, q.dtype, placed, device, wide_dst=False)


def _live_rows(queries: torch.Tensor, prompts: int) -> int:
    """Rows of queries [heads, rows, head_dim] up to the last that is not zeros: the others are the
    padding between several prompts, and what they get stays zeros."""
    if prompts == 1:
        return queries.shape[1]
    rows = queries.any(-1).any(0).nonzero()
    return int(rows[-1]) + 1 if len(rows) else 1


def _seen(rows: int, window: int | None, offset: int = 0) -> torch.Tensor:
    """Which keys each query sees: [rows, offset + rows]."""
    keys = offset + rows
    distance = torch.arange(offset, keys).unsqueeze(1) - torch.arange(keys)
    return (distance >= 0) & (distance < (window or keys))


def _check_heads(op: str, q: Tensor, k: Tensor, heads: int, kv_heads: int) -> None:
    require(
        kv_heads > 0 and heads % kv_heads == 0,
        op,
        f"{heads} query heads must be a multiple of {kv_heads} key heads",
    )
    require(q.shape[-1] == k.shape[-1], op, "queries and keys must have one head dimension")


def _check_chunked(op: str, q: Tensor, k: Tensor, table: Tensor, start: Tensor) -> None:
    require(start.dtype is DataType.INT32, op, "the chunk start must be INT32")
    require(start.shape == (1,), op, f"the chunk start must have shape [1], got {start.shape}")
    require(table.shape[0] == q.shape[0], op, f"{table.shape[0]} rows for {q.shape[0]} users")
    row_bytes = 4 * table.shape[1]
    require(row_bytes % TILE == 0, op, f"rows of {row_bytes} bytes, no multiple of {TILE}")
    tokens = table.shape[1] * k.shape[2]
    require(tokens >= q.shape[2], op, f"pages of {tokens} tokens for {q.shape[2]} queries")


def _check_decode(
    op: str,
    q: Tensor,
    k: Tensor,
    table: Tensor,
    positions: Tensor,
    memory_config: MemoryConfig | None,
) -> None:
    if k.shape[1] > 1:
        require(q.dtype is DataType.BFLOAT16, op, "queries of several kv heads must be BFLOAT16")
        sharded = memory_config is not None and memory_config.is_sharded()
        require(not sharded, op, "sharded output is not supported for several kv heads")
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


def _numbers(
    q: Tensor,
    scale: float | None,
    program: SDPAProgramConfig | None,
    kernel: WormholeComputeKernelConfig | None,
) -> flash.Attention:
    """ttnn's defaults: HiFi2, 16-bit Dst, approximate exponential."""
    config = kernel or WormholeComputeKernelConfig()
    fidelity = config.math_fidelity
    approximate = program.exp_approx_mode if program is not None else None
    return flash.Attention(
        scale=scale if scale is not None else q.shape[-1] ** -0.5,
        fidelity=MathFidelity.HiFi2 if fidelity is MathFidelity.Invalid else fidelity,
        wide_dst=config.fp32_dest_acc_en,
        approximate=True if approximate is None else approximate,
        sums=device_of("scaled_dot_product_attention", q).sums,
    )


def _pages(
    op: str,
    cache: Tensor,
    table: Tensor,
    positions: Tensor,
    index: int,
    user: int,
    last: int,
    chunk: int,
) -> tuple[torch.Tensor, int]:
    """The blocks of a user's tokens 0 .. last, filled up to whole chunks; the number of chunks.

    All decoders of a step ask for the same blocks, so they are kept on the positions.
    """
    block = cache.shape[2]
    count = last // block + 1
    chunks = max(1, -(-count * block // chunk))
    name = f"blocks 0 .. {last} of user {user} on device {index}, {cache.shape}, chunks of {chunk}"
    rows = table.values(op)[index]
    known = positions.operands.get(name)
    if known is None or known[0] is not rows:
        require(count <= table.shape[1], op, "a position is beyond the page table")
        pages = rows[user, :count]
        check_blocks(op, pages, cache)
        missing = chunks * chunk // block - count
        if chunks > 1 and missing > 0:
            pages = torch.cat((pages, pages[:1].expand(missing)))
        known = positions.operands[name] = [rows, pages]
    return known[1], chunks


def _gather(cache: torch.Tensor, pages: torch.Tensor) -> torch.Tensor:
    """Blocks of a cache as one sequence: [kv_heads, tokens, head_dim] float32."""
    return cache[pages].transpose(0, 1).flatten(1, 2).to(torch.float32)
