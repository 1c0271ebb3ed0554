"""Sampling: the set of tokens that can be drawn, reproducibility, and settings out of range."""

import numpy as np
import pytest

from ttc.errors import UsageError
from ttc.runtime.sampling import Sampling, sample

pytestmark = pytest.mark.fast

LOGITS = np.log(np.array([0.05, 0.5, 0.15, 0.3], dtype=np.float32))


def drawn(how: Sampling, times: int = 300) -> set[int]:
    generator = how.generator()
    return {sample(LOGITS, how, generator) for _ in range(times)}


@pytest.mark.parametrize("how", [Sampling(), Sampling(temperature=2.0, top_k=1)])
def test_greedy_takes_the_best(how: Sampling) -> None:
    assert how.greedy
    assert drawn(how) == {1}


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (Sampling(temperature=1.0, seed=0), {0, 1, 2, 3}),
        (Sampling(temperature=1.0, seed=0, top_k=2), {1, 3}),
        (Sampling(temperature=1.0, seed=0, top_p=0.4), {1}),
        (Sampling(temperature=1.0, seed=0, top_p=0.7), {1, 3}),
        (Sampling(temperature=1.0, seed=0, top_p=0.9), {1, 2, 3}),
        (Sampling(temperature=1.0, seed=0, top_p=0.001), {1}),
        (Sampling(temperature=1e-3, seed=0), {1}),
    ],
)
def test_only_kept_tokens_are_drawn(how: Sampling, expected: set[int]) -> None:
    assert drawn(how) == expected


def test_frequencies_follow_the_probabilities() -> None:
    how = Sampling(temperature=1.0, seed=3)
    generator = how.generator()
    counts = np.bincount([sample(LOGITS, how, generator) for _ in range(4000)], minlength=4)
    np.testing.assert_allclose(counts / 4000, np.exp(LOGITS), atol=0.03)


def test_a_seed_repeats_and_another_differs() -> None:
    flat = np.zeros(1000, dtype=np.float32)

    def sequence(seed: int) -> list[int]:
        how = Sampling(temperature=1.0, seed=seed)
        generator = how.generator()
        return [sample(flat, how, generator) for _ in range(8)]

    assert sequence(1) == sequence(1)
    assert sequence(1) != sequence(2)


def test_nan_logits_are_our_bug() -> None:
    with pytest.raises(AssertionError, match="NaN"):
        sample(np.array([0.0, np.nan], dtype=np.float32), Sampling(), np.random.default_rng(0))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (Sampling(temperature=-0.5), "temperature is -0.5"),
        (Sampling(temperature=float("nan")), "temperature is nan"),
        (Sampling(temperature=float("inf")), "temperature is inf"),
        (Sampling(top_k=-1), "top_k is -1"),
        (Sampling(top_p=0.0), "top_p is 0.0"),
        (Sampling(top_p=1.5), "top_p is 1.5"),
        (Sampling(top_p=float("nan")), "top_p is nan"),
        (Sampling(seed=-1), "seed is -1"),
    ],
)
def test_settings_out_of_range(how: Sampling, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        how.check()


def test_all_bad_settings_are_reported_together() -> None:
    with pytest.raises(UsageError) as caught:
        Sampling(temperature=-1, top_k=-1, top_p=2).check()
    assert len(caught.value.problems) == 3
