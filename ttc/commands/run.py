"""`ttc run`: generate text."""

# pyright: reportUnknownMemberType=false
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ttc import api
from ttc.api import DEFAULT_CACHE
from ttc.commands.environment import environment, load_model_of, open_input, open_screen
from ttc.commands.groups import check_sampling, check_settings, sampling_settings, takes
from ttc.commands.outputs import check_file
from ttc.errors import Problem, UsageError
from ttc.options import (
    ArtefactFolder,
    Backend,
    Cache,
    EmulatorDevice,
    Instruct,
    Json,
    MaxContext,
    PrefixReuse,
    Prompts,
    StopAtEos,
    System,
    VerifyWeights,
)
from ttc.runtime.manifest import Manifest
from ttc.runtime.modes import RunMode, run_mode
from ttc.runtime.prompts import FilePrompt, fitted, read_prompts
from ttc.runtime.request import NEW_TOKENS, Prompt, Serving, Settings, check_text, read_messages
from ttc.screen import Screen, summary_table

if TYPE_CHECKING:
    from ttc.accuracy.run import ReferenceText
    from ttc.runtime.engine import Output
    from ttc.runtime.generate import Generation
    from ttc.runtime.model import Model
    from ttc.runtime.summary import Summary


@takes(sampling=sampling_settings)
def run(
    context_: typer.Context,
    artefact: ArtefactFolder,
    prompt: Prompts = None,
    mode: Annotated[
        str | None,
        typer.Option(help="batch-1, batch-32, long-context or reasoning: what is left out below."),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="A JSON file of tt-transformers: [{'prompt': '...'}, ...]"),
    ] = None,
    messages: Annotated[
        Path | None, typer.Option(help='A JSON file: [{"role": "user", "content": "..."}, ...]')
    ] = None,
    system: System = "",
    instruct: Instruct = True,
    max_new_tokens: Annotated[
        int | None, typer.Option(help=f"Ends an answer that is longer. [default: {NEW_TOKENS}]")
    ] = None,
    stop_at_eos: StopAtEos = True,
    *,
    sampling: Settings,
    logprobs: Annotated[
        bool, typer.Option("--logprobs", help="Log-probabilities of the tokens, in --json.")
    ] = False,
    batch: Annotated[
        int | None, typer.Option(help="Prompts answered side by side. [default: all that can be]")
    ] = None,
    repeat_batches: Annotated[
        int, typer.Option(min=1, help="Ask all of it so often, each time the next prompt first.")
    ] = 1,
    max_context: MaxContext = None,
    page_block_size: Annotated[
        int | None, typer.Option(help="Refuse a program whose cache blocks have another size.")
    ] = None,
    max_blocks: Annotated[
        int | None, typer.Option(help="Use so many cache blocks. [default: all there are]")
    ] = None,
    prefix_reuse: PrefixReuse = True,
    token_accuracy: Annotated[
        bool,
        typer.Option("--token-accuracy", help="And top-1 and top-5 of a text, as ttc accuracy."),
    ] = False,
    reference: Annotated[
        Path | None, typer.Option(help="A .refpt file for --token-accuracy, with its own text.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Where the checkpoint is, for --token-accuracy.")
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="A file for the speeds of each batch.")] = None,
    backend: Backend = "auto",
    emulator_device: EmulatorDevice = "cpu",
    mesh: Annotated[str, typer.Option(envvar="MESH_DEVICE", help="Refuse any other.")] = "",
    verify_weights: VerifyWeights = False,
    cache: Cache = DEFAULT_CACHE,
    as_json: Json = False,
) -> None:
    """Generate text, shown as it comes. Sampling defaults are the model's own, else greedy.

    ttc run build/smol --prompt "What is the capital of France?"
    """
    screen = open_screen(context_, as_json=as_json)
    chosen = run_mode(mode) if mode is not None else None
    sources = _Sources(texts=prompt, messages=messages, file=prompts, mode=chosen)
    asked = sources.read(system=system, instruct=instruct, cache=cache.expanduser())
    if not asked and not token_accuracy:
        raise UsageError(Problem(message="there is nothing to ask", help='add --prompt "..."'))
    job = Job(
        prompts=asked,
        settings={
            **sampling,
            "max_new_tokens": _first(max_new_tokens, chosen and chosen.max_new_tokens, NEW_TOKENS),
            "temperature": _first(sampling.get("temperature"), chosen and chosen.temperature, None),
            "stop_at_eos": stop_at_eos,
            "logprobs": logprobs,
        },
        users=_first(batch, chosen.batch, None) if chosen else None,
        repeats=repeat_batches,
        instruct=instruct,
        fit_context=chosen is not None and chosen.fit_context,
    )
    job.check()
    if logprobs and not as_json:
        raise UsageError(
            Problem(message="--logprobs are part of --json", help="add --json, or leave them out")
        )
    if csv is not None:
        check_file(csv, "--csv")
    if (reference or weights) and not token_accuracy:
        raise UsageError(
            Problem(
                message="--reference and --weights are for --token-accuracy",
                help="add --token-accuracy, or leave them out",
            )
        )
    manifest = api.opened(artefact, mesh=mesh, need_weights=False).manifest
    check_sampling(job.settings, artefact)
    _check_blocks(manifest, page_block_size)
    serving = Serving(
        batch=job.users if chosen else batch,
        context=_context(manifest, max_context, chosen),
        max_blocks=max_blocks,
        prefix_reuse=prefix_reuse,
    )
    accuracy = _Accuracy(reference=reference, weights=weights, cache=cache.expanduser())
    text = accuracy.text(screen, artefact) if token_accuracy else None
    record: dict[str, Any] = {}
    model = load_model_of(
        screen,
        environment(context_),
        artefact,
        backend=backend,
        mesh=mesh,
        emulator_device=emulator_device,
        verify_weights=verify_weights,
        serving=serving,
    )
    with model:
        if text is not None:
            record["token_accuracy"] = _token_accuracy(screen, model, text)
        records, summaries = answer_all(screen, model, job)
    record |= {"backend": model.backend, "outputs": records}
    record |= _speeds(screen, summaries, csv)
    screen.result(record)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is asked, and how often.

    users        so many prompts at a time, the given ones again and again; None: each one once
    fit_context  cut the contexts of a file to what fits
    """

    prompts: Sequence[Prompt | FilePrompt]
    settings: Settings
    users: int | None = None
    repeats: int = 1
    instruct: bool = True
    fit_context: bool = False

    def check(self) -> None:
        """Raise UsageError for what is wrong whatever the model, before anything slow is loaded."""
        for each in self.prompts:
            if isinstance(each, Prompt):
                each.check()
        check_settings(self.settings)

    def batches(self) -> list[list[Prompt | FilePrompt]]:
        """The prompts of each repetition, as tt-transformers turns them."""
        given = self.prompts
        count = len(given) if self.users is None else self.users
        return [
            [given[(first + place) % len(given)] for place in range(count)]
            for first in range(self.repeats)
            if given
        ]

    def ask(self, screen: Screen, model: "Model", each: Prompt | FilePrompt) -> Prompt:
        """What the model is asked for one entry."""
        if isinstance(each, Prompt):
            return each
        if self.fit_context:
            new = self.settings.get("max_new_tokens", NEW_TOKENS)
            fitting = fitted(
                each, max(1, model.engine.context - new), model.encode, instruct=self.instruct
            )
            if fitting != each:
                screen.note(
                    f"context cut from {len(each.context)} to {len(fitting.context)} characters, "
                    f"which leave {new} of {model.engine.context} tokens for the answer"
                )
            each = fitting
        return each.asked(instruct=self.instruct)


def answer_all(
    screen: Screen, model: "Model", job: Job
) -> tuple[list[dict[str, Any]], list["Summary"]]:
    """Answer all prompts, as many at once as the program serves; (outputs for --json, speeds).

    One answer is shown as it comes, several when they are complete.
    """
    from ttc.runtime.summary import summarise

    records: list[dict[str, Any]] = []
    summaries: list[Summary] = []
    for number, entries in enumerate(job.batches()):
        model.engine.forget()  # of the batch before, which would be found again
        asked = [job.ask(screen, model, each) for each in entries]
        generation = _generation(model, job, entries, asked)
        for piece in generation:
            if len(asked) == 1:
                screen.stream(piece.text)
        outputs = generation.outputs
        for prompt, output in zip(asked, outputs, strict=True):
            screen.say("" if len(asked) == 1 else f"> {prompt.text}\n{output.text}\n")
            records.append(output_record(prompt, output) | {"batch": number})
        summaries.append(
            summarise(
                number,
                generation.timing,
                new_tokens=sum(len(output.token_ids) for output in outputs),
                cached_tokens=sum(output.cached_tokens for output in outputs),
            )
        )
    return records, summaries


def _generation(
    model: "Model",
    job: Job,
    entries: Sequence[Prompt | FilePrompt],
    asked: Sequence[Prompt],
) -> "Generation":
    """What answers all prompts. UsageError with all that cannot be asked, each with its place:
    then none is, so that what comes out is never half of what was asked for.
    """
    try:
        return model.generation(asked, **job.settings)
    except UsageError:
        if problems := _refused(model, job, entries, asked):
            raise UsageError(problems) from None
        raise


def _refused(
    model: "Model", job: Job, entries: Sequence[Prompt | FilePrompt], asked: Sequence[Prompt]
) -> list[Problem]:
    """What is wrong with each prompt, once; and which it is, where there are several."""
    count, found = len(job.prompts), list[Problem]()
    for entry, prompt in zip(entries, asked, strict=True):
        try:
            model.engine.check(model.request(prompt, job.settings))
        except UsageError as error:
            of = f"prompt {job.prompts.index(entry) + 1} of {count}"
            for each in error.problems:
                problem = replace(each, details=(*each.details, of)) if count > 1 else each
                found.append(entry.placed(problem) if isinstance(entry, FilePrompt) else problem)
    return list(dict.fromkeys(found))


def output_record(prompt: Prompt, output: "Output") -> dict[str, Any]:
    """One answer for `--json`."""
    record: dict[str, Any] = {
        "prompt": prompt.text or list(prompt.messages),
        "prompt_tokens": output.prompt_tokens,
        "text": output.text,
        "token_ids": output.token_ids,
        "finish_reason": output.finish_reason,
        "ttft_s": output.ttft_s,
    }
    return record | ({"logprobs": output.logprobs} if output.logprobs else {})


def _speeds(screen: Screen, summaries: Sequence["Summary"], csv: Path | None) -> dict[str, Any]:
    """Show the speeds of all batches; those of the last one for --json, and all of them."""
    from ttc.runtime.summary import summary_rows, write_summaries

    if not summaries:
        return {}
    last = summaries[-1]
    screen.note_table(summary_table(summary_rows(summaries)))
    if csv is not None:
        write_summaries(csv, summaries)
    return {
        "ttft_s": last.ttft_s,
        "decode_tokens_per_s_per_user": last.decode_tokens_per_s_per_user,
        "batches": [each.to_json() for each in summaries],
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Accuracy:
    """The text of --token-accuracy: that of a .refpt file, or one that Hugging Face answers now."""

    reference: Path | None
    weights: str | None
    cache: Path

    def text(self, screen: Screen, artefact: Path) -> "ReferenceText":
        """Found or made before the model is loaded, so that it is refused before that as well."""
        from ttc.accuracy.run import AccuracySettings, find_text

        settings = AccuracySettings(reference=self.reference, make_reference=self.reference is None)
        with screen.progress() as progress:
            return find_text(api.opened(artefact), settings, self.weights, self.cache, progress)


def _token_accuracy(screen: Screen, model: "Model", text: "ReferenceText") -> dict[str, Any]:
    """Top-1 and top-5 over a text, each token after the true ones."""
    from ttc.accuracy.run import score

    with screen.progress() as progress:
        scores = score(model, text, progress).scores.headline
    screen.say(
        f"token accuracy: top-1 {scores.top1:.1%}, top-5 {scores.top5:.1%}, {scores.tokens} tokens"
    )
    return {"top1": scores.top1, "top5": scores.top5, "tokens": scores.tokens}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sources:
    """Where prompts come from: exactly one of the first three, or the file of a mode."""

    texts: Sequence[str] | None
    messages: Path | None
    file: Path | None
    mode: RunMode | None

    def read(self, *, system: str, instruct: bool, cache: Path) -> Sequence[Prompt | FilePrompt]:
        """All prompts; none where no source is named."""
        check_text(system, "--system")
        given = [each for each in (self.texts, self.messages, self.file) if each]
        if len(given) > 1:
            raise UsageError(
                Problem(
                    message="prompts come from --prompt, --messages or --prompts, not from several",
                    help="name one of them",
                )
            )
        if self.messages is not None:
            messages = read_messages(self.messages)
            return [Prompt(messages=messages, system=system, chat=instruct)]
        if self.texts:
            return [Prompt(text=_text(given), system=system, chat=instruct) for given in self.texts]
        file = self.file or (self.mode.prompts if self.mode else None)
        if file is None:
            return ()
        if system:
            raise UsageError(
                Problem(
                    message="prompts of a file have no system prompt",
                    help="leave out --system, or ask with --prompt or --messages",
                )
            )
        return read_prompts(file, cache=cache)


def _text(given: str) -> str:
    """The text of a --prompt, which may be the standard input."""
    if given != "-":
        check_text(given, "--prompt")
        return given
    text = open_input().read()
    check_text(text, "the standard input")
    return text


def _first[T](wanted: T | None, of_mode: T | None, default: T) -> T:
    """What an option says, else what the mode says, else the default."""
    return next((value for value in (wanted, of_mode) if value is not None), default)


def _context(manifest: Manifest, wanted: int | None, mode: RunMode | None) -> int | None:
    """Tokens of each user: as asked, else what the mode is for, as far as the program goes."""
    if wanted is not None or mode is None or mode.max_context is None:
        return wanted
    return min(mode.max_context, manifest.context)


def _check_blocks(manifest: Manifest, wanted: int | None) -> None:
    """Refuse a program whose cache blocks have another size than was asked for."""
    size = manifest.kv.block_tokens
    if wanted is not None and wanted != size:
        raise UsageError(
            Problem(
                message=f"the program has cache blocks of {size} tokens, not of {wanted}",
                help=f"leave out --page-block-size, or compile with --page-block-size {wanted}",
            )
        )
