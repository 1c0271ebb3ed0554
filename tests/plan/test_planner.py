"""The planner: what is chosen, what is refused, and that what it says would fit does fit."""

from dataclasses import replace
from pathlib import Path

import pytest

from ttc import api
from ttc.compiler import plan_spec
from ttc.errors import PlanError
from ttc.hardware.hardware import load_mesh
from ttc.plan.check import check_plan
from ttc.plan.operations import operations_of
from ttc.plan.placement import TILE
from ttc.plan.plan import (
    Plan,
    PlannedLinear,
    PlannedRope,
    PlannedSplitQkv,
)
from ttc.plan.programs import DramShardedMatmul
from ttc.plan.text import fingerprint, plan_text
from ttc.spec.model import load_model
from ttc.spec.precision import load_profile

pytestmark = pytest.mark.fast

SPECS = sorted(  # those that extend no other: a variant plans as its base does
    path.stem
    for path in (Path(__file__).parents[2] / "specs").glob("*.yaml")
    if "\nextends:" not in path.read_text()
)
TARGETS = [
    (mesh, precision)
    for precision in ("performance", "accuracy", "bf16")
    for mesh in ("N150", "T3K", "P150", "P150x4")
]
# Each spec for one target, each target for a few specs: `ttc plan --all` plans all of them.
PAIRS = [(spec, *TARGETS[number % len(TARGETS)]) for number, spec in enumerate(SPECS)]


def plan(
    spec: str | Path,
    mesh: str = "N150",
    precision: str = "performance",
    *,
    batch: int = 1,
    context: int | None = None,
) -> Plan:
    _, planned = plan_spec(
        load_model(spec), load_mesh(mesh), load_profile(precision), batch=batch, context=context
    )
    return planned


@pytest.mark.parametrize(("spec", "mesh", "precision"), PAIRS)
def test_every_spec_plans_or_says_why_not(spec: str, mesh: str, precision: str) -> None:
    try:
        planned = plan(spec, mesh, precision, batch=32, context=1024)
    except PlanError as error:
        (problem,) = error.problems
        assert problem.at is not None
        assert problem.help, "a refusal says what would fit"
        return
    assert planned.memory.fits
    assert (planned.kv_cache.blocks - 1) * planned.kv_cache.block_tokens == 32 * 1024


def test_one_kv_layout_for_both_phases() -> None:
    planned = plan("smollm2-135m-instruct")
    forms = {
        op.form
        for phase in (planned.decode, *planned.prefill)
        for decoder in phase.decoders
        for op in decoder.ops
        if isinstance(op, PlannedRope)
    }
    assert forms == {planned.kv_cache.rope_form}


@pytest.mark.parametrize(
    ("precision", "form", "decode", "prefill"),
    [("performance", "halves", 17, 16), ("bf16", "pairs", 16, 16)],
)
def test_the_rope_form_with_the_fewest_operations(
    precision: str, form: str, decode: int, prefill: int
) -> None:
    planned = plan("smollm2-135m-instruct", precision=precision)
    assert planned.kv_cache.rope_form == form
    assert operations_of(planned.decode.decoders[0].ops) == decode
    assert operations_of(planned.prefill[0].decoders[0].ops) == prefill
    choice = next(choice for choice in planned.choices if choice.name == "rope_form")
    assert {name for name, _ in choice.alternatives} == {"pairs", "halves"}


def test_heads_that_outnumber_the_cores_share_them() -> None:
    planned = plan("smollm2-1.7b-instruct", batch=8, context=1024)
    assert operations_of(planned.decode.decoders[0].ops) == 18  # no fused cache update
    planned = plan("smollm2-1.7b-instruct", "P150", batch=8, context=1024)
    assert operations_of(planned.decode.decoders[0].ops) == 17


def test_decoders_of_different_precision_are_planned_apart() -> None:
    planned = plan("llama-3.1-8b-instruct", context=1024)
    assert [decoder.layers for decoder in planned.decode.decoders] == [tuple(range(31)), (31,)]
    stored = {weight.full_name: weight.dtype for weight in planned.weights}
    assert stored["decoders.30.w_gate"] == "bfp4"
    assert stored["decoders.31.w_gate"] == "bfp8"


def test_a_wide_head_is_split_and_covers_the_vocabulary() -> None:
    planned = plan("llama-3.1-8b-instruct", context=1024)
    parts = [weight for weight in planned.weights if weight.group == "lm_head"]
    assert len(parts) > 1
    assert sum(part.shape[3] for part in parts) == 128256
    ends = [(part.parts[0].start, part.parts[0].stop) for part in parts]
    assert [start for start, _ in ends[1:]] == [stop for _, stop in ends[:-1]]


def test_slots_round_a_batch_up_to_a_rectangle() -> None:
    planned = plan("smollm2-135m-instruct", batch=31, context=512)
    assert (planned.batch, planned.slots) == (31, 32)
    assert plan("smollm2-135m-instruct", batch=9, context=512).slots == 9


