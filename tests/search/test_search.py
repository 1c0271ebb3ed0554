"""A whole search on a tiny model: what it finds holds, and what cannot be found is said."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ttc import api
from ttc.accuracy.teacher import HELD_BACK, TEXT, Split
from ttc.cli import main
from ttc.errors import UsageError
from ttc.progress import silent
from ttc.search.bench import STORE, Measured
from ttc.search.front import pareto
from ttc.search.search import (
    Floors,
    Point,
    SearchSettings,
    _choose,  # pyright: ignore[reportPrivateUsage]
    _refined,  # pyright: ignore[reportPrivateUsage]
    check_held_back,
)
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
            "no profile holds both a top-1 of ",
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
        (["--speed-floor", "-1"], "is no speed above 0\n  = help: 40 stands for 40 tokens/s"),
        (["--pareto", "--block", "0"], "is not at least 1\n  = help: 1 lets every decoder"),
        (["--pareto", "--calibration", "0"], "is not at least 1\n  = help: 256 tokens are"),
        (["--pareto", "--text", str(HELD_BACK)], "are the same text"),
        (["--pareto", "--held-back", str(TEXT), "--calibration", "8"], "are the same text"),
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


def a_point(
    name: str, cost: float, top1: float, choice: Choice | None = None, speed: float = 1.0
) -> Point:
    measured = Measured(top1=top1, top5=1.0, kl=0.0, perplexity=1.0, tokens=1, hits="1", kls=(0.0,))
    return Point(
        name=name,
        bytes_read=cost,
        tokens_per_s=speed,
        predicted_kl=0.0,
        measured=measured,
        choice=choice,
    )


class Additive:
    """A hunt whose top-1 is 1 less the losses, and each byte less a token per second more."""

    def __init__(self) -> None:
        self.losses = tuple((0.0, 0.001 * number) for number in range(1, 13))
        self.prices = ((0.0, -1.0),) * 12
        self.bench = SimpleNamespace(progress=silent)
        self.rungs = [(0,) * 12, (1,) * 12]
        self.points: dict[Choice, Point] = {}

    def choice(self, name: str, choice: Choice) -> Point:
        cost, loss = total(self.prices, choice), total(self.losses, choice)
        self.points[choice] = a_point(name, cost, 1 - loss, choice, self.speed(choice))
        return self.points[choice]

    def rung(self, number: int) -> Point:
        return self.choice(f"choice {number + 1}", self.rungs[number])

    def text(self, choice: Choice) -> Choice:
        return choice

    def speed(self, choice: Choice) -> float:
        return 1 - total(self.prices, choice)

    def rivals(self) -> dict[str, Choice]:
        return {}


def test_between_two_rungs_the_cost_is_halved() -> None:
    hunt = Additive()
    finest = hunt.choice("choice 1", hunt.rungs[0])
    found = _refined(cast(Any, hunt), 0.97, finest, hunt.rungs[1])
    assert [each.bytes_read for each in hunt.points.values()] == [0, -6, -9, -8]
    assert found.bytes_read == -6
    assert _refined(cast(Any, hunt), 0.93, finest, hunt.rungs[1]).bytes_read == -11


class Stairs(Additive):
    """With a rung for each item that is coarser than before: 0.1 %, 0.3 %, 0.6 %, 1 % ... lost."""

    def __init__(self) -> None:
        super().__init__()
        self.rungs = [(1,) * number + (0,) * (12 - number) for number in range(13)]


@pytest.mark.parametrize(
    ("floors", "speed"),
    [
        (Floors(top1=0.9899), 5),  # the cheapest within 1 %
        (Floors(speed=3), 3),  # the most accurate of these
        (Floors(top1=0.9899, speed=3), 5),
        (Floors(top1=0.9899, speed=5), 5),
        (Floors(top1=0.9899, pareto=True), 5),
    ],
)
def test_floors_together(floors: Floors, speed: float) -> None:
    found = _choose(cast(Any, Stairs()), floors)
    assert found is not None
    assert found.tokens_per_s == speed


def test_the_best_that_two_floors_leave_is_said() -> None:
    with pytest.raises(UsageError) as caught:
        _choose(cast(Any, Stairs()), Floors(top1=0.9899, speed=9))
    told = str(caught.value)
    assert "no profile holds both a top-1 of 99.0% and 9 tokens/s" in told
    assert "with that top-1, at most 5.0 tokens/s were reached" in told
    assert "with that speed, a top-1 of at most 96.4%" in told


def test_a_fast_profile_that_reads_more_holds_both_floors() -> None:
    """Bytes and time are not one: of two that hold a top-1 the dearer one may be the faster."""

    class Slow(Stairs):
        def speed(self, choice: Choice) -> float:
            return 7.0 if sum(choice) == 2 else 1.0

    found = _choose(cast(Any, Slow()), Floors(top1=0.9899, speed=7))
    assert found is not None
    assert sum(found.choice or ()) == 2


@pytest.mark.parametrize("shared", [[1, 2, 3], [1, 2, 3, 4], [1, 2]])
def test_texts_that_share_their_tokens(shared: list[int]) -> None:
    how = SearchSettings(split=Split(prefill=1, steps=1))
    with pytest.raises(UsageError, match=r"(?s)the held-back text is the one .*crossing.txt"):
        check_held_back(how, [1, 2, 3], shared)
    check_held_back(how, [1, 2, 3], [1, 3, 3])


def test_the_front_has_no_point_that_another_beats() -> None:
    named = [("a", 1, 0.5), ("worse", 2, 0.4), ("b", 3, 0.9), ("c", 3, 0.8)]
    points = [a_point(*each) for each in named]
    assert [each.name for each in pareto(points)] == ["a", "b"]
