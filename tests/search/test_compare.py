"""Profiles on the same tokens: what is counted, and what is paired."""

# pyright: reportUnknownMemberType=false
import json
from math import sqrt
from pathlib import Path

import pytest

from ttc.cli import main
from ttc.search.bench import Measured
from ttc.search.compare import paired

SPEC = Path(__file__).parents[1] / "data" / "tiny.yaml"


def measured(hits: str, kls: tuple[float, ...]) -> Measured:
    return Measured(top1=0, top5=0, kl=0, perplexity=1, tokens=len(hits), hits=hits, kls=kls)


@pytest.mark.emulate
def test_differences_are_paired_by_position() -> None:
    ours, first = measured("1100", (0.5, 0.4, 0.3, 0.2)), measured("1010", (0.4, 0.3, 0.2, 0.1))
    found = paired(ours, first)
    assert found.top1 == 0
    assert found.top1_error == pytest.approx(sqrt(2 / 3) / 2)  # of 0, 1, -1, 0
    assert found.kl == pytest.approx(0.1)
    assert found.kl_error == pytest.approx(0, abs=1e-9)  # the same lead everywhere


class Compare:
    """`ttc compare` of a tiny model in one folder."""

    def __init__(self, folder: Path, checkpoint: Path) -> None:
        self.fixed = [
            *("compare", str(SPEC), "--weights", str(checkpoint), "--cache", str(folder / "cache")),
            *("--tokens", "64+3", "--context", "128", "-o", str(folder / "out"), "--json"),
        ]

    def __call__(self, *more: str) -> int:
        with pytest.raises(SystemExit) as ended:
            main([*self.fixed, *more])
        return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def compare(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Compare:
    return Compare(tmp_path_factory.mktemp("compare"), tiny_checkpoint)


@pytest.mark.emulate
@pytest.mark.mock
def test_named_profiles_and_settings_of_tt_transformers(
    compare: Compare, capsys: pytest.CaptureFixture[str]
) -> None:
    small = "precision_cfg = {ff1_3: bfp4, ff2: bfp4}, fidelity_cfg = {li_ff1_3: lofi}"
    asked = ("--precision", "bf16", "--precision", "base", "--optimizations", small)
    assert compare(*asked) == 0
    told = json.loads(capsys.readouterr().out)["profiles"]
    assert [each["name"] for each in told] == ["bf16", "base", small]
    assert told[0]["bytes_read"] > told[1]["bytes_read"] > told[2]["bytes_read"]
    assert told[0]["kl"] < told[1]["kl"] < told[2]["kl"]
    assert told[0]["kl_difference"] == told[0]["top1_difference_error"] == 0
    for each in told[1:]:
        assert each["kl_difference"] == pytest.approx(each["kl"] - told[0]["kl"], rel=1e-2)
        assert each["top1_difference"] == pytest.approx(each["top1"] - told[0]["top1"])
    assert compare(*asked) == 0
    assert json.loads(capsys.readouterr().out)["profiles"] == told


@pytest.mark.emulate
@pytest.mark.mock
@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["--precision", "bf16"], "there is nothing to compare"),
        (["--precision", "bf16", "--precision", "bf16"], "there is nothing to compare"),
        (["--precision", "bf16", "--optimizations", "precision_cfg = {ff4: bfp4}"], "'ff4'"),
        (["--precision", "bf16", "--precision", "bfp16"], "bf16"),
    ],
)
def test_what_cannot_be_compared(
    compare: Compare, asked: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(*asked) == 2
    assert message in capsys.readouterr().err
