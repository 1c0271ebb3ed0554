"""`ttc check`: validate YAML files."""

# pyright: reportUnknownMemberType=false
from pathlib import Path
from typing import Annotated

import typer

from ttc.options import Json
from ttc.screen import Screen, check_record
from ttc.spec import library
from ttc.spec.check import check_all, check_file
from ttc.table import Row, shipped_specs, support_page, support_rows


def check(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE]...", help="[default: all of ttc's own]")
    ] = None,
    table: Annotated[
        bool, typer.Option("--table", help="Print docs/models.md: every spec on every mesh.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Validate specs, architectures and precision profiles.

    ttc check specs/smollm2-135m-instruct.yaml
    """
    screen = Screen(as_json=as_json)
    if table:
        _table(screen)
        return
    root = library.shipped(library.SPECS).parent
    checks = tuple(map(check_file, files)) if files else check_all(root)
    for each in checks:
        if each.problems:
            screen.err.print("\n\n".join(map(str, each.problems)), markup=False, end="\n\n")
        else:
            screen.say(f"ok  {library.shown(each.path)} ({each.kind})")
    bad = [each for each in checks if each.problems]
    screen.result({"ok": not bad, "files": [check_record(each) for each in checks]})
    raise typer.Exit(2 if bad else 0)


def _table(screen: Screen) -> None:
    """Every spec of ttc's own on every mesh; a few minutes."""
    with screen.progress() as progress:
        specs, rows = shipped_specs(), list[Row]()
        for row in support_rows(specs):
            rows.append(row)
            progress("planning", len(rows), len(specs))
    screen.say(support_page(rows).rstrip())
    screen.result(
        {
            "rows": [
                {
                    "spec": row.spec.name,
                    "model": row.spec.model,
                    "architecture": row.spec.architecture.name,
                    "known_on": list(row.spec.known_on),
                    "smallest_mesh": row.smallest_mesh,
                    "largest_context": dict(row.contexts),
                }
                for row in rows
            ]
        }
    )
