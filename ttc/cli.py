"""The command line: one module of `ttc.commands` for each verb, or for a few that belong together.

Exit code 0: clean; 1: verification found something; 2: bad input, or an error of ours.
"""

# pyright: reportUnknownMemberType=false
import os
import sys
from collections.abc import Sequence
from types import MappingProxyType

import typer

from ttc.commands.accuracy import accuracy
from ttc.commands.cache import cache_app
from ttc.commands.check import check
from ttc.commands.compile import compile
from ttc.commands.new import new
from ttc.commands.plan import plan
from ttc.commands.run import demo, run
from ttc.commands.search import search
from ttc.commands.verify import verify
from ttc.errors import TtcError

VERBS = (new, check, plan, compile, verify, run, accuracy, search, demo)
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
        print(error, file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        if debug:
            raise
        if isinstance(error, OSError):
            print(f"error: {error.strerror or error}: {error.filename or ''}", file=sys.stderr)
            sys.exit(2)
        bug = "this is a bug of ttc; --debug shows where it happened"
        print(f"internal error: {type(error).__name__}: {error}\n{bug}", file=sys.stderr)
        sys.exit(2)
