"""`ttc compare`: several precision profiles of one model on the same tokens."""

# pyright: reportUnknownMemberType=false
from pathlib import Path
from typing import Annotated

import typer

from ttc.commands.environment import open_screen
from ttc.commands.groups import BenchOptions, bench_options, kept_in, takes
from ttc.errors import Problem, UsageError
from ttc.options import Json
from ttc.spec.optimizations import read_optimizations
from ttc.spec.precision import PrecisionProfile, load_profile


@takes(bench=bench_options)
def compare(
    context_: typer.Context,
    bench: BenchOptions,
    precision: Annotated[
        list[str] | None,
        typer.Option(metavar="PROFILE", help="One of precision_profiles/, or a YAML file."),
    ] = None,
    optimizations: Annotated[
        list[str] | None,
        typer.Option(metavar="SETTINGS", help="As in tt-transformers, over its own defaults."),
    ] = None,
    tokens: Annotated[
        str, typer.Option(metavar="PREFILL+STEPS", help="How much of the text is read, and how.")
    ] = "512+511",
    text: Annotated[
        Path | None, typer.Option(help="A text file. [default: one that comes with ttc]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare profiles, paired by token with the first of them; give each option several times.

    ttc compare smollm2-135m-instruct --precision bf16 --precision performance
    """
    from ttc.accuracy.teacher import TEXT, read_split
    from ttc.search.compare import compare as measure
    from ttc.search.compare import compared_lines

    screen = open_screen(context_, as_json=as_json)
    profiles = _profiles(precision or [], optimizations or [])
    settings = bench.settings(context_, screen, "compare")
    with screen.interruptible(kept_in(settings.folder)), screen.progress() as progress:
        found = measure(settings, profiles, text or TEXT, read_split(tokens), progress)
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
