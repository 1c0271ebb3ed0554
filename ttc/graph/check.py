"""What a legal graph is. Runs after build and after every pass."""

from ttc.graph.graph import Graph, ModelGraph


def check_graph(graph: Graph) -> None:
    """Assert that every value is written once, before it is read, and that nothing is unused.

    A graph that breaks this came out of a wrong pass: the user's mistakes were refused when the
    architecture was read.
    """
    written = set(graph.inputs)
    for node in graph.nodes:
        missing = [name for name in node.reads if name not in written]
        assert not missing, f"{graph.name}: {node.op} reads {missing[0]} before it is written"
        for name in node.writes:
            assert name not in written, f"{graph.name}: {name} is written twice"
            written.add(name)
    for name in graph.outputs:
        assert name in written, f"{graph.name}: output {name} is never written"
    read = {name for node in graph.nodes for name in node.reads}
    for node in graph.nodes:
        for name in node.writes:
            assert name in read or name in graph.outputs, f"{graph.name}: {name} is never read"


def check_model(graph: ModelGraph) -> None:
    """Assert that all graphs are legal and that each decoder makes one value of one value."""
    check_graph(graph.model)
    for decoder in graph.decoders.values():
        check_graph(decoder)
        assert len(decoder.inputs) == len(decoder.outputs) == 1, "a decoder maps x to x"
