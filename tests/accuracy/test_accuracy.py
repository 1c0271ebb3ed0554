"""Teacher forcing on a tiny model: its figures, its files, and the values layer by layer."""

# pyright: reportUnknownMemberType=false
import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ttc import api
from ttc.accuracy.layers import Row, first_bad
from ttc.accuracy.reference import Reference, load_reference, reduce_logits, save_reference
from ttc.accuracy.run import AccuracyReport, AccuracySettings
from ttc.accuracy.scores import COLUMNS, Scorer, running
from ttc.accuracy.teacher import HELD_BACK, TEXT, Split, read_split
from ttc.cli import main
from ttc.errors import UsageError
from ttc.runtime.artefact import Artefact
from ttc.runtime.replica import Logits

pytestmark = pytest.mark.emulate

SPLIT = Split(prefill=64, steps=7)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def artefact(
    tiny_checkpoint: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Artefact:
    return api.compile(
        Path(__file__).parents[1] / "data" / "tiny.yaml",
        precision="bf16",
        context=128,
        weights=str(tiny_checkpoint),
        cache=cache,
        out=tmp_path_factory.mktemp("build") / "tiny",
    )


@pytest.fixture
def logits() -> Logits:
    return np.random.default_rng(1).normal(size=(6, 40)).astype(np.float32) * 3


def test_the_whole_run(artefact: Artefact, cache: Path, tmp_path: Path) -> None:
    settings = AccuracySettings(split=SPLIT, make_reference=True, layers=True, out=tmp_path)
    report = api.accuracy(artefact, backend="emulate", settings=settings, cache=cache)
    found = report.to_json()
    assert found["tokens"] == SPLIT.steps + 1
    assert found["all"]["tokens"] == SPLIT.prefill + SPLIT.steps
    assert found["all"]["top5"] >= 0.98
    assert 0 < found["all"]["kl"] < 0.01
    assert found["perplexity"] == pytest.approx(found["reference_perplexity"], rel=0.1)
    rows = list(csv.DictReader((tmp_path / "accuracy.csv").open()))
    assert tuple(rows[0]) == COLUMNS
    assert [row["phase"] for row in rows] == ["prefill"] * 64 + ["decode"] * 7
    hits = sum(int(row["top1"]) for row in rows[SPLIT.prefill - 1 :])
    assert found["top1"] == hits / (SPLIT.steps + 1)
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    known = {row.value for row in report.layers if np.isfinite(row.error_reference)}
    assert {"attn_in", "attn", "attn_out", "h", "gate", "act", "down", "out", "logits"} <= known
    decoders = {row.decoder for row in report.layers}
    assert decoders == {-1, 0, 1}
    errors = {row.value: row.error_reference for row in report.layers if row.value in known}
    assert max(errors.values()) < 0.1
    assert report.first_bad is None


def test_references_are_made_once_and_told_from_another_text(
    artefact: Artefact, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Seven crows sat on a wall, and the eighth one had to stand. " * 2)
    command = ["accuracy", str(artefact.folder), "--tokens", "32+2", "--cache", str(cache)]

    named_text = ("--text", str(text))

    def run(*more: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([*command, *more, "--json"])
        told = capsys.readouterr()
        return int(ended.value.code or 0), told.out, told.err

    code, _, error = run(*named_text)
    assert code == 2
    assert "--make-reference" in error
    file = tmp_path / "mine.refpt"
    code, made, _ = run(*named_text, "--make-reference", "--reference", str(file))
    assert code == 0
    assert json.loads(made)["files"] == [str(file)]
    again, named = run(*named_text)[1], run("--reference", str(file))[1]
    assert json.loads(again)["kl"] == json.loads(named)["kl"] == json.loads(made)["kl"]
    written = file.read_bytes()
    code, _, error = run(*named_text, "--make-reference", "--reference", str(file))
    assert code == 2
    assert f"there is a file {file} already" in error
    assert file.read_bytes() == written
    code, _, error = run(*named_text, "--reference", str(file))
    assert code == 2
    assert "--text and --reference name two texts" in error


def test_files_of_tt_transformers_are_read_and_written(
    artefact: Artefact, tmp_path: Path, logits: Logits, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = tmp_path / "theirs.refpt"
    tokens, best = torch.randint(1, 300, (1, 80)), torch.randint(0, 300, (79, 5))
    torch.save({"reference_tokens": tokens, "top5_tokens": best}, theirs)
    settings = AccuracySettings(split=SPLIT, reference=theirs)
    found = api.accuracy(artefact, backend="emulate", settings=settings).to_json()
    assert found["kl"] is None
    assert found["perplexity"] > 1
    for split, way_out in (("64+30", "ask for --tokens 64+15"), ("99+7", "a longer reference, or")):
        with pytest.raises(
            UsageError, match=rf"(?s)the reference has 80 tokens.*{re.escape(way_out)}"
        ):
            api.accuracy(
                artefact,
                backend="emulate",
                settings=AccuracySettings(split=read_split(split), reference=theirs),
            )
    with pytest.raises(SystemExit):
        main(["accuracy", str(artefact.folder), "--tokens", "64+7", "--reference", str(theirs)])
    told = capsys.readouterr().out
    assert "perplexity" in told
    assert "nan" not in told
    reference = reduce_logits((1, 2, 3, 4, 5, 6, 7), logits)
    save_reference(tmp_path / "ours.refpt", reference)
    data = torch.load(tmp_path / "ours.refpt", weights_only=True)
    assert data["reference_tokens"].tolist() == [[1, 2, 3, 4, 5, 6, 7]]
    assert data["top5_tokens"].tolist() == np.argsort(-logits, axis=1)[:, :5].tolist()
    again = load_reference(tmp_path / "ours.refpt")
    assert again.token_ids == reference.token_ids
    assert (again.top_ids == reference.top_ids).all()


@pytest.mark.parametrize(
    ("tokens", "best", "message"),
    [(0, 40, None), (299, 40, "names token"), (0, 99999, "names token 99999"), (-1, 40, "-1")],
)
def test_references_of_another_tokenizer(
    artefact: Artefact, tmp_path: Path, tokens: int, best: int, message: str | None
) -> None:
    theirs = tmp_path / "theirs.refpt"
    named = torch.full((1, 80), 5)
    named[0, 70] = tokens if message != "names token" else 99999
    data = {"reference_tokens": named, "top5_tokens": torch.full((79, 5), best)}
    torch.save(data, theirs)
    settings = AccuracySettings(split=SPLIT, reference=theirs)
    if message is None:
        assert api.accuracy(artefact, backend="emulate", settings=settings).scores.kl.size
        return
    with pytest.raises(UsageError, match=message) as raised:
        api.accuracy(artefact, backend="emulate", settings=settings)
    assert "another tokenizer" in str(raised.value)


def test_a_text_that_is_less_likely_than_chance(artefact: Artefact, logits: Logits) -> None:
    tokens = (0, 3, 1, 4, 1, 5, 9)
    scores = scored(logits, reduce_logits(tokens, logits)).scores()
    report = AccuracyReport(scores=scores, vocab=40, reference=artefact.folder)
    likely = scores.everything.perplexity < 40
    assert report.foreign is not likely
    assert replace(report, vocab=2).foreign
    assert not replace(report, vocab=10**6).foreign


def test_a_folder_that_cannot_be_written_is_refused_before_anything_runs(
    artefact: Artefact, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    settings = AccuracySettings(split=SPLIT, out=tmp_path / "file" / "out")
    with pytest.raises(UsageError, match="nothing can be written into"):
        api.accuracy(artefact, backend="emulate", settings=settings)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no file"),
        ({"reference_tokens": torch.zeros(1, 9)}, "is not a reference"),
        ({"reference_tokens": torch.zeros(1, 9), "top5_tokens": torch.zeros(4, 5)}, "4x5"),
        ("text", "is not a reference"),
    ],
)
def test_what_is_no_reference(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "bad.refpt"
    if isinstance(content, str):
        path.write_text(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UsageError, match=message) as caught:
        load_reference(path)
    assert "weights_only" not in str(caught.value)


def scored(ours: Logits, reference: Reference) -> Scorer:
    scorer = Scorer(reference=reference, prefill=2)
    scorer.add(ours[:2])
    scorer.add(ours[2:])
    return scorer


def test_scores_are_those_of_the_definition(logits: Logits) -> None:
    tokens = (0, 3, 1, 4, 1, 5, 9)
    ours = logits + np.random.default_rng(2).normal(size=logits.shape).astype(np.float32)
    scores = scored(ours, reduce_logits(tokens, logits)).scores()
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    q = np.exp(ours) / np.exp(ours).sum(1, keepdims=True)
    assert scores.kl == pytest.approx((p * np.log(p / q)).sum(1), rel=1e-3)
    assert scores.top1.tolist() == (logits.argmax(1) == ours.argmax(1)).tolist()
    five = np.argsort(-logits, axis=1)[:, :5]
    assert scores.top5.tolist() == [int(a) in b for a, b in zip(ours.argmax(1), five, strict=True)]
    loss = -np.log(q[np.arange(6), tokens[1:]])
    assert scores.everything.perplexity == pytest.approx(np.exp(loss.mean()), rel=1e-4)
    theirs = -np.log(p[np.arange(6), tokens[1:]])
    assert scores.everything.reference_perplexity == pytest.approx(np.exp(theirs.mean()), rel=1e-4)
    assert scores.headline.tokens == 5
    assert scored(logits, reduce_logits(tokens, logits)).scores().everything.kl == pytest.approx(
        0, abs=1e-6
    )


def test_running_means() -> None:
    assert running([1, 0, 1, 1], 2).tolist() == [1.0, 0.5, 0.5, 1.0]


def test_the_first_bad_value_is_the_one_that_jumps() -> None:
    def row(value: str, error: float) -> Row:
        nan = float("nan")
        return Row(
            phase="decode",
            decoder=0,
            value=value,
            pcc_exact=nan,
            error_exact=error,
            pcc_reference=nan,
            error_reference=nan,
        )

    growing = [row("a", 0.0), row("b", 0.02), row("c", 0.07), row("d", 0.2)]
    assert first_bad(growing) is None
    bad = first_bad([*growing[:2], row("bad", 0.5), row("after", 0.6)])
    assert bad is not None
    assert bad.value == "bad"
    assert first_bad([row("lost", float("nan"))]) is not None


@pytest.mark.parametrize("written", ["512", "0+4", "a+b", "512+"])
def test_splits_that_are_none(written: str) -> None:
    if written == "512+":
        written = "+512"
    with pytest.raises(UsageError, match="is no number of tokens"):
        read_split(written)


@pytest.mark.parametrize(
    ("split", "message"),
    [("64+100", "the program has a context of 128"), ("64+99000", "the text has")],
)
def test_too_many_tokens(artefact: Artefact, cache: Path, split: str, message: str) -> None:
    settings = AccuracySettings(split=read_split(split))
    with pytest.raises(UsageError, match=message):
        api.accuracy(artefact, backend="emulate", settings=settings, cache=cache)


def test_a_device_that_torch_lacks(artefact: Artefact) -> None:
    with pytest.raises(UsageError, match="torch has no device 'cuda:7' here"):
        api.load(artefact, backend="emulate", emulator_device="cuda:7")
    nowhere = AccuracySettings(reference=Path("nowhere"), emulator_device="cuda:7")
    with pytest.raises(UsageError, match="torch has no device 'cuda:7' here"):
        api.accuracy(artefact, backend="emulate", settings=nowhere)


def test_the_texts_are_long_enough_and_two() -> None:
    texts = [path.read_text() for path in (TEXT, HELD_BACK)]
    assert all(len(text.split()) > 1000 for text in texts)
    paragraphs = [set(text.split("\n\n")) for text in texts]
    assert not paragraphs[0] & paragraphs[1]
