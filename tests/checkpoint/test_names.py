from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from ttc.checkpoint.files import open_checkpoint
from ttc.checkpoint.index import WeightSource
from ttc.checkpoint.names import BoundTensor, bind
from ttc.checkpoint.strips import stored_matrix
from ttc.errors import CheckpointError, Problem
from ttc.plan.placement import DRAM, TensorPlan
from ttc.plan.plan import WeightPart, WeightPlan
from ttc.spec.model import ModelSpec, load_model

pytestmark = pytest.mark.emulate

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture
def refused(
    tmp_path: Path, write_folder: Callable[..., Path]
) -> Callable[..., tuple[Problem, ...]]:
    """A function: the problems of binding a spec to a folder of the given tensors and config."""

    def problems(spec: ModelSpec, tensors: dict[str, Any], **config: Any) -> tuple[Problem, ...]:
        folder = write_folder(tmp_path / "checkpoint", tensors, **config)
        with pytest.raises(CheckpointError) as caught:
            bind(spec, open_checkpoint(str(folder)))
        return caught.value.problems

    return problems


def test_binds_every_weight(tiny_spec: ModelSpec, tiny_folder: Path) -> None:
    binding = bind(tiny_spec, open_checkpoint(str(tiny_folder)))
    assert len(binding.tensors) == 3 + 2 * 9
    assert binding.ignored == ()
    assert binding.tensors["decoders.1.wk"] == BoundTensor(
        name="model.layers.1.self_attn.k_proj.weight",
        shape=(32, 64),
        first=0,
        rows="halves",
        heads=2,
    )
    assert binding.tensors["decoders.0.wv"].heads == 0


def test_binds_the_packaged_file() -> None:
    spec = load_model("smollm2-135m-instruct")
    assert spec.weights is not None
    binding = bind(spec, open_checkpoint(spec.weights))
    assert len(binding.tensors) == 3 + 30 * 9
    assert binding.tensors["lm_head"] == binding.tensors["embed"]
    assert binding.tensors["decoders.29.wq"].heads == 9
    assert binding.tensors["decoders.29.wq"].rows == "pairs"


def test_missing_tensors_are_listed(
    tiny_spec: ModelSpec, tiny_tensors: dict[str, Any], refused: Callable[..., tuple[Problem, ...]]
) -> None:
    del tiny_tensors["model.layers.0.mlp.up_proj.weight"]
    del tiny_tensors["model.norm.weight"]
    (problem,) = refused(tiny_spec, tiny_tensors)
    assert problem.message == "2 tensors are missing from checkpoint"
    assert problem.details == (
        "final_norm: expected as 'model.norm.weight'",
        "decoders.0.w_up: expected as 'model.layers.0.mlp.up_proj.weight'",
    )


def test_missing_decoders_point_at_layers(
    tiny_tensors: dict[str, Any],
    make_spec: Callable[..., ModelSpec],
    refused: Callable[..., tuple[Problem, ...]],
) -> None:
    dims = "{hidden: 64, layers: 4, heads: 4, kv_heads: 2, head_dim: 16, ffn: 96, vocab: 128}"
    (problem,) = refused(make_spec(dims=dims), tiny_tensors, num_hidden_layers=4)
    assert problem.message == "18 tensors are missing from checkpoint"
    assert len(problem.details) == 11
    assert problem.details[-1] == "and 8 more"
    assert problem.help == "layers: 2 would fit this checkpoint"
    assert problem.at is not None
    assert (problem.at.line, problem.at.column) == (3, 28)


def test_unexpected_tensors_are_listed(
    tiny_spec: ModelSpec, tiny_tensors: dict[str, Any], refused: Callable[..., tuple[Problem, ...]]
) -> None:
    tiny_tensors["model.layers.0.self_attn.q_norm.weight"] = np.zeros(16, np.float32)
    (problem,) = refused(tiny_spec, tiny_tensors)
    assert problem.message == "1 tensor is unknown to architecture 'llama'"
    assert problem.details == ("'model.layers.0.self_attn.q_norm.weight' [16]",)


