"""The transformers model of a checkpoint, whichever way its configuration is written."""

# pyright: reportUnknownMemberType=false

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from random_models import SIZES, make_checkpoint

from ttc.checkpoint.files import open_checkpoint
from ttc.new import new_spec
from ttc.spec.model import load_model
from ttc.verify.reference import build_reference

pytestmark = pytest.mark.emulate

TOKENS = torch.arange(3, 40)[None]


def reference(folder: Path) -> Any:
    spec = load_model(new_spec(str(folder), out=folder.parent / "specs" / "random.yaml").spec)
    return build_reference(spec, open_checkpoint(str(folder)))


def test_rope_parameters_of_transformers_5(tmp_path: Path) -> None:
    scaling = {"rope_type": "linear", "factor": 4.0}
    changes = {"rope_scaling": scaling, "rope_theta": 500.0}
    model = make_checkpoint(tmp_path / "checkpoint", "LlamaForCausalLM", changes)
    path = tmp_path / "checkpoint" / "config.json"
    fields = json.loads(path.read_text())
    theta = fields.pop("rope_theta")
    fields["rope_parameters"] = {**fields.pop("rope_scaling"), "rope_theta": theta}
    path.write_text(json.dumps(fields))
    with torch.no_grad():
        logits = reference(path.parent)(TOKENS).logits
        torch.testing.assert_close(logits, model(TOKENS).logits)


def test_the_text_model_of_one_with_vision(tmp_path: Path) -> None:
    known = transformers.Gemma3TextConfig().to_dict()
    text = {name: value for name, value in SIZES.items() if name in known}
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    config = transformers.Gemma3Config(
        text_config=text | {"tie_word_embeddings": True},
        vision_config=vision,
        mm_tokens_per_image=4,
    )
    model = transformers.Gemma3ForConditionalGeneration(config).eval()
    model.save_pretrained(tmp_path / "checkpoint")
    with torch.no_grad():
        logits = reference(tmp_path / "checkpoint")(TOKENS).logits
        expected = model(input_ids=TOKENS).logits
    assert torch.corrcoef(torch.stack((logits.flatten(), expected.flatten())))[0, 1] > 0.99999
