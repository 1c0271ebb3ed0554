"""The graph passes, in the order they run. Each is a function Graph -> Graph."""

from collections.abc import Callable
from types import MappingProxyType

from ttc.graph.check import check_model
from ttc.graph.graph import Graph, ModelGraph
from ttc.graph.passes.centre_heads import centre_heads
from ttc.graph.passes.fuse_qkv import fuse_qkv
from ttc.graph.passes.pair_rope import pair_rope
from ttc.graph.passes.scale_sum import scale_sum

PASSES: tuple[Callable[[Graph], Graph], ...] = (centre_heads, fuse_qkv, pair_rope, scale_sum)


def run_passes(graph: ModelGraph) -> ModelGraph:
    """Apply every pass to the model and to its decoders, checking the result of each."""
    for run in PASSES:
        decoders = {kind: run(decoder) for kind, decoder in graph.decoders.items()}
        graph = ModelGraph(model=run(graph.model), decoders=MappingProxyType(decoders))
        check_model(graph)
    return graph
