"""Specs -> graphs: the steps of an architecture become nodes."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from ttc.graph.check import check_model
from ttc.graph.graph import Graph, ModelGraph
from ttc.graph.nodes import (
    Add,
    Attention,
    Embedding,
    Gated,
    Linear,
    Node,
    Repeat,
    RmsNorm,
    Rope,
)
from ttc.spec.architecture import Step
from ttc.spec.model import ModelSpec


def build_graph(spec: ModelSpec) -> ModelGraph:
    """The model graph and the decoder graph of a spec, before any pass.

    Operands, weights and settings of the steps were checked when the architecture was read.
    """
    architecture = spec.architecture
    model = Graph(
        name="model",
        inputs=("tokens",),
        outputs=(architecture.model[-1].result,),
        nodes=tuple(_node(step, spec) for step in architecture.model),
    )
    decoder = Graph(
        name="decoder",
        inputs=("x",),
        outputs=(architecture.decoder[-1].result,),
        nodes=tuple(_node(step, spec) for step in architecture.decoder),
    )
    graph = ModelGraph(model=model, decoder=decoder)
    check_model(graph)
    return graph


def _node(step: Step, spec: ModelSpec) -> Node:
    """The node of a step. Its place names the file as every machine does: texts repeat it."""
    at = replace(step.at, path=spec.architecture.file)
    return _BUILDERS[step.op](replace(step, at=at), spec)


def _embedding(step: Step, spec: ModelSpec) -> Node:
    return Embedding(
        tokens=step.operands[0],
        weight=_text(step, "weight"),
        out=step.result,
        at=step.at,
    )


def _rms_norm(step: Step, spec: ModelSpec) -> Node:
    return RmsNorm(
        x=step.operands[0],
        weight=_text(step, "weight"),
        epsilon=spec.norm_eps,
        out=step.result,
        at=step.at,
    )


def _linear(step: Step, spec: ModelSpec) -> Node:
    return Linear(
        x=step.operands[0],
        weights=(_text(step, "weight"),),
        out=step.result,
        at=step.at,
    )


def _rope(step: Step, spec: ModelSpec) -> Node:
    return Rope(x=step.operands[0], out=step.result, at=step.at)


def _attention(step: Step, spec: ModelSpec) -> Node:
    q, k, v = step.operands
    return Attention(q=q, k=k, v=v, mask=_text(step, "mask"), out=step.result, at=step.at)


def _gated(step: Step, spec: ModelSpec) -> Node:
    gate, up = step.operands
    return Gated(
        gate=gate,
        up=up,
        activation=_text(step, "activation"),
        out=step.result,
        at=step.at,
    )


def _add(step: Step, spec: ModelSpec) -> Node:
    a, b = step.operands
    return Add(a=a, b=b, out=step.result, at=step.at)


def _repeat(step: Step, spec: ModelSpec) -> Node:
    return Repeat(x=_text(step, "input"), times=spec.dims.layers, out=step.result, at=step.at)


def _text(step: Step, name: str) -> str:
    value = step.setting(name)
    assert isinstance(value, str), f"{step.op} needs the setting {name}"
    return value


_BUILDERS: Mapping[str, Callable[[Step, ModelSpec], Node]] = {
    "embedding": _embedding,
    "rms_norm": _rms_norm,
    "linear": _linear,
    "rope": _rope,
    "attention": _attention,
    "gated": _gated,
    "add": _add,
    "repeat": _repeat,
}
