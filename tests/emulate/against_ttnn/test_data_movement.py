"""Operations that move data, and what freed tensors do: the same form as ttnn's, or both refuse."""

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.mock

HIDDEN = 576


def after_freeing_a_view(m: Any) -> Any:
    x = m.tensor((1, 32, HIDDEN))
    m.t.deallocate(m.t.reshape(x, (1, 1, 32, HIDDEN)))
    return m.t.add(x, x)


def after_freeing_the_base(m: Any) -> Any:
    x = m.tensor((1, 32, HIDDEN))
    view = m.t.reshape(x, (1, 1, 32, HIDDEN))
    m.t.deallocate(x)
    return m.t.add(view, view)


def after_freeing_what_was_not_moved(m: Any) -> Any:
    x = m.tensor((1, 1, 32, HIDDEN))
    same = m.t.to_memory_config(x, m.t.DRAM_MEMORY_CONFIG)
    m.t.deallocate(x)
    return m.t.add(same, same)


def after_freeing(m: Any) -> Any:
    x = m.tensor((1, 1, 32, HIDDEN))
    m.t.deallocate(x)
    m.t.deallocate(x)
    return m.t.add(x, x)


CASES: dict[str, Callable[[Any], Any]] = {
    "reshape": lambda m: m.t.reshape(m.tensor((1, 32, HIDDEN)), (1, 1, 32, HIDDEN)),
    "reshape shards": lambda m: m.t.reshape(
        m.tensor((1, 32, HIDDEN), memory=m.wide(HIDDEN, 18)), (1, 1, 32, HIDDEN)
    ),
    "reshape to columns": lambda m: m.t.reshape(m.tensor((1, 64, 64)), (1, 64, 1, 64)),
    "reshape inferred": lambda m: m.t.reshape(m.tensor((1, 32, HIDDEN)), (1, 1, 32, -1)),
    "reshape wrong": lambda m: m.t.reshape(m.x(), (1, 1, 31, HIDDEN)),
    "relabel rows": lambda m: m.t.reshape(
        m.x(m.wide(HIDDEN, 9)), (1, 1, 1, HIDDEN), (1, 1, 32, HIDDEN)
    ),
    "reshape ids": lambda m: m.t.reshape(m.ids(1, 64), (64, 1)),
    "transpose": lambda m: m.t.transpose(m.tensor((1, 1, 64, 64)), 1, 2),
    "transpose to shards": lambda m: m.t.transpose(
        m.tensor((1, 1, 64, 64)), 1, 2, memory_config=m.by_user(64)
    ),
    "slice columns": lambda m: m.t.slice(m.x(), (0, 0, 0, 0), (1, 1, 32, 64)),
    "slice a row": lambda m: m.t.slice(m.x(rows=128), (0, 0, 5, 0), (1, 1, 6, HIDDEN)),
    "slice steps": lambda m: m.t.slice(m.x(), (0, 0, 0, 0), (1, 1, 32, 64), (1, 1, 1, 2)),
    "slice too far": lambda m: m.t.slice(m.x(), (0, 0, 0, 0), (1, 1, 64, 64)),
    "slice ids": lambda m: m.t.slice(m.ids(32, 16, dtype="int32"), (3, 0), (4, 16)),
    "slice rows of shards": lambda m: m.t.slice(
        m.x(m.wide(HIDDEN, 18)), (0, 0, 0, 0), (1, 1, 1, HIDDEN)
    ),
    "concat": lambda m: m.t.concat([m.x(), m.x()], dim=3),
    "concat in L1": lambda m: m.t.concat([m.x()] * 2, dim=-1, memory_config=m.t.L1_MEMORY_CONFIG),
    "concat mixed": lambda m: m.t.concat([m.x(), m.x(dtype="bfloat8_b")], dim=3),
    "concat shards": lambda m: m.t.concat([m.x(m.wide(HIDDEN, 18))] * 2, dim=3),
    "untilize": lambda m: m.t.untilize(m.x()),
    "untilize blocks": lambda m: m.t.untilize(m.x(dtype="bfloat8_b")),
    "untilize a part": lambda m: m.t.untilize_with_unpadding(m.x(), (0, 0, 30, 499)),
    "untilize a part of blocks": lambda m: m.t.untilize_with_unpadding(
        m.x(dtype="bfloat8_b"), (0, 0, 31, 70)
    ),
    "untilize rows": lambda m: m.t.untilize(m.logits()),
    "shard": lambda m: m.t.interleaved_to_sharded(m.x(), m.wide(HIDDEN, 18)),
    "shard by user": lambda m: m.t.interleaved_to_sharded(m.tensor((1, 64, 1, 64)), m.by_user(64)),
    "shard too few": lambda m: m.t.interleaved_to_sharded(
        m.x(), m.sharded("WIDTH", 32, 32, m.cores(17))
    ),
    "shard shards": lambda m: m.t.interleaved_to_sharded(
        m.x(m.wide(HIDDEN, 18)), m.wide(HIDDEN, 9)
    ),
    "reshard": lambda m: m.t.to_memory_config(m.x(m.wide(HIDDEN, 18)), m.wide(HIDDEN, 9)),
    "to L1 as blocks": lambda m: m.t.to_memory_config(
        m.x(), m.t.L1_MEMORY_CONFIG, dtype=m.t.bfloat8_b
    ),
    "unshard": lambda m: m.t.sharded_to_interleaved(m.x(m.wide(HIDDEN, 18))),
    "unshard to L1": lambda m: m.t.sharded_to_interleaved(
        m.x(m.wide(HIDDEN, 18)), m.t.L1_MEMORY_CONFIG, m.t.bfloat8_b
    ),
    "unshard interleaved": lambda m: m.t.sharded_to_interleaved(m.x(), m.t.L1_MEMORY_CONFIG),
    "unshard to shards": lambda m: m.t.sharded_to_interleaved(
        m.x(m.wide(HIDDEN, 18)), m.wide(HIDDEN, 9)
    ),
    "copy": lambda m: m.t.copy(m.ids(1, 64), m.ids(1, 64)),
    "copy other shape": lambda m: m.t.copy(m.ids(1, 64), m.ids(1, 32)),
    "copy to blocks": lambda m: m.t.copy(m.x(), m.x(dtype="bfloat8_b")),
    "typecast": lambda m: m.t.typecast(m.x(), m.t.bfloat8_b),
    "typecast shards": lambda m: m.t.typecast(m.x(m.wide(HIDDEN, 18)), dtype=m.t.bfloat8_b),
    "typecast rows": lambda m: m.t.typecast(m.logits(), m.t.bfloat8_b),
    "typecast ids": lambda m: m.t.typecast(m.ids(1, 32, dtype="int32"), m.t.uint32),
    "after freeing": after_freeing,
    "after freeing a view": after_freeing_a_view,
    "after freeing the base": after_freeing_the_base,
    "after freeing what was not moved": after_freeing_what_was_not_moved,
}


@pytest.mark.parametrize("name", CASES)
def test_same_form_or_both_refuse(name: str, compare: Callable[[str], None]) -> None:
    compare(name)
