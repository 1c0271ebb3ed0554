"""The arguments and options that several commands share."""

# pyright: reportUnknownMemberType=false
from pathlib import Path
from typing import Annotated

import typer

from ttc.errors import Problem, UsageError
from ttc.hardware.hardware import Topology, shipped_mesh_names

MESHES = ", ".join(shipped_mesh_names())
Spec = Annotated[
    str,
    typer.Argument(
        envvar="HF_MODEL",
        metavar="SPEC",
        help="A YAML file, the name of one in specs/, or the Hugging Face id that one is for.",
    ),
]
ArtefactFolder = Annotated[
    Path, typer.Argument(metavar="ARTEFACT", help="A folder that ttc compile wrote.")
]
MeshOption = Annotated[
    str,
    typer.Option("--mesh", envvar="MESH_DEVICE", help=f"{MESHES}, or NAME:RxC for a shape."),
]
Precision = Annotated[
    str, typer.Option(metavar="PROFILE", help="One of precision_profiles/, or a YAML file.")
]
Optimizations = Annotated[
    str | None,
    typer.Option(
        metavar="SETTINGS",
        help="As in tt-transformers: 'precision_cfg = {ff1_3: bfp4}, fidelity_cfg = {...}', over "
        "its own defaults, or over --precision if that is given too.",
    ),
]
DecoderConfig = Annotated[
    Path | None,
    typer.Option(help="A decoder_config.json of tt-transformers; the rest is as --precision says."),
]
Batch = Annotated[int, typer.Option(help="Users served at once by a replica, 1 to 32.")]
Context = Annotated[
    int | None, typer.Option(help="Tokens of each user, prompt and answer. [default: what fits]")
]
TensorParallel = Annotated[
    int | None,
    typer.Option(
        "--tp",
        min=1,
        help="Chips that share one user. [default: what the spec says, or the longer axis]",
    ),
]
Wires = Annotated[
    Topology | None,
    typer.Option("--topology", help="How collectives go round. [default: what the wires allow]"),
]
Links = Annotated[
    int | None,
    typer.Option("--links", help="Ethernet links of a collective. [default: all there are]"),
]
PageBlockSize = Annotated[
    int, typer.Option("--page-block-size", help="Tokens of a block of the KV caches: 32, 64, ...")
]
MaxBlocks = Annotated[
    int | None,
    typer.Option(
        "--max-blocks",
        help="Blocks that the users of a replica share. [default: every user's whole context]",
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        metavar="PATH",
        help="A Hugging Face folder or id, a folder of Meta's, a .gguf file, or package:NAME/FILE. "
        "[default: what the spec says]",
    ),
]


def _cache_folder(given: str | Path) -> Path:
    """The folder that --cache names; as a path nothing would be the working directory."""
    if not str(given):
        raise UsageError(
            Problem(
                message="--cache names nothing",
                help="name a folder, or leave it out to take TTC_CACHE or the default",
            )
        )
    return Path(given)


Cache = Annotated[
    Path,
    typer.Option(
        envvar=["TTC_CACHE", "TT_CACHE_PATH"],
        help="Keeps converted weights.",
        parser=_cache_folder,
        metavar="PATH",
    ),
]
VerifyWeights = Annotated[
    bool, typer.Option("--verify-weights", help="Compare every byte of them with its checksum.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON and nothing else.")]
Backend = Annotated[
    str, typer.Option(help="auto, emulate or device; auto takes a device if there is one.")
]
EmulatorDevice = Annotated[
    str,
    typer.Option(
        metavar="DEVICE",
        help="Where torch emulates: cpu, cuda, cuda:N; or cpu-exact, which is slower and gives the "
        "same tokens as a GPU and any other machine.",
    ),
]
Prompts = Annotated[
    list[str] | None,
    typer.Option("--prompt", "-p", help="What to ask; - reads it. Several run side by side."),
]
System = Annotated[str, typer.Option(help="A system prompt.")]
Instruct = Annotated[
    bool,
    typer.Option(
        "--instruct/--no-instruct",
        " /--no-chat-template",
        help="Through the model's chat template, or as it is.",
    ),
]
StopAtEos = Annotated[
    bool, typer.Option("--stop-at-eos/--no-stop-at-eos", help="End at the model's end tokens.")
]
Stops = Annotated[list[str] | None, typer.Option("--stop", help="A text that ends the answer.")]
Temperature = Annotated[float | None, typer.Option(help="0 is greedy: nothing is drawn.")]
TopK = Annotated[int | None, typer.Option(help="Draw from the k best; 0 is all.")]
TopP = Annotated[float | None, typer.Option(help="Draw from the best that sum to it.")]
Seed = Annotated[int | None, typer.Option(help="Repeats the same draw.")]
RepetitionPenalty = Annotated[
    float | None, typer.Option(help="Above 1: less of what prompt and answer have already.")
]
PresencePenalty = Annotated[
    float | None, typer.Option(help="-2 to 2, off each token that the answer has already.")
]
FrequencyPenalty = Annotated[
    float | None, typer.Option(help="The same for each time that it has it.")
]
MaxContext = Annotated[
    int | None,
    typer.Option(help="Tokens of each user, prompt and answer. [default: what was compiled for]"),
]
PrefixReuse = Annotated[
    bool,
    typer.Option(
        "--prefix-reuse/--no-prefix-reuse",
        help="Read a prompt from where it parts from an earlier one.",
    ),
]
