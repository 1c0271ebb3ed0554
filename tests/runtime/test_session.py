"""Sessions: buckets, paging, positions and what is written from the host, on a summing program."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ttc.errors import UsageError
from ttc.runtime.session import Session

pytestmark = pytest.mark.emulate


def best(logits: Any) -> list[int]:
    return [int(token) for token in np.argmax(logits, axis=-1)]


def test_prefill_gives_the_logits_of_the_last_token(session: Session) -> None:
    logits = session.prefill([[1, 2, 3], [4] * 40])
    assert logits.shape == (2, 23)
    assert logits.dtype == np.float32
    assert best(logits) == [6, 160 % 23]
    assert session.lengths == [3, 40, 0]


def test_the_smallest_bucket_that_holds_the_prompt(session: Session) -> None:
    session.prefill([[1] * 32, [2] * 33, [1]])
    assert session.replicas[0].backend.ttnn.prefilled == [(0, 64), (0, 32), (0, 32)]


def test_prefill_all_gives_the_logits_of_every_token(session: Session) -> None:
    prompt = [token % 23 for token in range(45)]
    logits = session.prefill_all(prompt)
    assert best(logits) == [int(total) % 23 for total in np.cumsum(prompt)]


def test_decode_appends_for_each_user(session: Session) -> None:
    session.prefill([[1, 2], [10]])
    assert best(session.decode([3, 5])) == [6, 15]
    assert best(session.decode([1, 1])) == [7, 16]
    assert session.lengths == [4, 3, 0]
    assert session.replicas[0].backend.ttnn.decoded == [[2, 1, -1], [3, 2, -1]]


def test_decode_and_prefill_agree(session: Session) -> None:
    prompt = [token * 7 % 23 for token in range(60)]
    together = session.prefill_all(prompt)[30:]
    session.prefill([prompt[:30]])
    one_by_one = [session.decode([token])[0] for token in prompt[30:]]
    np.testing.assert_array_equal(together, one_by_one)


def test_greedy_steps_write_nothing_from_the_host(session: Session) -> None:
    first = best(session.prefill([[1, 2], [4]]))
    session.write(first)
    writes = len(session.replicas[0].backend.ttnn.writes)
    assert session.step()[:2] == [6, 8]
    assert session.step()[:2] == [12, 16]
    assert len(session.replicas[0].backend.ttnn.writes) == writes
    assert session.lengths == [4, 3, 0]


def test_a_released_user_is_idle(session: Session) -> None:
    session.prefill([[1, 2], [4]])
    session.release(0)
    session.decode([0, 4])
    assert session.replicas[0].backend.ttnn.decoded == [[-1, 1, -1]]


@pytest.mark.parametrize("blocks", [list(range(8, -1, -1)), [3, 1, 4, 0, 5, 2, 6, 8, 7]])
def test_any_order_of_blocks(
    make_session: Callable[..., Session], session: Session, blocks: list[int]
) -> None:
    other = make_session(blocks)
    prompts = [[1] * 70, [2] * 3, [3] * 31]
    np.testing.assert_array_equal(other.prefill(prompts), session.prefill(prompts))
    for _ in range(3):
        np.testing.assert_array_equal(other.decode([1, 2, 3]), session.decode([1, 2, 3]))


@pytest.mark.parametrize("blocks", [[0, 0, 1, 2, 3, 4, 5, 6, 7], list(range(1, 10)), []])
def test_an_order_of_blocks_that_cannot_be(
    make_session: Callable[..., Session], blocks: list[int]
) -> None:
    with pytest.raises(AssertionError, match="block"):
        make_session(blocks)


def test_no_tensor_is_left_behind(session: Session, live_tensors: Callable[[], int]) -> None:
    before = live_tensors()
    session.prefill([[1] * 40, [2]])
    session.decode([1, 2])
    session.write([1, 2])
    session.step()
    assert live_tensors() == before


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        ([], "0 prompts for a program of batch 3"),
        ([[1]] * 4, "4 prompts for a program of batch 3"),
        ([[1], []], "the prompt has no tokens"),
        ([[1] * 97], "the prompt has 97 tokens, at most 96 can be read"),
        ([[1, 23]], "token 23 is not in the vocabulary of 23"),
        ([[-1]], "token -1 is not in the vocabulary"),
    ],
)
def test_prompts_that_are_refused(session: Session, prompts: list[list[int]], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        session.prefill(prompts)


def test_a_full_context_is_not_overrun(session: Session) -> None:
    session.prefill([[1] * 95])
    session.decode([1])
    assert session.is_full(0)
    with pytest.raises(UsageError, match="the context of user 0 is full: 96 tokens"):
        session.decode([1])


def test_decode_needs_a_prompt(session: Session) -> None:
    with pytest.raises(UsageError, match="no user has read a prompt"):
        session.decode([1])


class TestReplicas:
    """Three users per replica; user u has slot u // 2 of replica u % 2."""

    @pytest.fixture
    def two(self, make_session: Callable[..., Session]) -> Session:
        return make_session(replicas=2)

    def test_users_are_spread(self, two: Session) -> None:
        assert two.batch == 6
        prompts = [[token] * (token + 1) for token in range(5)]
        assert best(two.prefill(prompts)) == [sum(prompt) % 23 for prompt in prompts]
        assert two.lengths == [1, 2, 3, 4, 5, 0]
        assert [replica.lengths for replica in two.replicas] == [[1, 3, 5], [2, 4, 0]]
        assert best(two.decode([1, 2, 3, 4, 5])) == [1, 4, 9, 16, 25 % 23]
        decoded = [replica.backend.ttnn.decoded for replica in two.replicas]
        assert decoded == [[[1, 3, 5]], [[2, 4, -1]]]

    def test_greedy_steps_and_single_users(self, two: Session) -> None:
        two.prefill([[1], [2], [3]])
        two.write([1, 2, 3])
        assert two.step() == [2, 4, 6, 0, 0, 0]
        two.release(1)
        two.write([2, 0, 6])
        assert two.step()[::2] == [4, 12, 0]
        assert two.is_full(0) is False
        assert len(two.replicas[1].backend.ttnn.decoded) == 1

    def test_a_replica_without_users_does_nothing(self, two: Session) -> None:
        two.prefill([[1, 2]])
        two.decode([3])
        assert two.replicas[1].backend.ttnn.prefilled == []
        assert two.replicas[1].backend.ttnn.decoded == []
        assert two.replicas[1].backend.ttnn.writes == []
        assert two.prefill_all([4, 5]).shape == (2, 23)

    def test_more_prompts_than_users(self, two: Session) -> None:
        with pytest.raises(UsageError, match="7 prompts for a program of batch 6") as caught:
            two.prefill([[1]] * 7)
        assert "--batch 4" in str(caught.value)

    def test_a_full_context_names_the_user(self, two: Session) -> None:
        two.prefill([[1], [1] * 96])
        with pytest.raises(UsageError, match="the context of user 1 is full"):
            two.decode([1, 1])