def test_buckets_are_those_up_to_the_chunk() -> None:
    planned = plan("smollm2-135m-instruct", context=1024)
    assert planned.buckets == (128, 256, 384, 512, 768, 1024)
    assert [phase.tokens for phase in planned.chunks] == [128, 256, 384, 512, 768]
    assert planned.prefill_chunk_tokens == 1024
    alone = plan("smollm2-135m-instruct", context=128)
    assert alone.buckets == (128,)
    assert alone.chunks == ()


@pytest.mark.parametrize(
    ("batch", "context", "message", "help_text"),
    [
        (0, 1024, "a batch of 0 users", "--batch 1"),
        (33, 1024, "a batch of 33 users", "--batch 32"),
        (1, 9000, "a context of 9000 tokens is out of range", "--context 8192"),
        (1, 0, "a context of 0 tokens is out of range", "--context 32"),
        (1, 1000, "not a whole number of cache blocks", "--context 1024"),
    ],
)
def test_requests_out_of_range(batch: int, context: int, message: str, help_text: str) -> None:
    with pytest.raises(PlanError) as refused:
        plan("smollm2-135m-instruct", batch=batch, context=context)
    assert message in str(refused.value)
    assert help_text in str(refused.value)


def test_sizes_that_do_not_fill_tiles(tiny_spec: Path, tmp_path: Path) -> None:
    """They are padded, but for the width of a layer norm, which is refused at the spec's line."""
    spec = load_model(tiny_spec)
    odd = replace(spec, dims=replace(spec.dims, hidden=250, ffn=250, head_dim=40, rotary_dim=40))
    _, planned = plan_spec(odd, load_mesh("N150"), load_profile("bf16"), context=128)
    assert planned.decode.residual.shape == (1, 1, 32, 256)
    assert planned.kv_cache.tensor[0].shape[3] == 64
    layer_norms = tmp_path / "odd.yaml"
    layer_norms.write_text(
        tiny_spec.read_text().replace("llama", "stablelm").replace("hidden: 128", "hidden: 250")
    )
    odd = load_model(layer_norms)
    with pytest.raises(PlanError) as refused:
        plan_spec(odd, load_mesh("N150"), load_profile("bf16"), context=128)
    text = str(refused.value)
    assert "'hidden' of 250 does not fill whole tiles" in text
    assert "odd.yaml:4:" in text
    assert "stablelm.yaml" in text
    assert "224 and 256" in text


@pytest.mark.parametrize(("tiles", "padded"), [(8, 8), (11, 12), (37, 40), (127, 128)])
def test_a_width_that_few_cores_could_share_is_padded(
    tiny_spec: Path, tiles: int, padded: int
) -> None:
    """37 tiles have no rectangle of the grid but one core, 38 have 2, 39 have 3."""
    spec = load_model(tiny_spec)
    wide = replace(spec, dims=replace(spec.dims, hidden=TILE * tiles))
    _, planned = plan_spec(wide, load_mesh("N150"), load_profile("bf16"), context=128)
    assert planned.decode.residual.shape == (1, 1, TILE, TILE * padded)


def test_the_same_inputs_give_the_same_text() -> None:
    first, second = plan("tinyllama-1.1b-chat"), plan("tinyllama-1.1b-chat")
    assert plan_text(first) == plan_text(second)
    assert fingerprint(plan_text(first)) == fingerprint(plan_text(second))
    other = plan_text(plan("tinyllama-1.1b-chat", batch=2))
    assert fingerprint(other) != fingerprint(plan_text(first))


def test_check_refuses_a_plan_that_does_not_divide(tiny_spec: Path) -> None:
    planned = plan(tiny_spec, context=128)
    decoder = planned.decode.decoders[0]
    at, linear = next((i, op) for i, op in enumerate(decoder.ops) if isinstance(op, PlannedLinear))
    (program,) = linear.programs
    assert isinstance(program, DramShardedMatmul)
    wrong = replace(linear, programs=(replace(program, per_core_n=0),))
    ops = (*decoder.ops[:at], wrong, *decoder.ops[at + 1 :])
    decode = replace(planned.decode, decoders=(replace(decoder, ops=ops),))
    with pytest.raises(AssertionError, match="shards cover the result"):
        check_plan(replace(planned, decode=decode))


def test_check_refuses_two_rotations_in_one_cache(tiny_spec: Path) -> None:
    planned = plan(tiny_spec, context=128)
    cache = replace(planned.kv_cache, rope_form="pairs")
    with pytest.raises(AssertionError, match="one cache holds one rotation"):
        check_plan(replace(planned, kv_cache=cache))


def test_heads_are_split_in_bf16_in_decode(tmp_path: Path) -> None:
    """nlp_create_qkv_heads_decode refuses block formats, which a prefill takes."""
    path = tmp_path / "small.yaml"
    path.write_text("profile: small\nextends: base\nactivations: {qkv: bfp8}\n")
    plan = api.plan(
        Path(__file__).parents[1] / "data" / "tiny.yaml",
        api.Target(precision=load_profile(path), context=128),
    )
    for phase, dtype in ((plan.decode, "bf16"), (plan.prefill[0], "bfp8")):
        ops = phase.decoders[0].ops
        split = next(op for op in ops if isinstance(op, PlannedSplitQkv))
        written = next(
            op.out for op in ops if isinstance(op, PlannedLinear) and op.node.out == split.node.qkv
        )
        assert written.dtype == dtype
