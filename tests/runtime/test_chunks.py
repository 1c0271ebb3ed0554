"""Prompts in chunks, and prompts whose beginning the cache holds, on the summing program."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from ttc.runtime.chunks import Chunk, chunks_of
from ttc.runtime.replica import Replica
from ttc.runtime.session import Session

pytestmark = pytest.mark.emulate

PROMPT = [(7 * place + 3) % 23 for place in range(96)]
BLOCKS = [7, 2, 4, 0, 5, 1, 8, 3, 6]


def sums(tokens: list[int]) -> list[int]:
    return [int(total) % 23 for total in np.cumsum(tokens)]


def best(logits: Any) -> list[int]:
    return [int(token) for token in np.argmax(logits, axis=-1)]


def read(replica: Replica, user: int, prompt: list[int]) -> int:
    """The likeliest token after a prompt that a user reads, with nobody else."""
    assert replica.admit(user, prompt, 96)
    for batch in replica.batches():
        for logits in replica.read(batch).values():
            return int(logits.argmax())
    raise AssertionError("a batch ends the prompt")


@pytest.mark.parametrize("tokens", range(1, 97))
def test_every_length_gives_what_one_piece_gives(
    make_session: Callable[..., Session], tokens: int
) -> None:
    replica = make_session(BLOCKS).replicas[0]
    prompt = PROMPT[:tokens]
    assert best(replica.join(1, prompt, 96)) == sums(prompt)
    assert read(replica, 2, prompt) == sums(prompt)[-1]
    assert replica.lengths == [0, tokens, tokens]


def test_long_prompts_are_read_in_the_largest_chunk_and_a_rest(session: Session) -> None:
    session.prefill([PROMPT, [1] * 65, [2] * 64])
    assert session.replicas[0].backend.ttnn.prefilled == [
        (0, 64), (64, 32),
        (0, 64), (64, 32),
        (0, 64),
    ]  # fmt: skip


@pytest.mark.parametrize("held", [32, 64])
@pytest.mark.parametrize("tokens", [65, 80, 96])
def test_what_the_cache_holds_is_not_read_again(
    make_session: Callable[..., Session], held: int, tokens: int
) -> None:
    replica = make_session(BLOCKS).replicas[0]
    replica.join(0, PROMPT[:held], held)
    before = len(replica.backend.ttnn.prefilled)
    assert read(replica, 1, PROMPT[:tokens]) == sums(PROMPT[:tokens])[-1]
    assert replica.backend.ttnn.prefilled[before:] == [(held, 64 if tokens - held > 32 else 32)]
    assert best(replica.join(2, PROMPT[:tokens], 96)) == sums(PROMPT[:tokens])


def test_a_start_between_those_of_programs_writes_nothing_that_is_held(
    make_session: Callable[..., Session],
) -> None:
    """Chunks start at multiples of 64 here: the block before 32 is read again and not written."""
    replica = make_session(BLOCKS).replicas[0]
    replica.program.CHUNK_START = 64
    read(replica, 0, PROMPT[:40])
    held = replica.backend.ttnn
    writes: list[Any] = []

    def append(*where: Any) -> None:
        writes.append(where[2:])
        held_append(*where)

    held_append, held.append = held.append, append
    assert read(replica, 1, PROMPT) == sums(PROMPT)[-1]
    assert held.prefilled[1:] == [(0, 64), (64, 32)]
    assert sorted(position for _, position, _ in writes[:32]) == list(range(32, 64))
    assert len(writes) == 64


def test_chunks_cover_a_prompt_once(session: Session) -> None:
    for held in (0, 32, 64):
        for tokens in range(held + 1, 97):
            chunks = list(chunks_of(session.program, tokens, held))
            assert chunks[0].first == held
            assert chunks[-1].end == tokens
            for one, following in pairwise(chunks):
                assert one.end == following.first
            assert all(chunk.tokens <= chunk.bucket for chunk in chunks)
    assert list(chunks_of(session.program, 10, 0)) == [Chunk(first=0, end=10, bucket=32)]
