"""Requests that come and go, on a program that sums its tokens mod 23."""

# pyright: reportUnknownMemberType=false
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from ttc.errors import UsageError
from ttc.runtime.blocks import BlockUse
from ttc.runtime.chunks import Batch
from ttc.runtime.engine import Engine, Piece, Request
from ttc.runtime.replica import Replica
from ttc.runtime.request import Limits
from ttc.runtime.sampling import Sampler, Sampling
from ttc.runtime.session import Session

pytestmark = pytest.mark.emulate

type MakeSession = Callable[..., Session]


class Letters:
    """Token 0 is "a", 1 is "b", and so on."""

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(ord("a") + token) for token in ids)


def engine(session: Session, **settings: Any) -> Engine:
    return Engine(session, Letters(), eos_ids=(0,), **settings)


def request(token_ids: Sequence[int], *, logprobs: bool = False, **settings: Any) -> Request:
    limits = {name: settings.pop(name) for name in tuple(settings) if name in Limits.__slots__}
    return Request(
        token_ids=token_ids,
        sampling=Sampling(**settings),
        limits=Limits(**limits),
        logprobs=logprobs,
    )


def finished(each: Engine) -> dict[int, list[Piece]]:
    """The pieces of all requests, when all are over."""
    pieces: dict[int, list[Piece]] = {}
    while each.busy:
        for piece in each.step():
            pieces.setdefault(piece.request, []).append(piece)
    return pieces


def tokens(pieces: list[Piece]) -> list[int]:
    return [piece.token for piece in pieces]


def test_a_request_joins_those_that_run(session: Session) -> None:
    each = engine(session)
    first = each.add(request([1], max_new_tokens=4))
    assert [(piece.request, piece.token) for piece in each.step()] == [(first, 1)]
    second = each.add(request([5, 6], max_new_tokens=2))
    assert [(piece.request, piece.token) for piece in each.step()] == [(first, 2), (second, 11)]
    assert each.running == [first, second]
    pieces = finished(each)
    assert tokens(pieces[first]) == [4, 8]
    assert tokens(pieces[second]) == [22]
    assert {number: each[-1].finish_reason for number, each in pieces.items()} == {
        first: "length",
        second: "length",
    }


def test_steps_of_an_idle_engine_do_nothing(session: Session) -> None:
    assert engine(session).step() == []


def test_requests_wait_for_a_slot_in_their_order(session: Session) -> None:
    each = engine(session)
    numbers = [each.add(request([token + 1], max_new_tokens=2)) for token in range(5)]
    each.step()
    assert (each.running, each.waiting) == (numbers[:3], numbers[3:])
    pieces = finished(each)
    assert [tokens(pieces[number])[0] for number in numbers[3:]] == [4, 5]


def test_requests_wait_for_blocks(session: Session) -> None:
    """Nine blocks of 32: two whole contexts, and then one block less than a third one needs."""
    each = engine(session)
    for token in (1, 2):
        each.add(request([token] * 90, max_new_tokens=50))
    each.add(request([1], max_new_tokens=32))
    last = each.add(request([3] * 33, max_new_tokens=40))
    each.step()
    assert each.block_use == BlockUse(total=9, held=7, cached=0, free=2)
    assert each.waiting == [last]
    assert finished(each)[last]
    assert each.block_use == BlockUse(total=9, held=0, cached=5, free=4)


def test_a_long_request_is_not_overtaken(make_session: MakeSession) -> None:
    each = engine(make_session(list(range(4))))
    each.add(request([1], max_new_tokens=20))
    each.add(request([1] * 90, max_new_tokens=50))
    each.add(request([1], max_new_tokens=2))
    each.step()
    each.step()
    assert each.waiting == [2]
    assert len(each.running) == 2


def test_each_request_has_its_own_end(session: Session) -> None:
    each = engine(session)
    eos = each.add(request([23 - 1], max_new_tokens=9, stop_at_eos=True))
    stop = each.add(request([1], stop=("ei",)))
    length = each.add(request([3], max_new_tokens=3))
    pieces = finished(each)
    reasons = {number: parts[-1].finish_reason for number, parts in pieces.items()}
    assert reasons == {eos: "length", stop: "stop", length: "length"}
    assert "".join(piece.text for piece in pieces[stop]) == "bc"


