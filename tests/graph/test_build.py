"""Specs become graphs: golden text, shapes, and a check that refuses illegal graphs."""

from dataclasses import replace
from pathlib import Path

import networkx as nx
import pytest

from ttc.graph.build import build_graph
from ttc.graph.check import check_graph
from ttc.graph.graph import Graph
from ttc.graph.nodes import Add, Linear
from ttc.graph.passes import run_passes
from ttc.graph.shapes import infer_shapes
from ttc.graph.text import model_text
from ttc.spec.model import load_model

pytestmark = pytest.mark.fast
GOLDEN = Path(__file__).parent / "golden"


def test_graph_before_passes(tiny_spec: Path, golden) -> None:
    golden(GOLDEN / "tiny-built.txt", model_text(build_graph(load_model(tiny_spec))))


def test_graph_after_passes(tiny_spec: Path, golden) -> None:
    golden(GOLDEN / "tiny.txt", model_text(run_passes(build_graph(load_model(tiny_spec)))))


def test_shapes_of_a_decoder(tiny_spec: Path) -> None:
    spec = load_model(tiny_spec)
    graph = run_passes(build_graph(spec)).decoders[""]
    weights = {
        weight.name: tuple(spec.dims.product(size) for size in weight.shape)
        for weight in spec.architecture.decoder_weights
    }
    shapes = infer_shapes(graph, dims=spec.dims, weights=weights, inputs={"x": (3, 7, 128)})
    assert shapes["qkv"] == (3, 7, 256)
    assert shapes["k_rot"] == (3, 2, 7, 32)
    assert shapes["attn"] == (3, 7, 128)
    assert shapes["gate"] == (3, 7, 256)
    assert shapes["out"] == (3, 7, 128)


def test_shapes_that_do_not_fit_are_refused(tiny_spec: Path) -> None:
    spec = load_model(tiny_spec)
    graph = build_graph(spec).decoders[""]
    weights = {w.name: (64, 64) for w in spec.architecture.decoder_weights}
    weights |= {"attn_norm": (128,), "ffn_norm": (128,)}
    with pytest.raises(AssertionError, match="wq reads 64 columns, not 128"):
        infer_shapes(graph, dims=spec.dims, weights=weights, inputs={"x": (1, 1, 128)})


def decoder(spec_path: Path) -> Graph:
    return build_graph(load_model(spec_path)).decoders[""]


def test_check_refuses_a_value_read_before_it_is_written(tiny_spec: Path) -> None:
    graph = decoder(tiny_spec)
    with pytest.raises(AssertionError, match="reads attn_in before it is written"):
        check_graph(replace(graph, nodes=graph.nodes[1:]))


def test_check_refuses_a_value_written_twice(tiny_spec: Path) -> None:
    graph = decoder(tiny_spec)
    with pytest.raises(AssertionError, match="attn_in is written twice"):
        check_graph(replace(graph, nodes=(graph.nodes[0], *graph.nodes)))


def test_check_refuses_a_value_that_nothing_reads(tiny_spec: Path) -> None:
    graph = decoder(tiny_spec)
    linear = next(graph.find(Linear))
    with pytest.raises(AssertionError, match="extra is never read"):
        check_graph(replace(graph, nodes=(*graph.nodes, replace(linear, out="extra"))))


def test_check_refuses_an_output_that_nothing_writes(tiny_spec: Path) -> None:
    with pytest.raises(AssertionError, match="output nowhere is never written"):
        check_graph(replace(decoder(tiny_spec), outputs=("nowhere",)))


def test_substitute_puts_nodes_into_execution_order(tiny_spec: Path) -> None:
    graph = decoder(tiny_spec)
    last = graph.nodes[-1]
    assert isinstance(last, Add)
    twice = Add(a=last.out, b="h", out="twice", at=last.at)
    changed = replace(graph, outputs=("twice",)).substitute([last], [twice, last])
    check_graph(changed)
    assert changed.nodes[-1] == twice


def test_dependencies_are_a_networkx_graph(tiny_spec: Path) -> None:
    graph = decoder(tiny_spec).dependencies()
    assert nx.is_directed_acyclic_graph(graph)
    assert nx.has_path(graph, "value:x", "value:out")
