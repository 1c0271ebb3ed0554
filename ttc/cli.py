"""The command line: check, plan, compile, verify, run, demo.

Exit code 0: clean; 1: a verification found something; 2: bad input or an error of ours.
"""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from ttc.api import (
    DEFAULT_CACHE,
    DEFAULT_MESH,
    DEFAULT_PRECISION,
    Backends,
    Target,
    default_weights,
)
from ttc import api
from ttc.errors import PlanError, Problem, TtcError, UsageError, did_you_mean
from ttc.hardware.hardware import load_mesh, mesh_names
from ttc.screen import Screen, plan_lines, plan_record, plan_table
from ttc.spec import library
from ttc.spec.model import load_model

DEMO_SPEC = "smollm2-135m-instruct"
DEMO_QUESTION = "What is the capital of France?"

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Compile Hugging Face language models for Tenstorrent hardware, and run them: "
    "on a device, or on an emulator of it.",
)

Spec = Annotated[
    str,
    typer.Argument(
        envvar="HF_MODEL", help="A spec: a YAML file, or the name of one in specs/.", metavar="SPEC"
    ),
]
ArtefactFolder = Annotated[
    Path, typer.Argument(help="A folder that ttc compile wrote.", metavar="ARTEFACT")
]
MeshOption = Annotated[
    str,
    typer.Option("--mesh", envvar="MESH_DEVICE", help=f"One of {', '.join(mesh_names())}, or NAME:RxC."),
]
Precision = Annotated[
    str, typer.Option(help="A profile in precision_profiles/, or a YAML file.", metavar="PROFILE")
]
Batch = Annotated[int, typer.Option(help="Users served at once, 1 to 32.")]
Context = Annotated[
    int | None,
    typer.Option(help="Tokens per user, prompt and answer; as many as are useful if not given."),
]
Weights = Annotated[
    str | None,
    typer.Option(
        help="A Hugging Face folder or id, a .gguf file, or package:NAME/FILE; "
        "the spec's own if not given."
    ),
]
Cache = Annotated[
    Path,
    typer.Option(envvar=["TTC_CACHE", "TT_CACHE_PATH"], help="Where converted weights are kept."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")]
BackendOption = Annotated[
    str, typer.Option("--backend", help="auto, emulate or device; auto takes a device if there is one.")
]
