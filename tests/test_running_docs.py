"""The commands and the example of docs/running.md work, on a tiny model."""

import io
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ttc.cli import main
from ttc.runtime.prompts import read_prompts

pytestmark = pytest.mark.emulate

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "running.md").read_text(encoding="utf-8")
CHAT = "{% for m in messages %}{{ m['role'] + ':' + m['content'] }}{% endfor %}"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


def test_commands_and_example(
    tmp_path: Path,
    tiny_checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    for file in tiny_checkpoint.iterdir():
        (checkpoint / file.name).write_bytes(file.read_bytes())
    config = {"eos_token": "<end>", "chat_template": CHAT}
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(config))
    tiny = f"{ROOT / 'tests/data/tiny.yaml'} --weights {checkpoint} --cache {tmp_path / 'cache'}"
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\n/reset\n"))
    for line in "".join(blocks("sh")).splitlines():
        uv, verb, tool, *arguments = shlex.split(line.replace("smollm2-135m-instruct", tiny))
        assert (uv, verb, tool) == ("uv", "run", "ttc")
        with pytest.raises(SystemExit) as ended:
            main([argument.replace("build/", f"{tmp_path}/") for argument in arguments])
        assert not ended.value.code, f"{line}\n{capsys.readouterr().err}"
    assert (tmp_path / "speeds.csv").read_text().count("\n") == 3
    (example,) = blocks("python")
    example = example.replace("build/", f"{tmp_path}/")
    done = subprocess.run(
        [sys.executable, "-c", example], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "held=0" in done.stdout


def test_the_prompts_file(tmp_path: Path) -> None:
    (text,) = blocks("json")
    path = tmp_path / "prompts.json"
    path.write_text(re.sub(r"https?://[^\"]+", "book.txt", text))
    (tmp_path / "book.txt").write_text("Call me Ishmael.", encoding="utf-8")
    assert len(read_prompts(path, cache=tmp_path)) == 2
