"""Meta's folders against Hugging Face's for the same weights."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ttc.checkpoint.files import open_checkpoint
from ttc.checkpoint.index import WeightSource
from ttc.checkpoint.layouts import row_order
from ttc.checkpoint.meta_folder import MetaFolder, ffn_size
from ttc.checkpoint.meta_tokenizer import meta_tokenizer
from ttc.checkpoint.names import bind
from ttc.checkpoint.strips import stored_matrix
from ttc.checkpoint.tokenizer import eos_token_ids, write_tokenizer
from ttc.compiler import compile_model
from ttc.errors import CheckpointError, SpecError
from ttc.hardware.hardware import load_mesh
from ttc.new import new_spec, spec_or_draft
from ttc.plan.plan import Plan
from ttc.spec.model import ModelSpec, load_model
from ttc.spec.precision import load_profile

pytestmark = pytest.mark.emulate

PARAMS = {
    "dim": 64,
    "n_layers": 2,
    "n_heads": 2,
    "n_kv_heads": 1,
    "vocab_size": -1,
    "multiple_of": 32,
    "ffn_dim_multiplier": 0.55,
    "norm_eps": 1e-5,
}
NAMES = {
    "model.embed_tokens.weight": "tok_embeddings.weight",
    "model.norm.weight": "norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "model.layers": "layers",
}


DIMS = "{hidden: 64, layers: 2, heads: 2, kv_heads: 1, head_dim: 32, ffn: 96, vocab: 128}"


def meta_tensors(tensors: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The same weights under Meta's names, in bf16, with the rows of q and k in pairs."""
    renamed: dict[str, torch.Tensor] = {}
    for name, values in tensors.items():
        heads = 2 if "q_proj" in name else 1 if "k_proj" in name else 0
        turned = values[row_order(len(values), heads, "halves", "pairs")]
        for theirs, metas in NAMES.items():
            name = name.replace(theirs, metas)
        renamed[name] = torch.from_numpy(turned).bfloat16()
    return renamed


def write_meta(folder: Path, tensors: dict[str, torch.Tensor], ranks: int, embedding: int) -> Path:
    """consolidated.NN.pth of a model-parallel group; the embedding is divided along a dim."""
    folder.mkdir()
    (folder / "params.json").write_text(json.dumps(PARAMS))
    for rank in range(ranks):
        part = {
            name: values
            if values.dim() == 1
            else values.chunk(ranks, axis(name, embedding))[rank].clone()
            for name, values in tensors.items()
        }
        torch.save(part | {"rope.freqs": torch.zeros(4)}, folder / f"consolidated.{rank:02}.pth")
    return folder


def axis(name: str, embedding: int) -> int:
    if name.startswith("tok"):
        return embedding
    return 1 if name.endswith(("wo.weight", "w2.weight")) else 0


@pytest.fixture
def spec(make_spec: Callable[..., ModelSpec]) -> ModelSpec:
    """The tiny spec with heads of whole tiles."""
    return make_spec(dims=DIMS)


@pytest.fixture
def hf_folder(
    tmp_path: Path, tiny_tensors: dict[str, Any], write_folder: Callable[..., Path]
) -> Path:
    """The tiny checkpoint with values that bf16 holds exactly."""
    exact = {
        name: torch.from_numpy(values).bfloat16().float().numpy()
        for name, values in tiny_tensors.items()
    }
    return write_folder(tmp_path / "hf", exact, num_attention_heads=2, num_key_value_heads=1)


def all_stored(plan: Plan, folder: Path, spec: ModelSpec) -> list[np.ndarray[Any, Any]]:
    checkpoint = open_checkpoint(str(folder))
    binding = bind(spec, checkpoint)
    source = WeightSource(checkpoint=checkpoint, binding=binding, chip=plan.arch)
    return [stored_matrix(weight, source) for weight in plan.weights]


@pytest.mark.parametrize(("ranks", "embedding"), [(1, 0), (2, 0), (4, 1)])
def test_stored_as_from_the_hugging_face_form(
    tmp_path: Path,
    spec: ModelSpec,
    tiny_tensors: dict[str, Any],
    hf_folder: Path,
    ranks: int,
    embedding: int,
) -> None:
    folder = write_meta(tmp_path / "meta", meta_tensors(tiny_tensors), ranks, embedding)
    mesh, profile = load_mesh("N150"), load_profile("performance")
    plan = compile_model(spec, mesh, profile, batch=1, context=128, chunk=None).plan
    ours = all_stored(plan, folder, spec)
    theirs = all_stored(plan, hf_folder, spec)
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_rows_of_joined_tensors(tmp_path: Path, tiny_tensors: dict[str, Any]) -> None:
    whole = MetaFolder(write_meta(tmp_path / "a", meta_tensors(tiny_tensors), 1, 0), "a")
    parts = MetaFolder(write_meta(tmp_path / "b", meta_tensors(tiny_tensors), 4, 1), "b")
    for name in whole.names():
        assert parts.shape(name) == whole.shape(name)
        assert np.array_equal(parts.read(name), whole.read(name))
        if len(whole.shape(name)) == 2:
            rows = slice(10, 30)
            assert np.array_equal(parts.read(name, rows), whole.read(name, rows))


