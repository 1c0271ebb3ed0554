"""The choices of a search: their profiles, their costs, and the exact optimum."""

# pyright: reportUnknownMemberType=false, reportPossiblyUnboundVariable=false
import itertools
import random
from functools import partial
from pathlib import Path

import pytest

from ttc import api
from ttc.hardware.hardware import load_mesh
from ttc.plan.plan import Plan
from ttc.search.solve import ladder, least, total
from ttc.search.space import (
    Choice,
    Item,
    make_items,
    price,
    profile_text,
    read_bytes,
    step_seconds,
    stored_as,
)
from ttc.spec.model import load_model
from ttc.spec.precision import effective, load_profile

pytestmark = pytest.mark.fast

SPEC = Path(__file__).parents[1] / "data" / "tiny.yaml"


@pytest.fixture(scope="module")
def items() -> tuple[Item, ...]:
    return make_items(api.plan(SPEC), 2, 1)


def test_every_matmul_group_of_every_decoder_is_an_item(items: tuple[Item, ...]) -> None:
    names = [str(item) for item in items]
    blocks = [f"{group} of {n}" for group in ("wqkv", "wo", "ff1_3", "ff2") for n in (0, 1)]
    assert names == [*blocks, "lm_head", "kv_cache"]
    paired = make_items(api.plan(SPEC), 2, 2)
    assert [str(item) for item in paired][:2] == ["wqkv of 0-1", "wo of 0-1"]


@pytest.mark.parametrize("seed", range(4))
def test_a_profile_says_what_was_chosen(items: tuple[Item, ...], seed: int, tmp_path: Path) -> None:
    dice = random.Random(seed)
    choice = [dice.randrange(len(item.forms)) for item in items]
    path = tmp_path / "chosen.yaml"
    path.write_text(profile_text("chosen", items, choice, ["why", ""]))
    profile, spec = load_profile(path), load_model(SPEC)
    for item, number in zip(items, choice, strict=True):
        for decoder in item.decoders or (None,):
            found = effective(profile, spec, decoder)
            for group, value in item.forms[number].settings:
                assert found.shown(group) == value, (group, decoder)
            assert found.shown("norm") == "hifi4"
    assert "# why\n#\n" in path.read_text()


def test_a_profile_is_the_choice_that_stores_the_same(tmp_path: Path) -> None:
    spec = load_model(SPEC)
    mixed = tmp_path / "mixed.yaml"
    mixed.write_text("profile: mixed\nextends: base\ndecoders: {1: {ff2: bfp4}}\n")
    for block, last in ((1, 2), (2, 1)):  # half a block in bfp4 is a block in bfp8
        items = make_items(api.plan(SPEC), 2, block)
        rule = partial(effective, load_profile(mixed), spec)
        choice = stored_as(items, rule)
        dtypes = [item.forms[number].dtype for item, number in zip(items, choice, strict=True)]
        blocks = 2 // block
        ff2 = ["bfp8"] * (blocks - 1) + ["bfp4" if last == 2 else "bfp8"]
        assert dtypes == ["bfp8"] * 3 * blocks + ff2 + ["bfp8", "bfp8"]


@pytest.mark.parametrize("seed", range(3))
def test_costs_add_up_to_those_of_the_plan(
    items: tuple[Item, ...], tmp_path: Path, seed: int
) -> None:
    def plan_of(text: str) -> Plan:
        name = next(line for line in text.splitlines() if line.startswith("profile: "))
        path = tmp_path / f"{name.removeprefix('profile: ')}.yaml"
        path.write_text(text)
        return api.plan(SPEC, api.Target(precision=load_profile(path)))

    dice = random.Random(seed)
    choice = tuple(dice.randrange(len(item.forms)) for item in items)
    chosen = plan_of(profile_text("chosen", items, choice))
    chip = load_mesh("N150").chip
    for cost, near in ((read_bytes, 1e-12), (partial(step_seconds, chip=chip), 0.02)):
        prices, finest = price(items, plan_of, cost)
        assert finest + total(prices, choice) == pytest.approx(cost(chosen), rel=near)
    assert all(row[0] == 0 and row == tuple(sorted(row, reverse=True)) for row in prices)


def tables(seed: int) -> tuple[list[list[float]], list[list[float]]]:
    dice = random.Random(seed)
    sizes = [dice.choice((2, 3)) for _ in range(6)]
    costs = [sorted((dice.random() for _ in range(n)), reverse=True) for n in sizes]
    losses = [[0.0, *sorted(dice.random() for _ in range(n - 1))] for n in sizes]
    return costs, losses


@pytest.mark.parametrize("seed", range(12))
def test_the_optimum_is_that_of_trying_everything(seed: int) -> None:
    costs, losses = tables(seed)
    limit = random.Random(seed + 100).uniform(0, 3)
    every = itertools.product(*(range(len(row)) for row in costs))
    best = min(total(costs, each) for each in every if total(losses, each) <= limit)
    found = least(costs, losses, limit)
    assert found is not None
    assert total(losses, found) <= limit
    assert total(costs, found) == pytest.approx(best)


def test_a_limit_that_nothing_is_within() -> None:
    assert least([[1.0, 2.0]], [[3.0, 4.0]], 2.0) is None


def test_a_ladder_goes_from_the_finest_to_the_cheapest() -> None:
    costs, losses = tables(3)
    rungs: list[Choice] = ladder(costs, losses, 12)
    assert rungs[0] == (0,) * len(costs)
    assert rungs[-1] == tuple(len(row) - 1 for row in costs)
    paid = [total(costs, rung) for rung in rungs]
    assert paid == sorted(paid, reverse=True)
    lost = [total(losses, rung) for rung in rungs]
    assert lost == sorted(lost)
