"""What a plan says would fit does fit, and one block or one user more does not."""

import re

import pytest

from ttc.compiler import plan_spec
from ttc.errors import PlanError
from ttc.hardware.hardware import load_mesh
from ttc.plan.placement import TILE
from ttc.plan.plan import Plan
from ttc.spec.model import load_model
from ttc.spec.precision import load_profile

pytestmark = pytest.mark.fast

BIG = "llama-3.1-8b-instruct"


def plan(
    spec: str = BIG,
    mesh: str = "N150",
    precision: str = "performance",
    *,
    batch: int = 1,
    context: int | None = None,
) -> Plan:
    profile = load_profile(precision)
    _, planned = plan_spec(load_model(spec), load_mesh(mesh), profile, batch=batch, context=context)
    return planned


def refusal(batch: int, context: int, precision: str = "performance") -> str:
    with pytest.raises(PlanError) as refused:
        plan(precision=precision, batch=batch, context=context)
    return str(refused.value)


@pytest.mark.parametrize("precision", ["performance", "accuracy"])
@pytest.mark.parametrize(("batch", "context"), [(32, 131072), (32, 4096), (16, 16384), (1, 131072)])
def test_all_that_a_refusal_offers_is_accepted(precision: str, batch: int, context: int) -> None:
    text = refusal(batch, context, precision)
    assert "GB of DRAM, N150 has 12.87 GB" in text
    offers = re.findall(r"--batch (\d+) --context (\d+)", text)
    assert offers
    for users, tokens in offers:
        assert plan(precision=precision, batch=int(users), context=int(tokens)).memory.fits


def test_what_would_fit_is_the_most_that_fits() -> None:
    planned = plan(batch=8, context=4096)
    largest = planned.largest
    assert plan(batch=8, context=largest.context).memory.fits
    refusal(8, largest.context + TILE)
    assert plan(batch=largest.batch, context=4096).memory.fits
    refusal(largest.batch + 1, 4096)


@pytest.mark.parametrize("batch", [12, 17])
def test_what_fits_where_only_some_contexts_are_read_in_chunks(batch: int) -> None:
    """Caches of capped scores have no blocks: a prompt is read at once, or the chunks fill it."""
    capped, mesh = "gemma-2-9b", "N300"
    largest = plan(capped, mesh, batch=batch, context=1024).largest.context
    assert plan(capped, mesh, batch=batch, context=largest).largest.context == largest
    for more in (TILE, 2 * TILE, 4 * TILE, 8 * TILE):
        with pytest.raises(PlanError):
            plan(capped, mesh, batch=batch, context=largest + more)


def test_tokens_of_all_users_are_those_of_the_cache_that_fits() -> None:
    planned = plan(batch=8, context=4096)
    tokens = planned.largest.max_tokens_all_users
    assert tokens > 8 * 4096
    # The same blocks as one user's context need a longer table for positions, and nothing else.
    assert abs(tokens - 8 * planned.largest.context) < 8 * planned.largest.context // 8


def test_a_long_chunk_gives_way_to_the_users_that_were_asked_for() -> None:
    planned = plan(batch=1, context=plan().largest.context)
    assert planned.largest.prefill_bucket == planned.buckets[-1] == 256
    (choice,) = [choice for choice in planned.choices if choice.name == "prefill_chunk"]
    assert choice.taken == "256"
    assert "too many" in dict(choice.alternatives)["512"]


def test_one_user_is_offered_where_no_other_change_will_do() -> None:
    text = refusal(32, 131072, "accuracy")
    assert re.search(r"--batch \d+ --context \d+", text)


def test_a_model_that_is_too_large_names_the_smallest_mesh() -> None:
    text = refusal(1, 128, "bf16")
    assert "the smallest mesh that holds it is --mesh N300" in text
    assert plan(BIG, "N300", "bf16", context=128).memory.fits
