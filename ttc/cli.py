"""The command line: one module of `ttc.commands` for each verb, or for a few that belong together.

Exit code 0: clean; 1: verification found something; 2: bad input, or an error of ours.
"""

# pyright: reportUnknownMemberType=false
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from types import MappingProxyType
from typing import NoReturn

import typer

from ttc.commands.accuracy import accuracy
from ttc.commands.cache import cache_app
from ttc.commands.chat import chat
from ttc.commands.check import check
from ttc.commands.compare import compare
from ttc.commands.compile import compile
from ttc.commands.demo import demo
from ttc.commands.new import new
from ttc.commands.plan import plan
from ttc.commands.run import run
from ttc.commands.search import search
from ttc.commands.verify import verify
from ttc.errors import Problem, TtcError

VERBS = (new, check, plan, compile, verify, run, chat, accuracy, compare, search, demo)
"""In the order of `ttc --help`."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Compile Hugging Face language models for Tenstorrent hardware and run them, on a device "
    "or without one. After any command, --debug shows where an internal error came from.",
)

for verb in VERBS:
    app.command()(verb)
app.add_typer(cache_app, name="cache")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; errors of the user are printed as problems, ours as one line."""
    # Torch's threads otherwise spin while they wait for each other: with anything else running on
    # the same cores that made the emulator ten times slower (2 cores, torch 2.15).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    try:
        app(
            args=[each for each in given if each != "--debug"],
            prog_name="ttc",
            obj=MappingProxyType(os.environ),
        )
    except TtcError as error:
        _fail(given, str(error), problems=error.problems)
    except Exception as error:
        if debug:
            raise
        if isinstance(error, OSError):
            _fail(given, f"error: {error.strerror or error}: {error.filename or ''}")
        bug = "this is a bug of ttc; --debug shows where it happened"
        _fail(given, f"internal error: {type(error).__name__}: {error}\n{bug}")


def _fail(arguments: Sequence[str], text: str, problems: Sequence[Problem] = ()) -> NoReturn:
    """Say what went wrong on stderr, with --json also on stdout, and end with exit code 2."""
    print(text, file=sys.stderr)
    if "--json" in arguments:
        record = {"error": text, "problems": [asdict(problem) for problem in problems]}
        print(json.dumps(record, indent=2))
    sys.exit(2)
