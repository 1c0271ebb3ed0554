"""fuse_qkv: one matmul for the three attention projections, and one split into heads."""

from ttc.errors import Source
from ttc.graph.graph import Graph
from ttc.graph.nodes import Attention, Concat, Linear, RmsNorm, Rope, ScaleHeads, SplitQkv


def fuse_qkv(graph: Graph) -> Graph:
    """Replace the q, k and v projections of each attention by one matmul and a split.

    before                                 after
      q = Linear(attn_in, weight=wq)         qkv     = Linear(attn_in, weight=wq|wk|wv)
      k = Linear(attn_in, weight=wk)         q, k, v = SplitQkv(qkv)
      v = Linear(attn_in, weight=wv)

    attn_in is then read once instead of three times. Rotations and norms of single heads come after
    the split. Where a norm reads all heads of a projection, the results are put side by side:

      q_normed = RmsNorm(q)                  qkv = Concat(q_normed, k_normed, v)
      k_normed = RmsNorm(k)                  q_heads, k_heads, v_heads = SplitQkv(qkv)

    Projections of different values, as in cross-attention, stay as they are.
    """
    for attention in graph.find(Attention):
        q, k, v = (_whole(graph, value) for value in attention.reads)
        found = [node for node in (_projection(graph, value) for value in (q, k, v)) if node]
        if len(found) < 3 or len({(node.x, bool(node.biases)) for node in found}) > 1:
            continue
        if any(node.out not in (q, k, v) for node in found):
            graph = _joined(graph, (q, k, v), found[0].at)
            continue
        fused = Linear(
            x=found[0].x,
            weights=tuple(name for node in found for name in node.weights),
            biases=tuple(name for node in found for name in node.biases),
            centred=tuple(name for node in found for name in node.centred),
            out=f"{q}{k}{v}",
            at=found[0].at,
        )
        split = SplitQkv(qkv=fused.out, q=q, k=k, v=v, at=fused.at)
        graph = graph.substitute(found, [fused, split])
    return graph


def _whole(graph: Graph, value: str) -> str:
    """The value of all heads behind an attention operand, before what is done to each head."""
    node = graph.producer(value)
    while isinstance(node, Rope | ScaleHeads) or (isinstance(node, RmsNorm) and node.per_head):
        value = node.x
        node = graph.producer(value)
    return value


def _projection(graph: Graph, value: str) -> Linear | None:
    """The Linear that a value of all heads comes from, looking through a norm."""
    node = graph.producer(value)
    while isinstance(node, RmsNorm):
        node = graph.producer(node.x)
    return node if isinstance(node, Linear) else None


def _joined(graph: Graph, values: tuple[str, str, str], at: Source) -> Graph:
    """The values side by side, then cut into heads that take the names q_heads and so on."""
    join = Concat(xs=values, out="qkv", at=at)
    split = SplitQkv(qkv=join.out, q="q_heads", k="k_heads", v="v_heads", at=at)
    heads = dict(zip(values, split.writes, strict=True))
    readers = [node for node in graph.nodes if heads.keys() & set(node.reads)]
    renamed = [node.reading(heads) for node in readers]
    return graph.substitute(readers, [*renamed, join, split])
