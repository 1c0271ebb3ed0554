"""`ttc run` in its modes and `ttc chat`, on a tiny random model with a chat template."""

import csv
import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ttc import api
from ttc.cli import main
from ttc.errors import UsageError
from ttc.runtime import model
from ttc.runtime.session import open_session

pytestmark = pytest.mark.emulate

CHAT = (
    "{% for message in messages %}{{ message['role'][0] + ':' + message['content'] + '\n' }}"
    "{% endfor %}a:"
)
USERS = 4

type Golden = Callable[[Path, str], None]


@pytest.fixture(scope="module")
def artefact(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four users of 1024 tokens."""
    folder = tmp_path_factory.mktemp("chat")
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir()
    for file in tiny_checkpoint.iterdir():
        (checkpoint / file.name).hardlink_to(file)
    config = checkpoint / "tokenizer_config.json"
    config.unlink()
    config.write_text(json.dumps({"eos_token": "<end>", "chat_template": CHAT}))
    out = folder / "tiny"
    api.compile(
        Path(__file__).parent / "data" / "tiny.yaml",
        weights=str(checkpoint),
        precision="bf16",
        batch=USERS,
        context=1024,
        out=out,
        cache=folder / "cache",
    )
    return out


class Run:
    """`ttc run ARTEFACT ... --json`, in this process."""

    def __init__(self, artefact: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.artefact, self.cache, self.capsys = artefact, cache, capsys

    def __call__(self, *arguments: str | Path) -> Any:
        code, out, _ = self.ended("--json", *arguments)
        assert code == 0
        return json.loads(out)

    def ended(self, *arguments: str | Path) -> tuple[int, str, str]:
        fixed = ["run", str(self.artefact), "--backend", "emulate", "--cache", str(self.cache)]
        with pytest.raises(SystemExit) as ended:
            main([*fixed, *map(str, arguments)])
        captured = self.capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err


@pytest.fixture
def run(artefact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(artefact, tmp_path / "cache", capsys)


def test_a_batch_of_each_mode(run: Run) -> None:
    for mode, users in (("batch-1", 1), ("batch-32", 3), ("reasoning", 1), ("long-context", 1)):
        options = ["--batch", "3"] if users > 1 else []
        result = run("--mode", mode, *options, "--max-new-tokens", "3", "--no-stop-at-eos")
        assert len(result["outputs"]) == users
        assert {len(each["token_ids"]) for each in result["outputs"]} == {3}
        (speeds,) = result["batches"]
        assert speeds["users"] == users
        assert speeds["at"]["1"]["tokens_per_s_per_user"] > 0
        assert result["ttft_s"] == speeds["ttft_s"] > 0


def test_long_context_fills_what_there_is(run: Run) -> None:
    result = run("--mode", "long-context", "--max-new-tokens", "10", "--no-stop-at-eos")
    (output,) = result["outputs"]
    assert 900 < output["prompt_tokens"] <= 1014


def test_prompts_of_a_file_and_their_order(run: Run, tmp_path: Path) -> None:
    """More prompts than users; a second batch starts with the second prompt and ends with it."""
    prompts = tmp_path / "prompts.json"
    words = [f"Question {number}" for number in range(5)]
    prompts.write_text(json.dumps([{"prompt": word} for word in words]))
    speeds = tmp_path / "speeds.csv"
    options = ["--max-new-tokens", "4", "--repeat-batches", "2", "--csv", speeds]
    result = run("--prompts", prompts, *options, "--batch", "2")
    asked = [each["prompt"] for each in result["outputs"]]
    assert asked == [*words, *words[1:], words[0]]
    texts = {each["prompt"]: each["text"] for each in result["outputs"][:5]}
    assert all(texts[each["prompt"]] == each["text"] for each in result["outputs"][5:])
    first, second = csv.DictReader(io.StringIO(speeds.read_text()))
    assert (first["batch"], second["batch"], first["users"]) == ("0", "1", "5")
    assert second["cached_tokens"] == "0"


def test_prompts_of_a_file_that_are_too_long(run: Run, tmp_path: Path) -> None:
    """All of them are said, each with its place, and nobody is answered."""
    prompts = tmp_path / "prompts.json"
    entries = [{"prompt": text} for text in ("Hello", "Hello " * 200, "Bye", "Bye " * 300)]
    prompts.write_text("[\n" + ",\n".join(map(json.dumps, entries)) + "\n]")
    code, out, error = run.ended("--prompts", prompts, "--batch", "2")
    assert (code, out) == (2, "")
    assert error.count("error: the prompt has ") == 2
    for place, which in ((f"{prompts}:3:1", "2 of 4"), (f"{prompts}:5:1", "4 of 4")):
        assert place in error
        assert f"= prompt {which}\n" in error


def test_a_chat_that_cannot_draw(artefact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["chat", str(artefact), "--seed", "1"])
    assert ended.value.code == 2
    assert "nothing is drawn, as seed=1 would have it" in capsys.readouterr().err


def test_instruct_and_raw_prompts(run: Run) -> None:
    options = ["-p", "Hello", "--max-new-tokens", "1"]
    assert run(*options)["outputs"][0]["prompt_tokens"] == len("u:Hello\na:")
    assert run(*options, "--no-instruct")["outputs"][0]["prompt_tokens"] == len("Hello")


def test_sampling_options_reach_the_model(run: Run) -> None:
    options = ["-p", "Hello", "--max-new-tokens", "12", "--no-stop-at-eos", "--logprobs"]
    drawn = ["--temperature", "3", "--top-k", "50", "--top-p", "0.99"]

    def tokens(*more: str) -> list[int]:
        (output,) = run(*options, *more)["outputs"]
        assert len(output["logprobs"]) == 12
        return output["token_ids"]

    assert tokens(*drawn, "--seed", "1") == tokens(*drawn, "--seed", "1")
    assert tokens(*drawn, "--seed", "1") != tokens(*drawn, "--seed", "2")
    greedy = tokens()
    for name, value in (("repetition", "0.1"), ("presence", "-2"), ("frequency", "-2")):
        again = tokens(f"--{name}-penalty", value)
        assert len(set(again)) < len(set(greedy)), "what was there before comes again"


def test_the_context_can_be_less(run: Run) -> None:
    options = ["-p", "Hello", "--max-context", "20", "--max-new-tokens", "50", "--no-stop-at-eos"]
    (output,) = run(*options)["outputs"]
    assert output["finish_reason"] == "context"
    assert output["prompt_tokens"] + len(output["token_ids"]) == 21  # the last one is not read


def test_token_accuracy(
    run: Run, tiny_spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = run.artefact.parent / "checkpoint"
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs" / tiny_spec.name).write_text(tiny_spec.read_text())
    monkeypatch.chdir(tmp_path)  # where specs are looked for
    opened: list[Any] = []

    def open_once(*given: Any, **named: Any) -> Any:
        opened.append(given)
        return open_session(*given, **named)

    monkeypatch.setattr(model, "open_session", open_once)
    asked = ("-p", "Hello", "--max-new-tokens", "2")
    result = run("--token-accuracy", "--weights", checkpoint, *asked)
    assert len(opened) == 1, "weights are loaded once"
    assert result["outputs"][0]["token_ids"] == run(*asked)["outputs"][0]["token_ids"]
    scores = result["token_accuracy"]
    assert scores["tokens"] == 512
    assert 0.9 < scores["top1"] <= scores["top5"] <= 1


REFUSED = {
    "empty_prompt": ["-p", "Hello", "-p", ""],
    "empty_raw_prompt": ["-p", "", "--no-instruct"],
    "prompt_longer_than_context": ["-p", "Hello " * 200],
    "prompt_longer_than_max_context": ["-p", "Hello", "--max-context", "5"],
    "batch_over_the_plan": ["--mode", "batch-32"],
    "batch_option_over_the_plan": ["-p", "Hello", "--batch", "5"],
    "context_over_the_plan": ["-p", "Hello", "--max-context", "2048"],
    "other_block_size": ["-p", "Hello", "--page-block-size", "64"],
    "too_many_blocks": ["-p", "Hello", "--max-blocks", "129"],
    "no_blocks": ["-p", "Hello", "--max-blocks", "0"],
    "nan_temperature": ["-p", "Hello", "--temperature", "nan"],
    "negative_top_p": ["-p", "Hello", "--top-p", "-0.5"],
    "negative_top_k": ["-p", "Hello", "--top-k", "-1"],
    "large_penalty": ["-p", "Hello", "--presence-penalty", "3"],
    "no_repetition_penalty": ["-p", "Hello", "--repetition-penalty", "0"],
    "negative_seed": ["-p", "Hello", "--seed", "-1"],
    "seed_of_a_greedy_choice": ["-p", "Hello", "--seed", "1"],
    "draw_at_temperature_0": [
        "-p",
        "Hello",
        "--temperature",
        "0",
        "--top-p",
        "0.9",
        "--top-k",
        "4",
    ],
    "draw_in_a_greedy_mode": ["--mode", "batch-1", "--top-k", "5"],
    "logprobs_without_json": ["-p", "Hello", "--logprobs"],
    "system_without_template": ["-p", "Hello", "--no-instruct", "--system", "Be brief."],
    "second_prompt_too_long": ["-p", "Hello", "-p", "Hello " * 200],
    "empty_stop_string": ["-p", "Hello", "--stop", ""],
    "prompt_not_unicode": ["-p", "a\udcffb"],
    "system_not_unicode": ["-p", "a", "--system", "\ud800"],
    "csv_without_folder": ["-p", "Hello", "--csv", "/nodir/x.csv"],
    "csv_is_a_folder": ["-p", "Hello", "--csv", "/"],
    "no_new_tokens": ["-p", "Hello", "--max-new-tokens", "0"],
    "weights_for_nothing": ["-p", "Hello", "--weights", "elsewhere"],
    "two_sources": ["-p", "Hello", "--messages", "messages.json"],
    "unknown_mode": ["--mode", "batch-2"],
    "system_for_a_file": ["--mode", "batch-1", "--system", "Be brief."],
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(run: Run, name: str, golden: Golden) -> None:
    code, out, error = run.ended(*REFUSED[name])
    assert (code, out) == (2, "")
    error = "".join(line for line in error.splitlines(True) if not line.startswith("backend:"))
    golden(Path(__file__).parent / "runtime" / "errors" / f"run_{name}.txt", error)


def test_users_from_python(artefact: Path) -> None:
    with api.load(artefact, backend="emulate", batch=2) as model:
        assert model.batch == 2
        first = model.add("Hello", max_new_tokens=4, stop_at_eos=False)
        second = model.add([1, 50, 60], max_new_tokens=2, stop_at_eos=False, logprobs=True)
        third = model.add("Bye", max_new_tokens=2, stop_at_eos=False)
        for bad, words in (
            ([], "the prompt has no tokens"),
            ([1, 320], "token 320 is not in the vocabulary of 320"),
            ([1, "a"], "a prompt is a text, a Prompt or token ids"),
            (7, "a prompt is a text, a Prompt or token ids"),
            (b"Hi", "a prompt is a text, a Prompt or token ids"),
            ([True], "a prompt is a text, a Prompt or token ids"),
            ("\ud800", "the prompt is not valid Unicode"),
        ):
            with pytest.raises(UsageError, match=words):
                model.add(bad)  # pyright: ignore[reportArgumentType]
        with pytest.raises(UsageError, match=r"nothing is drawn, as top_p=0\.5 and seed=0 would"):
            model.add("Hello", top_p=0.5, seed=0, top_k=1)
        with pytest.raises(UsageError, match="there is no setting 'max_tokens'"):
            model.add("Hello", max_tokens=4)  # pyright: ignore[reportCallIssue]
        with pytest.raises(UsageError, match="the model still serves 3 requests"):
            model.generate("Hello")
        with pytest.raises(UsageError, match="the model still serves 3 requests"):
            model.prefill([1])
        assert [piece.request for piece in model.step()] == [first, second]
        pieces = [piece for _ in range(4) for piece in model.step()]
        assert [piece.request for piece in pieces].count(third) == 2
        assert all((piece.logprob is not None) == (piece.request == second) for piece in pieces)
        assert model.step() == []
        alone = model.generation(["Hello"], max_new_tokens=4, stop_at_eos=False)
        list(alone)
        assert alone.outputs[0].token_ids[1:] == [p.token for p in pieces if p.request == first]
    model.close()
    for use in (model.step, lambda: model.add("Hello"), lambda: model.prefill([1])):
        with pytest.raises(UsageError, match="the model is closed"):
            use()


def test_logits_from_python(artefact: Path) -> None:
    """Prompts and tokens of the step API: lists or arrays, and what is neither is refused."""
    with api.load(artefact, backend="emulate", batch=2) as model:
        several = model.prefill([[1, 50], [60]])
        assert several.shape == (2, 320)
        assert (model.prefill(np.array([1, 50])) == several[:1]).all()
        bad: Any
        for bad, words in (
            ([], "the prompt has no tokens"),
            ([[]], "the prompt has no tokens"),
            ("abc", "a prompt is a text"),
            ([float("nan")], "a prompt is a text"),
            ([[1], 2], "a prompt is a text"),
        ):
            with pytest.raises(UsageError, match=words):
                model.prefill(bad)
        model.prefill([[1, 50], [60]])
        for bad, words in (
            ([1], "1 token for 2 users"),
            ([1] * 5, "5 tokens for a program of batch 4"),
            ([1, 320], "token 320 is not in the vocabulary"),
            ([1, 1.5], "a prompt is a text"),
        ):
            with pytest.raises(UsageError, match=words):
                model.decode(bad)
        assert model.decode([70, 80]).shape == (2, 320)


def python(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "ttc", *map(str, arguments)]


def test_chat_from_a_file(artefact: Path) -> None:
    lines = (
        "Hello\n\n/system Be brief.\nHello\n/rest\n/reset\n/help\n" + "Hello " * 200 + "\nHello\n"
    )
    lines += "Hello " * 200
    done = subprocess.run(
        python("chat", artefact, "--max-new-tokens", "8", "--backend", "emulate"),
        input=lines.encode() + b"\na\xff\n/system \xff\n",
        capture_output=True,
        check=True,
    )
    stdout, stderr = done.stdout.decode(), done.stderr.decode()
    first, second, third = stdout.split("\n")[:3]
    assert first != second
    assert second == third, "the system prompt stays, what was said before does not"
    for words in (
        'the conversation starts anew with the system prompt "Be brief."',
        "there is no command '/rest'",
        "did you mean '/reset'?",
        "Ctrl-C stops an answer",
        "shorten it by",
        "the conversation and this question have",
        "/reset forgets the conversation;",
        "the line is not valid Unicode\n  = its character 2 is the byte 0xff",
        "its character 9 is the byte 0xff, which is no UTF-8",
    ):
        assert words in stderr


class Terminal:
    """A command in a terminal of its own."""

    def __init__(self, command: list[str]) -> None:
        self.ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
        os.close(theirs)
        self.seen = ""

    def wait_for(self, words: str, seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while words not in self.seen:
            assert time.monotonic() < end, f"no {words!r} in {self.seen!r}"
            self._read(seconds)
        self.seen = self.seen.split(words, 1)[1]

    def wait_for_anything(self) -> None:
        if not self.seen:
            self._read(120)

    def _read(self, seconds: float) -> str:
        assert select.select([self.ours], [], [], seconds)[0], "nothing came"
        came = os.read(self.ours, 4096).decode(errors="replace")
        self.seen += came
        return came

    def send(self, text: str) -> None:
        os.write(self.ours, text.encode())


@pytest.fixture
def terminal(artefact: Path) -> Iterator[Terminal]:
    options = ["--max-new-tokens", "900", "--backend", "emulate"]
    each = Terminal(python("chat", artefact, *options))
    yield each
    each.process.kill()
    each.process.wait()
    os.close(each.ours)


def test_chat_in_a_terminal(terminal: Terminal) -> None:
    terminal.wait_for("> ")
    terminal.send("Hello\r")
    terminal.wait_for("Hello\r\n")
    terminal.wait_for_anything()  # of the answer
    terminal.process.send_signal(signal.SIGINT)
    terminal.wait_for("stopped")
    terminal.wait_for("> ")
    terminal.send("half a line")
    terminal.wait_for("half a line")
    time.sleep(0.5)  # until it waits for more: Python looks at signals only then
    terminal.process.send_signal(signal.SIGINT)
    terminal.wait_for("> ")
    terminal.send("/reset\r")
    terminal.wait_for("starts anew")
    terminal.wait_for("> ")
    terminal.send("\x04")
    assert terminal.process.wait(timeout=60) == 0


def running_in_group(group: int) -> list[str]:
    """Processes of a group, without those that have ended and that nobody asked for their end."""
    found: list[str] = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            name, _, rest = path.read_text().rpartition(")")
            state, _, owner, *_ = rest.split()
            if int(owner) == group and state != "Z":
                found.append(name)
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_run_leaves_nothing_behind(
    artefact: Path, tmp_path: Path, number: signal.Signals
) -> None:
    before = {path: path.stat().st_mtime_ns for path in artefact.rglob("*")}
    environment = os.environ | {"TMPDIR": str(tmp_path), "HOME": str(tmp_path)}
    process = subprocess.Popen(
        python("run", artefact, "-p", "Hello", "--max-new-tokens", "900", "--no-stop-at-eos"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env=environment,
    )
    assert process.stdout is not None
    assert process.stdout.read(1), "it answers"
    process.send_signal(number)
    process.wait(timeout=60)
    process.communicate()
    assert process.returncode != 0
    deadline = time.monotonic() + 30
    while running := running_in_group(process.pid):  # what renders templates ends by itself
        assert time.monotonic() < deadline, f"of its group are left: {running}"
        time.sleep(0.02)
    assert list(tmp_path.rglob("*")) == []
    assert {path: path.stat().st_mtime_ns for path in artefact.rglob("*")} == before
