"""Rotary embedding: the same form as ttnn's, or both refuse."""

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.mock

HEADS = 9
HEAD_DIM = 64


def pair_rope(m: Any, users: int, cos_users: int | None = None, dtype: str = "bfloat16") -> Any:
    cos_users = cos_users or users
    cos = m.tensor((1, cos_users, 1, HEAD_DIM), dtype, m.by_user(cos_users))
    trans = m.tensor((1, 1, 32 * users, 32), memory=m.by_user(users, 32))
    q = m.tensor((1, users, HEADS, HEAD_DIM), dtype, m.by_user(users))
    return m.t.experimental.rotary_embedding_llama(q, cos, cos, trans, is_decode_mode=True)


def fused_rope(m: Any, rows: int = 64, matrices: int = 64, together: bool = False) -> Any:
    q, k, _ = m.heads() if together else m.apart()
    cos = m.tensor((1, rows, 1, HEAD_DIM), memory=m.by_user(rows))
    trans = m.tensor((1, 1, 32 * matrices, 32), memory=m.by_user(matrices, 32))
    return m.t.experimental.rotary_embedding_llama_fused_qk(q, k, cos, cos, trans)


def half_rope(m: Any, x: Any, cos: Any, decode: bool = False) -> Any:
    return m.t.experimental.rotary_embedding_hf(x, cos, cos, is_decode_mode=decode)


CASES: dict[str, Callable[[Any], Any]] = {
    "pairs": lambda m: pair_rope(m, 32),
    "pairs of 1 user": lambda m: pair_rope(m, 1),
    "pairs of blocks": lambda m: pair_rope(m, 32, dtype="bfloat8_b"),
    "pairs, fewer rows": lambda m: pair_rope(m, 32, 16),
    "pairs, prefill": lambda m: m.t.experimental.rotary_embedding_llama(
        m.tensor((1, HEADS, 64, 64)),
        m.tensor((1, 1, 128, 64)),
        m.tensor((1, 1, 128, 64)),
        m.tensor((1, 1, 32, 32)),
    ),
    "pairs, prefill, rank of cos": lambda m: m.t.experimental.rotary_embedding_llama(
        m.tensor((1, HEADS, 64, 64)),
        m.tensor((1, 64, 64)),
        m.tensor((1, 64, 64)),
        m.tensor((1, 1, 32, 32)),
    ),
    "q and k": lambda m: fused_rope(m),
    "q and k, rows of one": lambda m: fused_rope(m, 32, 32),
    "q and k, matrices of one": lambda m: fused_rope(m, 64, 32),
    "q and k on the same cores": lambda m: fused_rope(m, together=True),
    "halves": lambda m: half_rope(
        m,
        m.tensor((1, 32, HEADS, 64), memory=m.by_user(32)),
        m.tensor((1, 32, 1, 64), memory=m.by_user(32)),
        True,
    ),
    "halves of blocks": lambda m: half_rope(
        m,
        m.tensor((1, 32, HEADS, 64), "bfloat8_b", m.by_user(32)),
        m.tensor((1, 32, 1, 64), memory=m.by_user(32)),
        True,
    ),
    "halves, interleaved cos": lambda m: half_rope(
        m, m.tensor((1, 32, HEADS, 64), memory=m.by_user(32)), m.tensor((1, 32, 1, 64)), True
    ),
    "halves, prefill": lambda m: half_rope(
        m, m.tensor((1, HEADS, 64, 64), "bfloat8_b"), m.tensor((1, 1, 128, 64))
    ),
    "halves, prefill, short cos": lambda m: half_rope(
        m, m.tensor((1, HEADS, 64, 64)), m.tensor((1, 1, 32, 64))
    ),
    "halves of 96": lambda m: half_rope(m, m.tensor((1, HEADS, 64, 96)), m.tensor((1, 1, 64, 96))),
}


@pytest.mark.parametrize("name", CASES)
def test_same_form_or_both_refuse(name: str, compare: Callable[[str], None]) -> None:
    compare(name)
