"""`ttc run` and `ttc demo`: generate text."""

# pyright: reportUnknownMemberType=false
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ttc import api
from ttc.api import DEFAULT_CACHE, DEFAULT_MESH, Target
from ttc.commands.environment import environment, load_model_of, open_screen
from ttc.errors import Problem, UsageError
from ttc.options import (
    ArtefactFolder,
    Backend,
    Cache,
    EmulatorDevice,
    Json,
    MeshOption,
    Precision,
    Prompts,
    Tokens,
    VerifyWeights,
    Weights,
)
from ttc.runtime.request import Limits, Prompt, Settings, read_messages
from ttc.screen import Screen, plan_lines, plan_table, verdict_lines
from ttc.spec import library
from ttc.spec.model import load_model

if TYPE_CHECKING:
    from ttc.runtime.model import Model

DEMO_PRECISION = "bf16"  # the emulator is fastest and closest to the reference with it
DEMO_QUESTION = "What is the capital of France?"


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
    emulator_device: EmulatorDevice = "cpu",
    mesh: Annotated[str, typer.Option(envvar="MESH_DEVICE", help="Refuse any other.")] = "",
    verify_weights: VerifyWeights = False,
    as_json: Json = False,
) -> None:
    """Generate text, shown as it comes. Sampling defaults are the model's own, else greedy.

    ttc run build/smol --prompt "What is the capital of France?"
    """
    screen = open_screen(context_, as_json=as_json)
    prompts = _prompts(prompt, messages, system=system, chat=not no_chat_template)
    settings = Settings(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        stop=stop or (),
    )
    _check_request(prompts, settings)
    model = load_model_of(
        screen,
        environment(context_),
        artefact,
        backend=backend,
        mesh=mesh,
        emulator_device=emulator_device,
        verify_weights=verify_weights,
    )
    with model:
        records, timing = _generate(screen, model, prompts, settings)
    screen.result({"backend": model.backend, "outputs": records} | timing)


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
    screen = open_screen(context_, as_json=False)
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


def _check_request(prompts: Sequence[Prompt], settings: Settings) -> None:
    """Raise UsageError for what is wrong whatever the model, before anything slow is loaded."""
    from ttc.runtime.sampling import Sampling

    for prompt in prompts:
        prompt.check()
    Limits.of(settings).check()
    Sampling().changed(settings).check()


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
        name
        for name in library.names(library.SPECS, near=Path.cwd() / "_")
        if (load_model(name).weights or "").startswith("package:")
    ]
    if not packaged:
        raise UsageError(Problem(message="no spec has weights in a Python package"))
    return packaged[0]
