"""The operations a model is made of: mathematics only, no dtype, no device, no mesh.

Shapes are written with the model's words: `batch` users, `seq` positions, and the sizes of the
spec (`hidden`, `heads`, `kv_heads`, `head_dim`, `ffn`, `vocab`).
"""

from dataclasses import dataclass, fields
from typing import ClassVar

from ttc.errors import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One operation. Values and weights are named; a name is written by exactly one node."""

    value_fields: ClassVar[tuple[str, ...]] = ()
    result_fields: ClassVar[tuple[str, ...]] = ("out",)
    weight_fields: ClassVar[tuple[str, ...]] = ()

    at: Source

    @property
    def op(self) -> str:
        """Name of the operation as it is written in text forms and reports."""
        return type(self).__name__

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the values this node reads, in operand order."""
        return self._names(self.value_fields)

    @property
    def writes(self) -> tuple[str, ...]:
        """Names of the values this node defines."""
        return self._names(self.result_fields)

    @property
    def reads_weights(self) -> tuple[str, ...]:
        """Names of the weights this node reads, in operand order."""
        return self._names(self.weight_fields)

    @property
    def settings(self) -> tuple[tuple[str, str | int | float | bool], ...]:
        """Everything that is neither a value nor a weight, in field order."""
        named = {*self.value_fields, *self.result_fields, *self.weight_fields, "at"}
        return tuple((f.name, getattr(self, f.name)) for f in fields(self) if f.name not in named)

    def _names(self, wanted: tuple[str, ...]) -> tuple[str, ...]:
        names: list[str] = []
        for name in wanted:
            held: str | tuple[str, ...] = getattr(self, name)
            names.extend((held,) if isinstance(held, str) else held)
        return tuple(names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding(Node):
    """out[b, s] = weight[tokens[b, s]].  tokens [batch, seq]  ->  out [batch, seq, hidden]"""

    value_fields: ClassVar[tuple[str, ...]] = ("tokens",)
    weight_fields: ClassVar[tuple[str, ...]] = ("weight",)

    tokens: str
    weight: str
    out: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RmsNorm(Node):
    """out = x / sqrt(mean(x^2) + epsilon) * weight, over the last dim.  Shape of x."""

    value_fields: ClassVar[tuple[str, ...]] = ("x",)
    weight_fields: ClassVar[tuple[str, ...]] = ("weight",)

    x: str
    weight: str
    epsilon: float
    out: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear(Node):
    """out = x @ weights.T.  x [batch, seq, in]  ->  out [batch, seq, sum of the weights' outs]

    More than one weight means the matrices are concatenated along the output dim.
    """

    value_fields: ClassVar[tuple[str, ...]] = ("x",)
    weight_fields: ClassVar[tuple[str, ...]] = ("weights",)

    x: str
    weights: tuple[str, ...]
    out: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitQkv(Node):
    """Cuts qkv [batch, seq, (heads + 2 kv_heads) * head_dim] into heads.

    q [batch, heads, seq, head_dim], k and v [batch, kv_heads, seq, head_dim]
    """

    value_fields: ClassVar[tuple[str, ...]] = ("qkv",)
    result_fields: ClassVar[tuple[str, ...]] = ("q", "k", "v")

    qkv: str
    q: str
    k: str
    v: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rope(Node):
    """Rotates each head of x by its position.  Shape of x."""

    value_fields: ClassVar[tuple[str, ...]] = ("x",)

    x: str
    out: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeQk(Node):
    """Rotates the heads of q and of k by the same positions.  Shapes of q and k."""

    value_fields: ClassVar[tuple[str, ...]] = ("q", "k")
    result_fields: ClassVar[tuple[str, ...]] = ("q_out", "k_out")

    q: str
    k: str
    q_out: str
    k_out: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention(Node):
    """out = softmax(q k^T / sqrt(head_dim) + mask) v over this and all cached positions.

    q [batch, heads, seq, head_dim], k and v [batch, kv_heads, seq, head_dim]
    ->  out [batch, seq, heads * head_dim]; k and v are written to the KV cache.
    """

    value_fields: ClassVar[tuple[str, ...]] = ("q", "k", "v")

    q: str
    k: str
    v: str
    mask: str
    out: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gated(Node):
    """out = activation(gate) * up, element by element.  Shape of gate."""

    value_fields: ClassVar[tuple[str, ...]] = ("gate", "up")

    gate: str
    up: str
    activation: str
    out: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Add(Node):
    """out = a + b, element by element.  Shape of a."""

    value_fields: ClassVar[tuple[str, ...]] = ("a", "b")

    a: str
    b: str
    out: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat(Node):
    """Applies the decoder graph `times` times, each with its own weights.  Shape of x."""

    value_fields: ClassVar[tuple[str, ...]] = ("x",)

    x: str
    times: int
    out: str
