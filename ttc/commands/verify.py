"""`ttc verify`: check a program without hardware."""

# pyright: reportUnknownMemberType=false
from pathlib import Path
from typing import Annotated, Any

import typer

from ttc import api
from ttc.api import DEFAULT_CACHE, DEFAULT_MESH, DEFAULT_PRECISION
from ttc.commands.environment import open_screen
from ttc.errors import PlanError, Problem, UsageError, did_you_mean
from ttc.hardware.hardware import whole_mesh_names
from ttc.options import MESHES, Batch, Cache, Context, Json, Precision, TensorParallel, Weights
from ttc.scratch import scratch_folder, work_folder
from ttc.screen import Screen, verdict_lines


def verify(
    context_: typer.Context,
    what: Annotated[str, typer.Argument(metavar="ARTEFACT|SPEC")],
    mesh: Annotated[str, typer.Option(help=f"For a SPEC: {MESHES}, or all.")] = "",
    precision: Precision = DEFAULT_PRECISION,
    batch: Batch = 1,
    context: Context = None,
    tp: TensorParallel = None,
    backend: Annotated[str, typer.Option(help="mock, emulate, or all of them.")] = "all",
    weights: Weights = None,
    cache: Cache = DEFAULT_CACHE,
    as_json: Json = False,
) -> None:
    """Check a program: real ttnn on a mock mesh, and its numbers against Hugging Face in fp32.

    ttc verify build/smol --json
    """
    screen = open_screen(context_, as_json=as_json)
    if backend not in ("all", "mock", "emulate"):
        raise UsageError(
            Problem(
                message=f"verify has no backend '{backend}'",
                help=did_you_mean(backend, ("all", "mock", "emulate")),
            )
        )
    if mesh == "all":
        _verify_meshes(
            screen, what, precision=precision, batch=batch, context=context, tp=tp, cache=cache
        )
        return
    with (
        screen.progress() as progress,
        work_folder(cache.expanduser()) as work,
        scratch_folder(work) as scratch,
    ):
        artefact = Path(what)
        if artefact.is_dir():
            _check_compiled(batch, context, tp)
        else:
            artefact = scratch / "artefact"
            api.compile(
                what,
                mesh=mesh or DEFAULT_MESH,
                precision=precision,
                batch=batch,
                context=context,
                tp=tp,
                out=artefact,
                weights=weights,
                no_weights=backend == "mock",
                cache=cache,
                progress=progress,
            )
        report = api.verify(
            artefact, backend=backend, mesh=mesh, weights=weights, cache=cache, progress=progress
        )
    for line in verdict_lines(report):
        screen.say(line)
    screen.result(report.to_json())
    raise typer.Exit(0 if report.ok else 1)


def _check_compiled(batch: int, context: int | None, tp: int | None) -> None:
    """Raise UsageError for what `ttc compile` has decided already."""
    given = {"--batch": batch != 1, "--context": context is not None, "--tp": tp is not None}
    for name in (name for name, is_given in given.items() if is_given):
        raise UsageError(
            Problem(
                message=f"{name} is for a SPEC; an artefact has been compiled with its own",
                help="leave it out, or give it to ttc compile",
            )
        )


def _verify_meshes(
    screen: Screen,
    spec: str,
    *,
    precision: str,
    batch: int,
    context: int | None,
    tp: int | None,
    cache: Path,
) -> None:
    """The mock mesh of every product; a plan that is refused with a reason is not a finding.

    Unless all are: then nothing was verified.
    """
    records: dict[str, Any] = {}
    verdicts: list[bool] = []
    with screen.progress() as progress:
        found = api.verify_meshes(
            spec,
            whole_mesh_names(),
            precision=precision,
            batch=batch,
            context=context,
            tp=tp,
            cache=cache,
            progress=progress,
        )
        for mesh, report in found:
            if isinstance(report, PlanError):
                records[mesh] = {"refused": report.problems[0].message}
                screen.say(f"{mesh}: refused: {report.problems[0].message}")
                continue
            records[mesh] = report.to_json()
            verdicts.append(report.ok)
            for line in verdict_lines(report):
                screen.say(f"{mesh}: {line}")
    screen.result({"meshes": records})
    raise typer.Exit(0 if verdicts and all(verdicts) else 1)
