"""Any legal sizes on any mesh are planned, or refused at a line with the reason."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ttc.compiler import compile_model
from ttc.errors import PlanError
from ttc.hardware.hardware import load_mesh, whole_mesh_names
from ttc.plan.parallel import ZEROS
from ttc.plan.plan import Plan
from ttc.spec.model import Dims, ModelSpec, load_model
from ttc.spec.precision import load_profile

pytestmark = pytest.mark.fast

TINY = Path(__file__).parents[1] / "data" / "tiny.yaml"


@st.composite
def dims(draw: st.DrawFn) -> Dims:
    heads = draw(st.integers(1, 128))
    kv_heads = draw(st.sampled_from([n for n in range(1, heads + 1) if heads % n == 0]))
    head_dim = draw(st.integers(16, 128).map(lambda half: 2 * half))
    widths = st.integers(1, 200).map(lambda tiles: 32 * tiles) | st.integers(32, 6000)
    return Dims(
        hidden=draw(widths),
        layers=1,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        rotary_dim=head_dim,
        ffn=draw(widths),
        vocab=draw(st.integers(1, 130_000)),
    )


def plan(spec: ModelSpec, mesh: str, precision: str, batch: int) -> Plan:
    profile = load_profile(precision)
    return compile_model(spec, load_mesh(mesh), profile, batch=batch, context=128).plan


TOO_WIDE = Dims(
    hidden=32, layers=1, heads=128, kv_heads=128, head_dim=98, rotary_dim=98, ffn=32, vocab=33
)


@settings(max_examples=60)
@example(dims=TOO_WIDE, mesh="N150", precision="performance", batch=1)
@given(
    dims=dims(),
    mesh=st.sampled_from(whole_mesh_names()),
    precision=st.sampled_from(["performance", "accuracy", "bf16"]),
    batch=st.integers(1, 32),
)
def test_any_sizes_on_any_mesh(dims: Dims, mesh: str, precision: str, batch: int) -> None:
    spec = replace(load_model(TINY), dims=dims)
    try:
        planned = plan(spec, mesh, precision, batch)
    except PlanError as error:
        for problem in error.problems:
            assert problem.at is not None, problem
            assert problem.note or problem.details, problem
        return
    assert planned.memory.fits
    layout = planned.parallel.heads
    computed = [head for held in layout.queries for head in held if head != ZEROS]
    assert sorted(computed) == list(range(dims.heads))
    assert planned.head.logits.shape[3] * planned.head.vocab_shards >= dims.vocab


@pytest.mark.parametrize("mesh", [name for name in whole_mesh_names() if ":" not in name])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "hidden", "ffn", "vocab"),
    [
        (9, 3, 64, 576, 1536, 49152),
        (28, 4, 128, 3584, 18944, 152064),
        (40, 10, 128, 5120, 17920, 100352),
    ],
)
def test_heads_that_do_not_divide_over_the_chips(
    mesh: str, heads: int, kv_heads: int, head_dim: int, hidden: int, ffn: int, vocab: int
) -> None:
    dims = Dims(
        hidden=hidden,
        layers=2,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        rotary_dim=head_dim,
        ffn=ffn,
        vocab=vocab,
    )
    assert plan(replace(load_model(TINY), dims=dims), mesh, "performance", 1).memory.fits
