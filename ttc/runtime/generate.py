"""Text generation for one or several prompts, piece by piece as it comes."""

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

from ttc.errors import Problem, UsageError
from ttc.runtime.engine import Engine, Inbox, Output, Piece, PrefillTime, Request, StepTimes


@dataclass(slots=True, kw_only=True)
class Timing:
    """Times as users see them.

    prefills  in the order in which they ran
    steps     (users, seconds) of each decode step
    total_s   from the first request to the last token
    """

    prefills: list[PrefillTime] = field(default_factory=list[PrefillTime])
    steps: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])
    ttfts_s: list[float] = field(default_factory=list[float])
    total_s: float = 0.0

    def add(self, times: StepTimes) -> None:
        self.prefills += times.prefills
        if times.users:
            self.steps.append((times.users, times.decode_s))

    @property
    def ttft_s(self) -> float:
        """Time to the first token, the mean of all users."""
        return sum(self.ttfts_s) / max(1, len(self.ttfts_s))

    @property
    def decode_s(self) -> float:
        return sum(seconds for _, seconds in self.steps)

    @property
    def decode_steps(self) -> int:
        return len(self.steps)

    @property
    def decode_tokens_per_s_per_user(self) -> float | None:
        """Steps in a second; None where there was none."""
        return self.decode_steps / self.decode_s if self.steps else None

    @property
    def decode_tokens_per_s(self) -> float | None:
        """Tokens of all users in a second; None where there was no step."""
        return sum(users for users, _ in self.steps) / self.decode_s if self.steps else None

    @property
    def prefill_tokens_per_s(self) -> float | None:
        seconds = sum(each.seconds for each in self.prefills)
        return sum(each.tokens for each in self.prefills) / seconds if seconds else None


class Generation:
    """Answers to some prompts: iterate over it for the pieces; `outputs` and `timing` are filled.

    Pieces name their request by its place among the prompts. If there are more prompts than the
    program serves at once, each starts when another ends. Stopping to iterate ends all of them.
    Others may join while it runs: what they get waits for `Engine.step`, and a step of theirs
    loses nothing here. UsageError if the engine has other requests when it starts, or for a request
    that cannot be served.
    """

    def __init__(self, engine: Engine, requests: Sequence[Request]) -> None:
        check_idle(engine)
        for request in requests:
            engine.check(request)
        self.outputs = [Output(prompt_tokens=len(request.token_ids)) for request in requests]
        self.timing = Timing()
        self._engine = engine
        self._requests = requests

    def __iter__(self) -> Generator[Piece]:
        engine, started, inbox = self._engine, time.perf_counter(), Inbox()
        check_idle(engine)
        submitted = [engine.submit(request, inbox) for request in self._requests]
        self.outputs = [output for _, output in submitted]
        first = submitted[0][0] if submitted else 0
        try:
            while inbox.requests or inbox.filled:
                if not inbox.filled:  # by a step of somebody else
                    engine.advance()
                    self.timing.add(engine.times)
                for piece in inbox.take():
                    if piece.text or piece.finish_reason:
                        yield piece.numbered(piece.request - first)
        finally:
            for number, _ in submitted:
                engine.cancel(number)
            self.timing.total_s = time.perf_counter() - started
            ttfts = [output.ttft_s for output in self.outputs]
            self.timing.ttfts_s = [each for each in ttfts if each is not None]


def check_idle(engine: Engine) -> None:
    """Raise UsageError while requests are served one step at a time."""
    if count := engine.requests:
        raise UsageError(
            Problem(
                message=f"the model still serves {count} requests",
                help="go on with step() until they are over, or cancel() them",
            )
        )
