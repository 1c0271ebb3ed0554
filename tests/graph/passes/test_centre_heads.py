"""centre_heads: a layer norm of heads becomes an RMS norm of a centred projection."""

from dataclasses import replace
from pathlib import Path

import pytest

from ttc.graph.build import build_graph
from ttc.graph.check import check_graph
from ttc.graph.graph import Graph
from ttc.graph.nodes import LayerNorm, Linear, RmsNorm, ScaleHeads, SplitQkv
from ttc.graph.passes import run_passes
from ttc.graph.passes.centre_heads import centre_heads
from ttc.spec.model import ModelSpec, load_model

pytestmark = pytest.mark.fast


@pytest.fixture
def spec(tmp_path: Path, tiny_spec: Path) -> ModelSpec:
    text = tiny_spec.read_text().replace("architecture: llama", "architecture: stablelm")
    path = tmp_path / "tiny.yaml"
    path.write_text(f"{text}options: {{qk_layernorm: true}}\n")
    return load_model(path)


@pytest.fixture
def graph(spec: ModelSpec) -> Graph:
    return build_graph(spec).decoders[""]


def test_a_norm_with_a_row_for_each_head_is_two_operations(graph: Graph) -> None:
    scale = next(graph.find(ScaleHeads))
    norm = graph.producer(scale.x)
    assert isinstance(norm, LayerNorm)
    assert (norm.weight, norm.per_head, norm.reads_weights) == ("", True, ())
    assert (scale.weight, scale.out) == ("q_norm", "q_normed")


def test_projections_are_centred(graph: Graph) -> None:
    centred = centre_heads(graph)
    check_graph(centred)
    assert [norm.out for norm in centred.find(LayerNorm)] == ["attn_in", "mlp_in"]
    assert [norm.per_head for norm in centred.find(RmsNorm)] == [True, True]
    by_out = {node.out: node.centred for node in centred.find(Linear) if node.centred}
    assert by_out == {"q": ("wq",), "k": ("wk",)}
    assert centre_heads(centred) == centred


def test_norms_of_other_widths_stay(graph: Graph) -> None:
    norm = next(graph.find(LayerNorm))
    plain = graph.substitute(
        [node for node in graph.find(LayerNorm) if node.per_head],
        [replace(node, per_head=False) for node in graph.find(LayerNorm) if node.per_head],
    )
    assert not norm.per_head
    assert centre_heads(plain) == plain


def test_all_three_projections_are_still_one(spec: ModelSpec) -> None:
    decoder = run_passes(build_graph(spec)).decoders[""]
    (split,) = decoder.find(SplitQkv)
    linear = decoder.producer(split.qkv)
    assert isinstance(linear, Linear)
    assert (linear.weights, linear.centred) == (("wq", "wk", "wv"), ("wq", "wk"))
