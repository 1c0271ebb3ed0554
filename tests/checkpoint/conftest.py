"""A model of two small decoders, as a spec and as checkpoint files made on the spot."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ttc.spec.model import ModelSpec, load_model

SPEC = """\
model: example/tiny
architecture: llama
dims: {hidden: 64, layers: 2, heads: 4, kv_heads: 2, head_dim: 16, ffn: 96, vocab: 128}
norm_eps: 1.0e-5
rope: {kind: none, theta: 10000}
tie_embeddings: false
max_context_tokens: 256
"""
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "eos_token_id": 2,
}
MODEL_SHAPES = {
    "model.embed_tokens.weight": (128, 64),
    "model.norm.weight": (64,),
    "lm_head.weight": (128, 64),
}
DECODER_SHAPES = {
    "input_layernorm.weight": (64,),
    "self_attn.q_proj.weight": (64, 64),
    "self_attn.k_proj.weight": (32, 64),
    "self_attn.v_proj.weight": (32, 64),
    "self_attn.o_proj.weight": (64, 64),
    "post_attention_layernorm.weight": (64,),
    "mlp.gate_proj.weight": (96, 64),
    "mlp.up_proj.weight": (96, 64),
    "mlp.down_proj.weight": (64, 96),
}

type Tensors = dict[str, "np.ndarray[Any, Any]"]


@pytest.fixture
def make_spec(tmp_path: Path) -> Callable[..., ModelSpec]:
    """A function that loads the tiny spec with some of its text replaced."""

    def make(**replacements: str) -> ModelSpec:
        text = SPEC
        for old, new in replacements.items():
            line = next(line for line in text.splitlines() if line.startswith(old))
            text = text.replace(line, f"{old}: {new}")
        path = tmp_path / "tiny.yaml"
        path.write_text(text)
        return load_model(path)

    return make


@pytest.fixture
def tiny_spec(make_spec: Callable[..., ModelSpec]) -> ModelSpec:
    return make_spec()


@pytest.fixture
def tiny_tensors() -> Tensors:
    """Random float32 weights under Hugging Face's names."""
    random = np.random.default_rng(7)
    shapes = MODEL_SHAPES | {
        f"model.layers.{i}.{name}": shape
        for i in range(2)
        for name, shape in DECODER_SHAPES.items()
    }
    return {name: random.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


@pytest.fixture
def tiny_folder(tmp_path: Path, tiny_tensors: Tensors) -> Path:
    """A folder with config.json and one safetensors file."""
    return write_folder(tmp_path / "tiny", tiny_tensors)


def write_folder(folder: Path, tensors: Tensors, shards: int = 1, **config: Any) -> Path:
    """A checkpoint folder in Hugging Face's layout, in one file or in shards with an index."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return folder
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for number in range(shards):
        shard = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        mine = names[number::shards]
        save_file({name: tensors[name] for name in mine}, folder / shard)
        weight_map |= dict.fromkeys(mine, shard)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(name="write_folder")
def write_folder_fixture() -> Callable[..., Path]:
    return write_folder
