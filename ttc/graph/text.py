"""The text form of graphs: what --dump writes and tests compare."""

from ttc.graph.graph import Graph, ModelGraph
from ttc.graph.nodes import Node


def graph_text(graph: Graph) -> str:
    """One line per operation, in execution order.

    graph decoder(x) -> out
      attn_in = RmsNorm(x, weight=attn_norm, epsilon=1e-05)      architectures/llama.yaml:34
    """
    lines = [_line(node) for node in graph.nodes]
    width = max((len(line) for line in lines), default=0)
    header = f"graph {graph.name}({', '.join(graph.inputs)}) -> {', '.join(graph.outputs)}"
    body = [
        f"  {line:<{width}}  # {node.at.path}:{node.at.line}"
        for line, node in zip(lines, graph.nodes, strict=True)
    ]
    return "\n".join([header, *body]) + "\n"


def model_text(graph: ModelGraph) -> str:
    """The model graph, then the decoder graphs that it repeats."""
    return "\n".join(map(graph_text, (graph.model, *graph.decoders.values())))


def _line(node: Node) -> str:
    arguments = list(node.reads)
    if node.reads_weights:
        arguments.append("weight=" + "|".join(node.reads_weights))
    arguments += [f"{name}={value}" for name, value in node.settings]
    return f"{', '.join(node.writes)} = {node.op}({', '.join(arguments)})"
