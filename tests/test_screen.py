"""What the command line prints: sizes, and findings under their verdict."""

from types import SimpleNamespace
from typing import Any

import pytest

from ttc.screen import Screen, amount, verdict_lines

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (1_234_567, "1.23 MB"),
        (12_872_318_208, "12.9 GB"),
        (5e15, "5e+03 TB"),
    ],
)
def test_sizes(size: float, text: str) -> None:
    assert amount(size) == text


def test_findings_stand_under_their_verdict() -> None:
    mock = SimpleNamespace(
        ok=False,
        decode=("a",) * 17,
        prefill=("a",) * 16,
        prefill_chunk=("a",) * 17,
        dram_peak_bytes_per_chip=1_000_000,
        l1_peak_bytes_per_core=1_000,
        findings=("linear: out of memory",),
    )
    report: Any = SimpleNamespace(mock=mock, emulate=None)
    verdict, finding = verdict_lines(report)
    assert "FAILED: 17 device operations per decoder in decode, 16 in prefill" in verdict
    assert finding.strip() == "linear: out of memory"


def test_json_stands_alone_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(as_json=True)
    screen.say("for people")
    screen.stream("a piece")
    screen.note("a remark")
    screen.result({"ok": True})
    captured = capsys.readouterr()
    assert captured.out == '{\n  "ok": true\n}\n'
    assert captured.err == "a remark\n"


def test_progress_is_quiet_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    with Screen(as_json=False).progress() as progress:
        progress("converting", 1, 2)
        progress("loading")
    assert capsys.readouterr().err == ""
