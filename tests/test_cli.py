"""The command line: exit codes, JSON, error texts, and what it takes from the environment."""

# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false
import builtins
import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ttc import api
from ttc.__main__ import main as start
from ttc.cli import app, main
from ttc.hardware.hardware import mesh_names

pytestmark = pytest.mark.fast

VERBS = [command.callback.__name__ for command in app.registered_commands if command.callback]
ENVIRONMENT = (
    "HF_MODEL",
    "LLAMA_DIR",
    "MESH_DEVICE",
    "TT_CACHE_PATH",
    "TTC_CACHE",
    "MAX_PREFILL_CHUNK_SIZE",
    "PAD_MLP_CORES",
)
SPEC = "smollm2-135m-instruct"
LLAMA = "meta-llama/Llama-3.2-1B-Instruct"


@dataclass(frozen=True, kw_only=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Command:
    """`ttc` with arguments, in this process and with no variable of the user's set."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *arguments: str | Path) -> Result:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = self.capsys.readouterr()
        return Result(code=int(ended.value.code or 0), out=captured.out, err=captured.err)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    return Command(capsys)


@pytest.fixture
def artefact(command: Command, tmp_path: Path, tiny_spec: Path) -> Path:
    out = tmp_path / "tiny"
    assert command("compile", tiny_spec, "--no-weights", "-o", out).code == 0
    return out


def test_the_verbs_in_order() -> None:
    assert VERBS == [
        "new",
        "check",
        "plan",
        "compile",
        "verify",
        "run",
        "chat",
        "accuracy",
        "compare",
        "search",
        "demo",
    ]


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_an_example(command: Command, verb: str) -> None:
    result = command(verb, "--help")
    assert result.code == 0
    assert f"ttc {verb}" in result.out.split("Usage:")[1].split("\n", 1)[1]


def test_a_verb_that_is_not_there(command: Command) -> None:
    result = command("compil")
    assert result.code == 2
    assert "compile" in result.err


# check


def test_check_of_all_that_is_shipped(command: Command) -> None:
    result = command("check", "--json")
    assert result.code == 0
    assert result.json["ok"]
    kinds = {each["kind"] for each in result.json["files"]}
    assert kinds == {"spec", "architecture", "precision profile"}


def test_check_of_a_bad_file(command: Command, tmp_path: Path, tiny_spec: Path) -> None:
    bad = tmp_path / "tiny.yaml"
    bad.write_text(tiny_spec.read_text().replace("kv_heads:", "kv_head:"))
    result = command("check", bad, "--json")
    assert result.code == 2
    assert "kv_heads" in result.err
    (file,) = result.json["files"]
    assert not result.json["ok"]
    assert f"{bad}:4:" in file["problems"][0]["at"]
    assert "Traceback" not in result.err


# plan


def test_plan_as_json(command: Command) -> None:
    result = command("plan", SPEC, "--mesh", "N150", "--json")
    assert result.code == 0
    plan = result.json
    assert plan["fits"]
    assert plan["dram_bytes_per_chip"] <= plan["dram_limit_bytes"]
    assert plan["l1_peak_bytes_per_core"] <= plan["l1_limit_bytes_per_core"]
    assert plan["trace_region_bytes"] > 0
    assert set(plan["largest"]) == {"context", "batch", "prefill_bucket", "max_tokens_all_users"}


def test_plan_for_people(command: Command) -> None:
    result = command("plan", SPEC, "--batch", "4", "--context", "1024")
    assert result.code == 0
    assert "4 of up to 1024 tokens" in result.out
    assert "KV cache" in result.out


def test_plan_of_everything(command: Command) -> None:
    result = command("plan", SPEC, "--all", "--json")
    assert result.code == 0
    rows = result.json["rows"]
    status = {(row["mesh"], row["precision"]): row["status"] for row in rows}
    assert status["N150", "performance"] == status["P150", "accuracy"] == "ok"
    assert {mesh for mesh, _ in status} == set(mesh_names())
    assert all(row["reason"] for row in rows if row["status"] == "refused")
    rows = command("plan", SPEC, "--all", "--precision", "bf16", "--json").json["rows"]
    assert {row["precision"] for row in rows} == {"bf16"}
    result = command("plan", SPEC, "--all", "--optimizations", "accuracy", "--mesh", "N150")
    assert result.code == 2
    assert "without --mesh, --optimizations" in result.err


def test_plan_explains_what_was_weighed(command: Command) -> None:
    result = command("plan", SPEC, "--explain", "--context", "512")
    assert result.code == 0
    assert "* halves: 17 operations in decode, 16 in prefill" in result.out
    assert "* 512: " in result.out
    assert "total" in result.out
    record = command("plan", SPEC, "--json", "--context", "512").json
    assert [step["tokens"] for step in record["estimate"]["prefill"]] == [128, 256, 384, 512]
    decode = record["estimate"]["decode"][0]
    assert decode["kinds"]["matmul ff2"]["bound"] == "DRAM"
    assert all(record["estimate"]["sources"].values())


def test_plan_compares_ways_to_use_a_mesh(command: Command) -> None:
    arguments = ("plan", "llama-3.1-70b-instruct", "--mesh", "T3K", "--explain")
    result = command(*arguments)
    assert "* 1 x 8 ring fractured" in result.out
    assert "8 x 1: needs 59.05 GB of DRAM, T3K has 12.87 GB" in result.out
    rows = command(*arguments, "--json").json["alternatives"]
    ways = {(row["tp"], row["topology"], row["prefill_residual"]): row for row in rows}
    taken, whole = ways[8, "ring", "fractured"], ways[8, "ring", "replicated"]
    assert [row["taken"] for row in rows] == [row is taken for row in rows]
    assert taken["prefill_ms"] < whole["prefill_ms"]
    assert taken["decode_ms"] < ways[8, "line", "fractured"]["decode_ms"]
    assert 0 < taken["decode_sent_bytes"] < taken["prefill_sent_bytes"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["smollm2-135-instruct"], "did you mean 'smollm2-135m-instruct'"),
        (["nowhere/spec.yaml"], "nowhere/spec.yaml"),
        ([SPEC, "--mesh", "N15O"], "did you mean 'N150'"),
        ([SPEC, "--mesh", "N150:3x3"], "cannot be opened as '3x3'"),
        ([SPEC, "--tp", "0"], "0 is not in the range x>=1"),
        ([SPEC, "--precision", "performence"], "did you mean 'performance'"),
        ([SPEC, "--topology", "ring"], "leave --topology out"),
        ([SPEC, "--links", "1"], "leave --links out"),
        ([SPEC, "--mesh", "N300", "--topology", "ring"], "use --topology line"),
        ([SPEC, "--mesh", "T3K", "--links", "2"], "use --links 1"),
        ([SPEC, "--mesh", "T3K", "--topology", "ring", "--tp", "4"], "do not form a ring"),
        ([SPEC, "--batch", "33"], "use --batch 32"),
        ([SPEC, "--batch", "0"], "use --batch 1"),
        ([SPEC, "--context", "16384"], "use --context 8192"),
        ([SPEC, "--context", "100"], "use --context 128"),
        ([SPEC, "--batch", "many"], "not a valid integer"),
        ([], "no spec is named"),
    ],
)
def test_plans_that_are_refused(command: Command, arguments: list[str], words: str) -> None:
    result = command("plan", *arguments)
    assert result.code == 2
    assert words in " ".join(result.err.split())
    assert result.out == ""


def test_what_does_not_fit_says_what_would(command: Command) -> None:
    result = command("plan", "llama-3.1-8b-instruct", "--batch", "32", "--context", "131072")
    assert result.code == 2
    assert "help:" in result.err


# compile


def test_compile_without_weights(artefact: Path) -> None:
    assert {path.name for path in artefact.iterdir()} == {"model.py", "plan.yaml", "manifest.json"}


def test_compile_as_json(command: Command, tmp_path: Path, tiny_spec: Path) -> None:
    out = tmp_path / "tiny"
    result = command("compile", tiny_spec, "--no-weights", "-o", out, "--json")
    assert result.json["artefact"] == str(out)
    assert result.json["weights"] == 0


def test_same_inputs_same_bytes(command: Command, artefact: Path, tiny_spec: Path) -> None:
    before = {path.name: path.read_bytes() for path in artefact.iterdir()}
    assert command("compile", tiny_spec, "--no-weights", "-o", artefact).code == 0
    assert {path.name: path.read_bytes() for path in artefact.iterdir()} == before


def test_compile_does_not_replace_other_folders(command: Command, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    result = command("compile", SPEC, "--no-weights", "-o", tmp_path)
    assert result.code == 2
    assert "exists and is not an artefact" in result.err


def test_compile_from_a_checkpoint_that_is_not_there(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = command("compile", SPEC, "--weights", tmp_path / "gone", "-o", out)
    assert result.code == 2
    assert "no checkpoint" in result.err
    assert not out.exists()


# verify and run: what is refused before anything heavy is loaded


def test_run_needs_weights(command: Command, artefact: Path) -> None:
    result = command("run", artefact, "-p", "Hello", "--backend", "emulate")
    assert result.code == 2
    assert "compiled with --no-weights" in result.err


def test_verify_on_the_emulator_needs_weights(command: Command, artefact: Path) -> None:
    result = command("verify", artefact, "--backend", "emulate")
    assert result.code == 2
    assert "compiled with --no-weights" in result.err


@pytest.mark.parametrize("verb", ["run", "verify"])
def test_an_artefact_of_another_version(command: Command, artefact: Path, verb: str) -> None:
    manifest = artefact / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"ttc": "0.0.9"}))
    result = command(verb, artefact, *(["-p", "Hello"] if verb == "run" else []))
    assert result.code == 2
    assert "was built by ttc 0.0.9, this is" in result.err
    assert "run ttc compile again" in result.err


@pytest.mark.parametrize("verb", ["run", "verify"])
def test_a_mesh_it_was_not_built_for(command: Command, artefact: Path, verb: str) -> None:
    options = ["-p", "Hello"] if verb == "run" else []
    result = command(verb, artefact, *options, "--mesh", "P150")
    assert result.code == 2
    assert "built for the mesh N150, not for P150" in result.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-p", "Hello", "--backend", "cuda"], "there is no backend 'cuda'"),
        (["-p", "Hello", "--backend", "mock"], "computes no values"),
        ([], "there is nothing to ask"),
        (["--messages", "nowhere.json"], "cannot read the messages"),
        (["-p", "Hello", "--temperature", "-1"], "temperature is -1.0"),
        (["-p", "Hello", "--max-new-tokens", "0"], "max_new_tokens is 0"),
        (["-p", "Hello", "--system", "Be brief.", "--no-chat-template"], "need the chat template"),
    ],
)
def test_runs_that_are_refused(
    command: Command, artefact: Path, arguments: list[str], words: str
) -> None:
    """Before the artefact is opened: it has no weights."""
    result = command("run", artefact, *arguments)
    assert result.code == 2
    assert words in result.err


def test_errors_as_json(command: Command, tmp_path: Path) -> None:
    result = command("run", tmp_path / "nothing", "-p", "Hello", "--json")
    assert result.code == 2
    assert result.json["error"] in result.err
    (problem,) = result.json["problems"]
    assert problem["message"] == f"no artefact at {tmp_path / 'nothing'}"
    assert problem["help"] == "build one with ttc compile"


def test_internal_errors_as_json(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("lost")

    monkeypatch.setattr(api, "plan", broken)
    result = command("plan", SPEC, "--json")
    assert result.code == 2
    assert result.json["error"].startswith("internal error: KeyError: 'lost'")
    assert result.json["problems"] == []


@pytest.mark.parametrize("text", ["{}", "[]", '["Hello"]', '[{"content": "Hello"}]'])
def test_messages_that_are_none(command: Command, artefact: Path, text: str) -> None:
    messages = artefact.parent / "messages.json"
    messages.write_text(text)
    result = command("run", artefact, "--messages", messages)
    assert result.code == 2
    assert "holds no messages" in result.err


@pytest.mark.parametrize(("ok", "code"), [(True, 0), (False, 1)])
def test_findings_are_exit_code_1(
    command: Command, artefact: Path, monkeypatch: pytest.MonkeyPatch, ok: bool, code: int
) -> None:
    agreement = SimpleNamespace(positions=184, pcc=0.5, top1=0.25, top5=0.75)
    emulate = SimpleNamespace(ok=ok, agreement=agreement)
    report = SimpleNamespace(ok=ok, mock=None, emulate=emulate)
    monkeypatch.setattr(api, "verify", lambda *_, **__: report)
    report.to_json = lambda: {"emulate": {"ok": ok}}
    result = command("verify", artefact)
    assert result.code == code
    verdict = "ok" if ok else "FAILED"
    assert f"emulator   {verdict}: over 184 tokens" in result.out
    assert "PCC 0.50000, top-1 25.0%, top-5 75.0%" in result.out
    as_json = command("verify", artefact, "--json")
    assert as_json.code == code
    assert as_json.json == {"emulate": {"ok": ok}}


def test_verify_has_no_such_backend(command: Command, artefact: Path) -> None:
    result = command("verify", artefact, "--backend", "emulator")
    assert result.code == 2
    assert "did you mean 'emulate'" in result.err


@pytest.mark.parametrize(
    ("option", "value"), [("--batch", "2"), ("--context", "64"), ("--tp", "1")]
)
def test_verify_of_an_artefact_has_no_sizes(
    command: Command, artefact: Path, option: str, value: str
) -> None:
    result = command("verify", artefact, "--backend", "mock", option, value)
    assert result.code == 2
    assert f"{option} is for a SPEC" in result.err


def test_verify_plans_the_sizes_that_are_asked_for(command: Command, tiny_spec: Path) -> None:
    sizes = ("--batch", "40", "--context", "128")
    for mesh in ("N150", "all"):
        result = command("verify", tiny_spec, "--mesh", mesh, "--backend", "mock", *sizes)
        assert "batch of 40" in result.out + result.err
        assert result.code != 0


def test_run_of_a_folder_that_is_not_there(command: Command, tmp_path: Path) -> None:
    result = command("run", tmp_path / "gone", "-p", "Hello")
    assert result.code == 2
    assert "no artefact at" in result.err


# environment


@pytest.mark.parametrize(
    ("name", "value", "key", "expected"),
    [
        ("MESH_DEVICE", "P150", "mesh", "P150"),
        (
            "HF_MODEL",
            "meta-llama/Llama-3.2-1B-Instruct",
            "model",
            "meta-llama/Llama-3.2-1B-Instruct",
        ),
        ("MAX_PREFILL_CHUNK_SIZE", "1", "prefill_chunk_tokens", 1024),
    ],
)
def test_variables_are_used_and_reported(
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
    key: str,
    expected: Any,
) -> None:
    monkeypatch.setenv(name, value)
    result = command("plan", *([] if name == "HF_MODEL" else [SPEC]), "--json")
    assert result.code == 0
    assert result.json[key] == expected
    assert f"using {name}={value} from the environment" in result.err


def test_an_option_wins_over_a_variable(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESH_DEVICE", "P150")
    result = command("plan", SPEC, "--mesh", "N150", "--json")
    assert result.json["mesh"] == "N150"
    assert "MESH_DEVICE" not in result.err


@pytest.mark.parametrize("value", ["0", "-4", "4k"])
def test_a_chunk_size_that_is_no_number(
    command: Command, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("MAX_PREFILL_CHUNK_SIZE", value)
    result = command("plan", SPEC)
    assert result.code == 2
    assert f"MAX_PREFILL_CHUNK_SIZE is '{value}'" in result.err


def test_variables_that_are_not_needed(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAD_MLP_CORES", "32")
    result = command("plan", SPEC)
    assert result.code == 0
    assert "PAD_MLP_CORES is not needed" in result.err


def test_llama_dir_is_for_specs_that_do_not_say_where_weights_are(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LLAMA_DIR", str(tmp_path / "gone"))
    result = command("compile", "llama-3.2-1b-instruct", "-o", tmp_path / "out")
    assert result.code == 2
    assert f"using LLAMA_DIR={tmp_path / 'gone'} from the environment" in result.err
    assert "no checkpoint" in result.err


# our own mistakes


def break_planning(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyError("wqkv")

    monkeypatch.setattr(api, "plan", fail)


def test_an_internal_error_is_short(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    break_planning(monkeypatch)
    result = command("plan", SPEC)
    assert result.code == 2
    assert "internal error: KeyError: 'wqkv'" in result.err
    assert "--debug" in result.err
    assert "Traceback" not in result.err


def test_debug_shows_where(monkeypatch: pytest.MonkeyPatch) -> None:
    break_planning(monkeypatch)
    with pytest.raises(KeyError):
        main(["plan", SPEC, "--debug"])


def test_a_cache_without_a_name_is_not_the_working_directory(command: Command) -> None:
    result = command("cache", "list", "--cache", "")
    assert result.code == 2
    assert "--cache names nothing" in result.err


def test_an_interrupt_while_the_command_is_imported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = builtins.__import__

    def interrupted(name: str, *rest: Any, **named: Any) -> Any:
        if name == "ttc.cli":
            raise KeyboardInterrupt
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", interrupted)
    with pytest.raises(SystemExit) as ended:
        start()
    assert (ended.value.code, capsys.readouterr().err) == (130, "Aborted.\n")
