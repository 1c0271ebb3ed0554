"""How many prompts one prefill reads: which programs, and from how many waiting prompts on."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttc.compiler import plan_spec
from ttc.hardware.hardware import load_mesh
from ttc.plan.estimate import estimate
from ttc.plan.operations import operations_of
from ttc.plan.plan import Plan
from ttc.plan.together import choose_programs, share_of_one_by_one, time_of, uses_of
from ttc.spec.model import load_model
from ttc.spec.precision import load_profile

pytestmark = pytest.mark.fast


def planned(spec: str, mesh: str = "N150", batch: int = 32, context: int = 1024) -> Plan:
    profile = load_profile("performance")
    _, plan = plan_spec(load_model(spec), load_mesh(mesh), profile, batch=batch, context=context)
    return plan


def test_a_program_is_used_from_where_it_saves_time() -> None:
    uses = uses_of(10.0, {4: 12.0, 16: 30.0})
    assert [(use.least, use.prompts) for use in uses] == [(1, 1), (2, 4), (9, 16)]
    assert [time_of(uses, count) for count in (1, 2, 4, 5, 8, 9, 16, 17)] == [
        10.0, 12.0, 12.0, 22.0, 24.0, 30.0, 30.0, 40.0,
    ]  # fmt: skip


def test_a_program_that_saves_nothing_is_left_out() -> None:
    assert len(uses_of(10.0, {2: 20.0, 4: 40.0})) == 1
    assert choose_programs(10.0, {2: 20.0, 4: 40.0}, 8) == ()
    assert choose_programs(10.0, {2: 19.5, 4: 39.0}, 8) == (), "the gain is not worth a program"


def test_the_fewest_programs_that_are_fast_enough() -> None:
    assert choose_programs(10.0, {2: 11.0, 4: 11.5, 8: 12.0, 16: 12.5}, 16) == (16,)
    assert choose_programs(10.0, {2: 11.0, 4: 12.0, 8: 14.0, 16: 16.0}, 16) == (4, 16)
    assert choose_programs(10.0, {2: 11.0, 4: 20.0, 8: 39.0}, 2) == (2,)


@given(
    st.floats(1, 10),
    st.lists(st.floats(0.1, 10), min_size=1, max_size=5),
    st.integers(1, 32),
)
def test_programs_never_take_longer_than_one_by_one(
    one: float, more: list[float], waiting: int
) -> None:
    times = {2 ** (i + 1): one + sum(more[: i + 1]) for i in range(len(more))}
    chosen = choose_programs(one, times, waiting)
    uses = uses_of(one, {prompts: times[prompts] for prompts in chosen})
    assert share_of_one_by_one(uses, waiting) <= 1 + 1e-9
    for fewer, use in pairwise(uses):
        assert fewer.least < use.least <= use.prompts


@pytest.mark.parametrize(
    ("mesh", "spec", "wins"),
    [
        ("N150", "llama-3.2-1b-instruct", 5.5),
        ("T3K", "llama-3.2-1b-instruct", 2.4),
        ("T3K", "llama-3.1-8b-instruct", 2.1),
    ],
)
def test_32_short_prompts_by_estimated_time(mesh: str, spec: str, wins: float) -> None:
    plan = planned(spec, mesh)
    times = estimate(plan, load_mesh(mesh).chip)
    one = times.prefill[0].ms
    batched = {(step.prompts, step.tokens): step.ms for step in times.batched}
    several = {
        use.prompts: batched[use.prompts, use.padded] for use in plan.together if use.tokens == 128
    }
    assert 32 * one / time_of(uses_of(one, several), 32) > wins


def test_where_memory_is_short_fewer_prompts_are_read_at_once() -> None:
    roomy, full = (planned("llama-3.1-8b-instruct", context=context) for context in (1024, 2432))
    assert max(phase.rows for phase in roomy.batched) == 2048
    assert max(phase.rows for phase in full.batched) < 2048
    assert full.memory.fits_dram


def test_an_asked_chunk_is_the_most_of_all_prompts() -> None:
    spec, profile = load_model("llama-3.2-1b-instruct"), load_profile("performance")
    _, plan = plan_spec(spec, load_mesh("N150"), profile, batch=32, context=1024, chunk=512)
    assert [(phase.prompts, phase.tokens) for phase in plan.batched] == [(4, 128), (2, 256)]


def test_one_user_and_caches_without_blocks_have_no_such_programs() -> None:
    for plan, why in (
        (planned("llama-3.2-1b-instruct", batch=1), "a batch of one"),
        (planned("gemma-2-2b", batch=2, context=512), "users' caches have no blocks"),
    ):
        assert plan.batched == plan.batched_chunks == plan.together == ()
        (choice,) = (each for each in plan.choices if each.name == "prefill_prompts")
        assert choice.taken == "one by one"
        assert choice.alternatives == (("more", why),)


def test_only_attention_knows_that_there_are_several_prompts() -> None:
    plan = planned("llama-3.2-1b-instruct", batch=8, context=4096)
    chunks = {phase.tokens: phase for phase in plan.prefill}
    for phase in plan.batched:
        alone = chunks[phase.rows]
        for several, one in zip(phase.decoders[0].ops, alone.decoders[0].ops, strict=True):
            apart = type(one).__name__ in ("PlannedSplitQkv", "PlannedRope", "PlannedAttention")
            assert apart or several == one
        assert operations_of(phase.decoders[0].ops) == operations_of(alone.decoders[0].ops)
        assert phase.residual == alone.residual
