"""What models of one class may have or not."""

from pathlib import Path

import pytest

from ttc.graph.build import build_graph
from ttc.graph.nodes import Gated, Linear
from ttc.spec.architecture import load_architecture
from ttc.spec.model import ModelSpec, load_model
from ttc.spec.options import option_choices, with_options

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
    assert (bias.group, bias.option) == ("norms", "attention_bias")


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
    assert plain.weight("q_norm").option == "use_qk_norm"
    without = with_options(plain, {**plain.options, "use_qk_norm": False})
    operands = {step.result: step.operands for step in without.decoder}
    assert (operands["q_rot"], operands["k_rot"]) == (("q",), ("k",))
    assert "q_normed" not in operands


def test_choices() -> None:
    llama = load_architecture("llama")
    assert option_choices(llama, "mlp_bias") == (True, False)
    assert option_choices(llama, "activation") == ("silu", "gelu", "gelu_tanh", "relu")
