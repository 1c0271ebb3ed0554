"""What a user asks of a model. Light to import: a bad request is refused before torch is loaded."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypedDict, cast

from ttc.errors import Problem, Source, UsageError, did_you_mean

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
        """Raise UsageError for text that is none, for no text, and for what only a chat template
        could say.
        """
        if (problem := empty_problem(self._question)) is not None:
            raise UsageError(problem)
        check_text(self.text, "the prompt")
        check_text(self.system, "the system prompt")
        for number, message in enumerate(self.messages, 1):
            check_text(message, f"message {number}")
        if not self.chat and (self.messages or self.system):
            raise UsageError(
                Problem(
                    message="messages and a system prompt need the chat template",
                    help="leave out --no-instruct or --no-chat-template (chat=False), or write "
                    "them into the prompt",
                )
            )

    @property
    def _question(self) -> object:
        """What is asked at last: the text, which comes after all messages, or what a user said."""
        if self.text or not self.messages:
            return self.text
        last = self.messages[-1]
        return last.get("content") if last.get("role") == "user" else None


class Settings(TypedDict, total=False):
    """How a text is generated; what is left out or None has a default.

    max_new_tokens                   128
    temperature, top_k, top_p, seed, repetition_penalty, presence_penalty, frequency_penalty
                                     see Sampling; the defaults are those of the model's
                                     generation_config.json if it asks for sampling, else greedy,
                                     where top_k, top_p and seed are refused
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


def empty_problem(text: object, at: Source | None = None) -> Problem | None:
    """What is wrong with a prompt that asks nothing: a chat template around it would hide that."""
    if not isinstance(text, str) or text.strip():
        return None
    return Problem(message="the prompt is empty", at=at, help="write what to ask")


def check_text(value: object, what: str) -> None:
    """Raise UsageError for half characters in a text, or in any text of a message.

    Python makes them of bytes that are no UTF-8, and of half an escape in JSON; no tokenizer has
    tokens for them.
    """
    if (problem := text_problem(value, what)) is not None:
        raise UsageError(problem)


def text_problem(value: object, what: str, at: Source | None = None) -> Problem | None:
    """What is wrong with a text, or the first wrong text of a message; None where all is well."""
    if isinstance(value, Mapping):
        entries = cast(Mapping[object, object], value).items()
        return next(
            (p for pair in entries for each in pair if (p := text_problem(each, what))), None
        )
    if isinstance(value, list | tuple):
        several = cast(Sequence[object], value)
        return next((p for each in several if (p := text_problem(each, what))), None)
    if not isinstance(value, str) or (found := _HALF.search(value)) is None:
        return None
    code = ord(found[0])
    kept_byte = 0x80 <= code - _FIRST_BYTE <= 0xFF
    reason = f"half of a surrogate pair, U+{code:04X}"
    if kept_byte:
        reason = f"the byte 0x{code - _FIRST_BYTE:02x}, which is no UTF-8"
    return Problem(
        message=f"{what} is not valid Unicode",
        at=at,
        note=f"its character {found.start() + 1} is {reason}",
        help="write it in UTF-8" if kept_byte else "write both halves, or the character itself",
    )


_HALF = re.compile("[\ud800-\udfff]")
_FIRST_BYTE = 0xDC00
"""Where Python puts a byte that it cannot decode (PEP 383): byte 0x80 becomes U+DC80."""


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
            elif (problem := text_problem(each, "a stop string")) is not None:
                problems.append(problem)
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
        read: object = json.loads(path.read_text(encoding="utf-8"))
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
    for number, message in enumerate(messages, 1):
        check_text(message, f"message {number} of {path}")
    return tuple(cast(list[Message], messages))
