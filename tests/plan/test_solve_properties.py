"""For any sizes: memory grows with users and tokens, and what fits is the most that fits."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ttc.compiler import plan_spec
from ttc.errors import PlanError
from ttc.hardware.hardware import Mesh, load_mesh
from ttc.plan.placement import TILE
from ttc.plan.plan import Plan
from ttc.plan.solve import MAX_BATCH
from ttc.spec.model import Dims, ModelSpec, load_model
from ttc.spec.precision import load_profile

pytestmark = pytest.mark.fast

TINY = load_model(Path(__file__).parents[1] / "data" / "tiny.yaml")
LIMIT_TOKENS = 4096


@st.composite
def models(draw: st.DrawFn) -> ModelSpec:
    """Decoders of any legal sizes."""
    kv_heads = draw(st.integers(1, 4))
    head_dim = draw(st.sampled_from((32, 64, 96, 128)))
    dims = Dims(
        hidden=32 * draw(st.integers(1, 40)),
        layers=draw(st.integers(1, 3)),
        heads=kv_heads * draw(st.integers(1, 6)),
        kv_heads=kv_heads,
        head_dim=head_dim,
        rotary_dim=head_dim,
        ffn=32 * draw(st.integers(1, 80)),
        vocab=draw(st.integers(33, 5000)),
    )
    return replace(TINY, dims=dims, max_context_tokens=LIMIT_TOKENS)


@st.composite
def boards(draw: st.DrawFn) -> Mesh:
    """One chip with little memory, so that limits are met."""
    mesh = load_mesh(draw(st.sampled_from(("N150", "P100", "P150"))))
    chip = replace(mesh.chip, dram_bank_bytes=draw(st.integers(2, 24)) * 1024 * 1024)
    return replace(mesh, chip=chip)


def planned(spec: ModelSpec, mesh: Mesh, batch: int, context: int) -> Plan | None:
    """The plan, or None where it is refused."""
    profile = load_profile("performance")
    try:
        return plan_spec(spec, mesh, profile, batch=batch, context=context)[1]
    except PlanError:
        return None


few = settings(max_examples=15, deadline=None, derandomize=True)


@few
@given(models(), st.integers(1, MAX_BATCH - 1), st.integers(1, 63))
def test_memory_grows_with_users_and_with_tokens(spec: ModelSpec, batch: int, blocks: int) -> None:
    mesh, context = load_mesh("P150"), blocks * TILE
    plan = planned(spec, mesh, batch, context)
    users = planned(spec, mesh, batch + 1, context)
    tokens = planned(spec, mesh, batch, context + TILE)
    if plan is None or users is None or tokens is None:
        return
    for more in (users, tokens):
        assert more.memory.dram_bytes_per_chip >= plan.memory.dram_bytes_per_chip
        assert more.memory.kv_cache_bytes >= plan.memory.kv_cache_bytes


@few
@given(models(), boards(), st.integers(1, MAX_BATCH), st.integers(1, 40))
def test_what_fits_is_the_most_that_fits(
    spec: ModelSpec, mesh: Mesh, batch: int, blocks: int
) -> None:
    context = blocks * TILE
    plan = planned(spec, mesh, batch, context)
    if plan is None:
        return
    largest = plan.largest
    assert largest.context >= context
    assert largest.batch >= batch
    assert largest.max_tokens_all_users >= plan.slots * context
    assert planned(spec, mesh, batch, largest.context) is not None
    assert planned(spec, mesh, largest.batch, context) is not None
    if largest.context < LIMIT_TOKENS:
        assert planned(spec, mesh, batch, largest.context + TILE) is None
    if largest.batch < MAX_BATCH:
        assert planned(spec, mesh, largest.batch + 1, context) is None
