"""32 users of a tiny random model on the emulator, coming and going at random."""

import random
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from random_models import Case, make_case, open_session

from ttc.runtime.blocks import BlockUse
from ttc.runtime.engine import Engine, Request
from ttc.runtime.request import Limits
from ttc.runtime.sampling import Sampling
from ttc.runtime.session import Session

pytestmark = pytest.mark.emulate

USERS = 32
BEGINNINGS = 4


class Numbers:
    """Tokens as numbers."""

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(f"{token} " for token in ids)


@pytest.fixture(scope="module")
def case() -> Iterator[Case]:
    with tempfile.TemporaryDirectory() as folder:
        yield make_case(Path(folder), "LlamaForCausalLM")


def random_request(rng: random.Random) -> Request:
    """Prompts of 1 to 280 tokens, many of which begin alike; half of the users draw."""
    beginning = random.Random(rng.randrange(BEGINNINGS))
    alike = rng.choice((0, 0, 31, 32, 64, 80, 120, 260))
    prompt = [beginning.randrange(3, 300) for _ in range(alike)]
    prompt += [rng.randrange(3, 300) for _ in range(rng.randrange(1, 20))]
    how: dict[str, Any] = {}
    if rng.random() < 0.5:
        how = {"temperature": 0.8, "seed": rng.randrange(99), "top_k": rng.choice((0, 20))}
    if rng.random() < 0.2:
        how |= {"presence_penalty": 0.5}
    limits = Limits(max_new_tokens=rng.randrange(1, 28))
    return Request(token_ids=prompt, sampling=Sampling(**how), limits=limits)


def tokens_of(each: Engine, requests: Sequence[Request]) -> list[list[int]]:
    outputs = [each.submit(request)[1] for request in requests]
    while each.busy:
        each.step()
    return [output.token_ids for output in outputs]


def come_and_go(session: Session, rng: random.Random, steps: int) -> dict[int, Any]:
    """(request, output) of those who were not sent away, after so many steps and the rest."""
    each = Engine(session, Numbers(), eos_ids=(2,))
    total = each.block_use.total
    there: dict[int, Any] = {}
    together = 0
    for _ in range(steps):
        for _ in range(rng.choice((0, 1, 1, 3))):
            request = random_request(rng)
            number, output = each.submit(request)
            there[number] = request, output
        if each.running and rng.random() < 0.1:
            gone = rng.choice(each.running)
            each.cancel(gone)
            del there[gone]
        each.step()
        together += sum(prefill.prompts > 1 for prefill in each.times.prefills)
        use = each.block_use
        assert use.total == total == use.held + use.cached + use.free
    while each.busy:
        each.step()
    assert together > steps // 10, "prompts were read together"
    use = each.block_use
    assert use == BlockUse(total=total, held=0, cached=use.cached, free=total - use.cached)
    return there


def test_users_of_200_steps(case: Case, tmp_path: Path) -> None:
    """Without rounding, which makes it fast enough for so many."""
    with open_session(case, tmp_path, batch=USERS, context=512, rounding=False) as session:
        there = come_and_go(session, random.Random(1), 200)
        assert len(there) > 100
        alone = Engine(session, Numbers(), eos_ids=(2,))
        for request, output in random.Random(2).sample(list(there.values()), 25):
            alone.forget()
            assert [output.token_ids] == tokens_of(alone, [request])


def test_users_with_the_rounding_of_the_hardware(case: Case, tmp_path: Path) -> None:
    with open_session(case, tmp_path, batch=USERS, context=512) as session:
        there = come_and_go(session, random.Random(3), 100)
        alone = Engine(session, Numbers(), eos_ids=(2,))
        for request, output in random.Random(4).sample(list(there.values()), 6):
            alone.forget()
            assert [output.token_ids] == tokens_of(alone, [request])
