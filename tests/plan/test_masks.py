"""Capped scores: attention made of products, its masks and its caches."""

from dataclasses import replace

import pytest

from ttc.compiler import plan_spec
from ttc.errors import PlanError
from ttc.hardware.hardware import load_mesh
from ttc.plan.paging import Paging
from ttc.plan.plan import Plan, PlannedAttention
from ttc.spec.model import ModelSpec, load_model
from ttc.spec.precision import load_profile

pytestmark = pytest.mark.fast

CAPPED = "gemma-2-2b"


def spec() -> ModelSpec:
    whole = load_model(CAPPED)
    return replace(whole, dims=replace(whole.dims, layers=2))


def plan(context: int, *, batch: int = 1, paging: Paging | None = None) -> Plan:
    profile, mesh = load_profile("performance"), load_mesh("N150")
    _, planned = plan_spec(spec(), mesh, profile, batch=batch, context=context, paging=paging)
    return planned


def attentions(planned: Plan, *, decode: bool) -> list[PlannedAttention]:
    phase = planned.decode if decode else planned.prefill[-1]
    ops = [op for decoder in phase.decoders for op in decoder.ops]
    return [op for op in ops if isinstance(op, PlannedAttention)]


def test_a_window_that_is_shorter_than_the_context_has_a_mask_of_its_own() -> None:
    short, long = plan(2048), plan(8192)
    assert [mask.name for mask in short.decode.masks] == ["mask"]
    assert [mask.name for mask in long.decode.masks] == ["mask", "mask_4096"]
    stored = {weight.name: weight.shape for weight in long.weights if weight.name[:4] == "mask"}
    assert stored == dict.fromkeys(("mask", "mask_4096"), (1, 1, 8192, 8192))
    for decode in (True, False):
        windowed, full = attentions(long, decode=decode)
        assert windowed.scores is not None
        assert full.scores is not None
        assert (windowed.scores.mask, full.scores.mask) == ("mask_4096", "mask")
        assert windowed.program is None


def test_each_user_has_one_block() -> None:
    planned = plan(1024, batch=4)
    assert planned.kv_cache.block_tokens == 1024
    assert planned.kv_cache.blocks == planned.slots + 1
    assert {tensor.shape for tensor in planned.kv_cache.tensor} == {(4, 4, 1024, 256)}
    (decode, *_), (prefill, *_) = (attentions(planned, decode=each) for each in (True, False))
    assert decode.scores is not None
    assert prefill.scores is not None
    assert decode.scores.scores.shape == (4, 4, 2, 1024)
    assert prefill.scores.scores.shape == (1, 4, 2 * 1024, 1024)


def test_blocks_that_users_share_are_refused() -> None:
    with pytest.raises(PlanError, match="not shared in blocks") as refused:
        plan(1024, paging=Paging(block_tokens=64))
    assert refused.value.problems[0].at is not None
    assert "--page-block-size" in refused.value.problems[0].help


def test_scores_of_a_long_prompt_are_counted() -> None:
    """Two values of all scores are held at once, 2 bytes each."""
    small, large = (plan(context).memory.activation_bytes for context in (512, 4096))
    assert large - small > 2 * 8 * 2 * (4096**2 - 512**2)
