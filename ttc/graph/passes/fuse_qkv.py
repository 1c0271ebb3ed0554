"""fuse_qkv: one matmul for the three attention projections."""

from ttc.graph.graph import Graph
from ttc.graph.nodes import Attention, Linear, Rope, SplitQkv


def fuse_qkv(graph: Graph) -> Graph:
    """Replace the q, k and v projections of each attention by one matmul and a split.

    before                                 after
      q = Linear(attn_in, weight=wq)         qkv     = Linear(attn_in, weight=wq|wk|wv)
      k = Linear(attn_in, weight=wk)         q, k, v = SplitQkv(qkv)
      v = Linear(attn_in, weight=wv)

    attn_in is then read once instead of three times. Projections that read different values, as
    in cross-attention, stay as they are.
    """
    for attention in graph.find(Attention):
        projections = [_projection(graph, value) for value in attention.reads]
        found = [node for node in projections if node is not None]
        if len(found) < 3 or len({node.x for node in found}) > 1:
            continue
        q, k, v = found
        fused = Linear(
            x=q.x,
            weights=q.weights + k.weights + v.weights,
            out=f"{q.out}{k.out}{v.out}",
            at=q.at,
        )
        split = SplitQkv(qkv=fused.out, q=q.out, k=k.out, v=v.out, at=q.at)
        graph = graph.substitute(found, [fused, split])
    return graph


def _projection(graph: Graph, value: str) -> Linear | None:
    """The Linear behind an attention operand, looking through its rotation."""
    node = graph.producer(value)
    while isinstance(node, Rope):
        node = graph.producer(node.x)
    return node if isinstance(node, Linear) else None
