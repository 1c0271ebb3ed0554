"""Which sums the ranks of a replica form, and how they are added."""

from pathlib import Path

import pytest

from ttc.compiler import plan_spec
from ttc.hardware.hardware import load_mesh
from ttc.plan.placement import L1
from ttc.plan.plan import Collective, Plan, PlannedLinear
from ttc.spec.model import load_model
from ttc.spec.precision import load_profile

pytestmark = pytest.mark.fast


LLAMA = "llama-3.2-1b-instruct"


def planned(spec: str | Path, mesh: str, precision: str = "performance") -> Plan:
    profile = load_profile(precision)
    return plan_spec(load_model(spec), load_mesh(mesh), profile, context=128)[1]


def sums(plan: Plan, *, decode: bool) -> list[Collective]:
    phase = plan.decode if decode else plan.prefill[0]
    linears = [op for op in phase.decoders[0].ops if isinstance(op, PlannedLinear)]
    return [op.collective for op in linears if op.collective is not None]


def test_sums_along_a_ring_say_how_they_are_added() -> None:
    """Else ttnn pins L1 for small ones (see `ttc/plan/collectives.py`)."""
    plan = planned(LLAMA, "P150x4")
    scattered = sums(plan, decode=False)
    assert [each.kind for each in scattered] == ["reduce_scatter"] * 2
    for each in (*scattered, *sums(plan, decode=True)):
        assert each.topology == "ring"
        assert each.compute is not None
        assert each.compute.fp32_dest_acc


def test_composed_sums_go_along_a_line(tiny_spec: Path) -> None:
    """They take no compute config. The width of 64 is no 8 parts of whole tiles."""
    composed = sums(planned(tiny_spec, "T3K"), decode=False)
    assert {(each.kind, each.topology, each.compute) for each in composed} == {
        ("all_reduce", "line", None)
    }


def test_logits_too_large_to_choose_from_in_l1_go_to_dram() -> None:
    assert planned(LLAMA, "N150").head.logits.placement == L1
    wide = planned(LLAMA, "N150", "bf16").head.logits
    assert (wide.dtype, wide.placement.buffer) == ("fp32", "dram")


def test_logits_become_rows_in_ranges_that_fit_in_l1() -> None:
    many = "gemma-3-1b-it"
    assert planned(many, "N150").head.choice_columns == (262144,)
    plan = planned(many, "N150", "bf16")
    assert plan.head.choice_columns == (131072, 131072)
    assert plan.memory.fits
