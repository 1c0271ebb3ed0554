"""Specs -> graphs: the steps of an architecture become nodes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from ttc.graph.check import check_model
from ttc.graph.graph import Graph, ModelGraph
from ttc.graph.nodes import (
    Activate,
    Add,
    Attention,
    Embedding,
    Gated,
    LayerNorm,
    Linear,
    Multiply,
    Node,
    Repeat,
    RmsNorm,
    Rope,
    ScaleHeads,
    Softcap,
)
from ttc.spec.architecture import Step
from ttc.spec.model import ModelSpec
from ttc.spec.steps import NORMS


def build_graph(spec: ModelSpec) -> ModelGraph:
    """The model graph of a spec and a decoder graph for each kind of decoder, before any pass.

    Operands, weights and settings of the steps were checked when the architecture was read.
    """
    architecture = spec.architecture
    kinds = dict.fromkeys(spec.kind_of(layer) for layer in range(spec.dims.layers))
    graph = ModelGraph(
        model=_graph("model", "tokens", architecture.model, spec, ""),
        decoders=MappingProxyType(
            {
                kind: _graph(
                    f"decoder {kind}" if kind else "decoder", "x", architecture.decoder, spec, kind
                )
                for kind in kinds
            }
        ),
    )
    check_model(graph)
    return graph


def _graph(name: str, entry: str, steps: Sequence[Step], spec: ModelSpec, kind: str) -> Graph:
    """The steps that decoders of a kind have. What reads another one reads another value instead.

    A soft cap of 0 is none, and what only steps read that are left out is left out as well.
    """
    passed: dict[str, str] = {}
    nodes: list[Node] = []
    for written in steps:
        step = written.reading(passed)
        if step.kinds and kind not in step.kinds:
            passed[step.result] = step.instead
            continue
        # The place names the file as every machine does: texts repeat it.
        at = replace(step.at, path=spec.architecture.file)
        found = _Found(step=replace(step, at=at), spec=spec, kind=kind, passed=passed)
        if step.op == "softcap" and not found.number("cap"):
            passed[step.result] = step.operands[0]
            continue
        nodes += _norm(found) if step.op in NORMS else (_BUILDERS[step.op](found),)
    result = passed.get(steps[-1].result, steps[-1].result)
    return Graph(name=name, inputs=(entry,), outputs=(result,), nodes=_read(nodes, result))


def _read(nodes: Sequence[Node], result: str) -> tuple[Node, ...]:
    """The nodes that the result needs."""
    needed, kept = {result}, list[Node]()
    for node in reversed(nodes):
        if needed & set(node.writes):
            needed |= set(node.reads)
            kept.append(node)
    return tuple(reversed(kept))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """A step with the spec and the kind of decoder that give its settings their values."""

    step: Step
    spec: ModelSpec
    kind: str
    passed: Mapping[str, str]

    @property
    def x(self) -> str:
        """The first operand."""
        return self.step.operands[0]

    def has(self, name: str) -> bool:
        """Whether a setting says anything for this kind."""
        return self.step.setting(name, self.kind) is not None

    def text(self, name: str) -> str:
        """What a setting that must be there says."""
        value = self.step.setting(name, self.kind)
        assert value is not None, f"{self.step.op} needs the setting {name}"
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """What a setting says, or ()."""
        return (self.text(name),) if self.has(name) else ()

    def number(self, name: str, default: float | None = None) -> float:
        """The value of a number: written in the architecture, or by name in the spec."""
        if default is not None and not self.has(name):
            return default
        written = self.text(name)
        if written not in self.spec.architecture.numbers:
            return float(written)
        given = self.spec.numbers.get(written, self.spec.architecture.numbers[written])
        assert given is not None, f"the spec was checked to give {written}"
        return given


def _embedding(found: _Found) -> Node:
    return Embedding(
        tokens=found.x,
        weight=found.text("weight"),
        scale=found.number("scale", 1.0),
        out=found.step.result,
        at=found.step.at,
    )


def _norm(found: _Found) -> tuple[Node, ...]:
    """A norm; one that scales each head by a row of its own is two nodes."""
    weight, out, at = found.text("weight"), found.step.result, found.step.at
    shape = found.spec.architecture.weight(weight).shape
    offset, epsilon = found.number("offset", 0.0), found.spec.norm_eps
    scale: tuple[Node, ...] = ()
    if len(shape) > 1:
        unscaled = f"{out}_unscaled"
        scale = (ScaleHeads(x=unscaled, weight=weight, offset=offset, out=out, at=at),)
        weight, offset, out = "", 0.0, unscaled
    per_head = ("head_dim",) in shape
    if found.step.op == "layer_norm":
        biases = found.texts("bias")
        norm = LayerNorm(
            x=found.x,
            weight=weight,
            biases=biases,
            epsilon=epsilon,
            per_head=per_head,
            out=out,
            at=at,
        )
    else:
        norm = RmsNorm(
            x=found.x,
            weight=weight,
            epsilon=epsilon,
            offset=offset,
            per_head=per_head,
            out=out,
            at=at,
        )
    return (norm, *scale)


def _linear(found: _Found) -> Node:
    return Linear(
        x=found.x,
        weights=(found.text("weight"),),
        biases=found.texts("bias"),
        out=found.step.result,
        at=found.step.at,
    )


def _rope(found: _Found) -> Node:
    table = found.text("table") if found.has("table") else "rope"
    return Rope(x=found.x, table=table, out=found.step.result, at=found.step.at)


def _attention(found: _Found) -> Node:
    q, k, v = found.step.operands
    return Attention(
        q=q,
        k=k,
        v=v,
        mask=found.text("mask"),
        scale=found.number("scale", found.spec.dims.head_dim**-0.5),
        window=int(found.number("window", 0.0)),
        cap=found.number("cap", 0.0),
        out=found.step.result,
        at=found.step.at,
    )


def _gated(found: _Found) -> Node:
    gate, up = found.step.operands
    return Gated(
        gate=gate,
        up=up,
        activation=found.text("activation"),
        out=found.step.result,
        at=found.step.at,
    )


def _activate(found: _Found) -> Node:
    return Activate(
        x=found.x,
        activation=found.text("activation"),
        out=found.step.result,
        at=found.step.at,
    )


def _add(found: _Found) -> Node:
    a, b = found.step.operands
    return Add(a=a, b=b, out=found.step.result, at=found.step.at)


def _multiply(found: _Found) -> Node:
    return Multiply(x=found.x, factor=found.number("by"), out=found.step.result, at=found.step.at)


def _divide(found: _Found) -> Node:
    factor = 1.0 / found.number("by")
    return Multiply(x=found.x, factor=factor, out=found.step.result, at=found.step.at)


def _softcap(found: _Found) -> Node:
    return Softcap(x=found.x, cap=found.number("cap"), out=found.step.result, at=found.step.at)


def _repeat(found: _Found) -> Node:
    entry = found.text("input")
    return Repeat(
        x=found.passed.get(entry, entry),
        times=found.spec.dims.layers,
        out=found.step.result,
        at=found.step.at,
    )


_BUILDERS: Mapping[str, Callable[[_Found], Node]] = {
    "embedding": _embedding,
    "linear": _linear,
    "rope": _rope,
    "attention": _attention,
    "gated": _gated,
    "activate": _activate,
    "add": _add,
    "multiply": _multiply,
    "divide": _divide,
    "softcap": _softcap,
    "repeat": _repeat,
}
