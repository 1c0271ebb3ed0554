"""What a user asks of a model. Light to import: a bad request is refused before torch is loaded."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypedDict, cast

from ttc.errors import Problem, UsageError, did_you_mean

type Message = Mapping[str, Any]
"""{"role": "system" | "user" | "assistant", "content": text}, and what else a template reads."""

NEW_TOKENS = 128
"""How long an answer gets when nobody says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What a user asks: a text, or messages. `chat` applies the model's chat template.

    Without it the text is sent as it is; messages and a system prompt have no meaning then.
    """

    text: str = ""
    messages: tuple[Message, ...] = ()
    system: str = ""
    chat: bool = True

    def check(self) -> None:
        """Raise UsageError for what only a chat template could say."""
        if not self.chat and (self.messages or self.system):
            raise UsageError(
                Problem(
                    message="messages and a system prompt need the chat template",
                    help="leave out --no-chat-template (chat=False), or write them into the prompt",
                )
            )


class Settings(TypedDict, total=False):
    """How a text is generated; what is left out or None has a default.

    max_new_tokens                   128
    temperature, top_k, top_p, seed, repetition_penalty, presence_penalty, frequency_penalty
                                     see Sampling; the defaults are those of the model's
                                     generation_config.json if it asks for sampling, else greedy
    stop                             a text, or several, that end the answer and are not part of it
    stop_at_eos                      whether the model's own end tokens end the answer; True
    logprobs                         whether outputs have the log-probability of each token; False
    """

    max_new_tokens: int
    temperature: float | None
    top_k: int | None
    top_p: float | None
    seed: int | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    stop: str | Sequence[str]
    stop_at_eos: bool
    logprobs: bool


def check_settings(settings: Mapping[str, object]) -> None:
    """Raise UsageError for a setting that does not exist: nothing that is asked for is dropped."""
    known = Settings.__annotations__
    problems = [
        Problem(message=f"there is no setting '{name}'", help=did_you_mean(name, known))
        for name in settings
        if name not in known
    ]
    problems += [
        Problem(message=f"{name} is {settings[name]!r}, expected True or False")
        for name in ("stop_at_eos", "logprobs")
        if not isinstance(settings.get(name), bool | None)
    ]
    stop = settings.get("stop")
    if not isinstance(stop, str | list | tuple | None):
        problems.append(
            Problem(message=f"stop is {stop!r}, expected a text or several", help='stop=["END"]')
        )
    if problems:
        raise UsageError(problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When a text ends: at the model's end tokens, at stop strings, after so many tokens."""

    max_new_tokens: int = NEW_TOKENS
    stop: tuple[str, ...] = ()
    stop_at_eos: bool = True

    @classmethod
    def of(cls, settings: Settings) -> Self:
        given: Mapping[str, Any] = {
            name: value for name, value in settings.items() if value is not None
        }
        stop = given.get("stop", ())
        return cls(
            max_new_tokens=given.get("max_new_tokens", NEW_TOKENS),
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            stop_at_eos=given.get("stop_at_eos", True),
        )

    def check(self) -> None:
        """Raise UsageError for limits nothing can be generated within."""
        problems: list[Problem] = []
        count = cast(object, self.max_new_tokens)
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            problems.append(
                Problem(
                    message=f"max_new_tokens is {count!r}, expected 1 or more",
                    help="for example max_new_tokens=128",
                )
            )
        for each in cast(tuple[object, ...], self.stop):
            if not isinstance(each, str):
                problems.append(Problem(message=f"a stop string is {each!r}, expected a text"))
        if "" in self.stop:
            problems.append(Problem(message="a stop string is empty", help="leave it out"))
        if problems:
            raise UsageError(problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """How much of a program is used; what is not given is all that it was compiled for.

    batch         users at once, of all replicas
    context       tokens of each, prompt and answer
    max_blocks    cache blocks that the users of a replica share
    prefix_reuse  whether a prompt that begins like an earlier one is read from where they part
    """

    batch: int | None = None
    context: int | None = None
    max_blocks: int | None = None
    prefix_reuse: bool = True


def read_messages(path: Path) -> tuple[Message, ...]:
    """Messages from a JSON file: [{"role": "user", "content": "..."}, ...]."""
    try:
        read: object = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(
            Problem(message=f"cannot read the messages in {path}", note=str(error))
        ) from error
    messages = cast(list[object], read) if isinstance(read, list) else []
    if not messages or not all(isinstance(each, dict) and "role" in each for each in messages):
        raise UsageError(
            Problem(
                message=f"{path} holds no messages",
                help='write [{"role": "user", "content": "..."}]',
            )
        )
    return tuple(cast(list[Message], messages))
