"""Plans for several chips: what each rank holds, computes and exchanges."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from ttc.compiler import plan_spec
from ttc.errors import PlanError
from ttc.hardware.hardware import load_mesh
from ttc.plan.operations import operations_of
from ttc.plan.plan import Collective, Plan, PlannedLinear, PlannedNorm, PlannedOp, WeightPlan
from ttc.spec.model import ParallelWish, load_model
from ttc.spec.precision import load_profile

pytestmark = pytest.mark.fast


def plan(spec: str | Path, mesh: str, *, tp: int | None = None, context: int = 256) -> Plan:
    model, profile = load_model(spec), load_profile("performance")
    _, planned = plan_spec(model, load_mesh(mesh), profile, context=context, tp=tp)
    return planned


def collectives(ops: tuple[PlannedOp, ...]) -> list[Collective]:
    found = (
        op.gather if isinstance(op, PlannedNorm) else op.collective
        for op in ops
        if isinstance(op, PlannedNorm | PlannedLinear)
    )
    return [each for each in found if each is not None]


def stored(planned: Plan, name: str) -> WeightPlan:
    return next(weight for weight in planned.weights if weight.full_name == name)


@pytest.mark.parametrize(
    ("mesh", "decode", "prefill"),
    [("N150", 17, 16), ("N300", 19, 20), ("T3K", 18, 20), ("TG", 18, 20), ("P150x4", 19, 20)],
)
def test_device_operations_of_a_decoder(mesh: str, decode: int, prefill: int) -> None:
    planned = plan("llama-3.1-8b-instruct", mesh)
    assert operations_of(planned.decode.decoders[0].ops) == decode
    assert operations_of(planned.prefill[0].decoders[0].ops) == prefill


def test_what_each_rank_holds() -> None:
    planned = plan("llama-3.1-8b-instruct", "T3K")
    shapes = {name: stored(planned, name).shape[2:] for name in ("embed", "lm_head", "final_norm")}
    shapes |= {
        name: stored(planned, f"decoders.0.{name}").shape[2:]
        for name in ("wqkv", "wo", "w_gate", "w_down", "attn_norm")
    }
    assert shapes == {
        "embed": (128256, 512),
        "lm_head": (4096, 16032),
        "final_norm": (1, 4096),
        "wqkv": (4096, 768),
        "wo": (512, 4096),
        "w_gate": (4096, 1792),
        "w_down": (1792, 4096),
        "attn_norm": (1, 4096),
    }
    assert planned.kv_cache.tensor[0].shape[1] == 1
    assert not stored(planned, "decoders.0.attn_norm").divided
    (part,) = stored(planned, "decoders.0.w_down").parts
    assert [share.dim for share in part.shares] == ["in"]


def test_a_decode_step_adds_in_one_operation_and_a_prefill_keeps_a_part() -> None:
    planned = plan("llama-3.1-8b-instruct", "T3K")
    assert planned.parallel.decode_residual == "replicated"
    assert planned.parallel.prefill_residual == "fractured"
    decode = collectives(planned.decode.decoders[0].ops)
    assert [(each.kind, each.buffer, each.semaphore) for each in decode] == [
        ("all_reduce", "sum_0_bf16", 0),
        ("all_reduce", "sum_1_bf16", 1),
    ]
    assert [name for name, _ in planned.buffers] == ["sum_0_bf16", "sum_1_bf16"]
    assert planned.semaphores == 2
    prefill = collectives(planned.prefill[0].decoders[0].ops)
    assert Counter(each.kind for each in prefill) == {"all_gather": 2, "reduce_scatter": 2}
    assert {each.x.dtype for each in (*decode, *prefill)} == {"bf16"}


def test_a_width_that_does_not_divide_stays_whole() -> None:
    """576 columns are 18 tiles, which 4 ranks cannot share and 2 can."""
    planned = plan("smollm2-135m-instruct", "N150x4")
    assert planned.parallel.prefill_residual == "replicated"
    assert stored(planned, "embed").shape == (1, 1, 49152, 576)
    kinds = {each.kind for each in collectives(planned.prefill[0].decoders[0].ops)}
    assert kinds == {"all_reduce"}
    assert plan("smollm2-135m-instruct", "N300").parallel.prefill_residual == "fractured"


def test_one_chip_exchanges_nothing() -> None:
    planned = plan("llama-3.1-8b-instruct", "T3K", tp=1)
    assert (planned.parallel.tp, planned.parallel.dp) == (1, 8)
    assert not planned.buffers
    assert not planned.semaphores
    assert planned.head.gather is None
    assert not any(weight.divided for weight in planned.weights)
    alone = plan("llama-3.1-8b-instruct", "N300", tp=1)
    assert alone.decode.decoders[0].ops == planned.decode.decoders[0].ops


def test_the_vocabulary_is_padded_to_tiles_of_every_rank() -> None:
    planned = plan("smollm2-135m-instruct", "T3K")
    assert planned.head.vocab_shards == 8
    assert planned.head.logits.shape[3] * 8 >= planned.vocab
    assert planned.head.logits.shape[3] % 32 == 0


def test_more_heads_than_cores_on_a_chip(tiny_spec: Path) -> None:
    spec = load_model(tiny_spec)
    many = replace(spec, dims=replace(spec.dims, heads=80, kv_heads=1))
    profile = load_profile("performance")
    with pytest.raises(PlanError, match="80 query heads on each chip of N150") as refused:
        plan_spec(many, load_mesh("N150"), profile, context=128)
    assert "tiny.yaml:4" in str(refused.value)
    _, planned = plan_spec(many, load_mesh("N300"), profile, context=128)
    assert planned.parallel.heads.heads == 40


def test_the_spec_says_what_is_whole_on_every_rank(tmp_path: Path, tiny_spec: Path) -> None:
    shipped = load_model("llama-3.2-1b-instruct")
    whole = {"T3K": ParallelWish(prefill_residual="replicated")}
    plans = [
        plan_spec(spec, load_mesh("T3K"), load_profile("performance"), context=128)[1]
        for spec in (shipped, replace(shipped, parallel=whole))
    ]
    assert [each.parallel.prefill_residual for each in plans] == ["fractured", "replicated"]
    for each in plans:
        kinds = {collective.kind for collective in collectives(each.prefill[0].decoders[0].ops)}
        fractured = each.parallel.prefill_residual == "fractured"
        assert kinds == ({"reduce_scatter", "all_gather"} if fractured else {"all_reduce"})

    text = f"{tiny_spec.read_text()}parallel: {{T3K: {{prefill_residual: fractured}}}}\n"
    spec = tmp_path / "narrow.yaml"
    spec.write_text(text)
    with pytest.raises(PlanError, match="a prefill cannot be fractured") as refused:
        plan(spec, "T3K")
    assert f"narrow.yaml:{len(text.splitlines())}" in str(refused.value)


def test_the_spec_says_how_many_chips_share_a_user(tiny_spec: Path) -> None:
    given = replace(
        load_model(tiny_spec), parallel={"T3K": ParallelWish(tp=2), "T3K:2x4": ParallelWish(tp=1)}
    )
    profile = load_profile("performance")
    degrees = [
        plan_spec(given, load_mesh(mesh), profile, context=128, tp=tp)[1].parallel.tp
        for mesh, tp in (("T3K", None), ("T3K:2x4", None), ("T3K", 4), ("N300", None))
    ]
    assert degrees == [2, 1, 4, 2]