def test_end_tokens_can_be_ignored(session: Session) -> None:
    each = engine(session)
    stops = each.add(request([12, 11], max_new_tokens=3))
    goes_on = each.add(request([12, 11], max_new_tokens=3, stop_at_eos=False))
    pieces = finished(each)
    assert (tokens(pieces[stops]), pieces[stops][-1].finish_reason) == ([0], "eos")
    assert tokens(pieces[goes_on]) == [0, 0, 0]
    assert "".join(piece.text for piece in pieces[goes_on]) == "aaa"


def test_the_context_ends_a_request(session: Session) -> None:
    each = engine(session, context=40)
    number = each.add(request([1] * 38, max_new_tokens=50))
    (pieces,) = finished(each).values()
    assert len(pieces) == 3  # the last one is not read
    assert pieces[-1].finish_reason == "context"
    assert pieces[-1].request == number


def test_greedy_requests_stay_on_the_device(session: Session) -> None:
    each = engine(session)
    each.add(request([1], max_new_tokens=9))
    each.step()
    each.step()
    writes = len(session.replicas[0].backend.ttnn.writes)
    each.step()
    assert len(session.replicas[0].backend.ttnn.writes) == writes
    each.add(request([1], max_new_tokens=2, temperature=1.0, seed=1))
    finished(each)
    assert len(session.replicas[0].backend.ttnn.writes) > writes


def test_a_cancelled_request_frees_its_slot_and_blocks(session: Session) -> None:
    each = engine(session)
    numbers = [each.add(request([1] * 40)) for _ in range(4)]
    each.step()
    each.cancel(numbers[0])
    each.cancel(numbers[3])
    each.cancel(numbers[3])
    assert each.running == numbers[1:3]
    assert each.waiting == []
    each.cancel(numbers[1])
    each.cancel(numbers[2])
    assert each.block_use.held == 0
    assert not each.busy


def test_log_probabilities_are_those_of_the_model(session: Session) -> None:
    """One logit is 1, the other 22 are 0."""
    each = engine(session)
    each.add(request([1], max_new_tokens=2, logprobs=True))
    each.add(request([1], max_new_tokens=2))
    sampled = request([1], max_new_tokens=30, logprobs=True, temperature=9.0, seed=2, top_k=5)
    each.add(sampled)
    pieces = finished(each)
    total = math.log(math.e + 22)
    assert [piece.logprob for piece in pieces[0]] == pytest.approx([1 - total] * 2)
    assert [piece.logprob for piece in pieces[1]] == [None, None]
    values = [piece.logprob for piece in pieces[2] if piece.logprob is not None]
    assert len(values) == len(pieces[2])
    assert {round(value, 6) for value in values} <= {round(1 - total, 6), round(-total, 6)}


