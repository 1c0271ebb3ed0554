"""Element-wise operations: the same form as ttnn's, or both refuse."""

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.mock

HIDDEN = 576


CASES: dict[str, Callable[[Any], Any]] = {
    "add": lambda m: m.t.add(m.x(), m.x()),
    "add shards": lambda m: m.t.add(m.x(m.wide(HIDDEN, 18)), m.x(m.wide(HIDDEN, 18))),
    "add shards and L1": lambda m: m.t.add(m.x(m.wide(HIDDEN, 18)), m.x(m.t.L1_MEMORY_CONFIG)),
    "add other shards": lambda m: m.t.add(
        m.x(m.wide(HIDDEN, 18)), m.x(m.wide(HIDDEN, 9)), memory_config=m.wide(HIDDEN, 18)
    ),
    "add blocks": lambda m: m.t.add(m.x(), m.x(dtype="bfloat8_b")),
    "add to blocks": lambda m: m.t.add(m.x(dtype="bfloat8_b"), m.x()),
    "add shapes": lambda m: m.t.add(m.x(), m.tensor((1, 1, 32, 512))),
    "add a row": lambda m: m.t.add(m.x(), m.x(rows=1)),
    "add to a row": lambda m: m.t.add(m.x(rows=1), m.x()),
    "add ids": lambda m: m.t.add(m.x(), m.x(dtype="uint32")),
    "add ranks": lambda m: m.t.add(m.tensor((1, 32, HIDDEN)), m.x()),
    "add a number": lambda m: m.t.add(m.x(), 1.0),
    "gate": lambda m: m.t.mul(
        m.x(m.wide(HIDDEN, 18)),
        m.x(m.wide(HIDDEN, 18)),
        input_tensor_a_activations=m.silu(),
        dtype=m.t.bfloat8_b,
    ),
    "gate by name": lambda m: m.t.mul(m.x(), m.x(), input_tensor_a_activations=["silu"]),
    "multiply a number": lambda m: m.t.multiply(m.x(), 0.5),
    "multiply to unspecified shards": lambda m: m.t.mul(
        m.x(m.wide(HIDDEN, 18)),
        m.x(m.wide(HIDDEN, 18)),
        memory_config=m.t.L1_WIDTH_SHARDED_MEMORY_CONFIG,
    ),
    "multiply heads of users": lambda m: m.t.multiply(
        m.tensor((1, 6, 9, 64), memory=m.by_user(6)),
        m.tensor((1, 1, 9, 64)),
        memory_config=m.by_user(6),
    ),
    "multiply heads of one user": lambda m: m.t.multiply(
        m.tensor((1, 1, 9, 64), memory=m.by_user(1, first=3)),
        m.tensor((1, 1, 9, 64)),
        memory_config=m.by_user(1, first=3),
    ),
    "multiply heads of tokens": lambda m: m.t.multiply(
        m.tensor((1, 9, 96, 64)),
        m.tensor((1, 9, 1, 64)),
        memory_config=m.t.DRAM_MEMORY_CONFIG,
    ),
    "multiply heads of tokens of prompts": lambda m: m.t.multiply(
        m.tensor((3, 9, 96, 64), "bfloat8_b"),
        m.tensor((1, 9, 1, 64)),
        memory_config=m.t.DRAM_MEMORY_CONFIG,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_same_form_or_both_refuse(name: str, compare: Callable[[str], None]) -> None:
    compare(name)
