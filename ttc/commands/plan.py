"""`ttc plan`: what would be compiled."""

# pyright: reportUnknownMemberType=false
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from click.core import ParameterSource

from ttc import api
from ttc.alternatives import plan_alternatives
from ttc.api import DEFAULT_MESH, DEFAULT_PRECISION, Target
from ttc.commands.environment import chunk_tokens, environment, open_screen
from ttc.commands.precision import chosen_profile
from ttc.commands.survey import PRECISIONS, plan_everywhere
from ttc.errors import Problem, UsageError
from ttc.hardware.hardware import load_mesh
from ttc.options import (
    Batch,
    Context,
    DecoderConfig,
    Json,
    Links,
    MaxBlocks,
    MeshOption,
    Optimizations,
    PageBlockSize,
    Precision,
    TensorParallel,
    Wires,
)
from ttc.plan.estimate import estimate
from ttc.plan.paging import Paging
from ttc.screen import (
    alternatives_table,
    estimate_record,
    estimate_table,
    explain_lines,
    plan_lines,
    plan_record,
    plan_rows,
    plan_table,
    precision_lines,
    refused_lines,
)
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
    tp: TensorParallel = None,
    topology: Wires = None,
    links: Links = None,
    page_block_size: PageBlockSize = 32,
    max_blocks: MaxBlocks = None,
    every: Annotated[
        bool,
        typer.Option(
            "--all",
            help=f"Every mesh, {' and '.join(PRECISIONS)} or what --precision names, and every "
            "spec if none is named; of other options only --batch, --context and --json.",
        ),
    ] = False,
    table: Annotated[
        bool,
        typer.Option("--precision-table", help="And every group's precision: value, file, line."),
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="And the alternatives weighed, and estimated times.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show what would be compiled: memory by group, chunks of prompts, what else would fit.

    ttc plan llama-3.1-8b-instruct --mesh P150 --batch 8
    """
    screen = open_screen(context_, as_json=as_json)
    if every:
        _check_every(context_)
        rows = plan_everywhere(
            [spec] if spec else _shipped_specs(),
            batch=batch,
            context=context,
            precisions=(precision,) if _typed(context_, "precision") else PRECISIONS,
        )
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
        tp=tp,
        topology=topology,
        links=links,
        paging=Paging(block_tokens=page_block_size, max_blocks=max_blocks),
    )
    chosen = api.plan(spec, target)
    for line in plan_lines(chosen):
        screen.say(line)
    screen.table(plan_table(chosen))
    record = plan_record(chosen)
    times = estimate(chosen, load_mesh(chosen.mesh).chip)
    record["estimate"] = estimate_record(times)
    if explain:
        for line in explain_lines(chosen):
            screen.say(line)
        screen.table(estimate_table(times))
        rows = plan_alternatives(chosen, load_model(spec), profile, target)
        if len(rows) > 1:
            screen.table(alternatives_table(rows))
            for line in refused_lines(rows):
                screen.say(line)
        record["alternatives"] = [asdict(row) for row in rows]
    if table:
        rows = precision_table(profile, load_model(spec))
        for line in precision_lines(rows):
            screen.say(line)
        record["precision_table"] = [asdict(row) for row in rows]
    screen.result(record)


_OF_EVERY = ("spec", "precision", "batch", "context", "every", "as_json")
"""The parameters that say something with --all."""


def _check_every(context: typer.Context) -> None:
    """Raise UsageError for options that --all would not look at."""
    ignored = [
        parameter.opts[-1]
        for parameter in context.command.params
        if parameter.name not in _OF_EVERY and _typed(context, parameter.name or "")
    ]
    if ignored:
        raise UsageError(
            Problem(
                message=f"--all plans for every mesh as it is, without {', '.join(ignored)}",
                help="leave that out, or name a spec and leave out --all",
            )
        )


def _typed(context: typer.Context, parameter: str) -> bool:
    return context.get_parameter_source(parameter) is ParameterSource.COMMANDLINE


def _shipped_specs() -> Sequence[str]:
    return library.names(library.SPECS, near=Path.cwd() / "_")
