"""Users that come and go between steps: continuous batching."""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from ttc.errors import Problem, UsageError
from ttc.runtime.blocks import BlockUse
from ttc.runtime.chunks import Batch
from ttc.runtime.request import Limits
from ttc.runtime.sampling import LIKELIEST, Draw, Row, Sampler, Sampling, logprob
from ttc.runtime.session import Session
from ttc.runtime.tokens import Decoder, StopStrings, TextPieces

type FinishReason = Literal["eos", "stop", "length", "context"]
"""An end token, a stop string, max_new_tokens, or no room left in the context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What one user asks for. `logprobs` asks for those of the answer's tokens."""

    token_ids: Sequence[int]
    sampling: Sampling = field(default_factory=Sampling)
    limits: Limits = field(default_factory=Limits)
    logprobs: bool = False


@dataclass(slots=True, kw_only=True)
class Output:
    """What one user has got so far. `token_ids` include the end token, `text` does not.

    logprobs       of each token, see `sampling.logprob`; empty if nobody asked
    cached_tokens  of the prompt, that were in the KV cache already
    ttft_s         from the request to its first token, in seconds
    """

    prompt_tokens: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])
    finish_reason: FinishReason | None = None
    cached_tokens: int = 0
    ttft_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One more token of one request, and the text that it completes, which may be none.

    logprob        None if nobody asked
    finish_reason  None while there is more to come
    """

    request: int
    text: str
    token: int
    logprob: float | None
    finish_reason: FinishReason | None

    def numbered(self, number: int) -> "Piece":
        """The same piece of a request that goes by another number."""
        return replace(self, request=number)


@dataclass(slots=True, kw_only=True)
class Inbox:
    """What the requests of one consumer got, kept until it takes it.

    requests  those that are not over
    errors    what ended some of them, each once
    """

    requests: set[int] = field(default_factory=set[int])
    pieces: list[Piece] = field(default_factory=list[Piece])
    errors: list[Exception] = field(default_factory=list[Exception])

    @property
    def filled(self) -> bool:
        """Whether there is anything to be taken."""
        return bool(self.pieces or self.errors)

    def take(self) -> list[Piece]:
        """The pieces, in order. Raises the first error that nobody has seen; pieces stay then."""
        if self.errors:
            raise self.errors.pop(0)
        pieces, self.pieces = self.pieces, []
        return pieces

    def fail(self, number: int, error: Exception) -> None:
        """A request was ended by an error."""
        error.add_note(f"this ended request {number}")
        if error not in self.errors:
            self.errors.append(error)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillTime:
    """What one prefill took.

    prompts  how many ended in it; several chunks of a long prompt come before the one that ends it
    tokens   of those prompts, with what caches held already
    """

    prompts: int
    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimes:
    """What a step took.

    users, decode_s  how many got one more token, and in how many seconds
    """

    prefills: tuple[PrefillTime, ...]
    users: int
    decode_s: float


class Engine:
    """All requests to a session. A request waits until a slot and blocks for all of it are free.

    Requests are let in in the order in which they came, and the prompts of all that are let in are
    read in the same step, several at once where the program can. What one gets does not depend on
    the others: each has its own blocks, its own random generator, its own end.
    """

    def __init__(
        self,
        session: Session,
        decoder: Decoder,
        *,
        eos_ids: Iterable[int] = (),
        batch: int | None = None,
        context: int | None = None,
    ) -> None:
        """`batch` users at once and `context` tokens of each; what the program has if not given.

        `decoder` is asked for the text of tokens, which may end with one of `eos_ids`.
        UsageError for more users or tokens than the program has room for.
        """
        self._session = session
        self._decoder = decoder
        self._eos_ids = frozenset(eos_ids)
        self._batch = _at_most("batch", batch, session.batch)
        self._context = _at_most("context", context, session.room)
        self._waiting: deque[_User] = deque()
        self._reading: dict[int, _User] = {}  # by user of the session; prompts that are not read
        self._running: dict[int, _User] = {}
        self._count = 0
        self._inbox = Inbox()  # of all requests that have no other
        self._on_device = False  # whether the devices hold the next tokens of those who are there
        self.times = StepTimes(prefills=(), users=0, decode_s=0.0)

    @property
    def batch(self) -> int:
        """How many requests run at once."""
        return self._batch

    @property
    def context(self) -> int:
        """Tokens of one request, prompt and answer."""
        return self._context

    @property
    def running(self) -> list[int]:
        """Requests that have got a token and are not over."""
        return [user.number for user in self._running.values()]

    @property
    def waiting(self) -> list[int]:
        """Requests that have got nothing yet, the next one first."""
        return [user.number for user in (*self._reading.values(), *self._waiting)]

    @property
    def busy(self) -> bool:
        """Whether a step would do or return anything."""
        return self.requests > 0 or self._inbox.filled

    @property
    def requests(self) -> int:
        """How many requests are not over."""
        return len(self._running) + len(self._reading) + len(self._waiting)

    @property
    def block_use(self) -> BlockUse:
        """The blocks of the KV caches of all replicas."""
        return self._session.block_use

    def check(self, request: Request) -> None:
        """Raise UsageError for a request that could never be served."""
        request.sampling.check()
        request.limits.check()
        tokens = len(request.token_ids)
        if tokens > self._context:
            raise UsageError(
                Problem(
                    message=f"the prompt has {tokens} tokens, the context {self._context}",
                    help=f"shorten it by {tokens - self._context} tokens, or take a larger context",
                )
            )
        self._session.check_prompt(request.token_ids)

    def add(self, request: Request) -> int:
        """Queue a request; its number, counted from 0. UsageError as from `check`."""
        return self.submit(request)[0]

    def submit(self, request: Request, inbox: Inbox | None = None) -> tuple[int, Output]:
        """As `add`, with the output that the steps to come will fill.

        The pieces of a request with an inbox come there, and no step returns them.
        """
        self.check(request)
        user = _User(self._count, request, self._decoder, inbox or self._inbox)
        self._count += 1
        self._waiting.append(user)
        return user.number, user.output

    def step(self) -> list[Piece]:
        """As `advance`, then the pieces of all requests that have no inbox of their own.

        Raises what ended one of them, as where the backend fails to read a prompt. Nobody else
        notices: what the others got comes with the next step.
        """
        self.advance()
        return self._inbox.take()

    def advance(self) -> None:
        """One more token for each running request, then the first ones of those that can start.

        Whatever fails for a request ends it, and is raised where its pieces are taken. Where a
        decode step as a whole fails, that are all who run: what their caches hold is not known.
        """
        started = time.perf_counter()
        users = len(self._running)
        if users:
            try:
                self._decode()
            except Exception as error:
                for place in list(self._running):
                    self._fail(place, error)
        decode_s = time.perf_counter() - started
        prefills: list[PrefillTime] = []
        if not self._running and not self._reading:
            self._session.release_all()  # those of `Session.prefill`, whom nobody asks for
        while self._admit():
            for place, batch in self._session.batches():
                prefills += self._read(place, batch)
        self.times = StepTimes(prefills=tuple(prefills), users=users, decode_s=decode_s)

    def cancel(self, number: int) -> None:
        """End a request that waits or runs; nothing happens if it is over."""
        for user in [user for user in self._waiting if user.number == number]:
            self._waiting.remove(user)
            user.inbox.requests.discard(number)
        for place, user in [*self._reading.items(), *self._running.items()]:
            if user.number == number:
                self._leave(place)

    def forget(self) -> None:
        """Read every prompt from its first token again: no prefix is found from here on."""
        for replica in self._session.replicas:
            replica.pool.forget()

    def _decode(self) -> None:
        """One more token for each running request."""
        session, running = self._session, self._running
        tokens = [0] * session.batch
        for place, user in running.items():
            tokens[place] = user.output.token_ids[-1]
        most = session.program.TOP_K
        draws = {place: user.sampler.on_device(most) for place, user in running.items()}
        if None not in draws.values():
            self._choose_on_device(tokens, draws)
            return
        logits = session.decode(tokens)
        self._on_device = False
        for place in list(running):
            self._draw(place, logits[place])

    def _choose_on_device(self, tokens: list[int], draws: Mapping[int, Draw | None]) -> None:
        """The same on the devices, which hold the tokens unless users came or left."""
        session, running = self._session, self._running
        logprobs = any(user.request.logprobs for user in running.values())
        likeliest = not logprobs and all(draw == LIKELIEST for draw in draws.values())
        if not self._on_device:
            by_user = [draws.get(place) for place in range(session.batch)]
            session.write(tokens, () if likeliest else by_user)
        if likeliest:
            chosen, found = session.step(), [0.0] * session.batch
        else:
            numbers = [0.0] * session.batch
            for place, user in running.items():
                numbers[place] = user.sampler.number()
            chosen, found = session.draw(numbers, logprobs=logprobs)
        self._on_device = True
        for place, user in list(running.items()):
            logprob = found[place] if user.request.logprobs else None
            try:
                self._take(place, chosen[place], logprob)
            except Exception as error:
                self._fail(place, error)

    def _admit(self) -> bool:
        """Let in who waits, as far as there is room; whether there are prompts to be read."""
        while self._waiting and len(self._running) + len(self._reading) < self._batch:
            request = self._waiting[0].request
            last = len(request.token_ids) + request.limits.max_new_tokens - 1  # is not read again
            place = self._session.admit(request.token_ids, min(last, self._context))
            if place is None:
                nobody = not self._running and not self._reading
                assert not nobody, "a request that was checked fits when nobody else is there"
                break
            user = self._reading[place] = self._waiting.popleft()
            user.output.cached_tokens = self._session.cached_tokens(place)
            self._on_device = False
        return bool(self._reading)

    def _read(self, place: int, batch: Batch) -> Iterator[PrefillTime]:
        """Read chunks of prompts, and choose the first tokens of those that end.

        Where the backend refuses several at once, the others are not to suffer for one, nor for
        one that an earlier chunk ended.
        """
        started = time.perf_counter()
        there = [user in self._reading for user in self._session.users_of(place, batch)]
        try:
            read = self._session.read(place, batch) if all(there) else None
        except Exception as error:
            if len(there) == 1:
                self._fail(self._session.users_of(place, batch)[0], error)
                return
            read = None
        if read is None:
            if len(there) > 1:
                for alone in batch.one_by_one():
                    yield from self._read(place, alone)
            return
        now = time.perf_counter()
        users = [(number, self._reading.pop(number)) for number in read]
        self._running |= users
        for number, user in users:
            self._draw(number, read[number])
            user.output.ttft_s = time.perf_counter() - user.came
        yield PrefillTime(
            prompts=len(users),
            tokens=sum(user.output.prompt_tokens for _, user in users),
            seconds=now - started,
        )

    def _draw(self, place: int, logits: Row) -> None:
        """Choose a request's next token by its logits [vocab], or end it where that fails."""
        user = self._running[place]
        try:
            token = user.sampler.draw(logits)
            self._take(place, token, logprob(logits, token) if user.request.logprobs else None)
        except Exception as error:
            self._fail(place, error)

    def _take(self, place: int, token: int, logprob: float | None = None) -> None:
        """Add a token to a request's text, and end it if this was the last."""
        user = self._running[place]
        piece = user.take(token, logprob, eos_ids=self._eos_ids, context=self._context)
        user.inbox.pieces.append(piece)
        if piece.finish_reason:
            self._leave(place)

    def _fail(self, place: int, error: Exception) -> None:
        """End a request because of an error, which its consumer is told."""
        user = self._leave(place)
        user.inbox.fail(user.number, error)

    def _leave(self, place: int) -> "_User":
        user = (self._running if place in self._running else self._reading).pop(place)
        user.inbox.requests.discard(user.number)
        self._session.release(place)
        self._on_device = False
        return user


