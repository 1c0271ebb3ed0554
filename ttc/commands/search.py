"""`ttc search`: a precision profile for an accuracy floor or a speed floor."""

# pyright: reportUnknownMemberType=false
from math import inf
from pathlib import Path
from typing import Annotated

import typer

from ttc.commands.environment import open_screen
from ttc.commands.groups import BenchOptions, bench_options, kept_in, takes
from ttc.errors import Problem, UsageError, did_you_mean
from ttc.options import Json
from ttc.spec.precision import load_profile


@takes(bench=bench_options)
def search(
    context_: typer.Context,
    bench: BenchOptions,
    top1_floor: Annotated[
        float | None,
        typer.Option(
            metavar="PERCENT",
            help="Agree with Hugging Face on as many tokens, and read least within that.",
        ),
    ] = None,
    relative_to: Annotated[
        str | None,
        typer.Option(metavar="PROFILE", help="--top1-floor is a share of what PROFILE reaches."),
    ] = None,
    speed_floor: Annotated[
        float | None,
        typer.Option(
            metavar="TOKENS/S",
            help="For a user, as estimated for a full context: be the most accurate within that, "
            "or read least within both floors.",
        ),
    ] = None,
    pareto: Annotated[
        bool,
        typer.Option(
            "--pareto", help="Measure the whole front, and the presets; floors may be given or not."
        ),
    ] = False,
    minimise: Annotated[
        str, typer.Option(help="What a decode step should pay least of: bytes or time.")
    ] = "bytes",
    tokens: Annotated[
        str, typer.Option(metavar="PREFILL+STEPS", help="Of the held-back text.")
    ] = "512+511",
    calibration: Annotated[
        int, typer.Option(help="Tokens that sensitivities are measured on.")
    ] = 256,
    block: Annotated[int, typer.Option(help="Neighbouring decoders that share a form.")] = 1,
    text: Annotated[Path | None, typer.Option(help="Where sensitivities are measured.")] = None,
    held_back: Annotated[Path | None, typer.Option(help="Where the floor must hold.")] = None,
    as_json: Json = False,
) -> None:
    """Find dtypes and fidelities by group and decoder; writes a profile that compile takes.

    ttc search smollm2-135m-instruct --mesh N150 --top1-floor 95
    """
    from ttc.accuracy.teacher import HELD_BACK, TEXT, read_split
    from ttc.search.front import draw_front, front_lines, write_front
    from ttc.search.search import Floors, SearchSettings
    from ttc.search.search import search as find

    screen = open_screen(context_, as_json=as_json)
    if minimise not in ("bytes", "time"):
        hint = did_you_mean(minimise, ("bytes", "time"))
        raise UsageError(Problem(message=f"--minimise '{minimise}' is neither", help=hint))
    _check(top1_floor, speed_floor, relative_to, pareto=pareto, block=block, tokens=calibration)
    settings = bench.settings(context_, screen, "search")
    folder, name = settings.folder, _name(bench.model, top1_floor, relative_to, speed_floor)
    with screen.interruptible(kept_in(folder)), screen.progress() as progress:
        found = find(
            settings,
            SearchSettings(
                block=block,
                calibration_tokens=calibration,
                text=text or TEXT,
                held_back=held_back or HELD_BACK,
                split=read_split(tokens),
                minimise="time" if minimise == "time" else "bytes",
            ),
            Floors(
                top1=None if top1_floor is None else top1_floor / 100,
                relative_to=relative_to,
                speed=speed_floor,
                pareto=pareto,
            ),
            name,
            progress,
        )
    files: list[Path] = []
    if found.profile:
        files.append(folder / f"{name}.yaml")
        files[0].write_text(found.profile)
    if pareto:
        files += [folder / "pareto.csv", folder / "pareto.png"]
        write_front(files[-2], (*found.points, *found.presets))
        draw_front(files[-1], found.points, found.presets, f"{bench.model} on {bench.mesh}")
    for line in front_lines((*found.points, *found.presets)):
        screen.say(line)
    for path in files:
        screen.say(f"wrote {path}")
    screen.result(found.to_json() | {"files": [str(path) for path in files]})


def _check(
    top1: float | None,
    speed: float | None,
    relative_to: str | None,
    *,
    pareto: bool,
    block: int,
    tokens: int,
) -> None:
    """Raise UsageError for a search that makes no sense."""
    problems: list[Problem] = []
    if top1 is None and speed is None and not pareto:
        hint = "give --top1-floor, --speed-floor or --pareto"
        problems.append(Problem(message="there is nothing to search for", help=hint))
    if top1 is not None and not 1 < top1 <= 100:
        hint = "95 stands for 95 % of the tokens"
        problems.append(Problem(message=f"--top1-floor {top1:g} is no percentage", help=hint))
    if speed is not None and not 0 < speed < inf:
        hint = "40 stands for 40 tokens/s"
        problems.append(Problem(message=f"--speed-floor {speed:g} is no speed above 0", help=hint))
    if relative_to is not None and top1 is None:
        hint = "add --top1-floor"
        problems.append(Problem(message="--relative-to says what a floor is of", help=hint))
    if relative_to is not None:
        load_profile(relative_to)
    if block < 1:
        hint = "1 lets every decoder have forms of its own, 2 has two share them"
        problems.append(Problem(message=f"--block {block} is not at least 1", help=hint))
    if tokens < 1:
        hint = "256 tokens are the default; fewer are faster to measure, and say less"
        problems.append(Problem(message=f"--calibration {tokens} is not at least 1", help=hint))
    if problems:
        raise UsageError(problems)


def _name(model: str, top1: float | None, relative_to: str | None, speed: float | None) -> str:
    parts = [model]
    parts += [f"top1-{top1:g}"] if top1 is not None else []
    parts += [f"of-{Path(relative_to).stem}"] if relative_to else []
    parts += [f"speed-{speed:g}"] if speed is not None else []
    return "-".join(parts)
