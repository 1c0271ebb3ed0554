"""Attention made of products: the same form as ttnn's, or both refuse."""

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.mock

USERS, KV_HEADS, TOKENS, HEAD_DIM = 32, 3, 128, 64


def cache(m: Any, dtype: str = "bfloat8_b", users: int = USERS) -> Any:
    return m.tensor((users, KV_HEADS, TOKENS, HEAD_DIM), dtype)


def update(m: Any, users: int = USERS) -> Any:
    positions = m.tensor((32,), "int32", rows=True)
    _, k, _ = m.apart()
    return m.t.experimental.paged_update_cache(
        cache(m, users=users), k, update_idxs_tensor=positions
    )


def fill(m: Any, tokens: int = TOKENS, dtype: str = "bfloat8_b", user: int = 3, kv: int = KV_HEADS):
    prompt = m.tensor((1, kv, tokens, HEAD_DIM), dtype)
    return m.t.fill_cache(cache(m), prompt, batch_idx=user)


def scores(m: Any, batch: int = USERS) -> Any:
    q = m.tensor((batch, KV_HEADS, 4, HEAD_DIM))
    return m.t.matmul(
        q, cache(m), transpose_b=True, dtype=m.t.bfloat16, compute_kernel_config=m.kernel()
    )


CASES: dict[str, Callable[[Any], Any]] = {
    "softmax": lambda m: m.t.softmax(m.tensor((2, 3, 5, 128)), dim=3),
    "softmax to L1": lambda m: m.t.softmax(
        m.tensor((1, 1, 32, 128)), dim=-1, memory_config=m.t.L1_MEMORY_CONFIG, numeric_stable=True
    ),
    "update": lambda m: update(m),
    "update, few users": lambda m: update(m, users=16),
    "fill": lambda m: fill(m),
    "fill a part": lambda m: fill(m, tokens=64),
    "fill too long": lambda m: fill(m, tokens=160),
    "fill other heads": lambda m: fill(m, kv=4),
    "fill nobody": lambda m: fill(m, user=32),
    "scores": lambda m: scores(m),
    "scores of few users": lambda m: scores(m, batch=4),
    "results": lambda m: m.t.matmul(m.tensor((USERS, KV_HEADS, 4, TOKENS)), cache(m)),
    "add a mask": lambda m: m.t.add(
        m.tensor((4, KV_HEADS, 2, TOKENS)), m.tensor((4, 1, 1, TOKENS))
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_same_form_or_both_refuse(name: str, compare: Callable[[str], None]) -> None:
    compare(name)
