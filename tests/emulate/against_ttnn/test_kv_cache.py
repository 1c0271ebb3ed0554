"""Updates of paged caches: the same form as ttnn's, or both refuse."""

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.mock

KV_HEADS = 3
HEAD_DIM = 64


def update(m: Any, tokens: Any = None, **changed: Any) -> Any:
    tokens = tokens or m.apart()[1]
    settings = {"update_idxs_tensor": m.tensor((32,), "int32", rows=True), "page_table": m.table()}
    return m.t.experimental.paged_update_cache(m.cache(), tokens, **settings | changed)


def fused_update(m: Any, together: bool = False, second: str = "bfloat8_b") -> Any:
    _, k, v = m.heads() if together else m.apart()
    return m.t.experimental.paged_fused_update_cache(
        m.cache(), k, m.cache(second), v,
        update_idxs_tensor=m.tensor((32,), "int32", rows=True), page_table=m.table(),
    )  # fmt: skip


def fill(m: Any, seq: int = 64, dtype: str = "bfloat8_b", kv: int = KV_HEADS, user: int = 0):
    tokens = m.tensor((1, kv, seq, HEAD_DIM), dtype)
    return m.t.experimental.paged_fill_cache(m.cache(), tokens, m.table(), batch_idx=user)


def fill_together(m: Any, prompts: int = 4, dtype: str = "int32", **changed: Any) -> Any:
    settings = {"batch_idx_tensor": m.tensor((4,), dtype, rows=True)}
    tokens = m.tensor((prompts, KV_HEADS, 64, HEAD_DIM), "bfloat8_b")
    return m.t.experimental.paged_fill_cache(m.cache(), tokens, m.table(), **settings | changed)


CASES: dict[str, Callable[[Any], Any]] = {
    "update": lambda m: update(m),
    "update from DRAM": lambda m: update(m, m.tensor((1, 32, KV_HEADS, 64))),
    "update from blocks": lambda m: update(
        m, m.tensor((1, 32, KV_HEADS, 64), "bfloat8_b", m.by_user(32))
    ),
    "update, unsigned positions": lambda m: update(m, update_idxs_tensor=m.ids(32)),
    "update, unsigned table": lambda m: update(m, page_table=m.table(dtype="uint32")),
    "update, short table": lambda m: update(m, page_table=m.table(16)),
    "update, few positions": lambda m: update(m, update_idxs_tensor=m.ids(16, dtype="int32")),
    "update, no positions": lambda m: update(m, update_idxs_tensor=None),
    "update both": lambda m: fused_update(m),
    "update both on the same cores": lambda m: fused_update(m, together=True),
    "update both, two types": lambda m: fused_update(m, second="bfloat16"),
    "fill": lambda m: fill(m),
    "fill part of a block": lambda m: fill(m, seq=40),
    "fill another type": lambda m: fill(m, dtype="bfloat16"),
    "fill too long": lambda m: fill(m, seq=128),
    "fill other heads": lambda m: fill(m, kv=4),
    "fill nobody": lambda m: fill(m, user=32),
    "fill together": lambda m: fill_together(m),
    "fill together, unsigned users": lambda m: fill_together(m, dtype="uint32"),
    "fill together, fewer sequences": lambda m: fill_together(m, prompts=3),
    "fill together, no users": lambda m: fill_together(m, batch_idx_tensor=None),
}


@pytest.mark.parametrize("name", CASES)
def test_same_form_or_both_refuse(name: str, compare: Callable[[str], None]) -> None:
    compare(name)
