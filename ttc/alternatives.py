"""Other ways to use the chips of a mesh, each planned as a whole, beside the one that was taken."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ttc.api import Target
from ttc.compiler import plan_spec
from ttc.errors import PlanError
from ttc.hardware.hardware import Mesh, load_mesh, with_wires
from ttc.plan.degree import divisions
from ttc.plan.estimate import estimate, sent_bytes
from ttc.plan.parallel import Residual
from ttc.plan.plan import Plan
from ttc.spec.model import ModelSpec, ParallelWish
from ttc.spec.precision import PrecisionProfile

RESIDUALS: tuple[Residual, ...] = ("fractured", "replicated")


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """A way to use the chips, and what comes of it; `reason` says why it cannot be, or is "".

    Decode is a step with full contexts, prefill one of the longest bucket. Bytes are those that
    each chip holds, and sends to its neighbours in all decoders. Times are estimates.
    """

    tp: int
    replicas: int
    topology: str
    prefill_residual: str
    taken: bool
    reason: str = ""
    dram_bytes_per_chip: int = 0
    decode_ms: float = 0.0
    decode_sent_bytes: int = 0
    tokens_per_second_all_users: float = 0.0
    prefill_tokens: int = 0
    prefill_ms: float = 0.0
    prefill_sent_bytes: int = 0


def plan_alternatives(
    plan: Plan, spec: ModelSpec, profile: PrecisionProfile, target: Target
) -> tuple[Alternative, ...]:
    """The other divisions of a mesh, and for the one of `plan` other wires and residual streams."""
    mesh = with_wires(load_mesh(plan.mesh), topology=target.topology, links=target.links)
    rows: list[Alternative] = []
    for tp, wires, residual in _ways(mesh, plan):
        wished = replace(spec, parallel={mesh.name: ParallelWish(tp=tp, prefill_residual=residual)})
        try:
            _, other = plan_spec(
                wished,
                wires,
                profile,
                batch=plan.batch,
                context=plan.context,
                chunk=target.prefill_chunk_tokens,
                paging=target.paging,
            )
        except PlanError as error:
            topology = next(each.topology for each in divisions(wires) if each.tp == tp)
            first = error.problems[0]
            refused = Alternative(
                tp=tp,
                replicas=mesh.devices // tp,
                topology=topology,
                prefill_residual=residual or "",
                taken=False,
                reason=first.note or first.message,
            )
            rows.append(refused)
        else:
            row = _planned(other, taken=other.parallel == plan.parallel)
            rows += [row] if all(not _same(row, each) for each in rows) else []
    return tuple(rows)


def _ways(mesh: Mesh, plan: Plan) -> Iterator[tuple[int, Mesh, Residual | None]]:
    for division in divisions(mesh):
        if division.tp != plan.parallel.tp:
            yield division.tp, mesh, None
            continue
        residuals = RESIDUALS if division.tp > 1 else (None,)
        for residual in residuals:
            yield division.tp, mesh, residual
        if division.topology == "ring":
            yield division.tp, with_wires(mesh, topology="line"), None


def _same(one: Alternative, other: Alternative) -> bool:
    """Whether two ways come to the same plan."""
    return replace(one, taken=False) == replace(other, taken=False)


def _planned(plan: Plan, *, taken: bool) -> Alternative:
    times = estimate(plan, load_mesh(plan.mesh).chip)
    decode, prefill = times.decode[-1], times.prefill[-1]
    longest = max(plan.prefill, key=lambda phase: phase.tokens)
    users = plan.batch * plan.parallel.dp
    return Alternative(
        tp=plan.parallel.tp,
        replicas=plan.parallel.dp,
        topology=plan.parallel.topology,
        prefill_residual=plan.parallel.prefill_residual,
        taken=taken,
        dram_bytes_per_chip=plan.memory.dram_bytes_per_chip,
        decode_ms=decode.ms,
        decode_sent_bytes=sent_bytes(plan, plan.decode),
        tokens_per_second_all_users=users * 1000 / decode.ms,
        prefill_tokens=prefill.tokens,
        prefill_ms=prefill.ms,
        prefill_sent_bytes=sent_bytes(plan, longest),
    )
