"""The whole compiler on one page: spec -> graph -> plan -> calls -> module text."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ttc.graph.build import build_graph
from ttc.graph.graph import ModelGraph
from ttc.graph.passes import run_passes
from ttc.hardware.hardware import Mesh
from ttc.plan.paging import Paging
from ttc.plan.plan import Plan
from ttc.plan.planner import plan_model
from ttc.plan.text import fingerprint, plan_text
from ttc.spec.model import ModelSpec
from ttc.spec.precision import PrecisionProfile

if TYPE_CHECKING:
    from ttc.lower.calls import CallModule


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """The result of every stage. `plan_yaml` and `module` are the texts of plan.yaml and model.py.

    `fingerprint` identifies the plan: builds with the same fingerprint are the same program.
    """

    spec: ModelSpec
    mesh: Mesh
    graph: ModelGraph
    plan: Plan
    plan_yaml: str
    fingerprint: str
    calls: "CallModule"
    module: str


def plan_spec(
    spec: ModelSpec,
    mesh: Mesh,
    profile: PrecisionProfile,
    *,
    batch: int = 1,
    context: int | None = None,
    chunk: int | None = None,
    tp: int | None = None,
    paging: Paging | None = None,
) -> tuple[ModelGraph, Plan]:
    """The first half: what would be compiled. Raises PlanError where it does not fit."""
    graph = run_passes(build_graph(spec))
    plan = plan_model(
        spec,
        graph,
        mesh,
        profile,
        batch=batch,
        context=context,
        chunk=chunk,
        tp=tp,
        paging=paging,
    )
    return graph, plan


def compile_model(
    spec: ModelSpec,
    mesh: Mesh,
    profile: PrecisionProfile,
    *,
    batch: int = 1,
    context: int | None = None,
    chunk: int | None = None,
    tp: int | None = None,
    paging: Paging | None = None,
) -> Compiled:
    """Run all stages. `batch` users, `context` tokens each, at most `chunk` tokens per prefill.

    `tp` chips share one user where the planner should not choose; `paging` cuts the KV caches into
    blocks.
    """
    graph, plan = plan_spec(
        spec, mesh, profile, batch=batch, context=context, chunk=chunk, tp=tp, paging=paging
    )
    plan_yaml = plan_text(plan)
    identity = fingerprint(plan_yaml)
    # Planning alone is asked for often, and these take a tenth of its time to import.
    from ttc.emit.emit import emit_module
    from ttc.lower.lower import lower_plan

    calls = lower_plan(plan, mesh.chip, identity)
    return Compiled(
        spec=spec,
        mesh=mesh,
        graph=graph,
        plan=plan,
        plan_yaml=plan_yaml,
        fingerprint=identity,
        calls=calls,
        module=emit_module(calls),
    )
