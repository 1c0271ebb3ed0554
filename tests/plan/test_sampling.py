"""Where the vocabulary is cut for a draw, and what that takes."""

from functools import partial

import pytest

from ttc.hardware.hardware import load_mesh
from ttc.plan.exchange import Collective
from ttc.plan.placement import DRAM, Placement, TensorPlan
from ttc.plan.sampling import (
    NARROWEST,
    WIDEST,
    SamplingPlan,
    plan_sampling,
    topk_bytes,
    vocab_ranges,
)

pytestmark = pytest.mark.fast

CHIP = load_mesh("N150").chip


def gather(ranks: int, x: TensorPlan, placement: Placement) -> Collective:
    out = TensorPlan(shape=(*x.shape[:3], x.shape[3] * ranks), dtype=x.dtype, placement=placement)
    return Collective(
        kind="all_gather", axis=1, topology="line", links=1, x=x, out=out, operations=1
    )


def planned(vocab: int, ranks: int = 1, free_bytes: int = 2**20, columns: int = 0) -> SamplingPlan:
    shape = (1, 1, 32, columns or vocab // ranks)
    logits = TensorPlan(shape=shape, dtype="bf16", placement=DRAM)
    return plan_sampling(
        logits, vocab, ranks, gather=partial(gather, ranks), chip=CHIP, free_bytes=free_bytes
    )


@pytest.mark.parametrize("columns", [1, 323, 1024, 1025, 32768, 49152, 128256, 262144])
def test_ranges_cover_the_vocabulary_in_powers_of_two(columns: int) -> None:
    ranges = vocab_ranges(columns)
    assert [part.first for part in ranges] == list(range(0, columns, WIDEST))
    assert sum(part.columns for part in ranges) == columns
    for part in ranges:
        assert part.columns <= part.width < max(2 * part.columns, NARROWEST + 1)
        assert part.width & (part.width - 1) == 0


def test_one_range_is_neither_cut_nor_merged() -> None:
    plan = planned(32768)
    assert not plan.cut
    assert not plan.merges
    assert plan.offsets == (0,)


def test_ranks_look_through_their_own_columns() -> None:
    plan = planned(128256, ranks=2)
    assert not plan.whole
    assert plan.offsets == (0, 32768, 64128, 96896)
    assert [each.out.shape[3] for each in plan.gathers] == [128, 128]


def test_a_vocabulary_with_padding_is_gathered_first() -> None:
    """Columns of zeros on the last rank would be in the way of logits below 0."""
    plan = planned(323, ranks=2, columns=176)
    assert plan.whole
    assert plan.cut
    assert plan.gathers == ()
    assert [(part.columns, part.width) for part in plan.ranges] == [(323, 1024)]


def test_ranges_are_narrower_where_little_is_free() -> None:
    plan = planned(32768, free_bytes=topk_bytes(8192, "bf16", CHIP))
    assert {part.width for part in plan.ranges} == {8192}
    assert plan.buffer_bytes <= topk_bytes(8192, "bf16", CHIP)


def test_the_plan_says_where_each_setting_is_carried_out() -> None:
    places = planned(32768).places
    assert {place.where for place in places} == {"device", "host"}
    named = {name for place in places for name in place.settings}
    assert {"temperature", "top_k", "top_p", "seed", "logprobs", "presence_penalty"} <= named
