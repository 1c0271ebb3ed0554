"""`ttc new`: specs from folders of random weights, made by transformers, of every known class."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file

from ttc import cli
from ttc.errors import CheckpointError, TtcError, UsageError
from ttc.new import Written, new_spec, spec_or_draft
from ttc.spec import library
from ttc.spec.architecture import load_architecture
from ttc.spec.model import load_model
from ttc.spec.rope import NoScaling, Yarn

pytestmark = pytest.mark.emulate

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 131,
    "max_position_embeddings": 256,
}
CLASSES = [
    (name, class_)
    for name in library.names(library.ARCHITECTURES, near=Path("specs/any.yaml"))
    for class_ in load_architecture(name).hf_classes
    if class_.endswith("ForCausalLM")
]
UNKNOWN = ("GPTNeoXForCausalLM", "CohereForCausalLM", "Qwen3MoeForCausalLM")


def make_folder(folder: Path, class_: str, **config: Any) -> Path:
    """A tiny model of random weights, as transformers saves it."""
    import transformers

    transformers_of: Any = transformers
    model_class = getattr(transformers_of, class_)
    torch.manual_seed(1)
    fields = {**SIZES, "pad_token_id": None} | config
    model_class(model_class.config_class(**fields)).save_pretrained(folder)
    return folder


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "tiny", "LlamaForCausalLM")


def change(folder: Path, **config: Any) -> None:
    path = folder / "config.json"
    fields = cast(dict[str, Any], json.loads(path.read_text())) | config
    path.write_text(json.dumps({key: each for key, each in fields.items() if each != "absent"}))


def rename(folder: Path, name: Callable[[str], str]) -> None:
    path = folder / "model.safetensors"
    save_file({name(key): each for key, each in load_file(path).items()}, path)


def draft(folder: Path, **options: Any) -> Written:
    return new_spec(str(folder), out=folder.parent / "specs" / "tiny.yaml", **options)


@pytest.mark.parametrize(("architecture", "class_"), CLASSES)
def test_a_known_family_leaves_nothing_open(tmp_path: Path, architecture: str, class_: str) -> None:
    folder = make_folder(tmp_path / "tiny", class_)
    written = draft(folder)
    assert written.architecture is None
    assert written.draft.undecided == ()
    spec = load_model(written.spec)
    assert spec.architecture.name == architecture
    assert (spec.dims.hidden, spec.dims.layers, spec.dims.vocab) == (64, 4, 131)
    assert (spec.model, spec.weights) == ("tiny", str(folder))
    config = cast(dict[str, Any], json.loads((folder / "config.json").read_text()))
    assert config.keys() <= written.draft.used.keys() | written.draft.ignored.keys()
    assert all(written.draft.ignored.values()), "every ignored key has a reason"


@pytest.mark.parametrize("class_", UNKNOWN)
def test_an_unknown_family_says_what_a_person_decides(tmp_path: Path, class_: str) -> None:
    extra = {"num_experts": 4} if "Moe" in class_ else {}
    folder = make_folder(tmp_path / "tiny", class_, **extra)
    written = draft(folder)
    assert written.architecture is not None
    text = written.architecture.read_text()
    assert all(json.dumps(point) in text for point in written.draft.undecided)
    assert f"hf: [{class_}]" in text
    with pytest.raises(TtcError, match="the architecture is not finished"):
        load_architecture(written.architecture)
    stored = load_file(folder / "model.safetensors")
    for name in stored:
        suffix = name.partition(".layers.0.")[2]
        assert suffix in text, f"{name} is neither a weight nor an open point"


def test_a_draft_takes_no_name_of_another_family(llama: Path) -> None:
    change(llama, architectures=["OwnForCausalLM"])
    written = draft(llama)
    assert written.architecture is not None
    assert written.architecture.name == "own.yaml"
    assert written.draft.architecture == "own"
    change(llama, architectures=["LlamaForCausalLM"])
    assert draft(llama, force=True).architecture is None


def test_a_draft_is_after_the_plainest_family(llama: Path) -> None:
    """Of all whose tensors are these; what tensors cannot say is left open."""
    change(llama, architectures=["OwnForCausalLM"])
    points = draft(llama).draft.undecided
    assert "the steps are those of llama" in points[0]
    assert any("two halves" in point for point in points)


@pytest.mark.parametrize("class_", ["LlamaForSequenceClassification", "LlamaModel"])
def test_a_known_body_with_another_head(llama: Path, class_: str) -> None:
    change(llama, architectures=[class_])
    with pytest.raises(CheckpointError, match=f"class {class_}, which predicts no next token"):
        draft(llama)
    assert not (llama.parent / "architectures").exists()


def test_classes_that_are_no_list(llama: Path) -> None:
    change(llama, architectures="LlamaForCausalLM")
    with pytest.raises(CheckpointError) as raised:
        draft(llama)
    (problem,) = raised.value.problems
    assert problem.at is not None
    assert problem.at.path.endswith("config.json")
    assert problem.help == 'write "architectures": ["LlamaForCausalLM"]'


def test_an_open_point_is_refused_until_it_is_decided(tmp_path: Path) -> None:
    written = draft(make_folder(tmp_path / "tiny", "CohereForCausalLM"))
    assert written.architecture is not None
    with pytest.raises(TtcError) as raised:
        load_architecture(written.architecture)
    assert len(raised.value.problems) == len(written.draft.undecided) > 3
    assert any("logit_scale: 0.0625" in point for point in written.draft.undecided)
    assert any("layer_norm_eps" in point for point in written.draft.undecided)
    with pytest.raises(CheckpointError, match="of a family that ttc does not know"):
        spec_or_draft(str(tmp_path / "tiny"), tmp_path / "drafts")


def test_a_fine_tune_with_tokens_of_its_own(llama: Path) -> None:
    base = draft(llama).spec
    tuned = make_folder(llama.parent / "tuned", "LlamaForCausalLM", vocab_size=133)
    written = new_spec(str(tuned), out=base.with_name("tuned.yaml"), extends=str(base))
    assert "dims: {vocab: 133}" in written.spec.read_text()
    assert "hidden" not in written.spec.read_text()
    assert load_model(written.spec).dims.vocab == 133


def test_an_unknown_key_is_an_error_and_is_never_dropped(llama: Path) -> None:
    change(llama, attn_logit_softcaping=50.0)
    with pytest.raises(CheckpointError) as raised:
        draft(llama)
    (problem,) = raised.value.problems
    assert problem.message == "config.json has the unknown key 'attn_logit_softcaping'"
    assert problem.note == "it says 50.0"
    assert not (llama.parent / "specs").exists()
    written = draft(llama, ignore=["attn_logit_softcaping"])
    assert "attn_logit_softcaping" in written.draft.ignored
    assert "attn_logit_softcaping" in written.spec.read_text()


def test_arithmetic_that_the_family_does_not_have(llama: Path) -> None:
    change(llama, use_qk_norm=True, hidden_act="selu")
    with pytest.raises(CheckpointError) as raised:
        draft(llama)
    assert {each.details[0] for each in raised.value.problems} == {
        "use_qk_norm is true, the architecture has false",
        'hidden_act is "selu"; known are silu, swish, gelu, gelu_python, gelu_new, '
        "gelu_pytorch_tanh, gelu_fast, gelu_accurate, relu",
    }


@pytest.mark.parametrize(
    "config",
    [
        {"num_key_value_heads": "absent"},
        {"head_dim": None},
        {"head_dim": "absent"},
        {"torch_dtype": "float16"},
    ],
)
def test_keys_that_are_not_there_mean_what_transformers_takes(
    llama: Path, config: dict[str, Any]
) -> None:
    if "num_key_value_heads" in config:
        llama = make_folder(llama.parent / "mha", "LlamaForCausalLM", num_key_value_heads=4)
    change(llama, **config)
    spec = load_model(draft(llama).spec)
    assert spec.dims.head_dim == 16
    assert spec.dims.kv_heads == (4 if "num_key_value_heads" in config else 2)


def test_a_key_that_is_needed(llama: Path) -> None:
    change(llama, num_hidden_layers="absent")
    with pytest.raises(CheckpointError, match=r"config\.json has no 'num_hidden_layers'"):
        draft(llama)


def test_options_of_a_model(tmp_path: Path) -> None:
    changes = {"attention_bias": True, "mlp_bias": True, "hidden_act": "gelu_new"}
    folder = make_folder(tmp_path / "tiny", "LlamaForCausalLM", **changes)
    written = draft(folder).spec
    assert load_model(written).options == {
        "attention_bias": True,
        "mlp_bias": True,
        "activation": "gelu_tanh",
    }
    assert "options: {attention_bias: true, mlp_bias: true" in written.read_text()
    change(folder, mlp_bias=False)
    with pytest.raises(CheckpointError, match="models with mlp_bias: true have them"):
        draft(folder, force=True)
    change(folder, hidden_act="quick_gelu")
    with pytest.raises(CheckpointError, match='hidden_act is "quick_gelu"; known are') as raised:
        draft(folder, force=True)
    at = raised.value.problems[0].at
    assert at is not None
    assert at.text[at.column - 1 :].startswith('"hidden_act"')
    assert str(at).startswith(str(folder / "config.json"))


def test_a_default_rope_with_a_factor_does_not_scale(llama: Path) -> None:
    change(llama, rope_scaling={"rope_type": "default", "factor": 8.0})
    written = draft(llama)
    assert load_model(written.spec).rope == NoScaling(theta=10000)
    assert written.draft.ignored["rope_scaling.factor"] == (
        "rope_type is default, which does not read it"
    )


@pytest.mark.parametrize("spelling", ["rope_scaling", "rope_parameters"])
def test_both_spellings_of_rope(llama: Path, spelling: str) -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    if spelling == "rope_parameters":
        change(llama, rope_theta="absent", rope_scaling="absent")
        scaling["rope_theta"] = 10000.0
    change(llama, **{spelling: scaling})
    rope = load_model(draft(llama).spec).rope
    assert isinstance(rope, Yarn)
    assert (rope.theta, rope.factor, rope.original_context_tokens) == (10000, 4, 64)


def test_a_rope_that_is_not_known(llama: Path) -> None:
    change(llama, rope_scaling={"rope_type": "spiral", "factor": 2.0})
    with pytest.raises(CheckpointError, match="rope_type 'spiral'; known are default, linear"):
        draft(llama)
    change(llama, rope_scaling={"rope_type": "linear", "factor": 2.0, "twist": 3})
    with pytest.raises(CheckpointError, match="of type linear has the unknown key 'twist'"):
        draft(llama)


@pytest.mark.parametrize(
    ("body", "head"),
    [
        ("model.language_model.", "lm_head."),
        ("language_model.model.", "language_model.lm_head."),
        ("", "lm_head."),
    ],
)
def test_tensors_with_a_prefix(llama: Path, body: str, head: str) -> None:
    def prefixed(name: str) -> str:
        if name.startswith("lm_head."):
            return head + name.removeprefix("lm_head.")
        return body + name.removeprefix("model.")

    rename(llama, prefixed)
    assert draft(llama).draft.undecided == ()


def test_tensors_that_belong_to_no_weight(llama: Path) -> None:
    rename(llama, lambda name: name.replace("o_proj", "out_proj"))
    with pytest.raises(CheckpointError, match="out_proj") as raised:
        draft(llama)
    assert not list((llama.parent / "specs").iterdir()), "a spec that does not fit is not left"
    assert len(raised.value.problems) == 2


def test_tied_weights_that_are_also_stored(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "tiny", "LlamaForCausalLM", tie_word_embeddings=True)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    assert "lm_head.weight" not in tensors
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, path)
    assert load_model(draft(folder).spec).tie_embeddings


def test_a_file_that_is_there_stays(llama: Path) -> None:
    written = draft(llama)
    written.spec.write_text("mine\n")
    with pytest.raises(UsageError, match="is there already"):
        draft(llama)
    assert written.spec.read_text() == "mine\n"
    assert draft(llama, force=True).spec.read_text() != "mine\n"


def test_the_command_line(
    llama: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(llama.parent)
    with pytest.raises(SystemExit) as ended:
        cli.main(["new", "tiny", "--json"])
    assert not ended.value.code
    record = json.loads(capsys.readouterr().out)
    assert record["spec"] == "specs/tiny.yaml"
    assert record["used"]["hidden_size"] == 64
    assert record["undecided"] == []
    make_folder(llama.parent / "other", "CohereForCausalLM")
    with pytest.raises(SystemExit) as ended:
        cli.main(["new", "other"])
    assert ended.value.code == 1
    assert "to decide before it compiles" in capsys.readouterr().out


def test_compile_needs_no_spec(llama: Path) -> None:
    drafted = spec_or_draft(str(llama), llama.parent / "drafts")
    assert load_model(drafted).weights == str(llama)
    assert spec_or_draft("smollm2-135m-instruct", llama.parent / "drafts") == (
        "smollm2-135m-instruct"
    )
    with pytest.raises(UsageError, match="there is no spec"):
        spec_or_draft("no-such-model", llama.parent / "drafts")
