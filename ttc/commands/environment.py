"""What commands take from the environment, which `cli.py` hands over and nobody else reads."""

# pyright: reportUnknownMemberType=false
import sys
from collections.abc import Mapping
from dataclasses import asdict
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, cast

import typer
from click.core import ParameterSource

from ttc import api
from ttc.errors import Problem, UsageError
from ttc.runtime.backends import choose_backend
from ttc.runtime.request import Serving
from ttc.screen import Screen
from ttc.spec.model import load_model

if TYPE_CHECKING:
    from ttc.runtime.model import Model

type Environment = Mapping[str, str]


def environment(context: typer.Context) -> Environment:
    """The environment that the command line was started with."""
    return cast(Environment, context.obj)


def open_screen(context: typer.Context, *, as_json: bool) -> Screen:
    """The streams of a command; says which of its settings came from the environment."""
    screen, given = Screen(as_json=as_json), environment(context)
    for parameter in context.command.params:
        names = [parameter.envvar] if isinstance(parameter.envvar, str) else parameter.envvar or ()
        if context.get_parameter_source(parameter.name or "") is ParameterSource.ENVIRONMENT:
            name = next(name for name in names if given.get(name))
            screen.note(f"using {name}={given[name]} from the environment")
    return screen


def open_input() -> TextIO:
    """The standard input. Bytes that are no UTF-8 come as what `check_text` names and refuses."""
    stream = sys.stdin
    if isinstance(stream, TextIOWrapper):
        cast(TextIOWrapper, stream).reconfigure(errors="surrogateescape")
    return cast(TextIO, stream)


def chunk_tokens(screen: Screen, given: Environment) -> int | None:
    """MAX_PREFILL_CHUNK_SIZE, which counts thousands of tokens, and PAD_MLP_CORES, not needed."""
    if given.get("PAD_MLP_CORES"):
        screen.note("PAD_MLP_CORES is not needed: every matmul is padded for its own cores")
    written = given.get("MAX_PREFILL_CHUNK_SIZE")
    if not written:
        return None
    if not written.isdecimal() or int(written) == 0:
        raise UsageError(
            Problem(
                message=f"MAX_PREFILL_CHUNK_SIZE is '{written}', expected a number from 1",
                help="4 stands for 4096 tokens",
            )
        )
    screen.note(f"using MAX_PREFILL_CHUNK_SIZE={written} from the environment")
    return 1024 * int(written)


def weights_folder(screen: Screen, given: Environment, spec: str) -> str | None:
    """LLAMA_DIR, for a spec that does not say itself where its weights are."""
    folder = given.get("LLAMA_DIR")
    if not folder or load_model(spec).weights is not None:
        return None
    screen.note(f"using LLAMA_DIR={folder} from the environment")
    return folder


def load_model_of(
    screen: Screen,
    given: Environment,
    artefact: Path,
    *,
    backend: str,
    mesh: str,
    emulator_device: str,
    verify_weights: bool = False,
    serving: Serving | None = None,
) -> "Model":
    """The model of an artefact on a backend; says which one and why."""
    simulator = bool(given.get("TT_METAL_SIMULATOR"))
    name, why = choose_backend(backend, simulator=simulator)
    screen.note(f"backend: {name} ({why})")
    with screen.progress() as progress:
        progress("loading the model")
        return api.load(
            artefact,
            backend=name,
            mesh=mesh,
            emulator_device=emulator_device,
            verify_weights=verify_weights,
            **asdict(serving or Serving()),
        )