def test_misshapen_tensors_name_the_dim(
    tiny_spec: ModelSpec, tiny_tensors: dict[str, Any], refused: Callable[..., tuple[Problem, ...]]
) -> None:
    for i in range(2):
        name = f"model.layers.{i}.self_attn.k_proj.weight"
        tiny_tensors[name] = np.zeros((64, 64), np.float32)
    (problem,) = refused(tiny_spec, tiny_tensors)
    expected = "wk: expected [32, 64] = [kv_heads * head_dim, hidden], found [64, 64]"
    assert problem.message == expected
    assert problem.at is not None
    assert (problem.at.line, problem.at.column) == (3, 51)
    assert problem.details == ("in 'model.layers.0.self_attn.k_proj.weight' and 1 more",)
    assert problem.help == "kv_heads: 4 would fit it"


def test_wrong_number_of_dims(
    tiny_spec: ModelSpec, tiny_tensors: dict[str, Any], refused: Callable[..., tuple[Problem, ...]]
) -> None:
    tiny_tensors["model.norm.weight"] = np.zeros((64, 1), np.float32)
    (problem,) = refused(tiny_spec, tiny_tensors)
    assert problem.message == "final_norm: expected [64] = [hidden], found [64, 1]"


def test_a_dtype_that_cannot_be_read(
    tiny_spec: ModelSpec, tiny_tensors: dict[str, Any], refused: Callable[..., tuple[Problem, ...]]
) -> None:
    tiny_tensors["model.norm.weight"] = np.zeros(64, np.int8)
    (problem,) = refused(tiny_spec, tiny_tensors)
    assert problem.message == "1 tensor is of a kind that ttc cannot read"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_key_value_heads": 4}, "kv_heads is 2 in the spec, 4 in the checkpoint"),
        ({"num_hidden_layers": 3}, "layers is 2 in the spec, 3 in the checkpoint"),
        ({"head_dim": 32}, "head_dim is 16 in the spec, 32 in the checkpoint"),
        ({"rms_norm_eps": 1e-6}, "norm_eps is 1.0e-5 in the spec, 1.0e-6 in the checkpoint"),
        ({"rope_theta": 5e5}, "theta is 10000 in the spec, 500000 in the checkpoint"),
        (
            {"tie_word_embeddings": True},
            "tie_embeddings is false in the spec, true in the checkpoint",
        ),
        (
            {"rope_scaling": {"type": "linear", "factor": 4.0}},
            "kind is none in the spec, linear in the checkpoint",
        ),
        (
            {"rope_theta": 1e6, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
            "theta is 10000 in the spec, 1000000 in the checkpoint",
        ),
        (
            {"architectures": ["OtherForCausalLM"]},
            "the checkpoint is a OtherForCausalLM, the spec's architecture 'llama' is "
            "LlamaForCausalLM",
        ),
    ],
)
def test_a_config_that_differs(
    tiny_spec: ModelSpec,
    tiny_tensors: dict[str, Any],
    refused: Callable[..., tuple[Problem, ...]],
    config: dict[str, Any],
    message: str,
) -> None:
    (problem,) = refused(tiny_spec, tiny_tensors, **config)
    assert problem.message == message
    assert problem.at is not None
    assert problem.at.path.endswith("tiny.yaml")


def test_llama3_scaling_is_compared_field_by_field(
    tiny_tensors: dict[str, Any],
    make_spec: Callable[..., ModelSpec],
    refused: Callable[..., tuple[Problem, ...]],
    write_folder: Callable[..., Path],
    tmp_path: Path,
) -> None:
    rope = (
        "{kind: llama3, theta: 10000, factor: 8, low_freq_factor: 1, high_freq_factor: 4, "
        "original_context_tokens: 64}"
    )
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    spec = make_spec(rope=rope)
    folder = write_folder(tmp_path / "same", tiny_tensors, rope_scaling=scaling)
    assert bind(spec, open_checkpoint(str(folder))).tensors
    (problem,) = refused(spec, tiny_tensors, rope_scaling=scaling | {"factor": 32.0})
    assert problem.message == "factor is 8 in the spec, 32 in the checkpoint"
    (problem,) = refused(spec, tiny_tensors)
    assert problem.message == "kind is llama3 in the spec, none in the checkpoint"


def test_frequencies_of_old_uploads_are_ignored_and_reported(
    tiny_spec: ModelSpec,
    tiny_tensors: dict[str, Any],
    write_folder: Callable[..., Path],
    tmp_path: Path,
) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    tiny_tensors[name] = np.zeros(8, np.float32)
    folder = write_folder(tmp_path / "old", tiny_tensors)
    binding = bind(tiny_spec, open_checkpoint(str(folder)))
    assert binding.ignored == ((name, "RoPE frequencies, which follow from the spec"),)


