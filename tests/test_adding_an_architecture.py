"""docs/adding-an-architecture.md: its commands and its file, in its order."""

import json
import re
import shlex
from pathlib import Path

import pytest
from random_models import make_checkpoint

from ttc import cli

pytestmark = [pytest.mark.emulate, pytest.mark.mock]

TEXT = (Path(__file__).parents[1] / "docs" / "adding-an-architecture.md").read_text()
BLOCKS = re.findall(r"^```(sh|yaml)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


def ttc(command: str, capsys: pytest.CaptureFixture[str], status: int = 0) -> str:
    words = shlex.split(command)
    assert words[0] == "ttc"
    with pytest.raises(SystemExit) as ended:
        cli.main(words[1:])
    printed = capsys.readouterr()
    assert (ended.value.code or 0) == status, f"{command}\n{printed.out}\n{printed.err}"
    return printed.out


def test_the_steps_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_checkpoint(tmp_path / "my-gemma", "GemmaForCausalLM")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TTC_CACHE", str(tmp_path / "cache"))
    assert [kind for kind, _ in BLOCKS] == ["sh", "yaml", "sh"]
    (draft,) = BLOCKS[0][1].splitlines()
    assert "to decide" in ttc(draft, capsys, status=1)
    text = BLOCKS[1][1]
    path = tmp_path / text.splitlines()[0].removeprefix("# ")
    assert "undecided:" in path.read_text(), "the file of the page replaces the draft"
    path.write_text(text)
    *commands, verify = BLOCKS[2][1].splitlines()
    for command in commands:
        ttc(command, capsys)
    report = json.loads(ttc(f"{verify} --json", capsys))
    assert report["mock"]["ok"]
    assert report["emulate"]["logits_pcc"] > 0.999
