"""What a user asks of a model. Light to import: a bad request is refused before torch is loaded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

type Message = Mapping[str, Any]
"""{"role": "system" | "user" | "assistant", "content": text}, and what else a template reads."""

NEW_TOKENS = 128
"""How long an answer gets when nobody says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What a user asks: a text, or messages. `chat` applies the model's chat template."""

    text: str = ""
    messages: tuple[Message, ...] = ()
    system: str = ""
    chat: bool = True


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
