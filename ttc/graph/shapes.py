"""The shape of every value of a graph, for a number of users and positions."""

from collections.abc import Callable, Mapping
from typing import Any

from ttc.graph.graph import Graph
from ttc.graph.nodes import (
    Activate,
    Add,
    Attention,
    Concat,
    Embedding,
    Gated,
    LayerNorm,
    Linear,
    Multiply,
    Node,
    Repeat,
    RmsNorm,
    Rope,
    RopeQk,
    ScaleHeads,
    Softcap,
    SplitQkv,
)
from ttc.spec.model import Dims

Shape = tuple[int, ...]
Shapes = dict[str, Shape]


def infer_shapes(
    graph: Graph,
    *,
    dims: Dims,
    weights: Mapping[str, Shape],
    inputs: Mapping[str, Shape],
) -> Shapes:
    """Shape of every value, [batch, seq, width] or [batch, heads, seq, head_dim].

    `weights` gives the shape of each weight, [out, in] as stored; `inputs` that of each graph
    input. Raises AssertionError where operands do not fit: a legal spec cannot cause it, because
    weight shapes are written with the same sizes as the operands.
    """
    shapes: Shapes = dict(inputs)
    for node in graph.nodes:
        shapes |= _RULES[type(node)](node, shapes, weights, dims)
    return shapes


def _embedding(node: Embedding, shapes: Shapes, weights: Mapping[str, Shape], dims: Dims) -> Shapes:
    return {node.out: (*shapes[node.tokens], weights[node.weight][1])}


def _norm(
    node: RmsNorm | LayerNorm, shapes: Shapes, weights: Mapping[str, Shape], dims: Dims
) -> Shapes:
    width = shapes[node.x][-1]
    for name in node.reads_weights:
        (scaled,) = weights[name]
        fits = width % scaled == 0 if node.per_head else width == scaled
        assert fits, f"{name} does not scale {width} columns"
    return {node.out: shapes[node.x]}


def _scale_heads(
    node: ScaleHeads, shapes: Shapes, weights: Mapping[str, Shape], dims: Dims
) -> Shapes:
    shape = shapes[node.x]
    heads, head_dim = weights[node.weight]
    held = shape[1] * shape[3] if len(shape) == 4 else shape[-1]
    assert held == heads * head_dim, f"{node.weight} does not scale {held // head_dim} heads"
    return {node.out: shape}


def _linear(node: Linear, shapes: Shapes, weights: Mapping[str, Shape], dims: Dims) -> Shapes:
    batch, seq, width = shapes[node.x]
    for name in node.weights:
        assert weights[name][1] == width, f"{name} reads {weights[name][1]} columns, not {width}"
    for name, bias in zip(node.weights, node.biases, strict=bool(node.biases)):
        assert weights[bias] == weights[name][:1], f"{bias} is not as long as {name} has rows"
    return {node.out: (batch, seq, sum(weights[name][0] for name in node.weights))}


def _concat(node: Concat, shapes: Shapes, weights: Mapping[str, Shape], dims: Dims) -> Shapes:
    batch, seq, _ = shapes[node.xs[0]]
    return {node.out: (batch, seq, sum(shapes[name][2] for name in node.xs))}


def _split_qkv(node: SplitQkv, shapes: Shapes, weights: Mapping[str, Shape], dims: Dims) -> Shapes:
    batch, seq, width = shapes[node.qkv]
    assert width == (dims.heads + 2 * dims.kv_heads) * dims.head_dim, f"{node.qkv} is not q|k|v"
    kv = (batch, dims.kv_heads, seq, dims.head_dim)
    return {node.q: (batch, dims.heads, seq, dims.head_dim), node.k: kv, node.v: kv}


def _rope(node: Rope, shapes: Shapes, weights: Mapping[str, Shape], dims: Dims) -> Shapes:
    return {node.out: shapes[node.x]}


def _rope_qk(node: RopeQk, shapes: Shapes, weights: Mapping[str, Shape], dims: Dims) -> Shapes:
    return {node.q_out: shapes[node.q], node.k_out: shapes[node.k]}


def _attention(node: Attention, shapes: Shapes, weights: Mapping[str, Shape], dims: Dims) -> Shapes:
    batch, heads, seq, head_dim = shapes[node.q]
    assert shapes[node.k] == shapes[node.v], f"{node.k} and {node.v} differ in shape"
    return {node.out: (batch, seq, heads * head_dim)}


def _gated(node: Gated, shapes: Shapes, weights: Mapping[str, Shape], dims: Dims) -> Shapes:
    assert shapes[node.gate] == shapes[node.up], f"{node.gate} and {node.up} differ in shape"
    return {node.out: shapes[node.gate]}


def _add(node: Add, shapes: Shapes, weights: Mapping[str, Shape], dims: Dims) -> Shapes:
    assert shapes[node.a] == shapes[node.b], f"{node.a} and {node.b} differ in shape"
    return {node.out: shapes[node.a]}


def _same(
    node: Activate | Multiply | Softcap,
    shapes: Shapes,
    weights: Mapping[str, Shape],
    dims: Dims,
) -> Shapes:
    return {node.out: shapes[node.x]}


def _repeat(node: Repeat, shapes: Shapes, weights: Mapping[str, Shape], dims: Dims) -> Shapes:
    return {node.out: shapes[node.x]}


# The values take one node type each; Callable is contravariant, so the table is typed loosely.
_RULES: Mapping[type[Node], Callable[[Any, Shapes, Mapping[str, Shape], Dims], Shapes]] = {
    Embedding: _embedding,
    RmsNorm: _norm,
    LayerNorm: _norm,
    ScaleHeads: _scale_heads,
    Linear: _linear,
    Concat: _concat,
    SplitQkv: _split_qkv,
    Rope: _rope,
    RopeQk: _rope_qk,
    Attention: _attention,
    Gated: _gated,
    Activate: _same,
    Add: _add,
    Multiply: _same,
    Softcap: _same,
    Repeat: _repeat,
}
