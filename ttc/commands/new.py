"""`ttc new`: a spec from a checkpoint's own headers."""

# pyright: reportUnknownMemberType=false
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ttc.options import Json
from ttc.screen import Screen
from ttc.spec import library

if TYPE_CHECKING:
    from ttc.new import Written


def new(
    source: Annotated[
        str, typer.Argument(metavar="ORG/MODEL|FOLDER", help="A checkpoint, on the hub or here.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="[default: specs/NAME.yaml]")
    ] = None,
    extends: Annotated[
        str | None, typer.Option(metavar="SPEC", help="Write only what differs from this spec.")
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="A key of config.json that changes no arithmetic."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    as_json: Json = False,
) -> None:
    """Write a spec from config.json and tensor names; of an unknown family also an architecture.

    ttc new Qwen/Qwen2.5-0.5B-Instruct
    """
    from ttc.new import new_spec  # 0.3 s that the other verbs need not wait for

    screen = Screen(as_json=as_json)
    written = new_spec(source, out=out, extends=extends, ignore=ignore or (), force=force)
    for line in _lines(written):
        screen.say(line)
    screen.result(_record(written))
    raise typer.Exit(1 if written.draft.undecided else 0)


def _lines(written: "Written") -> list[str]:
    draft = written.draft
    lines = [f"wrote {library.shown(written.spec)} (architecture {draft.architecture})"]
    lines += ["", "used of config.json"]
    lines += [f"  {key}: {shortened(value)}" for key, value in draft.used.items()]
    lines += ["", "ignored, and why that is safe"]
    lines += [f"  {key}: {reason}" for key, reason in draft.ignored.items()]
    if written.architecture is not None:
        lines += ["", f"wrote {library.shown(written.architecture)}"]
    if draft.undecided:
        lines += ["", "to decide before it compiles"]
        lines += [f"  {point}" for point in draft.undecided]
    return lines


def shortened(value: object) -> str:
    """A value as config.json has it, cut after 60 characters."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _record(written: "Written") -> dict[str, Any]:
    draft = written.draft
    return {
        "spec": str(written.spec),
        "architecture": draft.architecture,
        "architecture_file": str(written.architecture) if written.architecture else None,
        "used": dict(draft.used),
        "ignored": dict(draft.ignored),
        "undecided": list(draft.undecided),
    }
