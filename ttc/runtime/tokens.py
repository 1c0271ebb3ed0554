"""Text to tokens and back, piece by piece."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import tokenizers

from ttc.errors import ArtefactError, Problem
from ttc.runtime.chat import ChatTemplate, load_chat_template


class Decoder(Protocol):
    """What text pieces need of a tokenizer."""

    def decode(self, ids: Sequence[int]) -> str: ...


class Encoding(Protocol):
    """The part of tokenizers.Encoding that is used; the package itself has no types."""

    @property
    def ids(self) -> list[int]: ...


class Codec(Protocol):
    """The part of tokenizers.Tokenizer that is used."""

    def encode(self, sequence: str, *, add_special_tokens: bool) -> Encoding: ...

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokenizer:
    """The tokenizer files of an artefact."""

    codec: Codec
    chat: ChatTemplate | None

    def encode(self, text: str) -> list[int]:
        """Token ids of raw text, with the special tokens the model expects around it."""
        return self.codec.encode(text, add_special_tokens=True).ids

    def encode_rendered(self, text: str) -> list[int]:
        """Token ids of a rendered chat template, which wrote the special tokens itself."""
        return self.codec.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        return self.codec.decode(ids, skip_special_tokens=True)


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of `folder`: tokenizer.json and the chat template beside it."""
    path = folder / "tokenizer.json"
    try:
        codec = cast(Codec, cast(Any, tokenizers.Tokenizer).from_file(str(path)))
    except Exception as error:  # tokenizers raises nothing more precise
        raise ArtefactError(
            Problem(message=f"cannot read the tokenizer {path}", details=(str(error),))
        ) from error
    return Tokenizer(codec=codec, chat=load_chat_template(folder))


@dataclass(slots=True, kw_only=True)
class TextPieces:
    """Turns tokens into text as they come; the pieces join to what decoding all at once gives.

    A character may be spread over several tokens, and some tokenizers drop the space before the
    first token they decode. So each piece is the difference between two decodings that start at
    the same token, and it is held back while it ends in an incomplete character.
    """

    decoder: Decoder
    ids: list[int] = field(default_factory=list[int])
    start: int = 0
    told: int = 0

    def push(self, token: int) -> str:
        """The text that `token` completes, which may be none."""
        self.ids.append(token)
        text = self._untold()
        if text.endswith("\N{REPLACEMENT CHARACTER}"):
            return ""
        self.start, self.told = self.told, len(self.ids)
        return text

    def finish(self) -> str:
        """What was held back: an incomplete character, as the replacement character."""
        text = self._untold()
        self.start = self.told = len(self.ids)
        return text

    def _untold(self) -> str:
        before = self.decoder.decode(self.ids[self.start : self.told])
        return self.decoder.decode(self.ids[self.start :])[len(before) :]


@dataclass(slots=True, kw_only=True)
class StopStrings:
    """Ends a text before the first of `stops`, which may come in several pieces."""

    stops: tuple[str, ...]
    held: str = ""
    stopped: bool = False

    def push(self, text: str) -> str:
        """The part of the text so far that can be shown; `stopped` says whether it ended."""
        self.held += text
        found = [at for stop in self.stops if (at := self.held.find(stop)) >= 0]
        if found:
            shown, self.held, self.stopped = self.held[: min(found)], "", True
            return shown
        keep = max((_overlap(self.held, stop) for stop in self.stops), default=0)
        shown = self.held[: len(self.held) - keep]
        self.held = self.held[len(shown) :]
        return shown

    def finish(self) -> str:
        """What was held back because a stop string might have begun there."""
        shown, self.held = self.held, ""
        return shown


def _overlap(text: str, stop: str) -> int:
    """How many of the last characters of `text` are the first ones of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
