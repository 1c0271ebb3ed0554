"""`ttc cache`: the folder of converted weights."""

# pyright: reportUnknownMemberType=false
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ttc.api import DEFAULT_CACHE
from ttc.commands.environment import open_screen
from ttc.errors import Problem, UsageError
from ttc.options import Cache, Json
from ttc.screen import amount, cache_table

if TYPE_CHECKING:
    from ttc.checkpoint.cache import WeightCache

UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}

cache_app = typer.Typer(
    no_args_is_help=True,
    help="Look after the converted weights that compiles share. Artefacts keep their own weights, "
    "whatever is removed here.",
)


@cache_app.command("list")
def list_(context_: typer.Context, cache: Cache = DEFAULT_CACHE, as_json: Json = False) -> None:
    """Show every converted weight, least recently used first.

    ttc cache list --json
    """
    from ttc.checkpoint.upkeep import list_entries

    screen = open_screen(context_, as_json=as_json)
    entries = list_entries(_weights(cache))
    screen.table(cache_table(entries))
    screen.result({"entries": [entry.to_json() for entry in entries]})


@cache_app.command()
def size(context_: typer.Context, cache: Cache = DEFAULT_CACHE, as_json: Json = False) -> None:
    """Show how much the cache takes, and how much of it artefacts share.

    ttc cache size
    """
    from ttc.checkpoint.upkeep import list_entries

    screen = open_screen(context_, as_json=as_json)
    weights = _weights(cache)
    entries = list_entries(weights)
    total = sum(entry.size_bytes for entry in entries)
    linked = sum(entry.size_bytes for entry in entries if entry.linked)
    screen.say(
        f"{weights.root}: {len(entries)} weights, {amount(total)}; "
        f"artefacts share {amount(linked)} of it"
    )
    screen.result(
        {
            "folder": str(weights.root),
            "entries": len(entries),
            "bytes": total,
            "linked_bytes": linked,
        }
    )


@cache_app.command()
def prune(
    context_: typer.Context,
    everything: Annotated[bool, typer.Option("--all", help="Remove every weight.")] = False,
    max_size: Annotated[
        str, typer.Option(metavar="SIZE", help="Remove the least used beyond it, as in 20G.")
    ] = "",
    cache: Cache = DEFAULT_CACHE,
    as_json: Json = False,
) -> None:
    """Remove what is damaged or was left behind, and what a limit leaves no room for.

    ttc cache prune --max-size 20G
    """
    from ttc.checkpoint.upkeep import prune as prune_cache
    from ttc.scratch import sweep_scratch

    screen = open_screen(context_, as_json=as_json)
    limit = _bytes(max_size) if max_size else None
    pruned = prune_cache(_weights(cache), everything=everything, limit_bytes=limit)
    leftovers = pruned.leftovers + sweep_scratch(cache.expanduser())
    screen.say(
        f"removed {len(pruned.entries)} weights and {leftovers} leftovers; "
        f"freed {amount(pruned.freed_bytes)}"
    )
    screen.result(
        {
            "removed": [entry.key for entry in pruned.entries],
            "leftovers": leftovers,
            "freed_bytes": pruned.freed_bytes,
        }
    )


@cache_app.command()
def verify(context_: typer.Context, cache: Cache = DEFAULT_CACHE, as_json: Json = False) -> None:
    """Compare every byte with its checksum; exit code 1 if something is damaged.

    ttc cache verify
    """
    from ttc.checkpoint.upkeep import list_entries

    screen = open_screen(context_, as_json=as_json)
    entries = list_entries(_weights(cache, verify=True))
    damaged = [entry for entry in entries if entry.damage]
    for entry in damaged:
        screen.say(f"damaged: {', '.join(entry.tensors)}: {entry.damage}")
    screen.say(f"{len(entries) - len(damaged)} of {len(entries)} weights are sound")
    if damaged:
        screen.note("ttc cache prune removes them; a compile converts them again")
    screen.result(
        {
            "ok": not damaged,
            "entries": len(entries),
            "damaged": [entry.to_json() for entry in damaged],
        }
    )
    raise typer.Exit(1 if damaged else 0)


def _weights(cache: Path, *, verify: bool = False) -> "WeightCache":
    from ttc.checkpoint.cache import WeightCache

    return WeightCache(cache.expanduser() / "weights", verify=verify)


def _bytes(text: str) -> int:
    """20G, 1.5T or 1000000 as bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMGT]?)B?", text)
    if match is None:
        raise UsageError(
            Problem(message=f"'{text}' is not a size", help="write it as 20G, 500M or in bytes")
        )
    return int(float(match[1]) * UNITS[match[2]])
