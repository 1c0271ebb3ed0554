"""`ttc plan`: what would be compiled."""

# pyright: reportUnknownMemberType=false
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ttc import api
from ttc.api import DEFAULT_MESH, DEFAULT_PRECISION, Target
from ttc.commands.environment import chunk_tokens, environment, open_screen
from ttc.commands.precision import chosen_profile
from ttc.errors import PlanError, Problem, UsageError
from ttc.hardware.hardware import mesh_names
from ttc.options import Batch, Context, DecoderConfig, Json, MeshOption, Optimizations, Precision
from ttc.screen import plan_lines, plan_record, plan_rows, plan_table, precision_lines
from ttc.spec import library
from ttc.spec.model import load_model
from ttc.spec.precision import precision_table


def plan(
    context_: typer.Context,
    spec: Annotated[str | None, typer.Argument(envvar="HF_MODEL", metavar="[SPEC]")] = None,
    mesh: MeshOption = DEFAULT_MESH,
    precision: Precision = DEFAULT_PRECISION,
    optimizations: Optimizations = None,
    decoder_config: DecoderConfig = None,
    batch: Batch = 1,
    context: Context = None,
    every: Annotated[
        bool, typer.Option("--all", help="Every mesh and profile, and every spec if none is named.")
    ] = False,
    table: Annotated[
        bool,
        typer.Option("--precision-table", help="And every group's precision: value, file, line."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Show what would be compiled: memory by group, prefill buckets, what else would fit.

    ttc plan llama-3.1-8b-instruct --mesh P150 --batch 8
    """
    del precision  # `chosen_profile` asks whether it was given
    screen = open_screen(context_, as_json=as_json)
    if every:
        rows = _plan_all([spec] if spec else _shipped_specs(), batch=batch, context=context)
        screen.table(plan_rows(rows))
        screen.result({"rows": rows})
        return
    if spec is None:
        raise UsageError(
            Problem(message="no spec is named", help="ttc plan SPEC, or ttc plan --all")
        )
    profile = chosen_profile(
        context_, screen, spec, optimizations=optimizations, decoder_config=decoder_config
    )
    target = Target(
        mesh=mesh,
        precision=profile,
        batch=batch,
        context=context,
        prefill_chunk_tokens=chunk_tokens(screen, environment(context_)),
    )
    chosen = api.plan(spec, target)
    for line in plan_lines(chosen):
        screen.say(line)
    screen.table(plan_table(chosen))
    record = plan_record(chosen)
    if table:
        rows = precision_table(profile, load_model(spec))
        for line in precision_lines(rows):
            screen.say(line)
        record["precision_table"] = [asdict(row) for row in rows]
    screen.result(record)


def _shipped_specs() -> Sequence[str]:
    return library.names(library.SPECS, near=Path.cwd() / "_")


def _plan_all(specs: Sequence[str], *, batch: int, context: int | None) -> list[dict[str, Any]]:
    profiles = library.names(library.PROFILES, near=Path.cwd() / "_")
    rows: list[dict[str, Any]] = []
    for spec in specs:
        for mesh in mesh_names():
            for precision in profiles:
                target = Target(mesh=mesh, precision=precision, batch=batch, context=context)
                row: dict[str, Any] = {"spec": spec, "mesh": mesh, "precision": precision}
                try:
                    chosen = api.plan(spec, target)
                    row |= {"status": "ok", "reason": "", "context": chosen.context}
                except PlanError as error:
                    row |= {"status": "refused", "reason": error.problems[0].message}
                rows.append(row)
    return rows
