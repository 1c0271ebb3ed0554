"""The operations a model is made of: mathematics only, no dtype, no device, no mesh.

Shapes are written with the model's words: `batch` users, `seq` positions, and the sizes of the
spec (`hidden`, `heads`, `kv_heads`, `head_dim`, `ffn`, `vocab`).
"""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from typing import ClassVar, Self

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
        """Everything that is neither a value nor a weight and not its default, in field order."""
        named = {*self.value_fields, *self.result_fields, *self.weight_fields, "at"}
        return tuple(
            (f.name, getattr(self, f.name))
            for f in fields(self)
            if f.name not in named and (f.default is MISSING or getattr(self, f.name) != f.default)
        )

    def reading(self, names: Mapping[str, str]) -> Self:
        """This node with the values it reads renamed."""
        changed: dict[str, str | tuple[str, ...]] = {}
        for name in self.value_fields:
            held: str | tuple[str, ...] = getattr(self, name)
            one = isinstance(held, str)
            changed[name] = names.get(held, held) if one else tuple(names.get(n, n) for n in held)
        return replace(self, **changed)

    def _names(self, wanted: tuple[str, ...]) -> tuple[str, ...]:
        names: list[str] = []
        for name in wanted:
            held: str | tuple[str, ...] = getattr(self, name)
            names.extend((held,) if held and isinstance(held, str) else held)
        return tuple(names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding(Node):
    """out[b, s] = weight[tokens[b, s]] * scale.  tokens [batch, seq]  ->  [batch, seq, hidden]"""

    value_fields: ClassVar[tuple[str, ...]] = ("tokens",)
    weight_fields: ClassVar[tuple[str, ...]] = ("weight",)

    tokens: str
    weight: str
    scale: float = 1.0
    out: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RmsNorm(Node):
    """out = x / sqrt(mean(x^2) + epsilon) * (weight + offset), over the last dim.  Shape of x.

    With `per_head` every head_dim columns of x [.., heads * head_dim] are a vector of their own,
    as they are once heads are split. `weight` is "" where nothing is scaled.
    """

    value_fields: ClassVar[tuple[str, ...]] = ("x",)
    weight_fields: ClassVar[tuple[str, ...]] = ("weight",)

    x: str
    weight: str
    epsilon: float
    offset: float = 0.0
    per_head: bool = False
    out: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerNorm(Node):
    """out = (x - mean(x)) / sqrt(var(x) + epsilon) * weight + bias, over the last dim.

    Shape of x. `biases` is the bias, or (). `per_head` and a `weight` of "" are as in RmsNorm.
    """

    value_fields: ClassVar[tuple[str, ...]] = ("x",)
    weight_fields: ClassVar[tuple[str, ...]] = ("weight", "biases")

    x: str
    weight: str
    biases: tuple[str, ...] = ()
    epsilon: float
    per_head: bool = False
    out: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleHeads(Node):
    """out = x * (weight + offset), each head by a row of its own.  Shape of x.

    weight [heads, head_dim], x [.., heads * head_dim], or [batch, heads, seq, head_dim] once heads
    are split.
    """

    value_fields: ClassVar[tuple[str, ...]] = ("x",)
    weight_fields: ClassVar[tuple[str, ...]] = ("weight",)

    x: str
    weight: str
    offset: float = 0.0
    out: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear(Node):
    """out = x @ weights.T + biases.  x [batch, seq, in]  ->  [batch, seq, sum of the weights' outs]

    More than one weight means the matrices are concatenated along the output dim, and so are the
    biases: one for each weight, or (). The results of the weights in `centred` are heads whose mean
    is taken out.
    """

    value_fields: ClassVar[tuple[str, ...]] = ("x",)
    weight_fields: ClassVar[tuple[str, ...]] = ("weights", "biases")

    x: str
    weights: tuple[str, ...]
    biases: tuple[str, ...] = ()
    centred: tuple[str, ...] = ()
    out: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Concat(Node):
    """out = the columns of all xs, one after the other.  [batch, seq, sum of the widths]"""

    value_fields: ClassVar[tuple[str, ...]] = ("xs",)

    xs: tuple[str, ...]
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
    """Rotates each head of x by its position, as the `table` of the spec says.  Shape of x."""

    value_fields: ClassVar[tuple[str, ...]] = ("x",)

    x: str
    table: str = "rope"
    out: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeQk(Node):
    """Rotates the heads of q and of k by the same positions.  Shapes of q and k."""

    value_fields: ClassVar[tuple[str, ...]] = ("q", "k")
    result_fields: ClassVar[tuple[str, ...]] = ("q_out", "k_out")

    q: str
    k: str
    table: str = "rope"
    q_out: str
    k_out: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention(Node):
    """out = softmax(scale q k^T + mask) v over this and all cached positions.

    q [batch, heads, seq, head_dim], k and v [batch, kv_heads, seq, head_dim]
    ->  out [batch, seq, heads * head_dim]; k and v are written to the KV cache.

    window  a query sees so many positions, its own included; 0: all before it
    cap     scores s become cap * tanh(s / cap) before the mask; 0: they stay
    """

    value_fields: ClassVar[tuple[str, ...]] = ("q", "k", "v")

    q: str
    k: str
    v: str
    mask: str
    scale: float
    window: int = 0
    cap: float = 0.0
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
class Activate(Node):
    """out = activation(x), element by element.  Shape of x."""

    value_fields: ClassVar[tuple[str, ...]] = ("x",)

    x: str
    activation: str
    out: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Add(Node):
    """out = a + scale * b, element by element.  Shape of a."""

    value_fields: ClassVar[tuple[str, ...]] = ("a", "b")

    a: str
    b: str
    scale: float = 1.0
    out: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Multiply(Node):
    """out = x * factor, element by element.  Shape of x."""

    value_fields: ClassVar[tuple[str, ...]] = ("x",)

    x: str
    factor: float
    out: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Softcap(Node):
    """out = cap * tanh(x / cap), element by element.  Shape of x."""

    value_fields: ClassVar[tuple[str, ...]] = ("x",)

    x: str
    cap: float
    out: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat(Node):
    """Applies the decoder graph `times` times, each with its own weights.  Shape of x."""

    value_fields: ClassVar[tuple[str, ...]] = ("x",)

    x: str
    times: int
    out: str
