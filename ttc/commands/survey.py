"""Plans of many specs for every mesh: what `ttc plan --all` lists."""

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any

from ttc.compiler import plan_spec
from ttc.errors import PlanError
from ttc.hardware.hardware import load_mesh, mesh_names
from ttc.spec.model import load_model
from ttc.spec.precision import load_profile

PRECISIONS = ("performance", "accuracy")

# A process takes a second to start; below this many specs that is longer than the work.
SPECS_FOR_A_POOL = 8


def plan_everywhere(
    specs: Sequence[str],
    *,
    batch: int,
    context: int | None,
    precisions: Sequence[str] = PRECISIONS,
) -> list[dict[str, Any]]:
    """A row for each spec, mesh and profile: planned, or refused with a reason."""
    for precision in precisions:
        load_profile(precision)  # refused here, not by every process
    work = partial(_plan_one, batch=batch, context=context, precisions=precisions)
    if len(specs) < SPECS_FOR_A_POOL:
        return [row for spec in specs for row in work(spec)]
    workers = min(len(specs), os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return [row for rows in pool.map(work, specs) for row in rows]


def _plan_one(
    spec: str, *, batch: int, context: int | None, precisions: Sequence[str]
) -> list[dict[str, Any]]:
    model = load_model(spec)
    rows: list[dict[str, Any]] = []
    for mesh in mesh_names():
        for precision in precisions:
            row: dict[str, Any] = {"spec": spec, "mesh": mesh, "precision": precision}
            try:
                _, plan = plan_spec(
                    model, load_mesh(mesh), load_profile(precision), batch=batch, context=context
                )
                row |= {"status": "ok", "reason": "", "context": plan.context}
            except PlanError as error:
                row |= {"status": "refused", "reason": _reason(error)}
            rows.append(row)
    return rows


def _reason(error: PlanError) -> str:
    """What was refused and by which bytes or limit."""
    first = error.problems[0]
    return f"{first.message}: {first.note}" if first.note else first.message
