"""pair_rope: one operation for the rotation of an attention's q and k."""

from ttc.graph.graph import Graph
from ttc.graph.nodes import Attention, Rope, RopeQk


def pair_rope(graph: Graph) -> Graph:
    """Replace the two rotations in front of an attention by one that does both.

    before                    after
      q_rot = Rope(q)           q_rot, k_rot = RopeQk(q, k)
      k_rot = Rope(k)

    The planner then decides in one place how the pair is carried out. An attention with only one
    rotated operand, or none, stays as it is.
    """
    for attention in graph.find(Attention):
        q = graph.producer(attention.q)
        k = graph.producer(attention.k)
        if not (isinstance(q, Rope) and isinstance(k, Rope)) or q is k or q.table != k.table:
            continue
        pair = RopeQk(q=q.x, k=k.x, table=q.table, q_out=q.out, k_out=k.out, at=q.at)
        graph = graph.substitute([q, k], [pair])
    return graph
