"""The whole compiler on one page: spec -> graph -> plan -> calls -> module text."""

from dataclasses import dataclass
from pathlib import Path

from ttc.emit.emit import emit_module
from ttc.graph.build import build_graph
from ttc.graph.graph import ModelGraph
from ttc.graph.passes import run_passes
from ttc.graph.text import model_text
from ttc.hardware.hardware import Mesh
from ttc.lower.calls import CallModule
from ttc.lower.lower import lower_plan
from ttc.plan.plan import Plan
from ttc.plan.planner import plan_model
from ttc.plan.text import fingerprint, plan_text
from ttc.spec.model import ModelSpec
from ttc.spec.precision import PrecisionProfile


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """The result of every stage. `module` is the text of model.py."""

    spec: ModelSpec
    mesh: Mesh
    graph: ModelGraph
    plan: Plan
    calls: CallModule
    module: str

    @property
    def fingerprint(self) -> str:
        """Identifies the plan: two builds with the same fingerprint are the same program."""
        return fingerprint(self.plan)

    @property
    def plan_yaml(self) -> str:
        """The text of plan.yaml."""
        return plan_text(self.plan)


def plan_spec(
    spec: ModelSpec,
    mesh: Mesh,
    profile: PrecisionProfile,
    *,
    batch: int = 1,
    context: int | None = None,
    chunk: int | None = None,
) -> tuple[ModelGraph, Plan]:
    """The first half: what would be compiled. Raises PlanError where it does not fit."""
    graph = run_passes(build_graph(spec))
    plan = plan_model(spec, graph, mesh, profile, batch=batch, context=context, chunk=chunk)
    return graph, plan


def compile_model(
    spec: ModelSpec,
    mesh: Mesh,
    profile: PrecisionProfile,
    *,
    batch: int = 1,
    context: int | None = None,
    chunk: int | None = None,
) -> Compiled:
    """Run all stages. `batch` users, `context` tokens each, at most `chunk` tokens per prefill."""
    graph, plan = plan_spec(spec, mesh, profile, batch=batch, context=context, chunk=chunk)
    calls = lower_plan(plan, mesh.chip)
    return Compiled(
        spec=spec,
        mesh=mesh,
        graph=graph,
        plan=plan,
        calls=calls,
        module=emit_module(calls),
    )


def dump_stages(compiled: Compiled, folder: Path) -> None:
    """Write the text form of every stage into a folder: 2-graph.txt, 3-plan.yaml, 5-module.py."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "2-graph.txt").write_text(model_text(compiled.graph), encoding="utf-8")
    (folder / "3-plan.yaml").write_text(compiled.plan_yaml, encoding="utf-8")
    (folder / "5-module.py").write_text(compiled.module, encoding="utf-8")
