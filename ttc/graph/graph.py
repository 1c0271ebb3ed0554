"""Graph: the operations of a decoder or of a whole model, in execution order."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from ttc.graph.nodes import Node

if TYPE_CHECKING:
    import networkx as nx

    DiGraph = nx.DiGraph[str]

N = TypeVar("N", bound=Node)


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """Nodes in a legal execution order, with the names of what goes in and what comes out.

    The tuple is the truth; `dependencies` gives the same graph as a networkx DiGraph for
    questions about order, cycles and pictures. Passes return new graphs.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]

    def find(self, kind: type[N]) -> Iterator[N]:
        """The nodes of one kind, in order."""
        return (node for node in self.nodes if isinstance(node, kind))

    def producer(self, value: str) -> Node | None:
        """The node that writes a value, or None for an input of the graph."""
        return next((node for node in self.nodes if value in node.writes), None)

    def consumers(self, value: str) -> tuple[Node, ...]:
        """The nodes that read a value, in order."""
        return tuple(node for node in self.nodes if value in node.reads)

    def dependencies(self) -> "DiGraph":
        """A DiGraph of value names and operations.

        Nodes are `value:x` and `op:i` (i counts in execution order, with the attribute `node`);
        edges run from what is read to the operation, and from the operation to what it writes.
        """
        import networkx as nx  # takes half a second, which planning need not pay

        graph: DiGraph = nx.DiGraph(name=self.name)
        graph.add_nodes_from(f"value:{name}" for name in self.inputs)
        for i, node in enumerate(self.nodes):
            graph.add_node(f"op:{i}", node=node)
            graph.add_edges_from((f"value:{name}", f"op:{i}") for name in node.reads)
            graph.add_edges_from((f"op:{i}", f"value:{name}") for name in node.writes)
        return graph

    def substitute(self, old: Sequence[Node], new: Sequence[Node]) -> "Graph":
        """This graph with the nodes `old` replaced by `new`, put back into execution order."""
        first = min(self.nodes.index(node) for node in old)
        kept = [node for node in self.nodes if node not in old]
        before = [node for node in self.nodes[:first] if node not in old]
        nodes = (*before, *new, *kept[len(before) :])
        changed = Graph(name=self.name, inputs=self.inputs, outputs=self.outputs, nodes=nodes)
        return changed.in_order()

    def is_ordered(self) -> bool:
        """Whether each value is written before it is read."""
        written = set(self.inputs)
        for node in self.nodes:
            if not written.issuperset(node.reads):
                return False
            written.update(node.writes)
        return True

    def in_order(self) -> "Graph":
        """This graph with its nodes sorted so that each value is written before it is read.

        Nodes keep their order where the dependencies allow it.
        """
        if self.is_ordered():
            return self
        import networkx as nx

        graph = self.dependencies()
        names = nx.lexicographical_topological_sort(graph, key=_place)
        nodes = tuple(self.nodes[int(name[3:])] for name in names if name.startswith("op:"))
        return Graph(name=self.name, inputs=self.inputs, outputs=self.outputs, nodes=nodes)


def _place(name: str) -> int:
    """Where an operation stood before; values sort before all operations."""
    kind, _, number = name.partition(":")
    return int(number) if kind == "op" else -1


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelGraph:
    """A whole model: what happens once, and the decoders that its Repeat node applies.

    `decoders` has one graph for each kind of decoder; its key is "" where all are of one kind.
    """

    model: Graph
    decoders: Mapping[str, Graph]
