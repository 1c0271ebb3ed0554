"""`ttc chat`: a conversation."""

# pyright: reportUnknownMemberType=false
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Annotated

import typer

from ttc import api
from ttc.commands.environment import environment, load_model_of, open_input, open_screen
from ttc.commands.groups import check_sampling, check_settings, sampling_settings, takes
from ttc.errors import Problem, UsageError, did_you_mean
from ttc.options import (
    ArtefactFolder,
    Backend,
    EmulatorDevice,
    MaxContext,
    PrefixReuse,
    System,
    VerifyWeights,
)
from ttc.runtime.conversation import Conversation
from ttc.runtime.request import Serving, Settings, check_text
from ttc.screen import Screen

if TYPE_CHECKING:
    from ttc.runtime.model import Model

ANSWER_TOKENS = 512
"""How long an answer gets when nobody says."""

HELP = """\
/reset          forget the conversation
/system [TEXT]  start anew with this system prompt, or with none
/help           this list
Ctrl-C stops an answer, Ctrl-D ends the conversation."""


@takes(settings=sampling_settings)
def chat(
    context_: typer.Context,
    artefact: ArtefactFolder,
    system: System = "",
    max_new_tokens: Annotated[
        int, typer.Option(help="Ends an answer that is longer.")
    ] = ANSWER_TOKENS,
    *,
    settings: Settings,
    max_context: MaxContext = None,
    prefix_reuse: PrefixReuse = True,
    backend: Backend = "auto",
    emulator_device: EmulatorDevice = "cpu",
    mesh: Annotated[str, typer.Option(envvar="MESH_DEVICE", help="Refuse any other.")] = "",
    verify_weights: VerifyWeights = False,
) -> None:
    """Ask one question after the other; /help tells what else can be said.

    ttc chat build/smol --system "Be brief."
    """
    screen = open_screen(context_, as_json=False)
    check_text(system, "--system")
    settings["max_new_tokens"] = max_new_tokens
    check_settings(settings)
    check_sampling(settings, api.opened(artefact, mesh=mesh, need_weights=False).folder)
    model = load_model_of(
        screen,
        environment(context_),
        artefact,
        backend=backend,
        mesh=mesh,
        emulator_device=emulator_device,
        verify_weights=verify_weights,
        serving=Serving(context=max_context, prefix_reuse=prefix_reuse),
    )
    with model:
        conversation = Conversation(system=system)
        model.encode(conversation.asking("Hello"))  # refuses a model without a chat template
        _talk(screen, model, conversation, settings, _reader(screen))


def _reader(screen: Screen) -> Callable[[], str | None]:
    """Reads one line after the other; None at the end. A terminal gets a prompt and editing."""
    stdin = open_input()
    if not stdin.isatty():
        return lambda: stdin.readline() or None
    import_module("readline")  # from now on `input` has a history and knows the arrow keys
    screen.note("/help tells what can be said; Ctrl-D ends the conversation")

    def ask() -> str | None:
        while True:
            try:
                return input("> ")
            except EOFError:
                screen.say("")
                return None
            except KeyboardInterrupt:  # the line that was begun is dropped
                screen.say("")

    return ask


def _talk(
    screen: Screen,
    model: "Model",
    conversation: Conversation,
    settings: Settings,
    read: Callable[[], str | None],
) -> None:
    """Until there is nothing more to read."""
    while (line := read()) is not None:
        line = line.strip()
        try:
            check_text(line, "the line")
            if line.startswith("/"):
                screen.note(_command(line, conversation))
            elif line:
                _answer(screen, model, conversation, line, settings)
        except UsageError as error:
            screen.note(f"{error}\n")


def _command(line: str, conversation: Conversation) -> str:
    """Do what a line says that is not for the model; what there is to say about it."""
    name, _, text = line.partition(" ")
    match name:
        case "/help":
            return HELP
        case "/reset":
            conversation.reset()
            return "the conversation starts anew"
        case "/system":
            conversation.reset(text.strip())
            told = f'with the system prompt "{conversation.system}"' if text.strip() else "without"
            return f"the conversation starts anew {told}" + ("" if text.strip() else " one")
        case _:
            known = ("/help", "/reset", "/system")
            raise UsageError(
                Problem(message=f"there is no command '{name}'", help=did_you_mean(name, known))
            )


def _answer(
    screen: Screen, model: "Model", conversation: Conversation, question: str, settings: Settings
) -> None:
    """Show the answer as it comes, and keep it, whole or as far as it came."""
    _check_room(model, conversation, question)
    generation = model.generation([conversation.asking(question)], **settings)
    with _interrupts() as interrupted:
        pieces = iter(generation)
        for piece in pieces:
            screen.stream(piece.text)
            if interrupted():
                pieces.close()
                break
        stopped = interrupted()
    screen.stream("\n")
    (output,) = generation.outputs
    if stopped:
        screen.note("stopped")
    elif output.finish_reason == "context":
        screen.note(f"the context of {model.engine.context} tokens is full; /reset starts anew")
    elif output.finish_reason == "length":
        screen.note("the answer goes on: --max-new-tokens ends it here")
    conversation.keep(question, output.text)


def _check_room(model: "Model", conversation: Conversation, question: str) -> None:
    """Raise UsageError where what was said before leaves a question no room."""
    context = model.engine.context
    tokens = len(model.encode(conversation.asking(question)))
    if conversation.messages and tokens > context:
        raise UsageError(
            Problem(
                message=f"the conversation and this question have {tokens} tokens, "
                f"the context {context}",
                help="/reset forgets the conversation; --max-context, or a program compiled with a "
                "larger --context, holds longer ones",
            )
        )


@contextmanager
def _interrupts() -> Generator[Callable[[], bool]]:
    """Inside the block Ctrl-C does not raise, it answers True: a step is never left half done.

    The second one raises all the same.
    """
    came: list[int] = []

    def note(number: int, _frame: object) -> None:
        came.append(number)
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGINT, before)
