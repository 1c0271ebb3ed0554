"""Attention over sequences and caches: the same form as ttnn's, or both refuse."""

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.mock

HEADS = 9
KV_HEADS = 3
HEAD_DIM = 64


def attend(m: Any, kv: int = KV_HEADS, keys: int = 64, dtype: str = "bfloat16", **changed: Any):
    q = m.tensor((1, HEADS, 64, HEAD_DIM), dtype)
    k = m.tensor((1, kv, keys, HEAD_DIM), dtype)
    return m.t.transformer.scaled_dot_product_attention(q, k, k, **changed)


def attend_together(m: Any, prompts: int = 4, **changed: Any) -> Any:
    q = m.tensor((4, HEADS, 64, HEAD_DIM))
    k = m.tensor((prompts, KV_HEADS, 64, HEAD_DIM))
    return m.t.transformer.scaled_dot_product_attention(q, k, k, **changed)


def attend_step(m: Any, q: Any = None, dtype: str = "bfloat8_b", **changed: Any) -> Any:
    settings: dict[str, Any] = {
        "page_table_tensor": m.table(),
        "cur_pos_tensor": m.tensor((32,), "int32", rows=True),
    }
    q = q or m.tensor((1, 32, HEADS, HEAD_DIM))
    return m.t.transformer.paged_scaled_dot_product_attention_decode(
        q, m.cache(dtype), m.cache(dtype), **settings | changed
    )


def attend_chunk(
    m: Any, rows: int = 64, dtype: str = "bfloat8_b", prompts: int = 1, **changed: Any
) -> Any:
    settings: dict[str, Any] = {
        "chunk_start_idx_tensor": m.tensor((1,), "int32", rows=True),
        "page_table_tensor": m.tensor((1, 8), "int32", rows=True),
        "program_config": m.attention(64, 64),
    }
    q = m.tensor((prompts, HEADS, rows, HEAD_DIM))
    return m.t.transformer.chunked_scaled_dot_product_attention(
        q, m.cache(dtype), m.cache(dtype), **settings | changed
    )


def one_kv_head(m: Any, dtype: str = "bfloat16", **changed: Any) -> Any:
    cache = m.cache(kv_heads=1)
    q = m.tensor((1, 32, HEADS, HEAD_DIM), dtype, m.by_user(32))
    positions = m.tensor((32,), "int32", rows=True)
    return m.t.transformer.paged_scaled_dot_product_attention_decode(
        q, cache, cache, m.table(), cur_pos_tensor=positions, **changed
    )


CASES: dict[str, Callable[[Any], Any]] = {
    "attend": lambda m: attend(m),
    "attend, heads joined": lambda m: attend(m, output_concat_heads=True),
    "attend in blocks to L1": lambda m: attend(
        m, dtype="bfloat8_b", memory_config=m.t.L1_MEMORY_CONFIG
    ),
    "attend, heads do not divide": lambda m: attend(m, kv=2),
    "attend, more keys": lambda m: attend(m, keys=128),
    "attend, chunks": lambda m: attend(m, program_config=m.attention(64, 128)),
    "attend, odd chunk": lambda m: attend(m, program_config=m.attention(48, 64)),
    "prompts": lambda m: attend_together(m),
    "prompts, heads joined": lambda m: attend_together(m, output_concat_heads=True),
    "prompts, fewer keys": lambda m: attend_together(m, prompts=2),
    "chunk": lambda m: attend_chunk(m),
    "chunk of prompts": lambda m: attend_chunk(
        m, prompts=4, page_table_tensor=m.tensor((4, 8), "int32", rows=True)
    ),
    "chunk of prompts, pages of one": lambda m: attend_chunk(m, prompts=4),
    "chunk of prompts, a start of each": lambda m: attend_chunk(
        m,
        prompts=4,
        page_table_tensor=m.tensor((4, 8), "int32", rows=True),
        chunk_start_idx_tensor=m.tensor((4,), "int32", rows=True),
    ),
    "chunk, bf16": lambda m: attend_chunk(m, dtype="bfloat16"),
    "chunk, window and scale": lambda m: attend_chunk(m, sliding_window_size=48, scale=0.25),
    "chunk, a scale beyond float32": lambda m: attend_chunk(m, scale=0.1),
    "chunk, larger blocks of keys": lambda m: attend_chunk(m, program_config=m.attention(64, 256)),
    "chunk, to L1": lambda m: attend_chunk(m, memory_config=m.t.L1_MEMORY_CONFIG),
    "chunk, heads joined": lambda m: attend_chunk(m, output_concat_heads=True),
    "chunk, more queries than pages": lambda m: attend_chunk(m, rows=512),
    "chunk, odd row of pages": lambda m: attend_chunk(
        m, page_table_tensor=m.tensor((1, 9), "int32", rows=True)
    ),
    "chunk, unsigned start": lambda m: attend_chunk(m, chunk_start_idx_tensor=m.ids(1)),
    "chunk, start of two dims": lambda m: attend_chunk(
        m, chunk_start_idx_tensor=m.tensor((1, 1), "int32", rows=True)
    ),
    "step": lambda m: attend_step(m),
    "step, queries by user": lambda m: attend_step(
        m, m.tensor((1, 32, HEADS, 64), memory=m.by_user(32))
    ),
    "step to L1": lambda m: attend_step(m, memory_config=m.t.L1_MEMORY_CONFIG),
    "step to shards": lambda m: attend_step(m, memory_config=m.by_user(32)),
    "step, one kv head": lambda m: one_kv_head(m),
    "step, one kv head, to shards": lambda m: one_kv_head(m, memory_config=m.by_user(32)),
    "step, one kv head, queries of blocks": lambda m: one_kv_head(m, "bfloat8_b"),
    "step, queries in L1": lambda m: attend_step(
        m, m.tensor((1, 32, HEADS, 64), memory=m.t.L1_MEMORY_CONFIG)
    ),
    "step, queries of blocks": lambda m: attend_step(m, m.tensor((1, 32, HEADS, 64), "bfloat8_b")),
    "step, unsigned positions": lambda m: attend_step(m, cur_pos_tensor=m.ids(32)),
    "step, short table": lambda m: attend_step(m, page_table_tensor=m.table(16)),
    "step, table of tiles": lambda m: attend_step(m, page_table_tensor=m.tensor((32, 2), "int32")),
    "step, no positions": lambda m: attend_step(m, cur_pos_tensor=None),
    "step, odd chunk": lambda m: attend_step(m, program_config=m.attention(32, 48)),
    "step, chunk left open": lambda m: attend_step(m, program_config=m.attention(0, 0)),
}


@pytest.mark.parametrize("name", CASES)
def test_same_form_or_both_refuse(name: str, compare: Callable[[str], None]) -> None:
    compare(name)
