"""What models of one class may have or not."""

from pathlib import Path

import pytest

from ttc.graph.build import build_graph
from ttc.graph.nodes import Gated, Linear, Multiply, RmsNorm
from ttc.spec.architecture import load_architecture
from ttc.spec.model import ModelSpec, load_model
from ttc.spec.options import option_choices, with_options
from ttc.spec.steps import Condition

pytestmark = pytest.mark.fast


def spec(tmp_path: Path, tiny: Path, options: str) -> ModelSpec:
    path = tmp_path / "tiny.yaml"
    path.write_text(tiny.read_text() + f"options: {options}\n")
    return load_model(path)


def test_what_a_model_has_not_is_left_out(tiny_spec: Path) -> None:
    llama = load_architecture("llama")
    found = load_model(tiny_spec)
    assert found.options == {"attention_bias": False, "mlp_bias": False, "activation": "silu"}
    gone = {each.name for each in found.architecture.left_out}
    assert gone == {"bq", "bk", "bv", "bo", "b_gate", "b_up", "b_down"}
    kept = {each.name for each in found.architecture.decoder_weights}
    assert kept == {each.name for each in llama.decoder_weights} - gone
    assert all(step.setting("bias") is None for step in found.architecture.decoder)


def test_a_spec_turns_options_on(tmp_path: Path, tiny_spec: Path) -> None:
    found = spec(tmp_path, tiny_spec, "{attention_bias: true, activation: gelu}")
    decoder = build_graph(found).decoders[""]
    biases = {node.out: node.biases for node in decoder.find(Linear)}
    assert (biases["q"], biases["attn_out"]) == (("bq",), ("bo",))
    assert (biases["gate"], biases["down"]) == ((), ())
    assert [node.activation for node in decoder.find(Gated)] == ["gelu"]


def test_a_bias_lies_beside_its_weight() -> None:
    llama = load_architecture("llama")
    bias, weight = llama.weight("bk"), llama.weight("wk")
    assert bias.shape == weight.shape[:1]
    assert bias.rotary == weight.rotary == ("kv_heads",)
    names = ("self_attn.k_proj.bias", "attention.wk.bias", "attn_k.bias")
    assert (bias.hf, bias.meta, bias.gguf) == names
    assert (bias.group, bias.only_if) == ("norms", Condition(option="attention_bias", value=True))


def test_a_step_without_its_weight_gives_its_first_operand(tmp_path: Path) -> None:
    path = tmp_path / "plain.yaml"
    text = Path(load_architecture("qwen3").at.path).read_text()
    text = text.replace("architecture: qwen3", "architecture: plain")
    text = text.replace("options: {", "options: {use_qk_norm: true, ")
    for name in ("q", "k"):
        declared = f"  {name}_norm: {{shape: [head_dim], "
        text = text.replace(declared, f"{declared}if: use_qk_norm, ")
    path.write_text(text)
    plain = load_architecture(path)
    assert plain.weight("q_norm").only_if == Condition(option="use_qk_norm", value=True)
    without = with_options(plain, {**plain.options, "use_qk_norm": False})
    operands = {step.result: step.operands for step in without.decoder}
    assert (operands["q_rot"], operands["k_rot"]) == (("q",), ("k",))
    assert "q_normed" not in operands


def test_a_step_without_its_weight_gives_what_it_says_otherwise() -> None:
    stablelm = load_architecture("stablelm")
    assert stablelm.weight("ffn_norm").only_if == stablelm.weight("ffn_norm_bias").only_if
    for parallel, read in ((False, "mlp_in"), (True, "attn_in")):
        options = {**stablelm.options, "use_parallel_residual": parallel}
        found = with_options(stablelm, options)
        operands = {step.result: step.operands for step in found.decoder}
        assert operands["gate"] == operands["up"] == (read,)
        assert ("ffn_norm" in {each.name for each in found.left_out}) == parallel


def test_what_only_steps_read_that_are_left_out_is_left_out(
    tmp_path: Path, tiny_spec: Path
) -> None:
    text = Path(load_architecture("llama").at.path).read_text()
    text = text.replace("architecture: llama", "architecture: plain")
    text = text.replace("options: {", "options: {two_norms: false, ")
    norm = "  ffn_norm: {shape: [hidden], "
    assert norm in text
    text = text.replace(norm, f"{norm}if: two_norms, ")
    step = "- mlp_in:   {rms_norm: h, weight: ffn_norm}"
    assert step in text
    instead = "- other: {multiply: h, by: 2}"
    text = text.replace(step, f"{instead}\n  {step.removesuffix('}')}, otherwise: other}}")
    (tmp_path / "architectures").mkdir()
    (tmp_path / "architectures" / "plain.yaml").write_text(text)
    (tmp_path / "specs").mkdir()
    path = tmp_path / "specs" / "tiny.yaml"
    for two, results in (("true", False), ("false", True)):
        spec_text = tiny_spec.read_text().replace("architecture: llama", "architecture: plain")
        path.write_text(f"{spec_text}options: {{two_norms: {two}}}\n")
        decoder = build_graph(load_model(path)).decoders[""]
        assert len(list(decoder.find(Multiply))) == results
        assert len(list(decoder.find(RmsNorm))) == 2 - results


def test_choices() -> None:
    llama = load_architecture("llama")
    assert option_choices(llama, "mlp_bias") == (True, False)
    assert option_choices(llama, "activation") == ("silu", "gelu", "gelu_tanh", "relu")
