"""Prompts that begin like earlier ones change nothing but what has to be read."""

import random
from collections.abc import Callable, Sequence

import pytest

from ttc.runtime.engine import Engine, Output, Request
from ttc.runtime.request import Limits
from ttc.runtime.session import Session

pytestmark = pytest.mark.emulate


class Letters:
    """Token 0 is "a", 1 is "b", and so on."""

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(ord("a") + token) for token in ids)


def answer(each: Engine, prompt: Sequence[int]) -> Output:
    request = Request(token_ids=prompt, limits=Limits(max_new_tokens=3))
    _, output = each.submit(request)
    while each.busy:
        each.step()
    return output


def test_what_was_read_before_is_found(session: Session) -> None:
    each = Engine(session, Letters())
    found = 64 if session.replicas[0].pool.reuse else 0
    answer(each, [5] * 70)
    again = answer(each, [5] * 64 + [7])
    assert again.cached_tokens == found
    assert again.token_ids == [(5 * 64 + 7) * 2**n % 23 for n in range(3)]
    assert answer(each, [5] * 64).cached_tokens == min(32, found), "the last token is read"
    each.forget()
    forgotten = answer(each, [5] * 64 + [7])
    assert forgotten.cached_tokens == 0
    assert forgotten.token_ids == again.token_ids


def test_tokens_of_answers_are_not_found(session: Session) -> None:
    """A decode step rounds otherwise than a prefill: its blocks would change who finds them."""
    each = Engine(session, Letters())
    prompt = [5] * 31
    first = answer(each, prompt)
    assert answer(each, [*prompt, *first.token_ids, 3]).cached_tokens == 0


@pytest.mark.parametrize("seed", range(3))
def test_many_prompts_that_begin_alike(
    make_session: Callable[..., Session], session: Session, seed: int
) -> None:
    """Few blocks, so that what could be found is overwritten again and again."""
    rng = random.Random(seed)
    few = make_session(rng.sample(range(9), 5))
    each, alone = Engine(few, Letters()), Engine(session, Letters())
    for _ in range(40):
        same = random.Random(rng.randrange(3))
        prompt = [same.randrange(23) for _ in range(rng.choice((0, 31, 32, 64, 70)))]
        prompt += [rng.randrange(23) for _ in range(rng.randrange(1, 20))]
        alone.forget()
        assert answer(each, prompt).token_ids == answer(alone, prompt).token_ids
    assert each.block_use.held == 0
