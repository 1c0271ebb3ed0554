"""A whole search on a tiny model: what it finds holds, and what cannot be found is said."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ttc import api
from ttc.cli import main
from ttc.progress import silent
from ttc.search.bench import STORE, Measured
from ttc.search.front import pareto
from ttc.search.search import Point, _refined  # pyright: ignore[reportPrivateUsage]
from ttc.search.solve import total
from ttc.search.space import Choice
from ttc.spec.precision import load_profile

pytestmark = [pytest.mark.emulate, pytest.mark.mock]

SPEC = Path(__file__).parents[1] / "data" / "tiny.yaml"


class Search:
    """`ttc search` in one folder, so that later runs know what earlier ones measured."""

    def __init__(self, folder: Path, checkpoint: Path) -> None:
        self.folder = folder
        self.fixed = [
            *("search", str(SPEC), "--weights", str(checkpoint), "--cache", str(folder / "cache")),
            *("--tokens", "64+3", "--calibration", "64", "--context", "128", "--block", "2"),
            *("-o", str(folder / "out"), "--json"),
        ]

    def __call__(self, *more: str) -> int:
        with pytest.raises(SystemExit) as ended:
            main([*self.fixed, *more])
        return int(ended.value.code or 0)

    @property
    def measurements(self) -> int:
        return len((self.folder / "out" / STORE).read_text().splitlines())


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Search:
    return Search(tmp_path_factory.mktemp("search"), tiny_checkpoint)


def test_what_is_found_holds_the_floor_and_is_not_measured_twice(
    search: Search, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search("--top1-floor", "75") == 0
    told = json.loads(capsys.readouterr().out)
    found = told["found"]
    assert found["top1"] >= 0.75
    cheaper = [each for each in told["points"] if each["bytes_read"] < found["bytes_read"]]
    assert all(each["top1"] < 0.75 for each in cheaper)
    (file,) = map(Path, told["files"])
    profile = load_profile(file)
    text = file.read_text()
    assert f"top-1 {found['top1']:.2%}" in text
    assert "Measured on crossing.txt, 64+3 tokens" in text
    plan = api.plan(SPEC, api.Target(precision=profile, context=128))
    assert plan.profile == "tiny-top1-75"
    measured = search.measurements
    with (search.folder / "out" / STORE).open("a") as store:
        store.write('{"key": "of a run that was sto')
    assert search("--top1-floor", "75") == 0
    assert json.loads(capsys.readouterr().out)["found"] == found
    assert search.measurements == measured + 1  # the half line


def test_a_speed_floor_and_the_front(search: Search, capsys: pytest.CaptureFixture[str]) -> None:
    assert search("--speed-floor", "2500", "--pareto") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["found"]["tokens_per_s"] >= 2500
    assert [each["name"] for each in told["presets"]] == ["performance", "accuracy"]
    yaml, table, picture = map(Path, told["files"])
    assert load_profile(yaml).name == "tiny-speed-2500"
    assert len(table.read_text().splitlines()) == 1 + len(told["points"]) + 2
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["--top1-floor", "100"], "the best that can be reached is"),
        (["--speed-floor", "9e9"], "no profile reaches 9e+09 tokens/s"),
        (
            ["--top1-floor", "100", "--relative-to", "bf16", "--speed-floor", "2800"],
            "no profile holds both floors",
        ),
        (["--top1-floor", "0.95"], "95 stands for 95 %"),
        (["--relative-to", "bf16", "--pareto"], "--relative-to says what a floor is of"),
        ([], "there is nothing to search for"),
        (["--speed-floor", "nan"], "is no speed above 0"),
        (["--top1-floor", "95", "--relative-to", "bf61"], "did you mean 'bf16'"),
        (["--pareto", "--text", "none.txt"], "there is no file 'none.txt'"),
        (["--pareto", "--calibration", "9999"], "9999+0 needs 10000"),
        (["--pareto", "--calibration", "999"], "the program has a context of 128"),
        (["--pareto", "--tokens", "64+9999"], "64+9999 needs 10064"),
        (["--speed-floor", "-1"], "is no speed above 0"),
        (["--pareto", "--block", "0"], "is not at least 1"),
    ],
)
def test_what_cannot_be(
    search: Search, asked: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search(*asked) == 2
    captured = capsys.readouterr()
    assert message in json.loads(captured.out)["error"]
    assert message in captured.err


def test_a_search_that_is_stopped_says_how_to_go_on(
    search: Search, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ttc.search.search.search", stopped)
    assert search("--top1-floor", "75") not in (0, 1, 2)
    assert f"kept in {search.folder / 'out'}" in capsys.readouterr().err


def a_point(name: str, cost: float, top1: float, choice: Choice | None = None) -> Point:
    measured = Measured(top1=top1, top5=1.0, kl=0.0, perplexity=1.0, tokens=1, hits="1", kls=(0.0,))
    return Point(
        name=name,
        bytes_read=cost,
        tokens_per_s=1.0,
        predicted_kl=0.0,
        measured=measured,
        choice=choice,
    )


class Additive:
    """A hunt whose top-1 is 1 less the losses: what a measured one tends to."""

    def __init__(self) -> None:
        self.losses = tuple((0.0, 0.001 * number) for number in range(1, 13))
        self.prices = ((0.0, -1.0),) * 12
        self.bench = SimpleNamespace(progress=silent)
        self.rungs = [(0,) * 12, (1,) * 12]
        self.points: dict[Choice, Point] = {}

    def choice(self, name: str, choice: Choice) -> Point:
        cost, loss = total(self.prices, choice), total(self.losses, choice)
        self.points[choice] = a_point(name, cost, 1 - loss, choice)
        return self.points[choice]


def test_between_two_rungs_the_cost_is_halved() -> None:
    hunt = Additive()
    finest = hunt.choice("choice 1", hunt.rungs[0])
    found = _refined(cast(Any, hunt), 0.97, finest, hunt.rungs[1])
    assert [each.bytes_read for each in hunt.points.values()] == [0, -6, -9, -8]
    assert found.bytes_read == -6
    assert _refined(cast(Any, hunt), 0.93, finest, hunt.rungs[1]).bytes_read == -11


def test_the_front_has_no_point_that_another_beats() -> None:
    named = [("a", 1, 0.5), ("worse", 2, 0.4), ("b", 3, 0.9), ("c", 3, 0.8)]
    points = [a_point(*each) for each in named]
    assert [each.name for each in pareto(points)] == ["a", "b"]
