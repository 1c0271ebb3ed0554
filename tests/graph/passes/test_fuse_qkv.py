"""fuse_qkv and pair_rope on the graphs they are for, and on those they must leave alone."""

from dataclasses import replace
from pathlib import Path

import pytest

from ttc.graph.build import build_graph
from ttc.graph.check import check_graph
from ttc.graph.graph import Graph
from ttc.graph.nodes import Attention, Linear, Rope, RopeQk, SplitQkv
from ttc.graph.passes.fuse_qkv import fuse_qkv
from ttc.graph.passes.pair_rope import pair_rope
from ttc.spec.model import load_model

pytestmark = pytest.mark.fast


@pytest.fixture
def graph(tiny_spec: Path) -> Graph:
    return build_graph(load_model(tiny_spec)).decoders[""]


def test_three_projections_become_one(graph: Graph) -> None:
    fused = fuse_qkv(graph)
    check_graph(fused)
    (split,) = fused.find(SplitQkv)
    linear = fused.producer(split.qkv)
    assert isinstance(linear, Linear)
    assert linear.weights == ("wq", "wk", "wv")
    assert split.writes == ("q", "k", "v")
    assert len(fused.nodes) == len(graph.nodes) - 1


def test_fusing_twice_changes_nothing(graph: Graph) -> None:
    assert fuse_qkv(fuse_qkv(graph)) == fuse_qkv(graph)


def test_projections_of_different_values_stay(graph: Graph) -> None:
    """Cross-attention: k and v read another value than q."""
    attention = next(graph.find(Attention))
    v = graph.producer(attention.v)
    assert isinstance(v, Linear)
    other = replace(graph, inputs=(*graph.inputs, "image"))
    other = other.substitute([v], [replace(v, x="image")])
    assert fuse_qkv(other) == other


def test_a_cached_operand_stays(graph: Graph) -> None:
    attention = next(graph.find(Attention))
    v = graph.producer(attention.v)
    assert v is not None
    cached = replace(
        graph, inputs=(*graph.inputs, "v"), nodes=tuple(n for n in graph.nodes if n is not v)
    )
    assert fuse_qkv(cached) == cached


def test_two_rotations_become_one(graph: Graph) -> None:
    paired = pair_rope(fuse_qkv(graph))
    check_graph(paired)
    (pair,) = paired.find(RopeQk)
    assert pair.reads == ("q", "k")
    assert pair.writes == ("q_rot", "k_rot")
    assert not list(paired.find(Rope))
    assert pair_rope(paired) == paired


def test_a_single_rotation_stays(graph: Graph) -> None:
    attention = next(graph.find(Attention))
    rope = graph.producer(attention.k)
    assert isinstance(rope, Rope)
    one = graph.substitute([rope, attention], [replace(attention, k=rope.x)])
    assert pair_rope(one) == one
