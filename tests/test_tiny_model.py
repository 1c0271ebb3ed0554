"""A tiny random model from a Hugging Face folder to an artefact, and checkpoints that are bad."""

# pyright: reportUnknownMemberType=false

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from ttc import api
from ttc.cli import main
from ttc.errors import ArtefactError, CheckpointError, UsageError
from ttc.runtime.artefact import Artefact
from ttc.runtime.model import Model
from ttc.runtime.request import Prompt
from ttc.verify import reference

pytestmark = [pytest.mark.emulate, pytest.mark.mock]

USERS = 3
PROMPTS = [[5, 9, 2, 250], [7] * 40, [1]]


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Path:
    return tiny_checkpoint


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


type Compile = Callable[..., Artefact]


@pytest.fixture(scope="module")
def build(checkpoint: Path, cache: Path) -> Compile:
    spec = Path(__file__).parent / "data" / "tiny.yaml"

    def build(out: Path, **settings: Any) -> Artefact:
        settings = {"weights": str(checkpoint), "precision": "bf16", "cache": cache} | settings
        return api.compile(spec, batch=USERS, context=256, out=out, **settings)

    return build


@pytest.fixture(scope="module")
def artefact(build: Compile, tmp_path_factory: pytest.TempPathFactory) -> Artefact:
    return build(tmp_path_factory.mktemp("build") / "tiny")


@pytest.fixture(scope="module")
def model(artefact: Artefact) -> Model:
    return api.load(artefact, backend="emulate")