def test_repacked_layers(tmp_path: Path, tiny_tensors: dict[str, Any]) -> None:
    tensors = meta_tensors(tiny_tensors)
    whole = MetaFolder(write_meta(tmp_path / "a", tensors, 1, 0), "a")
    repacked = tmp_path / "b"
    repacked.mkdir()
    (repacked / "params.json").write_text(json.dumps(PARAMS))
    first = {name: values for name, values in tensors.items() if name.startswith("layers.0.")}
    torch.save(first, repacked / "layers_0-0.pth")
    rest = {name: values for name, values in tensors.items() if name not in first}
    torch.save(rest, repacked / "layers_1-1.pth")
    found = MetaFolder(repacked, "b")
    assert {*found.names(), "rope.freqs"} == set(whole.names())
    assert all(np.array_equal(found.read(name), whole.read(name)) for name in found.names())


@pytest.mark.parametrize(
    ("params", "size"),
    [
        ({"dim": 4096, "multiple_of": 256}, 11008),  # Llama 2 7B
        ({"dim": 8192, "multiple_of": 4096, "ffn_dim_multiplier": 1.3}, 28672),  # 70B
        ({"dim": 4096, "multiple_of": 1024, "ffn_dim_multiplier": 1.3}, 14336),  # Llama 3 8B
        ({"dim": 2048, "multiple_of": 256, "ffn_dim_multiplier": 1.5}, 8192),  # Llama 3.2 1B
        ({"dim": 3072, "multiple_of": 256, "ffn_dim_multiplier": 1.0}, 8192),  # Llama 3.2 3B
    ],
)
def test_width_of_the_feed_forward(params: dict[str, Any], size: int) -> None:
    assert ffn_size(params) == size


@pytest.mark.parametrize(("ranks", "lost"), [(4, 1), (2, 1), (2, 0)])
def test_a_missing_rank(
    tmp_path: Path, tiny_tensors: dict[str, Any], ranks: int, lost: int
) -> None:
    folder = write_meta(tmp_path / "meta", meta_tensors(tiny_tensors), ranks, 0)
    (folder / f"consolidated.{lost:02}.pth").unlink()
    with pytest.raises(CheckpointError, match=f"{ranks - 1} of {ranks} parts are there"):
        open_checkpoint(str(folder))


def test_parts_that_do_not_fit(tmp_path: Path, tiny_tensors: dict[str, Any]) -> None:
    folder = write_meta(tmp_path / "meta", meta_tensors(tiny_tensors), 2, 0)
    part = torch.load(folder / "consolidated.01.pth", weights_only=True)
    torch.save(part | {"norm.weight": torch.zeros(3)}, folder / "consolidated.01.pth")
    with pytest.raises(CheckpointError, match=r"the parts of 'norm.weight' do not fit"):
        MetaFolder(folder, "meta")


SCALED = (
    "{kind: llama3, theta: 10000, factor: %s, low_freq_factor: 1, high_freq_factor: 4, "
    "original_context_tokens: 8192}"
)


def with_params(folder: Path, **params: Any) -> Path:
    (folder / "params.json").write_text(json.dumps(PARAMS | params))
    return folder


@pytest.mark.parametrize("factor", [8, 32])
def test_the_factor_of_a_scaled_rope_is_that_of_the_spec(
    tmp_path: Path, tiny_tensors: dict[str, Any], make_spec: Callable[..., ModelSpec], factor: int
) -> None:
    folder = write_meta(tmp_path / "meta", meta_tensors(tiny_tensors), 1, 0)
    scaled = make_spec(dims=DIMS, rope=SCALED % factor)
    with pytest.raises(CheckpointError, match="kind is llama3 in the spec, none in the checkpoint"):
        bind(scaled, open_checkpoint(str(folder)))
    bind(scaled, open_checkpoint(str(with_params(folder, use_scaled_rope=True))))
    with pytest.raises(CheckpointError, match="kind is none in the spec, llama3 in the checkpoint"):
        bind(make_spec(dims=DIMS), open_checkpoint(str(folder)))
    said = with_params(folder, use_scaled_rope=True, rope_scaling_factor=16)
    with pytest.raises(CheckpointError, match=f"factor is {factor} in the spec, 16 in the"):
        bind(scaled, open_checkpoint(str(said)))