def test_tied_head(
    tiny_tensors: dict[str, Any],
    make_spec: Callable[..., ModelSpec],
    refused: Callable[..., tuple[Problem, ...]],
    write_folder: Callable[..., Path],
    tmp_path: Path,
) -> None:
    spec = make_spec(tie_embeddings="true")
    (problem,) = refused(spec, tiny_tensors, tie_word_embeddings=True)
    assert problem.message == "'lm_head.weight' is not a copy of 'model.embed_tokens.weight'"
    tiny_tensors[HEAD] = tiny_tensors[EMBED].copy()
    folder = write_folder(tmp_path / "copy", tiny_tensors, tie_word_embeddings=True)
    binding = bind(spec, open_checkpoint(str(folder)))
    assert binding.tensors["lm_head"].name == EMBED
    assert [name for name, _ in binding.ignored] == [HEAD]
    del tiny_tensors[HEAD]
    folder = write_folder(tmp_path / "without", tiny_tensors, tie_word_embeddings=True)
    assert bind(spec, open_checkpoint(str(folder))).tensors["lm_head"].name == EMBED


def test_head_missing_from_an_untied_model(
    tiny_spec: ModelSpec, tiny_tensors: dict[str, Any], refused: Callable[..., tuple[Problem, ...]]
) -> None:
    del tiny_tensors[HEAD]
    (problem,) = refused(tiny_spec, tiny_tensors)
    assert problem.help == "if the head is the embedding, write tie_embeddings: true"


def test_a_checkpoint_without_config_is_compared_by_shapes(
    tiny_spec: ModelSpec, tiny_folder: Path
) -> None:
    (tiny_folder / "config.json").unlink()
    assert bind(tiny_spec, open_checkpoint(str(tiny_folder))).tensors


@pytest.mark.parametrize(("factor", "fits"), [(8.0, True), (4.0, False)])
def test_factors_of_a_gguf_file_are_compared(
    tmp_path: Path, make_spec: Callable[..., ModelSpec], factor: float, fits: bool
) -> None:
    rope = (
        f"{{kind: llama3, theta: 10000, factor: {factor}, low_freq_factor: 1, "
        "high_freq_factor: 4, original_context_tokens: 64}"
    )
    spec = make_spec(rope=rope)
    checkpoint = open_checkpoint(str(write_tiny_gguf(tmp_path / "tiny.gguf")))
    if fits:
        assert [name for name, _ in bind(spec, checkpoint).ignored] == ["rope_freqs.weight"]
        return
    with pytest.raises(CheckpointError, match="RoPE frequency 1 is"):
        bind(spec, checkpoint)