def test_a_failing_prefill_harms_nobody_else(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    each = engine(session)
    fine = each.add(request([1], max_new_tokens=5))
    each.step()
    replica = session.replicas[0]
    read = type(replica).read

    def fail(*args: Any, **named: Any) -> Any:
        raise RuntimeError("the device is on fire")

    monkeypatch.setattr(type(replica), "read", fail)
    each.add(request([2]))
    with pytest.raises(RuntimeError, match="fire"):
        each.step()
    monkeypatch.setattr(type(replica), "read", read)
    assert each.waiting == []
    assert each.block_use.held == 1
    assert tokens(finished(each)[fine]) == [2, 4, 8, 16]


def fail_for(monkeypatch: pytest.MonkeyPatch, number: int, after: int) -> None:
    """The draws of a request fail as soon as it has so many tokens."""
    draw = Sampler.draw

    def fails(sampler: Sampler, logits: Any) -> int:
        if sampler.how.seed == number and sum(sampler._answer.values()) == after:  # pyright: ignore
            raise RuntimeError("no token")
        return draw(sampler, logits)

    monkeypatch.setattr(Sampler, "draw", fails)


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_draw_that_fails_ends_one_request(
    session: Session, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Nobody else misses a token, or is blamed, whether they come before or after it."""
    each = engine(session)
    fail_for(monkeypatch, 1, after)
    for number in range(3):
        each.add(request([number + 1], max_new_tokens=4, seed=number, frequency_penalty=1e-6))
    found: dict[int, list[int]] = {}
    notes: list[str] = []
    while each.busy:
        try:
            for piece in each.step():
                found.setdefault(piece.request, []).append(piece.token)
        except RuntimeError as error:
            notes += error.__notes__
    assert notes == ["this ended request 1"]
    assert found.pop(1, []) == [2, 4][:after]
    assert found == {0: [1, 2, 4, 8], 2: [3, 6, 12, 1]}
    assert each.block_use.held == 0


def test_a_decode_step_that_fails_ends_who_runs(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that was half done would append a token twice: nobody goes on with wrong caches."""
    each = engine(session)
    numbers = [each.add(request([n + 1], max_new_tokens=3)) for n in range(4)]
    each.step()
    kind = type(session.replicas[0])
    step = kind.step

    def fail(replica: Replica) -> None:
        step(replica)
        raise RuntimeError("the device is on fire")

    monkeypatch.setattr(kind, "step", fail)
    with pytest.raises(RuntimeError, match="fire"):
        each.step()
    monkeypatch.setattr(kind, "step", step)
    assert each.running == numbers[3:]
    assert {n: tokens(pieces) for n, pieces in finished(each).items()} == {3: [4, 8, 16]}


def test_an_earlier_chunk_that_fails_ends_its_prompt_only(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    each = engine(session := make_session())
    kind = type(session.replicas[0])
    read = kind.read

    def fail(replica: Replica, batch: Batch) -> Any:
        if 0 in batch.users and batch.first == 0:
            raise RuntimeError("the device is on fire")
        return read(replica, batch)

    monkeypatch.setattr(kind, "read", fail)
    each.add(request([1] * 70, max_new_tokens=2))
    each.add(request([3] * 70, max_new_tokens=2))
    with pytest.raises(RuntimeError, match="fire"):
        each.step()
    assert each.running == [1]
    assert [tokens(pieces) for pieces in finished(each).values()] == [[210 % 23, 420 % 23]]


def test_prompts_that_wait_are_read_together(make_session: MakeSession) -> None:
    each = engine(session := make_session(together=True))
    prompts = [[1] * 20, [2] * 31, [3]]
    for prompt in prompts:
        each.add(request(prompt, max_new_tokens=3))
    each.step()
    assert session.replicas[0].backend.ttnn.prefilled == [(0, 32, 3)]
    assert [time.prompts for time in each.times.prefills] == [3]
    assert [time.tokens for time in each.times.prefills] == [52]
    found = finished(each)
    for number, prompt in enumerate(prompts):
        first = sum(prompt) % 23
        assert tokens(found[number])[-1] == first * 4 % 23


def test_a_prompt_that_fails_among_others(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows which of several prompts it was: each is read alone then."""
    each = engine(session := make_session(together=True))
    kind = type(session.replicas[0])
    read = kind.read

    def fail(replica: Replica, batch: Batch) -> Any:
        if 1 in batch.users:
            raise RuntimeError("the device is on fire")
        return read(replica, batch)

    monkeypatch.setattr(kind, "read", fail)
    for token in (1, 2, 3):
        each.add(request([token], max_new_tokens=2))
    with pytest.raises(RuntimeError, match="fire"):
        each.step()
    assert (each.running, each.waiting, each.block_use.held) == ([0, 2], [], 2)
    found = finished(each)
    assert [tokens(found[number]) for number in (0, 2)] == [[1, 2], [3, 6]]
    assert 1 not in found
    assert each.block_use.held == 0


def test_a_beginning_that_is_being_read_is_waited_for(make_session: MakeSession) -> None:
    """The second prompt would find a block of the first; the third begins otherwise."""
    each = engine(session := make_session(together=True))
    for prompt in ([5] * 40, [5] * 40 + [6], [7] * 40):
        each.add(request(prompt, max_new_tokens=2))
    each.step()
    assert session.replicas[0].backend.ttnn.prefilled == [(0, 64), (32, 32), (0, 64)]
    found = finished(each)
    assert [tokens(found[n])[-1] for n in range(3)] == [200 * 2 % 23, 206 * 2 % 23, 280 * 2 % 23]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (request([]), "the prompt has no tokens"),
        (request([1] * 97), "the prompt has 97 tokens"),
        (request([23]), "token 23 is not in the vocabulary of 23"),
        (request([1], temperature=math.nan), "temperature is nan"),
        (request([1], top_p=-0.1), "top_p is -0.1"),
        (request([1], stop=("",)), "a stop string is empty"),
        (request([1], max_new_tokens=0), "max_new_tokens is 0"),
    ],
)
def test_a_bad_request_harms_nobody_else(session: Session, bad: Request, words: str) -> None:
    each = engine(session)
    number = each.add(request([1], max_new_tokens=4))
    each.step()
    with pytest.raises(UsageError, match=words):
        each.add(bad)
    assert tokens(finished(each)[number]) == [2, 4, 8]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batch": 4}, "a batch of 4 is not possible: the program was compiled for 3"),
        ({"batch": 0}, "give 1 to 3"),
        ({"context": 97}, "a context of 97 is not possible"),
    ],
)
def test_more_than_the_program_has(session: Session, settings: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        engine(session, **settings)


def random_request(rng: random.Random) -> Request:
    """Of any length, greedy or drawn, sometimes penalised, sometimes with a stop string."""
    prompt = [rng.randrange(23) for _ in range(rng.choice((1, 5, 31, 32, 33, 64, 80)))]
    settings: dict[str, Any] = {"max_new_tokens": rng.randrange(1, 40)}
    if rng.random() < 0.5:
        settings |= {"temperature": rng.choice((0.3, 5.0)), "seed": rng.randrange(99)}
        settings |= {"top_k": rng.choice((0, 3)), "top_p": rng.choice((1.0, 0.9))}
    if rng.random() < 0.3:
        settings |= {"frequency_penalty": 0.4, "repetition_penalty": 1.5}
    if rng.random() < 0.3:
        settings |= {"stop": ("ab", "q"), "stop_at_eos": False}
    return request(prompt, logprobs=rng.random() < 0.3, **settings)


@pytest.mark.parametrize("seed", range(4))
def test_a_stream_does_not_depend_on_who_else_is_there(
    make_session: MakeSession, seed: int
) -> None:
    """33 slots of 11 replicas, blocks for fewer; users come and go at random for 200 steps."""
    rng = random.Random(seed)
    blocks = rng.sample(range(9), 8)
    each = engine(make_session(blocks, replicas=11, together=seed % 2 == 1))
    asked: dict[int, Request] = {}
    got: dict[int, list[Piece]] = {}
    for _ in range(200):
        if rng.random() < 0.6:
            one = random_request(rng)
            asked[each.add(one)] = one
        if each.running and rng.random() < 0.05:
            gone = rng.choice(each.running)
            each.cancel(gone)
            asked.pop(gone)
        for piece in each.step():
            got.setdefault(piece.request, []).append(piece)
        use = each.block_use
        assert use.total == 88 == use.held + use.cached + use.free
    for number, pieces in finished(each).items():
        got.setdefault(number, []).extend(pieces)
    assert each.block_use.held == 0
    assert len(asked) > 60
    for number, one in asked.items():
        alone = engine(make_session())
        alone.add(one)
        expected = finished(alone)[0]
        assert [(piece.token, piece.text, piece.finish_reason) for piece in got[number]] == [
            (piece.token, piece.text, piece.finish_reason) for piece in expected
        ]
        for piece, other in zip(got[number], expected, strict=True):  # device and host round apart
            assert piece.logprob == (other.logprob and pytest.approx(other.logprob, abs=1e-5))
