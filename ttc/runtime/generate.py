"""Text generation for one or several users, piece by piece as it comes."""

import time
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ttc.runtime.replica import Logits
from ttc.runtime.request import Limits
from ttc.runtime.sampling import Sampling, sample
from ttc.runtime.session import Session
from ttc.runtime.tokens import Decoder, StopStrings, TextPieces

type FinishReason = Literal["eos", "stop", "length", "context"]
"""An end token, a stop string, max_new_tokens, or no room left in the context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Some more text of one user."""

    user: int
    text: str


@dataclass(slots=True, kw_only=True)
class Output:
    """What one user got. `token_ids` include the end token, `text` does not."""

    prompt_tokens: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list[int])
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Times as a user sees them; zero steps give no rate."""

    ttft_s: float
    decode_s: float
    decode_steps: int

    @property
    def decode_tokens_per_s_per_user(self) -> float | None:
        return self.decode_steps / self.decode_s if self.decode_steps else None


class Generation:
    """One run of a session: iterate over it for the pieces; then `outputs` and `timing` are set.

    A greedy run leaves tokens, positions and the choice of the next token on the device; sampling
    reads the logits and writes the token that was drawn.
    """

    def __init__(
        self,
        session: Session,
        decoder: Decoder,
        prompts: Sequence[Sequence[int]],
        *,
        eos_ids: Iterable[int],
        sampling: Sampling,
        limits: Limits,
    ) -> None:
        sampling.check()
        limits.check()
        self.outputs = [Output(prompt_tokens=len(prompt)) for prompt in prompts]
        self.timing: Timing | None = None
        self._session = session
        self._prompts = prompts
        self._eos_ids = frozenset(eos_ids)
        self._sampling = sampling
        self._limits = limits
        self._texts = [_Text(decoder, limits.stop) for _ in prompts]
        self._generator = sampling.generator()

    def __iter__(self) -> Generator[Piece]:
        started = time.perf_counter()
        tokens = self._choose(self._session.prefill(self._prompts))
        first = time.perf_counter()
        steps = 0
        written = False
        try:
            while True:
                finished = False
                for user, output in enumerate(self.outputs):
                    if output.finish_reason is None:
                        yield from self._take(user, tokens[user])
                        finished = finished or output.finish_reason is not None
                if all(output.finish_reason for output in self.outputs):
                    return
                tokens = self._next(tokens, written=written and not finished)
                written = True
                steps += 1
        finally:
            self.timing = Timing(
                ttft_s=first - started, decode_s=time.perf_counter() - first, decode_steps=steps
            )

    def _next(self, tokens: list[int], *, written: bool) -> list[int]:
        """The tokens after `tokens`; `written`: the device knows them and who is still there."""
        session = self._session
        if not self._sampling.greedy:
            return self._choose(session.decode(tokens))
        if not written:
            session.write(tokens)
        return session.step()

    def _choose(self, logits: Logits) -> list[int]:
        return [
            0 if output.finish_reason else sample(row, self._sampling, self._generator)
            for output, row in zip(self.outputs, logits, strict=True)
        ]

    def _take(self, user: int, token: int) -> Generator[Piece]:
        """Add a token to a user's text, and end it if this was the last."""
        output, text = self.outputs[user], self._texts[user]
        output.token_ids.append(token)
        ended = token in self._eos_ids
        shown = text.finish() if ended else text.push(token)
        if ended:
            output.finish_reason = "eos"
        elif text.stopped:
            output.finish_reason = "stop"
        elif len(output.token_ids) >= self._limits.max_new_tokens:
            output.finish_reason = "length"
        elif self._session.is_full(user):
            output.finish_reason = "context"
        if output.finish_reason in ("length", "context"):
            shown += text.finish()
        if output.finish_reason:
            self._session.release(user)
        output.text += shown
        if shown:
            yield Piece(user=user, text=shown)


class _Text:
    """Tokens of one user to text that may be shown."""

    def __init__(self, decoder: Decoder, stop: tuple[str, ...]) -> None:
        self._pieces = TextPieces(decoder=decoder)
        self._stop = StopStrings(stops=stop)

    @property
    def stopped(self) -> bool:
        return self._stop.stopped

    def push(self, token: int) -> str:
        return self._stop.push(self._pieces.push(token))

    def finish(self) -> str:
        shown = self._stop.push(self._pieces.finish())
        return shown + self._stop.finish()
