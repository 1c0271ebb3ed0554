"""Generation: what ends a text and what is counted, on a program that sums its tokens mod 23."""

from collections.abc import Sequence
from typing import Any

import pytest

from ttc.errors import UsageError
from ttc.runtime.engine import Engine, Request
from ttc.runtime.generate import Generation
from ttc.runtime.request import Limits
from ttc.runtime.sampling import Sampling
from ttc.runtime.session import Session

pytestmark = pytest.mark.emulate


class Letters:
    """Token 0 is "a", 1 is "b", and so on."""

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(ord("a") + token) for token in ids)


def generation(session: Session, prompts: list[list[int]], **settings: Any) -> Generation:
    engine = Engine(session, Letters(), eos_ids=settings.pop("eos_ids", ()))
    sampling = settings.pop("sampling", Sampling())
    limits = Limits(**settings)
    return Generation(
        engine,
        [Request(token_ids=prompt, sampling=sampling, limits=limits) for prompt in prompts],
    )


def test_pieces_come_one_token_at_a_time(session: Session) -> None:
    run = generation(session, [[1]], max_new_tokens=5)
    assert [piece.text for piece in run] == ["b", "c", "e", "i", "q"]  # 1 2 4 8 16
    (output,) = run.outputs
    assert output.text == "bceiq"
    assert output.token_ids == [1, 2, 4, 8, 16]
    assert output.finish_reason == "length"
    assert output.prompt_tokens == 1


def test_only_the_start_is_written_from_the_host(session: Session) -> None:
    list(generation(session, [[1]], max_new_tokens=5))
    page_table, tokens, positions, rope_positions = 1, 1, 1, 1
    writes = len(session.replicas[0].backend.ttnn.writes)
    assert writes == page_table + tokens + positions + rope_positions


@pytest.mark.parametrize("eos_ids", [(8,), (20, 8)])
def test_any_end_token_ends_the_text(session: Session, eos_ids: tuple[int, ...]) -> None:
    run = generation(session, [[1]], eos_ids=eos_ids)
    list(run)
    (output,) = run.outputs
    assert (output.text, output.finish_reason) == ("bce", "eos")
    assert output.token_ids == [1, 2, 4, 8]


def test_a_stop_string_is_not_shown(session: Session) -> None:
    run = generation(session, [[1]], stop=("ei",))
    assert "".join(piece.text for piece in run) == "bc"
    assert run.outputs[0].finish_reason == "stop"


def test_what_might_have_been_a_stop_string_is_shown_at_the_end(session: Session) -> None:
    run = generation(session, [[1]], stop=("qz",), max_new_tokens=5)
    assert "".join(piece.text for piece in run) == run.outputs[0].text == "bceiq"


def test_the_context_ends_a_text(session: Session) -> None:
    run = generation(session, [[1] * 94], max_new_tokens=50)
    list(run)
    (output,) = run.outputs
    assert output.finish_reason == "context"
    assert output.prompt_tokens + len(output.token_ids) == 97  # the last one is not read again


def test_users_end_on_their_own(session: Session) -> None:
    run = generation(session, [[1], [2], [3]], eos_ids=(16,), max_new_tokens=7)
    pieces = list(run)
    assert [output.text for output in run.outputs] == ["bcei", "cei", "dgmbcei"]
    assert [output.finish_reason for output in run.outputs] == ["eos", "eos", "length"]
    for user, output in enumerate(run.outputs):
        assert "".join(piece.text for piece in pieces if piece.request == user) == output.text
    assert session.replicas[0].backend.ttnn.decoded[-1] == [-1, -1, 6]


def test_greedy_on_the_device_equals_greedy_on_the_host(session: Session) -> None:
    on_device = generation(session, [[1], [5]], max_new_tokens=12)
    list(on_device)
    on_host = generation(
        session, [[1], [5]], max_new_tokens=12, sampling=Sampling(temperature=1e-6, seed=0)
    )
    list(on_host)
    assert [output.token_ids for output in on_device.outputs] == [
        output.token_ids for output in on_host.outputs
    ]


def test_a_seed_repeats_a_text(session: Session) -> None:
    def text(seed: int) -> str:
        run = generation(
            session, [[1]], max_new_tokens=20, sampling=Sampling(temperature=5.0, seed=seed)
        )
        return "".join(piece.text for piece in run)

    assert text(1) == text(1)
    assert text(1) != text(2)


def test_timing_counts_decode_steps(session: Session) -> None:
    run = generation(session, [[1]], max_new_tokens=5)
    list(run)
    assert run.timing is not None
    assert run.timing.decode_steps == 4
    only_prefill = generation(session, [[1]], max_new_tokens=1)
    list(only_prefill)
    assert only_prefill.timing is not None
    assert only_prefill.timing.decode_tokens_per_s_per_user is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"stop": ("",)}, "stop string is empty"),
        ({"sampling": Sampling(temperature=-1)}, "temperature is -1"),
    ],
)
def test_settings_that_are_refused(session: Session, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        generation(session, [[1]], **settings)


def test_others_join_while_a_text_is_streamed(session: Session) -> None:
    """Each gets its own pieces, whoever makes the steps."""
    engine = Engine(session, Letters())
    mine = Request(token_ids=[1], limits=Limits(max_new_tokens=6))
    run = Generation(engine, [mine])
    pieces = iter(run)
    text = next(pieces).text
    other = engine.add(Request(token_ids=[3], limits=Limits(max_new_tokens=4)))
    text += next(pieces).text
    got = [(piece.request, piece.text) for piece in engine.step()]
    assert got == [(other, "d"), (other, "g")]
    text += "".join(piece.text for piece in pieces)
    assert text == run.outputs[0].text == "bceiqj"
    assert engine.requests == 0
    assert engine.busy, "somebody has something to take"
    assert [piece.text for piece in engine.step()] == ["m", "b"]
    assert not engine.busy


def test_a_text_goes_on_after_others_finished_it(session: Session) -> None:
    engine = Engine(session, Letters())
    pieces = iter(Generation(engine, [Request(token_ids=[1], limits=Limits(max_new_tokens=4))]))
    assert next(pieces).text == "b"
    while engine.busy:
        assert engine.step() == []
    assert [piece.text for piece in pieces] == ["c", "e", "i"]