@pytest.fixture(scope="module")
def expected(checkpoint: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def pcc(a: Any, b: Any) -> float:
    return float(np.corrcoef(np.ravel(a), np.ravel(b))[0, 1])


def test_both_backends_find_nothing(artefact: Artefact, cache: Path) -> None:
    report = api.verify(artefact, cache=cache)
    assert report.ok
    record = json.loads(json.dumps(report.to_json()))
    assert record["mock"]["ok"]
    assert record["mock"]["findings"] == []
    assert set(record["mock"]["device_ops_per_decoder"]) == {"decode", "prefill", "prefill_chunk"}
    assert record["mock"]["dram_bytes_per_chip"] > 0
    assert record["mock"]["l1_peak_bytes_per_core"] > 0
    assert record["emulate"]["ok"]
    assert record["emulate"]["logits_pcc"] > 0.999
    assert record["emulate"]["top1_vs_reference"] > 0.9
    assert record["emulate"]["top5_vs_reference"] > 0.9


def test_users_side_by_side(model: Model, expected: LlamaForCausalLM) -> None:
    """Prefill of three prompts and two decode steps, each user against transformers alone."""
    sequences = [list(prompt) for prompt in PROMPTS]
    logits = model.prefill(PROMPTS)
    for step in range(3):
        assert logits.shape == (USERS, 320)
        assert logits.dtype == np.float32
        for user, sequence in enumerate(sequences):
            with torch.no_grad():
                wanted = expected(torch.tensor([sequence])).logits[0, -1]
            assert pcc(logits[user], wanted) > 0.999, f"user {user}, step {step}"
        tokens = [int(token) for token in logits.argmax(-1)]
        sequences = [[*sequence, token] for sequence, token in zip(sequences, tokens, strict=True)]
        logits = model.decode(tokens)


def test_one_prompt_needs_no_list_of_lists(model: Model) -> None:
    one = model.prefill(PROMPTS[0])
    assert one.shape == (1, 320)
    np.testing.assert_array_equal(one[0], model.prefill(PROMPTS)[0])


def test_text_in_text_out(model: Model) -> None:
    prompt = Prompt(text="Once upon a time", chat=False)
    pieces = list(model.stream(prompt, max_new_tokens=6, temperature=0.0))
    assert "".join(pieces) == model.generate(prompt, max_new_tokens=6, temperature=0.0)


def test_greedy_on_the_device_is_greedy_on_the_host(model: Model) -> None:
    run = model.generation([Prompt(text="Hello", chat=False)], max_new_tokens=8, temperature=0.0)
    list(run)
    on_device = run.outputs[0].token_ids
    logits = model.prefill(model.encode(Prompt(text="Hello", chat=False)))
    on_host: list[int] = []
    for _ in on_device:
        on_host.append(int(logits[0].argmax()))
        logits = model.decode(on_host[-1:])
    assert on_device == on_host


def test_a_base_model_has_no_chat_template(model: Model) -> None:
    with pytest.raises(UsageError, match="has no chat template"):
        model.generate("Hello")


def test_nothing_that_was_asked_is_dropped(model: Model) -> None:
    with pytest.raises(UsageError, match="need the chat template"):
        model.encode(Prompt(text="Hello", system="Be brief.", chat=False))


def test_reference_logits_are_kept(
    artefact: Artefact, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.verify(artefact, backend="emulate", cache=cache)
    monkeypatch.delattr(reference, "build_reference")
    api.verify(artefact, backend="emulate", cache=cache)


def test_reference_logits_are_those_of_transformers(
    artefact: Artefact, cache: Path, tmp_path: Path, expected: LlamaForCausalLM
) -> None:
    spec, checkpoint = api_checkpoint(artefact, cache)
    logits = reference.reference_logits(spec, checkpoint, PROMPTS[1], tmp_path)
    with torch.no_grad():
        wanted = expected(torch.tensor([PROMPTS[1]])).logits[0].numpy()
    np.testing.assert_array_equal(logits, wanted)


def api_checkpoint(artefact: Artefact, cache: Path, weights: str | None = None) -> Any:
    from ttc.weights import checkpoint_of

    return checkpoint_of(artefact, cache, weights)


def test_a_checkpoint_that_moved(artefact: Artefact, checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not here") as caught:
        api_checkpoint(artefact, tmp_path)
    assert "--weights" in caught.value.problems[0].help
    moved = shutil.copytree(checkpoint, tmp_path / "moved")
    with pytest.raises(UsageError, match="there is no spec"):
        api_checkpoint(artefact, tmp_path, str(moved))


def test_another_checkpoint(
    artefact: Artefact, checkpoint: Path, cache: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(checkpoint, tmp_path / "other")
    shard = next(other.glob("*.safetensors"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ArtefactError, match="was made from another checkpoint"):
        api_checkpoint(artefact, cache, str(other))


def test_weights_are_not_converted_twice(
    build: Compile, artefact: Artefact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ttc.checkpoint.convert.write_weight", None)
    again = build(tmp_path / "again")
    assert again.manifest == artefact.manifest


def test_a_missing_shard(build: Compile, checkpoint: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(checkpoint, tmp_path / "broken")
    shard = next(broken.glob("*.safetensors"))
    shard.unlink()
    with pytest.raises(CheckpointError, match=shard.name):
        build(tmp_path / "out", weights=str(broken))
    assert not (tmp_path / "out").exists()


def test_a_truncated_shard(
    checkpoint: Path, tmp_path: Path, tiny_spec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = shutil.copytree(checkpoint, tmp_path / "broken")
    shard = next(broken.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(SystemExit) as ended:
        main(["compile", str(tiny_spec), "--weights", str(broken), "-o", str(tmp_path / "out")])
    assert ended.value.code == 2
    assert shard.name in capsys.readouterr().err


def test_a_head_count_that_contradicts_the_weights(
    build: Compile, checkpoint: Path, tmp_path: Path, tiny_spec: Path
) -> None:
    spec = tmp_path / "other.yaml"
    spec.write_text(tiny_spec.read_text().replace("kv_heads: 2", "kv_heads: 4"))
    with pytest.raises(CheckpointError) as caught:
        api.compile(spec, weights=str(checkpoint), out=tmp_path / "out", cache=tmp_path)
    assert any(problem.at and "other.yaml" in problem.at.path for problem in caught.value.problems)


def test_a_tokenizer_is_missed_before_weights_are_converted(
    build: Compile, checkpoint: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "c")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="no tokenizer in c"):
        build(tmp_path / "out", weights=str(folder), cache=tmp_path / "cache")
    assert not (tmp_path / "cache" / "weights").exists()
