"""The command line: check, plan, compile, verify, run, demo.

Exit code 0: clean; 1: verification found something; 2: bad input, or an error of ours.
"""

# pyright: reportUnknownMemberType=false
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from click.core import ParameterSource

from ttc import api
from ttc.api import DEFAULT_CACHE, DEFAULT_MESH, DEFAULT_PRECISION, Target
from ttc.errors import PlanError, Problem, TtcError, UsageError, did_you_mean
from ttc.hardware.hardware import mesh_names
from ttc.options import (
    MESHES,
    ArtefactFolder,
    Backend,
    Batch,
    Cache,
    Context,
    Json,
    MeshOption,
    Precision,
    Prompts,
    Spec,
    Tokens,
    Weights,
)
from ttc.runtime.backends import choose_backend
from ttc.runtime.request import Prompt, Settings, read_messages
from ttc.screen import (
    Screen,
    check_record,
    plan_lines,
    plan_record,
    plan_rows,
    plan_table,
    verdict_lines,
)
from ttc.spec import library
from ttc.spec.check import check_all, check_file
from ttc.spec.model import load_model

if TYPE_CHECKING:
    from ttc.runtime.model import Model

DEMO_PRECISION = "bf16"  # the emulator is fastest and closest to the reference with it
DEMO_QUESTION = "What is the capital of France?"

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Compile Hugging Face language models for Tenstorrent hardware and run them, on a device "
    "or without one. After any command, --debug shows where an internal error came from.",
)


