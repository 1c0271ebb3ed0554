"""`ttc compare`: several precision profiles of one model on the same tokens."""

# pyright: reportUnknownMemberType=false
from pathlib import Path
from typing import Annotated

import typer

from ttc.api import DEFAULT_CACHE, DEFAULT_MESH
from ttc.commands.environment import environment, open_screen, weights_folder
from ttc.errors import Problem, UsageError
from ttc.options import Cache, EmulatorDevice, Json, MeshOption, Spec, Weights
from ttc.spec.model import load_model
from ttc.spec.optimizations import read_optimizations
from ttc.spec.precision import PrecisionProfile, load_profile


def compare(
    context_: typer.Context,
    spec: Spec,
    mesh: MeshOption = DEFAULT_MESH,
    precision: Annotated[
        list[str] | None,
        typer.Option(metavar="PROFILE", help="One of precision_profiles/, or a YAML file."),
    ] = None,
    optimizations: Annotated[
        list[str] | None,
        typer.Option(metavar="SETTINGS", help="As in tt-transformers, over its own defaults."),
    ] = None,
    context: Annotated[int, typer.Option(help="Tokens in the KV cache that a step reads.")] = 1024,
    tokens: Annotated[
        str, typer.Option(metavar="PREFILL+STEPS", help="How much of the text is read, and how.")
    ] = "512+511",
    text: Annotated[
        Path | None, typer.Option(help="A text file. [default: one that comes with ttc]")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="A folder; it keeps what was measured for the next run."),
    ] = None,
    weights: Weights = None,
    cache: Cache = DEFAULT_CACHE,
    emulator_device: EmulatorDevice = "cpu",
    as_json: Json = False,
) -> None:
    """Compare profiles, paired by token with the first of them; give each option several times.

    ttc compare smollm2-135m-instruct --precision bf16 --precision performance
    """
    from ttc.accuracy.teacher import TEXT, read_split
    from ttc.search.bench import BenchSettings
    from ttc.search.compare import compare as measure
    from ttc.search.compare import compared_lines

    screen = open_screen(context_, as_json=as_json)
    profiles = _profiles(precision or [], optimizations or [])
    model = load_model(spec)
    folder = out or Path(f"build/compare-{model.name}-{mesh.replace(':', '-')}")
    kept = f"what was measured is kept in {folder}, the same command goes on from there"
    with screen.interruptible(kept), screen.progress() as progress:
        found = measure(
            BenchSettings(
                spec=spec,
                mesh=mesh,
                weights=weights or weights_folder(screen, environment(context_), spec),
                context=context,
                cache=cache.expanduser(),
                folder=folder,
                emulator_device=emulator_device,
            ),
            profiles,
            text or TEXT,
            read_split(tokens),
            progress,
        )
    for line in compared_lines(found):
        screen.say(line)
    screen.result({"profiles": [each.to_json() for each in found]})


def _profiles(named: list[str], written: list[str]) -> dict[str, PrecisionProfile]:
    """The profiles by what the user called them. Raises UsageError for fewer than two."""
    profiles = {name: load_profile(name) for name in named}
    profiles |= {text: read_optimizations(text) for text in written}
    if len(profiles) < 2:
        raise UsageError(
            Problem(
                message="there is nothing to compare",
                help="give --precision or --optimizations twice or more, with different values",
            )
        )
    return profiles