class _User:
    """A request and how far it is."""

    def __init__(self, number: int, request: Request, decoder: Decoder, inbox: Inbox) -> None:
        self.number = number
        self.inbox = inbox
        inbox.requests.add(number)
        self.request = request
        self.sampler = Sampler(request.sampling, request.token_ids)
        self.output = Output(prompt_tokens=len(request.token_ids))
        self.came = time.perf_counter()
        self._pieces = TextPieces(decoder=decoder)
        self._stop = StopStrings(stops=request.limits.stop)

    def take(
        self, token: int, logprob: float | None, *, eos_ids: frozenset[int], context: int
    ) -> Piece:
        """Add a token; `context` is how many tokens can be read."""
        output, limits = self.output, self.request.limits
        self.sampler.tell(token)
        output.token_ids.append(token)
        if logprob is not None:
            output.logprobs.append(logprob)
        ended = limits.stop_at_eos and token in eos_ids
        shown = self._finish() if ended else self._stop.push(self._pieces.push(token))
        read = output.prompt_tokens + len(output.token_ids) - 1
        if ended:
            output.finish_reason = "eos"
        elif self._stop.stopped:
            output.finish_reason = "stop"
        elif len(output.token_ids) >= limits.max_new_tokens:
            output.finish_reason = "length"
        elif read >= context:
            output.finish_reason = "context"
        if output.finish_reason in ("length", "context"):
            shown += self._finish()
        output.text += shown
        return Piece(
            request=self.number,
            text=shown,
            token=token,
            logprob=logprob,
            finish_reason=output.finish_reason,
        )

    def _finish(self) -> str:
        shown = self._stop.push(self._pieces.finish())
        return shown + self._stop.finish()


def _at_most(name: str, wanted: int | None, limit: int) -> int:
    if wanted is None:
        return limit
    if not 1 <= wanted <= limit:
        raise UsageError(
            Problem(
                message=f"a {name} of {wanted} is not possible: the program was compiled for "
                f"{limit}",
                help=f"give 1 to {limit}, or compile with a larger --{name}",
            )
        )
    return wanted
