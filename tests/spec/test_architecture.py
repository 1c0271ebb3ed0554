from pathlib import Path

import pytest

from ttc.errors import SpecError, UsageError
from ttc.spec.architecture import load_architecture

pytestmark = pytest.mark.fast


def test_llama() -> None:
    llama = load_architecture("llama")
    assert (llama.name, llama.hf_classes) == ("llama", ("LlamaForCausalLM",))
    assert llama.file == "architectures/llama.yaml"
    assert llama.at.line == 4
    assert llama.prefixes["gguf"] == "blk.{i}."
    wq = llama.weight("wq")
    assert wq.shape == (("heads", "head_dim"), ("hidden",))
    assert (wq.hf, wq.meta, wq.gguf) == (
        "self_attn.q_proj.weight",
        "attention.wq.weight",
        "attn_q.weight",
    )
    assert (wq.group, wq.rotary, llama.weight("wv").rotary) == ("wqkv", ("heads",), None)
    assert [each.name for each in llama.weights] == ["embed", "final_norm", "lm_head"]


def test_steps_keep_names_operands_settings_and_places() -> None:
    llama = load_architecture("llama")
    attention = next(step for step in llama.decoder if step.op == "attention")
    assert (attention.result, attention.operands) == ("attn", ("q_rot", "k_rot", "v"))
    assert attention.setting("mask") == "causal"
    assert attention.setting("window") is None
    assert attention.at.path.endswith("architectures/llama.yaml")
    assert attention.at.text.strip().startswith("- attn:")
    repeat = llama.model[1]
    assert (repeat.op, repeat.operands) == ("repeat", ("decoder",))
    assert repeat.settings == (("times", "layers"), ("input", "x"))


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(UsageError, match=r"there is no architecture 'lama'(.|\n)*'llama'"):
        load_architecture("lama")


def test_an_architecture_beside_the_spec_comes_first(tmp_path: Path) -> None:
    text = Path(load_architecture("llama").at.path).read_text()
    (tmp_path / "llama.yaml").write_text(text.replace("activation: silu", "activation: selu"))
    with pytest.raises(SpecError, match="unknown activation 'selu'"):
        load_architecture(tmp_path / "llama.yaml")


def test_all_problems_of_a_file_come_together(tmp_path: Path) -> None:
    text = Path(load_architecture("llama").at.path).read_text()
    text = text.replace("{rope: q}", "{ropee: q}").replace("weight: lm_head", "weight: head")
    path = tmp_path / "llama.yaml"
    path.write_text(text.replace("hed_dim", "head_dim").replace("[ffn, hidden]", "[fn, hidden]"))
    with pytest.raises(SpecError) as raised:
        load_architecture(path)
    messages = [each.message for each in raised.value.problems]
    assert messages == [
        "unknown size 'fn'",
        "unknown size 'fn'",
        "unknown operation 'ropee'",
        "unknown weight 'head'",
    ]
