"""What a user asks of a model. Light to import: a bad request is refused before torch is loaded."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypedDict, cast

from ttc.errors import Problem, UsageError

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
    temperature, top_k, top_p, seed  see Sampling; the defaults are those of the model's
                                     generation_config.json if it asks for sampling, else greedy
    stop                             texts that end the answer and are not part of it
    """

    max_new_tokens: int
    temperature: float | None
    top_k: int | None
    top_p: float | None
    seed: int | None
    stop: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When a text ends, besides the model's own end tokens."""

    max_new_tokens: int = NEW_TOKENS
    stop: tuple[str, ...] = ()

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(
            max_new_tokens=settings.get("max_new_tokens", NEW_TOKENS),
            stop=tuple(settings.get("stop", ())),
        )

    def check(self) -> None:
        """Raise UsageError for limits nothing can be generated within."""
        if self.max_new_tokens < 1:
            raise UsageError(
                Problem(
                    message=f"max_new_tokens is {self.max_new_tokens}, expected 1 or more",
                    help="for example max_new_tokens=128",
                )
            )
        if "" in self.stop:
            raise UsageError(Problem(message="a stop string is empty", help="leave it out"))


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
