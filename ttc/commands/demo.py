"""`ttc demo`: all of it on a small real model."""

# pyright: reportUnknownMemberType=false
from pathlib import Path
from typing import Annotated

import typer

from ttc import api
from ttc.api import DEFAULT_CACHE, DEFAULT_MESH, Target
from ttc.commands.environment import open_screen
from ttc.commands.run import Job, answer_all
from ttc.errors import Problem, UsageError
from ttc.options import Cache, MeshOption, Precision, Weights
from ttc.runtime.request import Prompt, Settings
from ttc.screen import plan_lines, plan_table, verdict_lines
from ttc.spec import library
from ttc.spec.model import load_model

DEMO_PRECISION = "bf16"  # the emulator is fastest and closest to the reference with it
DEMO_QUESTION = "What is the capital of France?"


def demo(
    context_: typer.Context,
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="What to ask.")] = DEMO_QUESTION,
    mesh: MeshOption = DEFAULT_MESH,
    precision: Precision = DEMO_PRECISION,
    weights: Weights = None,
    cache: Cache = DEFAULT_CACHE,
) -> None:
    """All of it on a small real model, without hardware: plan, compile, verify, answer.

    ttc demo --prompt "Write a haiku about the sea."
    """
    screen = open_screen(context_, as_json=False)
    spec = _demo_spec()
    chosen = api.plan(spec, Target(mesh=mesh, precision=precision))
    for line in plan_lines(chosen):
        screen.say(line)
    screen.table(plan_table(chosen))
    with screen.progress() as progress:
        artefact = api.compile(
            spec,
            mesh=mesh,
            precision=precision,
            out=cache.expanduser() / "demo" / f"{mesh.replace(':', '-')}-{precision}",
            weights=weights,
            cache=cache,
            progress=progress,
        )
        model = api.load(artefact, backend="emulate")
        report = api.verify_answer(model, prompt, weights=weights, cache=cache, progress=progress)
    for line in verdict_lines(report):
        screen.say(line)
    screen.say(f"\n> {prompt}")
    with model:
        answer_all(screen, model, Job(prompts=[Prompt(text=prompt)], settings=Settings()))
    raise typer.Exit(0 if report.ok else 1)


def _demo_spec() -> str:
    """The spec whose checkpoint comes with a Python package, so that no hub is needed."""
    packaged = [
        name
        for name in library.names(library.SPECS, near=Path.cwd() / "_")
        if (load_model(name).weights or "").startswith("package:")
    ]
    if not packaged:
        raise UsageError(Problem(message="no spec has weights in a Python package"))
    return packaged[0]
