"""What a draw is made of: the same form as ttnn's, or both refuse."""

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.mock


def top(m: Any, columns: int = 1024, dtype: str = "bfloat16", k: int = 32, **named: Any) -> Any:
    return m.t.topk(m.tensor((1, 1, 32, columns), dtype), k, dim=3, stable=True, **named)


def pick(m: Any, columns: int = 32, dtype: str = "bfloat16", shape: Any = (32,), **named: Any):
    values = m.tensor((1, 1, 32, columns), dtype)
    ids = m.tensor((1, 1, 32, columns), "uint32", rows=True)
    k, ones = m.ids(*shape), m.ids(*shape, dtype="bfloat16")
    return m.t.sampling(values, ids, k=k, p=ones, temp=ones, **named)


def tile(m: Any, dtype: str = "float32", columns: int = 32) -> Any:
    return m.tensor((1, 1, 32, columns), dtype)


CASES: dict[str, Callable[[Any], Any]] = {
    "topk": lambda m: top(m),
    "topk to L1": lambda m: top(m, memory_config=m.t.L1_MEMORY_CONFIG),
    "topk of floats": lambda m: top(m, dtype="float32"),
    "topk of many": lambda m: top(m, 65568),
    "topk of too few": lambda m: top(m, 16),
    "topk of rows": lambda m: m.t.topk(m.logits(), 32, dim=3, stable=True),
    "gather": lambda m: m.t.gather(tile(m, "uint32", 96), 3, index=top(m)[1]),
    "gather by wide indices": lambda m: m.t.gather(tile(m), 3, index=tile(m, "uint32")),
    "gather by floats": lambda m: m.t.gather(tile(m), 3, index=tile(m)),
    "pick": lambda m: pick(m),
    "pick of 64": lambda m: pick(m, 64),
    "pick of 96": lambda m: pick(m, 96),
    "pick of floats": lambda m: pick(m, dtype="float32"),
    "pick with settings in rows": lambda m: pick(m, shape=(1, 1, 1, 32)),
    "pick into tokens": lambda m: pick(m, output_tensor=m.ids(1, 1, 1, 32)),
    "pick into other tokens": lambda m: pick(m, output_tensor=m.ids(1, 32)),
    "pad": lambda m: m.t.pad(tile(m), ((0, 0), (0, 0), (0, 0), (0, 32)), -1.0),
    "pad what is no tile": lambda m: m.t.pad(
        tile(m, "bfloat16", 35), ((0, 0), (0, 0), (0, 0), (0, 29)), -1.0
    ),
    "subtract": lambda m: m.t.subtract(tile(m), tile(m)),
    "lt": lambda m: m.t.lt(tile(m), tile(m)),
    "le": lambda m: m.t.le(tile(m), tile(m, columns=1)),
    "sum": lambda m: m.t.sum(tile(m), dim=3, keepdim=True),
    "max": lambda m: m.t.max(tile(m), dim=3, keepdim=True),
    "powers": lambda m: m.t.subtract(
        tile(m), tile(m, columns=1), activations=[m.t.UnaryOpType.EXP]
    ),
    "cumsum": lambda m: m.t.cumsum(tile(m), dim=3),
    "widen columns": lambda m: m.t.typecast(top(m)[1], m.t.uint32),
    "add ids": lambda m: m.t.add(tile(m, "uint32"), tile(m, "uint32")),
    "softmax of floats": lambda m: m.t.softmax(tile(m), dim=3, compute_kernel_config=m.kernel()),
    "product as bf16": lambda m: m.t.multiply(tile(m), tile(m), dtype=m.t.bfloat16),
}


@pytest.mark.parametrize("name", CASES)
def test_same_form_or_both_refuse(name: str, compare: Callable[[str], None]) -> None:
    compare(name)
