"""centre_heads: the layer norm of each head as an RMS norm."""

from dataclasses import replace

from ttc.graph.graph import Graph
from ttc.graph.nodes import LayerNorm, Linear, RmsNorm


def centre_heads(graph: Graph) -> Graph:
    """Take the mean of each head out of the rows of its projection.

    before                                after
      q = Linear(x, weight=wq)              q = Linear(x, weight=wq, centred=wq)
      n = LayerNorm(q), by head             n = RmsNorm(q), by head

    A mean over a head is a sum of rows, so that rows without their mean give heads without theirs.
    One pass over x is saved, and a head may be padded: zeros do not change a sum of squares, but
    would have to be left out of a mean. Architectures were checked to read such a linear once.
    """
    for norm in graph.find(LayerNorm):
        if not norm.per_head:
            continue
        source = graph.producer(norm.x)
        assert isinstance(source, Linear), f"{norm.x} was checked to come from a linear"
        centred = replace(source, centred=source.weights)
        instead = RmsNorm(
            x=norm.x,
            weight=norm.weight,
            epsilon=norm.epsilon,
            per_head=True,
            out=norm.out,
            at=norm.at,
        )
        graph = graph.substitute([source], [centred])
        graph = graph.substitute([norm], [instead])
    return graph
