"""Splitting and joining heads: the same form as ttnn's, or both refuse."""

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.mock

HEADS = 9
KV_HEADS = 3
QKV = (9 + 2 * 3) * 64


CASES: dict[str, Callable[[Any], Any]] = {
    "heads": lambda m: m.heads(),
    "heads from DRAM": lambda m: m.heads(m.t.DRAM_MEMORY_CONFIG),
    "heads of 8 users": lambda m: m.heads(rows=8),
    "heads apart": lambda m: m.apart(),
    "heads of 1 user apart": lambda m: m.apart(1),
    "heads apart, interleaved": lambda m: m.heads(overlap_qk_coregrid=False),
    "heads apart, half a head per shard": lambda m: m.heads(
        m.sharded("WIDTH", 32, 32, m.cores(30)), overlap_qk_coregrid=False
    ),
    "heads apart, three heads per shard": lambda m: m.heads(
        m.sharded("WIDTH", 32, 192, m.cores(5)), overlap_qk_coregrid=False
    ),
    "heads of blocks": lambda m: m.heads(dtype="bfloat8_b"),
    "heads of 64 users": lambda m: m.heads(rows=64),
    "heads do not fit": lambda m: m.heads(num_heads=10),
    "40 heads": lambda m: m.t.experimental.nlp_create_qkv_heads_decode(
        m.tensor((1, 1, 32, 56 * 64), memory=m.t.L1_MEMORY_CONFIG), num_heads=40, num_kv_heads=8
    ),
    "prefill heads": lambda m: m.t.experimental.nlp_create_qkv_heads(
        m.tensor((1, 1, 64, QKV), "bfloat8_b"),
        num_heads=HEADS,
        num_kv_heads=KV_HEADS,
        transpose_k_heads=False,
    ),
    "prefill heads of prompts": lambda m: m.t.experimental.nlp_create_qkv_heads(
        m.tensor((4, 1, 64, QKV), "bfloat8_b"),
        num_heads=HEADS,
        num_kv_heads=KV_HEADS,
        transpose_k_heads=False,
    ),
    "prefill heads, k transposed": lambda m: m.t.experimental.nlp_create_qkv_heads(
        m.tensor((1, 1, 64, QKV)),
        num_heads=HEADS,
        num_kv_heads=KV_HEADS,
        memory_config=m.t.L1_MEMORY_CONFIG,
    ),
    "join": lambda m: m.t.experimental.nlp_concat_heads(m.tensor((1, HEADS, 64, 64))),
    "join prompts": lambda m: m.t.experimental.nlp_concat_heads(m.tensor((4, HEADS, 64, 64))),
    "join users": lambda m: m.t.experimental.nlp_concat_heads_decode(
        m.tensor((1, 4, HEADS, 64), memory=m.by_user(4)), num_heads=HEADS
    ),
    "join interleaved users": lambda m: m.t.experimental.nlp_concat_heads_decode(
        m.tensor((1, 4, HEADS, 64)), num_heads=HEADS
    ),
    "join users of blocks": lambda m: m.t.experimental.nlp_concat_heads_decode(
        m.tensor((1, 4, HEADS, 64), "bfloat8_b", m.by_user(4)), num_heads=HEADS
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_same_form_or_both_refuse(name: str, compare: Callable[[str], None]) -> None:
    compare(name)
