"""`ttc accuracy`: how a program predicts a text, against Hugging Face."""

# pyright: reportUnknownMemberType=false
from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ttc import api
from ttc.api import DEFAULT_CACHE
from ttc.commands.environment import environment, open_screen
from ttc.commands.outputs import check_file
from ttc.options import ArtefactFolder, Backend, Cache, EmulatorDevice, Json, Weights

if TYPE_CHECKING:
    from ttc.accuracy.layers import Row
    from ttc.accuracy.run import AccuracyReport
    from ttc.accuracy.scores import Summary


def accuracy(
    context_: typer.Context,
    artefact: ArtefactFolder,
    backend: Backend = "emulate",
    text: Annotated[
        Path | None, typer.Option(help="A text file. [default: one that comes with ttc]")
    ] = None,
    tokens: Annotated[
        str, typer.Option(metavar="PREFILL+STEPS", help="How much of it is read, and how.")
    ] = "512+511",
    reference: Annotated[
        Path | None,
        typer.Option(
            help="A .refpt file, of ttc or tt-transformers, which has its own text; with "
            "--make-reference a new file, to write."
        ),
    ] = None,
    make_reference: Annotated[
        bool,
        typer.Option(
            "--make-reference", help="Ask Hugging Face transformers first, and keep the answer."
        ),
    ] = False,
    layers: Annotated[
        bool, typer.Option("--layers", help="Also compare every named value, layer by layer.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="A folder for the tables and the picture.")
    ] = None,
    weights: Weights = None,
    cache: Cache = DEFAULT_CACHE,
    emulator_device: EmulatorDevice = "cpu",
    as_json: Json = False,
) -> None:
    """Teacher forcing: top-1, top-5, KL divergence and perplexity, by position with -o.

    ttc accuracy build/smol --make-reference -o build/smol-accuracy
    """
    from ttc.accuracy.run import AccuracySettings
    from ttc.accuracy.teacher import read_split

    screen = open_screen(context_, as_json=as_json)
    settings = AccuracySettings(
        text=text,
        split=read_split(tokens),
        reference=reference,
        make_reference=make_reference,
        layers=layers,
        out=out,
        emulator_device=emulator_device,
    )
    settings.check()
    if reference is not None and make_reference:
        check_file(reference, "--reference")
    with screen.progress() as progress:
        report = api.accuracy(
            artefact,
            backend=backend,
            settings=settings,
            weights=weights,
            cache=cache,
            progress=progress,
            simulator=bool(environment(context_).get("TT_METAL_SIMULATOR")),
        )
    if report.foreign:
        screen.note(
            f"random tokens would be likelier than this text: is {report.reference} of a model "
            "with another tokenizer?"
        )
    for line in _lines(report):
        screen.say(line)
    screen.result(report.to_json())


def _lines(report: "AccuracyReport") -> list[str]:
    scores = report.scores
    lines = [
        _summary("as tt-transformers", scores.headline),
        _summary("every position", scores.everything),
    ]
    if report.layers:
        bad = report.first_bad
        lines += _layer_lines(report.layers)
        lines.append(
            f"first bad value: {_place(bad)}" if bad else "no operation multiplies the error"
        )
    return lines + [f"wrote {path}" for path in report.files]


def _summary(name: str, each: "Summary") -> str:
    line = f"{name:18}  top-1 {each.top1:.1%}  top-5 {each.top5:.1%}"
    line += "" if isnan(each.kl) else f"  KL {each.kl:.5f}"
    line += f"  perplexity {each.perplexity:.3f}"
    known = each.reference_perplexity
    line += "" if isnan(known) else f" (reference {known:.3f})"
    return f"{line}  {each.tokens} tokens"


def _place(row: "Row") -> str:
    where = f"decoder {row.decoder}" if row.decoder >= 0 else "outside the decoders"
    return f"{row.value} in {row.phase}, {where}: {row.error_exact:.1%} off"


def _layer_lines(rows: "Sequence[Row]") -> list[str]:
    """For each value of a phase, the decoder where it is furthest from the unrounded program."""
    worst: dict[tuple[str, str], Row] = {}
    for row in rows:
        key = row.phase, row.value
        if key not in worst or row.error_exact > worst[key].error_exact:
            worst[key] = row
    head = f"{'phase':8} {'value':12} {'worst in':>8}  {'PCC':>8} {'error':>7}   against reference"
    return [head] + [
        f"{row.phase:8} {row.value:12} {row.decoder if row.decoder >= 0 else '-':>8}  "
        f"{row.pcc_exact:8.5f} {row.error_exact:7.2%}   {row.pcc_reference:.5f} "
        f"{row.error_reference:.2%}"
        for row in worst.values()
    ]
