"""`ttc search`: the precision profile that reads least within an accuracy floor, or is most
accurate within a speed floor.

    sensitivities, on one text --milp--> a ladder of choices --emulator--> accuracy on another text

Each rung is the exact optimum for its predicted loss. The rung that is taken is the cheapest whose
measured accuracy, on text that no sensitivity was measured on, holds the floor; unless one of the
profiles that come with ttc stores less and, computed as rungs are, holds it as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ttc.accuracy.reference import Reference
from ttc.accuracy.teacher import HELD_BACK, TEXT, Split
from ttc.errors import Problem, UsageError
from ttc.hardware.hardware import load_mesh
from ttc.located import read_text
from ttc.progress import Progress
from ttc.search.bench import Bench, BenchSettings, Measured, open_bench
from ttc.search.sensitivity import measure_losses
from ttc.search.solve import ladder, least, total
from ttc.search.space import (
    Choice,
    Item,
    Table,
    make_items,
    price,
    profile_text,
    read_bytes,
    step_seconds,
    stored_as,
)
from ttc.spec.model import load_model

PRESETS = ("performance", "accuracy")
"""Those that are marked on the Pareto front."""

RIVALS = (*PRESETS, "base", "bf16")
"""Profiles that must not hold a floor with fewer bytes than what is found."""

RUNGS = 24
REFINEMENTS = 3
"""Halvings of the cost between the cheapest rung that holds a floor and the next one."""

FRONT = 8
"""Rungs that are measured for a Pareto front."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Floors:
    """What a search must hold; None where it need not.

    top1         share of positions where the program prefers what Hugging Face prefers
    relative_to  the profile of whose top-1 `top1` is a share instead
    speed        tokens per second of a user, as estimated for a full context
    """

    top1: float | None = None
    relative_to: str | None = None
    speed: float | None = None
    pareto: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSettings:
    """How a search measures.

    block               neighbouring decoders that share a form
    calibration_tokens  of `text`, whose losses are measured
    held_back           the text that floors must hold on, read as `split` says
    minimise            what a decode step pays: bytes it reads, or its estimated time
    """

    block: int = 1
    calibration_tokens: int = 256
    text: Path = TEXT
    held_back: Path = HELD_BACK
    split: Split
    minimise: Literal["bytes", "time"] = "bytes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A profile that was measured: bytes a decode step reads, and what they give."""

    name: str
    bytes_read: float
    tokens_per_s: float
    predicted_kl: float
    measured: Measured
    choice: Choice | None

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "bytes_read": self.bytes_read,
            "tokens_per_s": self.tokens_per_s,
            **self.measured.to_json(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The result: its profile's text, the point it is, and all that was measured on the way."""

    profile: str
    point: Point | None
    points: tuple[Point, ...]
    presets: tuple[Point, ...]

    def to_json(self) -> dict[str, Any]:
        """What `ttc search --json` prints."""
        return {
            "found": self.point.to_json() if self.point else None,
            "points": [point.to_json() for point in self.points],
            "presets": [point.to_json() for point in self.presets],
        }


def search(
    settings: BenchSettings,
    how: SearchSettings,
    floors: Floors,
    name: str,
    progress: Progress,
) -> Found:
    """Measure, solve, measure again. Raises UsageError for floors that cannot be met."""
    model = load_model(settings.spec)
    _check_texts(how)
    with open_bench(settings, model, progress) as bench:
        hunt = _prepare(bench, how, floors)
        presets = tuple(hunt.preset(each) for each in PRESETS) if floors.pareto else ()
        if floors.pareto:
            last = len(hunt.rungs) - 1
            for step in range(FRONT):
                hunt.rung(round(step * last / (FRONT - 1)))
        point = _choose(hunt, floors)
        text = (
            profile_text(name, hunt.items, point.choice or (), _evidence(hunt, floors, point))
            if point and point.choice
            else ""
        )
        points = tuple(sorted(hunt.points.values(), key=lambda each: each.bytes_read))
        return Found(profile=text, point=point, points=points, presets=presets)


@dataclass(slots=True, kw_only=True)
class _Hunt:
    """What a search knows: items, their costs and losses, and the rungs measured so far."""

    bench: Bench
    how: SearchSettings
    items: tuple[Item, ...]
    losses: Table
    prices: Table
    rungs: list[Choice]
    reference: Reference
    points: dict[Choice, Point] = field(default_factory=dict[Choice, Point])

    def text(self, choice: Choice) -> str:
        """The profile of a choice."""
        return profile_text("candidate", self.items, choice)

    def speed(self, profile: str) -> float:
        """Estimated tokens per second of a user, with a full context."""
        chip = load_mesh(self.bench.settings.mesh).chip
        return 1 / step_seconds(self.bench.plan(profile), chip)

    def rung(self, number: int) -> Point:
        """The measured point of a rung."""
        self.bench.progress(f"measuring choice {number + 1} of {len(self.rungs)}")
        return self.choice(f"choice {number + 1}", self.rungs[number])

    def choice(self, name: str, choice: Choice) -> Point:
        """The measured point of a choice."""
        if choice not in self.points:
            predicted = total(self.losses, choice)
            self.points[choice] = self._point(name, self.text(choice), choice, predicted)
        return self.points[choice]

    def rivals(self) -> dict[str, Choice]:
        """What the profiles that come with ttc store, each as the choice that stores the same."""
        return {name: stored_as(self.items, self.bench.precision(name)) for name in RIVALS}

    def preset(self, name: str) -> Point:
        """The measured point of a profile that comes with ttc."""
        self.bench.progress(f"measuring {name}")
        return self._point(name, name, None, float("nan"))

    def _point(self, name: str, profile: str, choice: Choice | None, predicted: float) -> Point:
        return Point(
            name=name,
            bytes_read=read_bytes(self.bench.plan(profile)),
            tokens_per_s=self.speed(profile),
            predicted_kl=predicted,
            measured=self.bench.measure(profile, self.reference, self.how.split),
            choice=choice,
        )


def _prepare(bench: Bench, how: SearchSettings, floors: Floors) -> _Hunt:
    bench.progress("reading the texts")
    calibration = bench.encode(how.text, Split(prefill=how.calibration_tokens, steps=0))
    held_back = bench.encode(how.held_back, how.split)
    check_held_back(how, calibration, held_back)
    bench.progress("planning")
    layers = bench.model.dims.layers
    items = make_items(bench.plan("bf16"), layers, how.block)
    chip = load_mesh(bench.settings.mesh).chip
    if floors.speed is not None:
        _check_speed(bench, items, floors.speed)
    cost = read_bytes if how.minimise == "bytes" else partial(step_seconds, chip=chip)
    prices, _ = price(items, bench.plan, cost)
    losses = measure_losses(bench, items, calibration)
    bench.progress("computing the reference")
    reference = bench.reference(held_back)
    return _Hunt(
        bench=bench,
        how=how,
        items=items,
        losses=losses,
        prices=prices,
        rungs=ladder(prices, losses, RUNGS),
        reference=reference,
    )


def check_held_back(
    how: SearchSettings, calibration: Sequence[int], held_back: Sequence[int]
) -> None:
    """Raise UsageError where a floor would be measured on what sensitivities were measured on."""
    shared = min(len(calibration), len(held_back))
    if calibration[:shared] == held_back[:shared]:
        raise _not_held_back(how, f"begin with the same {shared} tokens")


def _check_texts(how: SearchSettings) -> None:
    """The same of whole texts, which needs no tokenizer."""
    if read_text(how.text).strip() == read_text(how.held_back).strip():
        raise _not_held_back(how, "are the same text")


def _not_held_back(how: SearchSettings, why: str) -> UsageError:
    return UsageError(
        Problem(
            message="the held-back text is the one that sensitivities are measured on",
            details=(f"{how.text} (--text) and {how.held_back} (--held-back) {why}",),
            help="name another text with one of them, or leave both out for the two of ttc",
        )
    )


def _check_speed(bench: Bench, items: Sequence[Item], floor: float) -> None:
    """Raise UsageError where even the coarsest program is not fast enough."""
    coarsest = profile_text("coarsest", items, [len(item.forms) - 1 for item in items])
    speed = 1 / step_seconds(bench.plan(coarsest), load_mesh(bench.settings.mesh).chip)
    if speed < floor:
        raise UsageError(
            Problem(
                message=f"no profile reaches {floor:g} tokens/s",
                details=(f"the fastest is estimated at {speed:.1f} with a full context",),
                help="ask for that much or less, for a shorter --context, or for more chips",
            )
        )


def _choose(hunt: _Hunt, floors: Floors) -> Point | None:
    if floors.top1 is None:
        return None if floors.speed is None else _fast_enough(hunt, floors.speed)
    top1 = _floor(hunt, floors)
    holding = _accurate_enough(hunt, top1)
    if floors.speed is None:
        return holding[0]
    if fast := [point for point in holding if point.tokens_per_s >= floors.speed]:
        return fast[0]
    other = _fast_enough(hunt, floors.speed)
    if other.measured.top1 >= top1:
        return other
    fastest = max(point.tokens_per_s for point in holding)
    raise UsageError(
        Problem(
            message=f"no profile holds both a top-1 of {top1:.1%} and {floors.speed:g} tokens/s",
            details=(
                f"with that top-1, at most {fastest:.1f} tokens/s were reached",
                f"with that speed, a top-1 of at most {other.measured.top1:.1%}",
            ),
            help="lower one of them to that, or see what goes together with --pareto",
        )
    )


def _floor(hunt: _Hunt, floors: Floors) -> float:
    assert floors.top1 is not None, "the caller has asked"
    if floors.relative_to is None:
        return floors.top1
    return floors.top1 * hunt.preset(floors.relative_to).measured.top1


def _accurate_enough(hunt: _Hunt, floor: float) -> list[Point]:
    """What holds the floor, the cheapest first: of rungs and what lies between two of them, by
    bisection, and of what rivals store.

    Whatever is returned was measured, and nothing that was measured and reads less than the first
    holds.
    """
    best = hunt.rung(0)
    if best.measured.top1 < floor:
        raise UsageError(
            Problem(
                message=f"no profile holds a top-1 of {floor:.1%}",
                details=(f"the best that can be reached is {best.measured.top1:.1%}, all in bf16",),
                help="ask for that much or less; --relative-to bf16 makes the floor a share of it",
            )
        )
    holds, fails = 0, len(hunt.rungs)
    while fails - holds > 1:
        middle = (holds + fails) // 2
        if hunt.rung(middle).measured.top1 >= floor:
            holds = middle
        else:
            fails = middle
    best = hunt.rung(holds)
    if fails < len(hunt.rungs):
        best = _refined(hunt, floor, best, hunt.rungs[fails])
    for name, choice in hunt.rivals().items():
        if read_bytes(hunt.bench.plan(hunt.text(choice))) < best.bytes_read:
            hunt.choice(f"as {name}", choice)
    holding = [point for point in hunt.points.values() if point.measured.top1 >= floor]
    return sorted(holding, key=lambda point: point.bytes_read)


def _refined(hunt: _Hunt, floor: float, holds: Point, fails: Choice) -> Point:
    """The cheapest that holds the floor, of exact optima for costs between two choices."""
    for turn in range(REFINEMENTS):
        assert holds.choice is not None, "only choices lie between choices"
        dear, cheap = (total(hunt.prices, each) for each in (holds.choice, fails))
        between = least(hunt.losses, hunt.prices, (dear + cheap) / 2)
        if between is None or between in (holds.choice, fails):
            break
        hunt.bench.progress(f"refining, {turn + 1} of {REFINEMENTS}")
        point = hunt.choice(f"refined {turn + 1}", between)
        if point.measured.top1 >= floor:
            holds = point
        else:
            fails = between
    return holds


def _fast_enough(hunt: _Hunt, floor: float) -> Point:
    """The most accurate rung that is fast enough."""
    speeds = [hunt.speed(hunt.text(rung)) for rung in hunt.rungs]
    fast = [number for number, speed in enumerate(speeds) if speed >= floor]
    assert fast, "the last rung is the coarsest program, whose speed was checked"
    return hunt.rung(fast[0])


def _evidence(hunt: _Hunt, floors: Floors, point: Point) -> list[str]:
    """The comments of a profile that was found: what it is for, and what was measured."""
    settings, how, measured = hunt.bench.settings, hunt.how, point.measured
    asked: list[str] = []
    if floors.top1 is not None:
        of = f" of what {floors.relative_to} reaches" if floors.relative_to else ""
        asked.append(f"top-1 of at least {100 * floors.top1:g} %{of}")
    if floors.speed is not None:
        asked.append(f"at least {floors.speed:g} tokens/s")
    lines = [
        f"Found by ttc search for {hunt.bench.model.name} on {settings.mesh}:",
        f"  {' and '.join(asked)}.",
        f"Measured on {how.held_back.name}, {how.split} tokens, against Hugging Face in float32:",
        f"  top-1 {measured.top1:.2%}, top-5 {measured.top5:.2%}, KL {measured.kl:.5f}, "
        f"perplexity {measured.perplexity:.3f}",
        f"  {point.bytes_read / 1e6:.1f} MB read by a decode step with a context of "
        f"{settings.context} tokens; estimated {point.tokens_per_s:.1f} tokens/s",
        f"Sensitivities from {how.calibration_tokens} tokens of {how.text.name}, in blocks of "
        f"{how.block}; from the finest program,",
        f"KL {point.predicted_kl:.5f} predicted. A group that is bfp4 throughout, kv_cache bfp8:",
    ]
    whole: dict[str, float] = {}
    for item, losses in zip(hunt.items, hunt.losses, strict=True):
        whole[item.group] = whole.get(item.group, 0.0) + losses[-1]
    return lines + [f"  {group:8}  {loss:.5f}" for group, loss in whole.items()]
