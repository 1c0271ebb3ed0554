"""The README's commands and its Python example do what it says."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.mock

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
SECTION = TEXT.split("## One model from nothing to tokens")[1].split("\n## ")[0]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", SECTION, flags=re.DOTALL)


def run(command: list[str]) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_commands_and_example(tmp_path: Path) -> None:
    (shell,) = blocks("sh")
    outputs: list[str] = []
    for line in shell.replace("build/smol", str(tmp_path / "smol")).splitlines():
        uv, verb, tool, *arguments = shlex.split(line)
        assert (uv, verb, tool) == ("uv", "run", "ttc")
        outputs.append(run([sys.executable, "-m", "ttc", *arguments]))
    assert "Paris" in outputs[-1]
    (example,) = blocks("python")
    example = example.replace("build/smol", str(tmp_path / "smol")).replace("32", "8")
    assert run([sys.executable, "-c", example]).strip()


def test_the_readme_fits_on_a_few_screens() -> None:
    assert len(TEXT.splitlines()) < 200
