"""Where tensors may lie: the same form as ttnn's, or both refuse."""

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.mock

HIDDEN = 576
FFN = 1536


CASES: dict[str, Callable[[Any], Any]] = {
    "shards cover": lambda m: m.x(m.wide(HIDDEN, 18)),
    "shards with spare cores": lambda m: m.x(m.sharded("WIDTH", 32, 32, m.cores(32))),
    "shards too few": lambda m: m.x(m.sharded("WIDTH", 32, 32, m.cores(17))),
    "shards not of tiles": lambda m: m.x(m.sharded("WIDTH", 32, 36, m.cores(16))),
    "shards too high": lambda m: m.x(m.sharded("WIDTH", 64, 32, m.cores(18))),
    "shards without a spec": lambda m: m.x(m.t.L1_WIDTH_SHARDED_MEMORY_CONFIG),
    "shards off the grid": lambda m: m.x(m.sharded("WIDTH", 32, 32, m.cores(18, 9))),
    "too many banks": lambda m: m.tensor((1, 1, 64, FFN), memory=m.in_banks(64, FFN, 13)),
    "height shards too few": lambda m: m.x(m.sharded("HEIGHT", 32, HIDDEN, m.cores(1)), rows=64),
    "height shards too narrow": lambda m: m.x(m.sharded("HEIGHT", 32, 64, m.cores(2)), rows=64),
    "block format row major": lambda m: m.tensor((32, 32), "bfloat8_b", rows=True),
}


@pytest.mark.parametrize("name", CASES)
def test_same_form_or_both_refuse(name: str, compare: Callable[[str], None]) -> None:
    compare(name)