@app.command()
def check(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE]...", help="[default: all of ttc's own]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Validate specs, architectures and precision profiles.

    ttc check specs/smollm2-135m-instruct.yaml
    """
    screen = Screen(as_json=as_json)
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


@app.command()
def plan(
    context_: typer.Context,
    spec: Annotated[str | None, typer.Argument(envvar="HF_MODEL", metavar="[SPEC]")] = None,
    mesh: MeshOption = DEFAULT_MESH,
    precision: Precision = DEFAULT_PRECISION,
    batch: Batch = 1,
    context: Context = None,
    every: Annotated[
        bool, typer.Option("--all", help="Every mesh and profile, and every spec if none is named.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show what would be compiled: memory by group, prefill buckets, what else would fit.

    ttc plan llama-3.1-8b-instruct --mesh P150 --batch 8
    """
    screen = _screen(context_, as_json)
    if every:
        rows = _plan_all(_specs(spec), batch=batch, context=context)
        screen.table(plan_rows(rows))
        screen.result({"rows": rows})
        return
    if spec is None:
        raise UsageError(
            Problem(message="no spec is named", help="ttc plan SPEC, or ttc plan --all")
        )
    target = Target(
        mesh=mesh,
        precision=precision,
        batch=batch,
        context=context,
        prefill_chunk_tokens=_chunk_tokens(screen),
    )
    chosen = api.plan(spec, target)
    for line in plan_lines(chosen):
        screen.say(line)
    screen.table(plan_table(chosen))
    screen.result(plan_record(chosen))


@app.command()
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
    screen = _screen(context_, as_json)
    with screen.progress() as progress:
        artefact = api.compile(
            spec,
            mesh=mesh,
            precision=precision,
            batch=batch,
            context=context,
            prefill_chunk_tokens=_chunk_tokens(screen),
            out=out,
            weights=weights or _weights_from_environment(screen, spec),
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


@app.command()
def verify(
    context_: typer.Context,
    what: Annotated[str, typer.Argument(metavar="ARTEFACT|SPEC")],
    mesh: Annotated[str, typer.Option(help=f"For a SPEC: {MESHES}, or all.")] = "",
    precision: Precision = DEFAULT_PRECISION,
    backend: Annotated[str, typer.Option(help="mock, emulate, or all of them.")] = "all",
    weights: Weights = None,
    cache: Cache = DEFAULT_CACHE,
    as_json: Json = False,
) -> None:
    """Check a program: real ttnn on a mock mesh, and its numbers against Hugging Face in fp32.

    ttc verify build/smol --json
    """
    screen = _screen(context_, as_json)
    if backend not in ("all", "mock", "emulate"):
        raise UsageError(
            Problem(
                message=f"verify has no backend '{backend}'",
                help=did_you_mean(backend, ("all", "mock", "emulate")),
            )
        )
    if mesh == "all":
        _verify_meshes(screen, what, precision, cache)
        return
    with screen.progress() as progress, _scratch(cache) as scratch:
        artefact = Path(what)
        if not artefact.is_dir():
            artefact = scratch / "artefact"
            api.compile(
                what,
                mesh=mesh or DEFAULT_MESH,
                precision=precision,
                out=artefact,
                weights=weights,
                no_weights=backend == "mock",
                cache=cache,
                progress=progress,
            )
        report = api.verify(
            artefact, backend=backend, mesh=mesh, weights=weights, cache=cache, progress=progress
        )
    for line in verdict_lines(report):
        screen.say(line)
    screen.result(report.to_json())
    raise typer.Exit(0 if report.ok else 1)


@app.command()
def run(
    context_: typer.Context,
    artefact: ArtefactFolder,
    prompt: Prompts = None,
    messages: Annotated[
        Path | None, typer.Option(help='A JSON file: [{"role": "user", "content": "..."}, ...]')
    ] = None,
    system: Annotated[str, typer.Option(help="A system prompt.")] = "",
    no_chat_template: Annotated[
        bool, typer.Option("--no-chat-template", help="Send the prompt as it is.")
    ] = False,
    max_new_tokens: Tokens = 128,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Draw from the k best; 0 is all.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw from the best that sum to it.")] = None,
    seed: Annotated[int | None, typer.Option(help="Repeats the same draw.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="A text that ends the answer.")] = None,
    backend: Backend = "auto",
    mesh: Annotated[str, typer.Option(envvar="MESH_DEVICE", help="Refuse any other.")] = "",
    as_json: Json = False,
) -> None:
    """Generate text, shown as it comes. Sampling defaults are the model's own, else greedy.

    ttc run build/smol --prompt "What is the capital of France?"
    """
    screen = _screen(context_, as_json)
    prompts = _prompts(prompt, messages, system=system, chat=not no_chat_template)
    settings = Settings(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        stop=stop or (),
    )
    model = _load(screen, artefact, backend=backend, mesh=mesh)
    with model:
        records, timing = _generate(screen, model, prompts, settings)
    screen.result({"backend": model.backend, "outputs": records} | timing)


@app.command()
def demo(
    context_: typer.Context,
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="What to ask.")] = DEMO_QUESTION,
    mesh: MeshOption = DEFAULT_MESH,
    precision: Precision = DEMO_PRECISION,
    weights: Weights = None,
    cache: Cache = DEFAULT_CACHE,
) -> None:
    """All of it on a small real model, without hardware: plan, compile, verify, answer.

    ttc demo --prompt "Write a haiku about the sea."
    """
    screen = _screen(context_, False)
    spec = _demo_spec()
    chosen = api.plan(spec, Target(mesh=mesh, precision=precision))
    for line in plan_lines(chosen):
        screen.say(line)
    screen.table(plan_table(chosen))
    with screen.progress() as progress:
        artefact = api.compile(
            spec,
            mesh=mesh,
            precision=precision,
            out=cache.expanduser() / "demo" / f"{mesh.replace(':', '-')}-{precision}",
            weights=weights,
            cache=cache,
            progress=progress,
        )
        model = api.load(artefact, backend="emulate")
        report = api.verify_answer(model, prompt, weights=weights, cache=cache, progress=progress)
    for line in verdict_lines(report):
        screen.say(line)
    screen.say(f"\n> {prompt}")
    with model:
        _generate(screen, model, [Prompt(text=prompt)], Settings())
    raise typer.Exit(0 if report.ok else 1)


def _screen(context: typer.Context, as_json: bool) -> Screen:
    """The streams of a command; says which of its settings came from the environment."""
    screen = Screen(as_json=as_json)
    for parameter in context.command.params:
        names = [parameter.envvar] if isinstance(parameter.envvar, str) else parameter.envvar or ()
        if context.get_parameter_source(parameter.name or "") is ParameterSource.ENVIRONMENT:
            name = next(name for name in names if os.environ.get(name))
            screen.note(f"using {name}={os.environ[name]} from the environment")
    return screen


def _chunk_tokens(screen: Screen) -> int | None:
    """MAX_PREFILL_CHUNK_SIZE, which counts thousands of tokens, and PAD_MLP_CORES, not needed."""
    if os.environ.get("PAD_MLP_CORES"):
        screen.note("PAD_MLP_CORES is not needed: every matmul is padded for its own cores")
    written = os.environ.get("MAX_PREFILL_CHUNK_SIZE")
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


def _weights_from_environment(screen: Screen, spec: str) -> str | None:
    """LLAMA_DIR, for a spec that does not say itself where its weights are."""
    folder = os.environ.get("LLAMA_DIR")
    if not folder or load_model(spec).weights is not None:
        return None
    screen.note(f"using LLAMA_DIR={folder} from the environment")
    return folder


def _specs(only: str | None) -> Sequence[str]:
    return [only] if only else library.names(library.SPECS, near=Path.cwd() / "_")


def _prompts(
    texts: Sequence[str] | None, messages: Path | None, *, system: str, chat: bool
) -> list[Prompt]:
    """What `ttc run` asks: each --prompt, or the messages of a file."""
    if messages is not None:
        return [Prompt(messages=read_messages(messages), system=system, chat=chat)]
    if not texts:
        raise UsageError(Problem(message="there is nothing to ask", help='add --prompt "..."'))
    return [
        Prompt(text=sys.stdin.read() if text == "-" else text, system=system, chat=chat)
        for text in texts
    ]


def _load(screen: Screen, artefact: Path, *, backend: str, mesh: str) -> "Model":
    simulator = bool(os.environ.get("TT_METAL_SIMULATOR"))
    name, why = choose_backend(backend, simulator=simulator)
    screen.note(f"backend: {name} ({why})")
    with screen.progress() as progress:
        progress("loading the model")
        return api.load(artefact, backend=name, mesh=mesh)


def _generate(
    screen: Screen, model: "Model", prompts: Sequence[Prompt], settings: Settings
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Answer all prompts, as many at once as the program serves; (outputs, timing) for --json.

    One answer is shown as it comes, several when they are complete. Times are those of the last
    batch.
    """
    records: list[dict[str, Any]] = []
    timing: dict[str, Any] = {}
    for first in range(0, len(prompts), model.batch):
        batch = prompts[first : first + model.batch]
        run = model.generation(batch, **settings)
        for piece in run:
            if len(batch) == 1:
                screen.stream(piece.text)
        assert run.timing is not None, "a run that is over has its times"
        for prompt, output in zip(batch, run.outputs, strict=True):
            screen.say("" if len(batch) == 1 else f"> {prompt.text}\n{output.text}\n")
            records.append(
                {
                    "prompt": prompt.text or list(prompt.messages),
                    "prompt_tokens": output.prompt_tokens,
                    "text": output.text,
                    "token_ids": output.token_ids,
                    "finish_reason": output.finish_reason,
                }
            )
        rate = run.timing.decode_tokens_per_s_per_user
        timing = {"ttft_s": run.timing.ttft_s, "decode_tokens_per_s_per_user": rate}
        lengths = ", ".join(str(output.prompt_tokens) for output in run.outputs)
        screen.note(
            f"prompt {lengths} tokens, first token after {run.timing.ttft_s:.2f} s"
            + (f", then {rate:.1f} tokens/s" if rate else "")
        )
    return records, timing


def _demo_spec() -> str:
    """The spec whose checkpoint comes with a Python package, so that no hub is needed."""
    packaged = [
        name for name in _specs(None) if (load_model(name).weights or "").startswith("package:")
    ]
    if not packaged:
        raise UsageError(Problem(message="no spec has weights in a Python package"))
    return packaged[0]


def _plan_all(specs: Sequence[str], *, batch: int, context: int | None) -> list[dict[str, Any]]:
    profiles = library.names(library.PROFILES, near=Path.cwd() / "_")
    rows: list[dict[str, Any]] = []
    for spec in specs:
        for mesh in mesh_names():
            for precision in profiles:
                target = Target(mesh=mesh, precision=precision, batch=batch, context=context)
                row: dict[str, Any] = {"spec": spec, "mesh": mesh, "precision": precision}
                try:
                    chosen = api.plan(spec, target)
                    row |= {"status": "ok", "reason": "", "context": chosen.context}
                except PlanError as error:
                    row |= {"status": "refused", "reason": error.problems[0].message}
                rows.append(row)
    return rows


@contextmanager
def _scratch(cache: Path) -> Iterator[Path]:
    """A folder for artefacts that nobody keeps, where weights can be linked and not copied."""
    cache = cache.expanduser()
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        yield Path(folder)


def _verify_meshes(screen: Screen, spec: str, precision: str, cache: Path) -> None:
    """The mock mesh of every product; a plan that is refused with a reason is not a finding."""
    records: dict[str, Any] = {}
    ok = True
    with screen.progress() as progress, _scratch(cache) as scratch:
        for mesh in mesh_names():
            try:
                artefact = api.compile(
                    spec, mesh=mesh, precision=precision, out=scratch / mesh, no_weights=True
                )
            except PlanError as error:
                records[mesh] = {"refused": error.problems[0].message}
                screen.say(f"{mesh}: refused: {error.problems[0].message}")
                continue
            report = api.verify(artefact, backend="mock", cache=cache, progress=progress)
            records[mesh] = report.to_json()
            ok = ok and report.ok
            for line in verdict_lines(report):
                screen.say(f"{mesh}: {line}")
    screen.result({"meshes": records})
    raise typer.Exit(0 if ok else 1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; errors of the user are printed as problems, ours as one line."""
    # Torch's threads otherwise spin while they wait for each other: with anything else running on
    # the same cores that made the emulator ten times slower (2 cores, torch 2.15).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    try:
        app(args=[each for each in given if each != "--debug"], prog_name="ttc")
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
