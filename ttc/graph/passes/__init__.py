"""The graph passes, in the order they run. Each is a function Graph -> Graph."""

from collections.abc import Callable

from ttc.graph.check import check_model
from ttc.graph.graph import Graph, ModelGraph
from ttc.graph.passes.fuse_qkv import fuse_qkv
from ttc.graph.passes.pair_rope import pair_rope

PASSES: tuple[Callable[[Graph], Graph], ...] = (fuse_qkv, pair_rope)


def run_passes(graph: ModelGraph) -> ModelGraph:
    """Apply every pass to the model and to its decoder, checking the result of each."""
    for run in PASSES:
        graph = ModelGraph(model=run(graph.model), decoder=run(graph.decoder))
        check_model(graph)
    return graph
