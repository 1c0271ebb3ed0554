"""Operations on token ids and positions: the same form as ttnn's, or both refuse."""

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.mock

HIDDEN = 576
HEAD_DIM = 64


CASES: dict[str, Callable[[Any], Any]] = {
    "embed": lambda m: m.t.embedding(
        m.ids(1, 32), m.ids(1, 1, 99, HIDDEN, dtype="bfloat16"), layout=m.t.TILE_LAYOUT
    ),
    "embed row major": lambda m: m.t.embedding(
        m.ids(1, 1), m.ids(1, 1, 99, HIDDEN, dtype="bfloat16")
    ),
    "embed into shards": lambda m: m.t.embedding(
        m.ids(1, 32),
        m.ids(1, 1, 99, HIDDEN, dtype="bfloat16"),
        layout=m.t.TILE_LAYOUT,
        memory_config=m.wide(HIDDEN, 18),
    ),
    "embed a column": lambda m: m.t.embedding(
        m.ids(64, 1),
        m.ids(1, 1, 99, HEAD_DIM, dtype="bfloat16"),
        layout=m.t.TILE_LAYOUT,
        memory_config=m.by_user(64),
    ),
    "embed to block format": lambda m: m.t.embedding(
        m.ids(1, 32),
        m.ids(1, 1, 99, HIDDEN, dtype="bfloat16"),
        layout=m.t.TILE_LAYOUT,
        dtype=m.t.bfloat8_b,
    ),
    "embed signed": lambda m: m.t.embedding(
        m.ids(1, 32, dtype="int32"), m.ids(1, 1, 99, HIDDEN, dtype="bfloat16")
    ),
    "argmax": lambda m: m.t.argmax(m.logits(), dim=3),
    "argmax keeps": lambda m: m.t.argmax(m.logits(), dim=-1, keepdim=True),
    "argmax of tiles": lambda m: m.t.argmax(m.logits(rows=False), dim=3),
    "argmax of blocks": lambda m: m.t.argmax(m.logits(False, "bfloat8_b"), dim=3),
    "argmax into tokens": lambda m: m.t.argmax(m.logits(), dim=3, output_tensor=m.ids(1, 32)),
    "argmax into signed": lambda m: m.t.argmax(
        m.logits(), dim=3, output_tensor=m.ids(1, 32, dtype="int32")
    ),
    "plus one": lambda m: m.t.plus_one(m.ids(32, dtype="int32"), skip_negative_entries=True),
    "plus one unsigned": lambda m: m.t.plus_one(m.ids(1, 64)),
    "plus one of floats": lambda m: m.t.plus_one(m.ids(1, 64, dtype="bfloat16")),
    "plus one of tiles": lambda m: m.t.plus_one(m.tensor((1, 64), "int32")),
}


@pytest.mark.parametrize("name", CASES)
def test_same_form_or_both_refuse(name: str, compare: Callable[[str], None]) -> None:
    compare(name)
