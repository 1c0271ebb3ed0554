"""`ttc compile`: a spec becomes an artefact."""

# pyright: reportUnknownMemberType=false
from pathlib import Path
from typing import Annotated

import typer

from ttc import api
from ttc.api import DEFAULT_CACHE, DEFAULT_MESH, DEFAULT_PRECISION
from ttc.commands.environment import chunk_tokens, environment, open_screen, weights_folder
from ttc.commands.precision import chosen_profile
from ttc.errors import Problem, UsageError
from ttc.options import (
    Batch,
    Cache,
    Context,
    DecoderConfig,
    Json,
    Links,
    MaxBlocks,
    MeshOption,
    Optimizations,
    PageBlockSize,
    Precision,
    Spec,
    TensorParallel,
    VerifyWeights,
    Weights,
    Wires,
)


def compile(
    context_: typer.Context,
    spec: Spec,
    mesh: MeshOption = DEFAULT_MESH,
    precision: Precision = DEFAULT_PRECISION,
    optimizations: Optimizations = None,
    decoder_config: DecoderConfig = None,
    batch: Batch = 1,
    context: Context = None,
    tp: TensorParallel = None,
    topology: Wires = None,
    links: Links = None,
    page_block_size: PageBlockSize = 32,
    max_blocks: MaxBlocks = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="[default: build/SPEC-MESH-PROFILE]"),
    ] = None,
    weights: Weights = None,
    no_weights: Annotated[
        bool, typer.Option("--no-weights", help="Only the program: enough for the mock mesh.")
    ] = False,
    copy_weights: Annotated[
        bool, typer.Option("--copy-weights", help="Files of its own, to move it elsewhere.")
    ] = False,
    verify_weights: VerifyWeights = False,
    cache: Cache = DEFAULT_CACHE,
    as_json: Json = False,
) -> None:
    """Plan, emit and convert weights: a folder that runs without spec and checkpoint.

    ttc compile smollm2-135m-instruct --mesh N150 --precision bf16 -o build/smol
    """
    del precision  # `chosen_profile` asks whether it was given
    screen = open_screen(context_, as_json=as_json)
    spec = str(api.named_spec(spec, cache))
    profile = chosen_profile(
        context_, screen, spec, optimizations=optimizations, decoder_config=decoder_config
    )
    if weights == "":
        raise UsageError(
            Problem(
                message="--weights names nothing",
                help="name a folder, a file or a hub id, or leave it out to take the spec's",
            )
        )
    if no_weights and (copy_weights or verify_weights):
        name = "--copy-weights" if copy_weights else "--verify-weights"
        raise UsageError(
            Problem(
                message=f"{name} is for weights, and --no-weights leaves them out",
                help="leave one of the two out",
            )
        )
    kept = "weights that were converted are kept; the same command goes on from there"
    with screen.interruptible(kept), screen.progress() as progress:
        artefact = api.compile(
            spec,
            mesh=mesh,
            precision=profile,
            batch=batch,
            context=context,
            prefill_chunk_tokens=chunk_tokens(screen, environment(context_)),
            tp=tp,
            topology=topology,
            links=links,
            page_block_size=page_block_size,
            max_blocks=max_blocks,
            out=out,
            weights=weights or weights_folder(screen, environment(context_), spec),
            no_weights=no_weights,
            copy_weights=copy_weights,
            verify_weights=verify_weights,
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