def test_a_draft_leaves_open_what_params_json_has_no_key_for(
    tmp_path: Path, tiny_tensors: dict[str, Any]
) -> None:
    folder = write_meta(tmp_path / "meta", meta_tensors(tiny_tensors), 1, 0)
    with_params(folder, use_scaled_rope=True)
    out = tmp_path / "specs" / "mine.yaml"
    written = new_spec(str(folder), out=out)
    assert written.draft.undecided == (
        "rope.factor: params.json does not say it",
        "max_context_tokens: params.json does not say it",
    )
    with pytest.raises(SpecError, match=r"factor"):
        load_model(out)
    with pytest.raises(CheckpointError, match="does not say all of a spec"):
        spec_or_draft(str(folder), tmp_path / "drafts")
    text = out.read_text().replace("factor: null", "factor: 32")
    out.write_text(text.replace("max_context_tokens: null", "max_context_tokens: 4096"))
    bind(load_model(out), open_checkpoint(str(folder)))
    variant = new_spec(str(folder), out=out.with_name("variant.yaml"), extends=str(out))
    assert variant.draft.undecided == ()
    assert "rope" not in variant.spec.read_text()


def test_an_unknown_key_of_params_json(tmp_path: Path, tiny_tensors: dict[str, Any]) -> None:
    folder = write_meta(tmp_path / "meta", meta_tensors(tiny_tensors), 1, 0)
    with_params(folder, qk_norm=True)
    with pytest.raises(CheckpointError, match=r"params\.json has the unknown key 'qk_norm'"):
        new_spec(str(folder), out=tmp_path / "mine.yaml")


def byte_pair_file(path: Path) -> None:
    """All bytes, then some words, as Llama 3's tokenizer.model has them."""
    tokens = [bytes([byte]) for byte in range(256)]
    tokens += [b"th", b" th", b"the", b" the", b"in", b"ing", b" a", b"\xc3\xa9"]
    lines = [f"{base64.b64encode(token).decode()} {rank}" for rank, token in enumerate(tokens)]
    path.write_text("\n".join(lines) + "\n")


def test_a_byte_pair_tokenizer_is_that_of_tiktoken(tmp_path: Path) -> None:
    import tiktoken
    from tiktoken.load import load_tiktoken_bpe
    from tokenizers import Tokenizer

    from ttc.checkpoint import meta_tokenizer as module

    path = tmp_path / "tokenizer.model"
    byte_pair_file(path)
    text, config, generation = meta_tokenizer(path)
    ours = Tokenizer.from_str(text)
    facts = json.loads(Path(module.__file__).with_name("meta_tokens.json").read_text())
    reference = tiktoken.Encoding(
        "llama3",
        pat_str=facts["pattern"],
        mergeable_ranks=load_tiktoken_bpe(str(path)),
        special_tokens={},
    )
    for sample in ("the thing in a café, then 1234567!\n\n  there's", "Å", " the  the"):
        ids = ours.encode(sample, add_special_tokens=False).ids
        assert ids == reference.encode(sample)
        assert ours.decode(ids) == sample
    assert ours.get_vocab_size() == 264 + 256
    assert ours.encode("a").ids[0] == ours.token_to_id("<|begin_of_text|>") == 264
    assert config["eos_token"] == "<|end_of_text|>"
    assert generation["eos_token_id"] == [265, 272, 273]


def test_the_tokenizer_of_a_folder(tmp_path: Path, tiny_tensors: dict[str, Any]) -> None:
    folder = write_meta(tmp_path / "meta", meta_tensors(tiny_tensors), 1, 0)
    with pytest.raises(CheckpointError, match="no tokenizer in meta"):
        write_tokenizer(open_checkpoint(str(folder)), tmp_path / "out")
    byte_pair_file(folder / "tokenizer.model")
    write_tokenizer(open_checkpoint(str(folder)), tmp_path / "out")
    assert eos_token_ids(tmp_path / "out") == (265, 272, 273)


def test_a_sentencepiece_tokenizer(tmp_path: Path) -> None:
    import sentencepiece
    from tokenizers import Tokenizer

    text = tmp_path / "text.txt"
    lines = [f"the quick brown fox {i} jumps over the lazy dog" for i in range(200)]
    text.write_text("\n".join(lines))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(tmp_path / "tokenizer"), vocab_size=300,
        model_type="bpe", byte_fallback=True, character_coverage=1.0, minloglevel=2,
    )  # fmt: skip
    converted, _, generation = meta_tokenizer(tmp_path / "tokenizer.model")
    ours = Tokenizer.from_str(converted)
    model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    for sample in ("the lazy fox", "jumps Ω"):
        assert ours.encode(sample).ids == [1, *model.encode(sample)]
    assert generation["eos_token_id"] == [2]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"YQ== 0\nnot a rank", b"YQ== 0\nYg== 7"])
def test_damaged_tokenizers(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(CheckpointError, match="is not a tokenizer that can be read"):
        meta_tokenizer(tmp_path / "tokenizer.model")
