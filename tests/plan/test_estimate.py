"""Estimated times: their parts, their bounds, and how near published figures they are."""

import pytest

from ttc.compiler import plan_spec
from ttc.hardware.hardware import load_mesh
from ttc.hardware.laws import load_laws
from ttc.plan.estimate import Estimate, estimate
from ttc.plan.plan import Plan
from ttc.spec.model import load_model
from ttc.spec.precision import load_profile

pytestmark = pytest.mark.fast


def planned(
    spec: str, mesh: str, precision: str = "performance", *, batch: int = 1, context: int = 1024
) -> Plan:
    profile = load_profile(precision)
    return plan_spec(load_model(spec), load_mesh(mesh), profile, batch=batch, context=context)[1]


def estimated(
    spec: str, mesh: str, precision: str = "performance", *, batch: int = 1, context: int = 1024
) -> Estimate:
    plan = planned(spec, mesh, precision, batch=batch, context=context)
    return estimate(plan, load_mesh(mesh).chip)


def test_a_step_is_the_sum_of_its_kinds() -> None:
    times = estimated("llama-3.1-8b-instruct", "N150")
    for step in (*times.decode, *times.prefill, *times.chunks):
        assert abs(step.ms - sum(kind.ms for kind in step.kinds)) < 1e-9 * step.ms
        assert [kind.ms for kind in step.kinds] == sorted(
            (kind.ms for kind in step.kinds), reverse=True
        )
    assert [step.tokens for step in times.prefill] == [128, 256, 384, 512, 768, 1024]
    assert [step.tokens for step in times.decode] == [128, 1024]


@pytest.mark.parametrize("mesh", ["N150", "P150"])
def test_no_step_reads_weights_faster_than_the_banks_do(mesh: str) -> None:
    plan = planned("llama-3.1-8b-instruct", mesh)
    read = plan.memory.weight_bytes - dict(plan.memory.weights_by_group)["embedding"]
    chip = load_mesh(mesh).chip
    times = estimate(plan, chip)
    assert min(step.ms for step in times.decode) > 1000 * read / chip.dram_bytes_per_second


def test_more_users_and_longer_prompts_take_longer() -> None:
    one = estimated("llama-3.1-8b-instruct", "N150", context=2048)
    many = estimated("llama-3.1-8b-instruct", "N150", batch=16, context=2048)
    assert many.decode[-1].ms > one.decode[-1].ms > one.decode[0].ms
    prefill = [step.ms for step in one.prefill]
    assert prefill == sorted(prefill)
    wide = estimated("llama-3.1-8b-instruct", "N150", "accuracy", context=2048)
    assert wide.decode[0].ms > one.decode[0].ms


@pytest.mark.parametrize(
    ("spec", "mesh", "tokens_per_second"),
    [
        ("llama-3.1-8b-instruct", "N150", 28.3),
        ("llama-3.1-8b-instruct", "P150", 33.6),
        ("llama-3.2-1b-instruct", "N150", 87.8),
    ],
)
def test_decode_is_near_what_was_published(spec: str, mesh: str, tokens_per_second: float) -> None:
    """tt-transformers' table for one user (PERF.md): another program, with a noise of 5 to 50 %."""
    ms = estimated(spec, mesh).decode[0].ms
    assert 0.6 < 1000 / ms / tokens_per_second < 1.6


def test_decode_on_blackhole_is_bound_by_the_rate_of_tiles() -> None:
    times = estimated("llama-3.1-8b-instruct", "P150", "accuracy")
    bounds = {kind.kind: kind.bound for kind in times.decode[0].kinds}
    assert bounds["matmul ff2"] == "compute"
    bounds = {
        kind.kind: kind.bound for kind in estimated("llama-3.1-8b-instruct", "N150").decode[0].kinds
    }
    assert bounds["matmul ff2"] == "DRAM"


@pytest.mark.parametrize("arch", ["wormhole_b0", "blackhole"])
def test_every_law_has_a_source(arch: str) -> None:
    laws = load_laws(arch)
    assert len(laws.sources) == 12
    assert all(laws.sources.values())
    assert laws.gemm_utilisation(100000) == laws.gemm[-1][1]
    assert laws.gemm_utilisation(1) < laws.gemm[0][1]


def test_chips_that_share_a_user_exchange_sums() -> None:
    times = {mesh: estimated("llama-3.1-8b-instruct", mesh) for mesh in ("N150", "N300", "T3K")}
    spent = {
        mesh: {kind.kind: kind.ms for kind in each.decode[0].kinds} for mesh, each in times.items()
    }
    assert "collectives" not in spent["N150"]
    assert 0 < spent["N300"]["collectives"] < spent["T3K"]["collectives"]
    assert spent["T3K"]["matmul ff2"] < spent["N300"]["matmul ff2"] < spent["N150"]["matmul ff2"]
    decode = [times[mesh].decode[0].ms for mesh in ("T3K", "N300", "N150")]
    assert decode == sorted(decode)