def write_tiny_gguf(path: Path) -> Path:
    """The tiny model as GGUF, with the factors of llama3 scaling by 8 within 64 tokens."""
    theta = 10000.0 ** (-np.arange(8) / 8)
    turns = 64 * theta / (2 * np.pi)
    blend = np.clip((turns - 1) / 3, 0, 1)
    factors = 1 / ((1 - blend) / 8 + blend)
    writer = gguf.GGUFWriter(path, "llama")
    for i in range(2):
        for name, shape in {
            "attn_norm": (64,), "attn_q": (64, 64), "attn_k": (32, 64), "attn_v": (32, 64),
            "attn_output": (64, 64), "ffn_norm": (64,), "ffn_gate": (96, 64), "ffn_up": (96, 64),
            "ffn_down": (64, 96),
        }.items():  # fmt: skip
            writer.add_tensor(f"blk.{i}.{name}.weight", np.zeros(shape, np.float32))
    writer.add_tensor("token_embd.weight", np.zeros((128, 64), np.float32))
    writer.add_tensor("output.weight", np.zeros((128, 64), np.float32))
    writer.add_tensor("output_norm.weight", np.zeros(64, np.float32))
    writer.add_tensor("rope_freqs.weight", factors.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def norms_of_heads(
    tiny_tensors: dict[str, Any], make_spec: Callable[..., ModelSpec]
) -> tuple[ModelSpec, dict[str, Any], dict[str, Any]]:
    """Spec, tensors and config of a model with a norm of each head, a tensor for each."""
    spec = make_spec(architecture="stablelm\noptions: {qk_layernorm: true}")
    ones = np.ones(64, np.float32)
    tensors = tiny_tensors | {"model.norm.bias": ones}
    for layer in ("model.layers.0.", "model.layers.1."):
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{layer}{name}.bias"] = ones
        for of, heads in (("q", 4), ("k", 2)):
            for head in range(heads):
                name = f"{layer}self_attn.{of}_layernorm.norms.{head}.weight"
                tensors[name] = np.arange(16, dtype=np.float32) + head
    config = {"architectures": ["StableLmForCausalLM"], "layer_norm_eps": 1e-5}
    return spec, tensors, config | {"partial_rotary_factor": 1.0, "qk_layernorm": True}


def test_rows_that_are_tensors(
    norms_of_heads: tuple[ModelSpec, dict[str, Any], dict[str, Any]],
    write_folder: Callable[..., Path],
    tmp_path: Path,
) -> None:
    spec, tensors, config = norms_of_heads
    folder = write_folder(tmp_path / "rows", tensors, **config)
    bound = bind(spec, open_checkpoint(str(folder))).tensors["decoders.1.k_norm"]
    name = "model.layers.1.self_attn.k_layernorm.norms.{row}.weight"
    assert (bound.name, bound.shape, bound.heads) == (name, (2, 16), 2)
    assert bound.tensors == (name.replace("{row}", "0"), name.replace("{row}", "1"))


def test_rows_that_are_tensors_and_wrong(
    norms_of_heads: tuple[ModelSpec, dict[str, Any], dict[str, Any]],
    refused: Callable[..., tuple[Problem, ...]],
    make_spec: Callable[..., ModelSpec],
) -> None:
    spec, tensors, config = norms_of_heads
    norms = "model.layers.1.self_attn.q_layernorm.norms"
    plain = make_spec(architecture="stablelm")
    (problem,) = refused(plain, tensors, **config | {"qk_layernorm": False})
    assert problem.message == "12 tensors are unknown to architecture 'stablelm'"
    assert problem.help == "models with qk_layernorm: true have them"
    lost = tensors.pop(f"{norms}.2.weight")
    (problem,) = refused(spec, tensors, **config)
    assert problem.details == (f"decoders.1.q_norm: expected as '{norms}.2.weight'",)
    (problem,) = refused(spec, tensors | {f"{norms}.2.weight": lost[:8]}, **config)
    assert problem.message == "q_norm: expected [4, 16] = [heads, head_dim], found [4, 8]"
    assert problem.details == (f"in '{norms}.{{row}}.weight'",)
    more = {f"{norms}.{head}.weight": lost for head in (2, 4)}
    (problem,) = refused(spec, tensors | more, **config)
    assert problem.details == (f"'{norms}.4.weight' [16]",)


def test_rows_in_one_tensor_of_a_gguf_file(
    norms_of_heads: tuple[ModelSpec, dict[str, Any], dict[str, Any]],
    write_folder: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """The same weights in both formats are stored as the same bytes, in the same rotary order."""
    spec, tensors, config = norms_of_heads
    folder = open_checkpoint(str(write_folder(tmp_path / "rows", tensors, **config)))
    binding = bind(spec, folder)
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "stablelm")
    sizes = {"embedding_length": 64, "attention.head_count": 4, "attention.head_count_kv": 2}
    for key, value in (sizes | {"block_count": 2, "rope.dimension_count": 16}).items():
        writer.add_uint32(f"stablelm.{key}", value)
    writer.add_bool("stablelm.use_parallel_residual", False)
    for canonical, bound in binding.tensors.items():
        place, _, name = canonical.rpartition(".")
        prefix = f"blk.{place.removeprefix('decoders.')}." if place else ""
        read = [folder.read(tensor) for tensor in bound.tensors]
        values = np.stack(read) if "{row}" in bound.name else read[0]
        writer.add_tensor(prefix + spec.architecture.weight(name).gguf, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = open_checkpoint(str(path))
    part = WeightPart(tensor="q_norm", rows="pairs", heads=4, rotary_dim=16, flat=True)
    plan = WeightPlan(
        name="q_norm",
        decoder=1,
        group="norms",
        parts=(part,),
        table=None,
        transpose=False,
        tensor=TensorPlan(shape=(1, 1, 4, 16), dtype="bf16", placement=DRAM),
    )
    both = [
        WeightSource(checkpoint=each, binding=bind(spec, each), chip="wormhole_b0")
        for each in (folder, file)
    ]
    stored, same = (stored_matrix(plan, each) for each in both)
    assert np.array_equal(stored, same)
