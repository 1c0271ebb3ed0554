"""scale_sum: a factor of a sum's second operand becomes part of the sum."""

from dataclasses import replace

from ttc.graph.graph import Graph
from ttc.graph.nodes import Add, Multiply


def scale_sum(graph: Graph) -> Graph:
    """Fold a product that only a sum reads into the sum.

    before                        after
      m = Multiply(y, factor=f)     out = Add(x, y, scale=f)
      out = Add(x, m)

    One operation less on the device; what is multiplied is not rounded before it is added.
    """
    for add in graph.find(Add):
        scaled = graph.producer(add.b)
        if not isinstance(scaled, Multiply) or graph.consumers(scaled.out) != (add,):
            continue
        both = replace(add, b=scaled.x, scale=add.scale * scaled.factor)
        graph = graph.substitute([scaled, add], [both])
    return graph
