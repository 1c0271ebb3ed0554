"""`ttc compile`: a spec becomes an artefact."""

# pyright: reportUnknownMemberType=false
from pathlib import Path
from typing import Annotated

import typer

from ttc import api
from ttc.api import DEFAULT_CACHE, DEFAULT_MESH, DEFAULT_PRECISION
from ttc.commands.environment import chunk_tokens, environment, open_screen, weights_folder
from ttc.options import Batch, Cache, Context, Json, MeshOption, Precision, Spec, Weights


def compile(
    context_: typer.Context,
    spec: Spec,
    mesh: MeshOption = DEFAULT_MESH,
    precision: Precision = DEFAULT_PRECISION,
    batch: Batch = 1,
    context: Context = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="[default: build/SPEC-MESH-PROFILE]"),
    ] = None,
    weights: Weights = None,
    no_weights: Annotated[
        bool, typer.Option("--no-weights", help="Only the program: enough for the mock mesh.")
    ] = False,
    cache: Cache = DEFAULT_CACHE,
    as_json: Json = False,
) -> None:
    """Plan, emit and convert weights: a folder that runs without spec and checkpoint.

    ttc compile smollm2-135m-instruct --mesh N150 --precision bf16 -o build/smol
    """
    screen = open_screen(context_, as_json=as_json)
    with screen.progress() as progress:
        artefact = api.compile(
            spec,
            mesh=mesh,
            precision=precision,
            batch=batch,
            context=context,
            prefill_chunk_tokens=chunk_tokens(screen, environment(context_)),
            out=out,
            weights=weights or weights_folder(screen, environment(context_), spec),
            no_weights=no_weights,
            cache=cache,
            progress=progress,
        )
    manifest = artefact.manifest
    count = len(manifest.weights or ())
    screen.say(f"wrote {artefact.folder}: model.py, plan.yaml, {count or 'no'} weights")
    screen.result(
        {
            "artefact": str(artefact.folder),
            "mesh": manifest.mesh.name,
            "precision": manifest.precision,
            "batch": manifest.batch,
            "context": manifest.context,
            "weights": count,
            "plan": manifest.plan,
        }
    )
