"""Norms: the same form as ttnn's, or both refuse."""

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.mock

HIDDEN = 576


def norm(m: Any, cores: Any = None, width: int = 32, **changed: Any) -> Any:
    memory = cores and m.sharded("WIDTH", 32, width, cores)
    dtype = changed.pop("dtype", "bfloat16")
    weight = changed.pop("weight", None) or m.tensor((1, 1, 1, HIDDEN))
    return m.t.rms_norm(m.tensor((1, 1, 32, HIDDEN), dtype, memory), weight=weight, **changed)


CASES: dict[str, Callable[[Any], Any]] = {
    "norm": lambda m: norm(m),
    "norm row major weight": lambda m: norm(
        m, weight=m.ids(1, 1, HIDDEN // 32, 32, dtype="bfloat16")
    ),
    "norm flat row major weight": lambda m: norm(
        m, weight=m.ids(1, 1, 1, HIDDEN, dtype="bfloat16")
    ),
    "norm other weight": lambda m: norm(m, weight=m.tensor((1, 1, 1, 512))),
    "norm blocks": lambda m: norm(m, dtype="bfloat8_b"),
    "norm to shards": lambda m: norm(m, memory_config=m.wide(HIDDEN, 18)),
    "norm shards": lambda m: norm(m, m.cores(18, 6), program_config=m.norm(6, 3)),
    "norm shards in a larger grid": lambda m: norm(m, m.cores(18, 6), program_config=m.norm(8, 3)),
    "norm ragged shards": lambda m: norm(m, m.cores(18), program_config=m.norm(8, 3)),
    "norm grid too small": lambda m: norm(m, m.cores(18), program_config=m.norm(6, 3)),
    "norm without program": lambda m: norm(m, m.cores(18, 6)),
    "norm out of shards": lambda m: norm(
        m, m.cores(18, 6), program_config=m.norm(6, 3), memory_config=m.t.DRAM_MEMORY_CONFIG
    ),
    "norm wrong width": lambda m: norm(m, m.cores(18, 6), program_config=m.norm(6, 3, width=2)),
    "norm wrong height": lambda m: norm(m, m.cores(18, 6), program_config=m.norm(6, 3, height=2)),
    "norm wrong subblock": lambda m: norm(
        m, m.cores(6, 3), 96, program_config=m.norm(3, 2, 2, width=3)
    ),
    "norm program without shards": lambda m: norm(m, program_config=m.norm(6, 3)),
    "norm by user": lambda m: m.t.rms_norm(
        m.tensor((1, 32, 9, 64), memory=m.by_user(32)), weight=m.tensor((1, 1, 1, 64))
    ),
    "layer norm without weight to heads of users": lambda m: m.t.layer_norm(
        m.tensor((1, 32, 9, 64), memory=m.t.L1_MEMORY_CONFIG),
        epsilon=1e-5,
        memory_config=m.by_user(32),
    ),
    "norm rows": lambda m: m.t.rms_norm(m.logits()),
}


@pytest.mark.parametrize("name", CASES)
def test_same_form_or_both_refuse(name: str, compare: Callable[[str], None]) -> None:
    compare(name)
