"""Sampling: which tokens can be drawn, how often, penalties, and settings out of range."""

# pyright: reportUnknownMemberType=false, reportMissingTypeStubs=false, reportUnknownVariableType=false
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare

from ttc.errors import ArtefactError, UsageError
from ttc.runtime.request import Settings
from ttc.runtime.sampling import (
    BELOW_ONE,
    LIKELIEST,
    Draw,
    Sampler,
    Sampling,
    chosen_sampling,
    logprob,
    sample,
)

pytestmark = pytest.mark.fast

LOGITS = np.log(np.array([0.05, 0.5, 0.15, 0.3], dtype=np.float32))


def drawn(how: Sampling, times: int = 300) -> set[int]:
    sampler = Sampler(how, [1])
    return {sampler.draw(LOGITS) for _ in range(times)}


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


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_follow_the_probabilities(temperature: float) -> None:
    sampler = Sampler(Sampling(temperature=temperature, seed=3), [1])
    counts = np.bincount([sampler.draw(LOGITS) for _ in range(4000)], minlength=4)
    weights = np.exp(LOGITS.astype(np.float64) / temperature)
    assert chisquare(counts, 4000 * weights / weights.sum()).pvalue > 0.01


def test_frequencies_of_what_top_p_keeps() -> None:
    sampler = Sampler(Sampling(temperature=1.0, top_p=0.9, seed=3), [1])
    counts = np.bincount([sampler.draw(LOGITS) for _ in range(4000)], minlength=4)
    assert chisquare(counts[1:], 4000 * np.array([0.5, 0.15, 0.3]) / 0.95).pvalue > 0.01
    assert counts[0] == 0


def test_the_smallest_temperature() -> None:
    assert drawn(Sampling(temperature=5e-324, seed=0)) == {1}


def penalised(answer: list[int], **settings: Any) -> list[float]:
    """The logits 2, -1, 0, 1 after a prompt of token 3 and an answer."""
    sampler = Sampler(Sampling(**settings), [3])
    for token in answer:
        sampler.tell(token)
    logits = np.array([2, -1, 0, 1], dtype=np.float32)
    result = sampler.penalised(logits).tolist()
    assert logits.tolist() == [2, -1, 0, 1], "the model's own logits stay"
    return result


def test_repetition_counts_prompt_and_answer() -> None:
    assert penalised([0, 1, 1], repetition_penalty=2.0) == [1, -2, 0, 0.5]


def test_presence_and_frequency_count_the_answer() -> None:
    assert penalised([0, 1, 1], presence_penalty=0.5) == [1.5, -1.5, 0, 1]
    assert penalised([0, 1, 1], frequency_penalty=0.5) == [1.5, -2, 0, 1]
    assert penalised([0], presence_penalty=-1.0, frequency_penalty=0.25) == [2.75, -1, 0, 1]


def test_penalties_change_the_greedy_choice() -> None:
    sampler = Sampler(Sampling(frequency_penalty=2.0), [0])
    assert sampler.on_device(32) is None
    seen: list[int] = []
    for _ in range(4):
        seen.append(sampler.draw(LOGITS))
        sampler.tell(seen[-1])
    assert seen == [1, 3, 2, 1]
    assert Sampler(Sampling(), [0]).on_device(32) == LIKELIEST


@pytest.mark.parametrize("factor", [1e-4, 1e4])
def test_penalties_keep_logits_finite(factor: float) -> None:
    """What the user asks for is never taken for a fault of the weights."""
    sampler = Sampler(Sampling(repetition_penalty=factor, frequency_penalty=2.0), [0, 1])
    most = np.finfo(np.float32).max
    logits = np.array([most, -most, 0, -np.inf], dtype=np.float32)
    assert np.isfinite(sampler.penalised(logits)).all()
    assert sampler.draw(logits) == 0


def test_penalties_do_not_hide_logits_that_are_not_numbers() -> None:
    sampler = Sampler(Sampling(repetition_penalty=1.1), [0])
    with pytest.raises(ArtefactError, match="not numbers"):
        sampler.draw(np.array([np.inf, 0], dtype=np.float32))


def test_log_probabilities() -> None:
    assert logprob(LOGITS, 3) == pytest.approx(np.log(0.3), abs=1e-6)
    assert logprob(LOGITS + np.float32(500), 3) == pytest.approx(np.log(0.3), abs=1e-3)


def test_a_seed_repeats_and_another_differs() -> None:
    flat = np.zeros(1000, dtype=np.float32)

    def sequence(seed: int) -> list[int]:
        sampler = Sampler(Sampling(temperature=1.0, seed=seed), [1])
        return [sampler.draw(flat) for _ in range(8)]

    assert sequence(1) == sequence(1)
    assert sequence(1) != sequence(2)


@pytest.mark.parametrize("how", [Sampling(), Sampling(temperature=1.0), Sampling(top_k=2)])
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf])
def test_logits_that_are_not_numbers(how: Sampling, bad: float) -> None:
    """A checkpoint may hold NaN: that is no bug of the program."""
    with pytest.raises(ArtefactError, match="not numbers"):
        sample(np.array([0.0, 1.0, bad, 2.0], dtype=np.float32), how, 0.5)


def test_numbers_are_shared_by_probability() -> None:
    """The most likely token has the first numbers; each begins where the one before it ends."""
    how = Sampling(temperature=1.0)
    drawn = [sample(LOGITS, how, number) for number in (0.0, 0.49, 0.51, 0.79, 0.81, 0.94, 0.96)]
    assert drawn == [1, 1, 3, 3, 2, 2, 0]
    assert sample(LOGITS, how, BELOW_ONE) == 0
    equal = np.zeros(4, dtype=np.float32)
    assert [sample(equal, how, number) for number in (0.1, 0.3, 0.6, 0.8)] == [0, 1, 2, 3]
    few = Sampling(temperature=1.0, top_k=2)
    assert [sample(equal, few, number) for number in (0.0, 0.4, 0.6, BELOW_ONE)] == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (Sampling(temperature=0.7, top_k=32, top_p=0.9), Draw(32, 0.9, 0.7)),
        (Sampling(temperature=0.7, top_k=1), LIKELIEST),
        (Sampling(temperature=0.0, top_k=50), LIKELIEST),
        (Sampling(temperature=0.7, top_k=33), None),
        (Sampling(temperature=0.7), None),
        (Sampling(temperature=1e-4, top_k=8), None),
        (Sampling(temperature=0.7, top_k=8, repetition_penalty=1.1), None),
    ],
)
def test_what_a_device_can_draw(how: Sampling, expected: Draw | None) -> None:
    assert Sampler(how, [0]).on_device(32) == expected


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
        (Sampling(top_p=-0.1), "top_p is -0.1"),
        (Sampling(seed=-1), "seed is -1"),
        (Sampling(top_k=True), "top_k is True"),
        (Sampling(temperature="warm"), "temperature is 'warm'"),  # pyright: ignore
        (Sampling(top_k=1.5), "top_k is 1.5"),  # pyright: ignore
        (Sampling(repetition_penalty=0.0), "repetition_penalty is 0.0, expected a number from"),
        (Sampling(repetition_penalty=1e-39), "repetition_penalty is 1e-39, expected a number from"),
        (Sampling(repetition_penalty=1e300), r"from 0.0001 to 10000, 1 is none"),
        (Sampling(repetition_penalty=float("inf")), "repetition_penalty is inf"),
        (Sampling(presence_penalty=2.1), "presence_penalty is 2.1, expected a number from -2.0"),
        (Sampling(frequency_penalty=float("nan")), "frequency_penalty is nan"),
    ],
)
def test_settings_out_of_range(how: Sampling, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        how.check()


@pytest.mark.parametrize(
    ("settings", "idle"),
    [
        ({"seed": 0}, "seed=0"),
        ({"temperature": 0, "top_p": 0.9, "top_k": 40}, "top_k=40 and top_p=0.9"),
        ({"temperature": 0.7, "top_p": 0.9, "top_k": 40, "seed": 1}, ""),
        ({"temperature": 0, "top_k": 1, "top_p": 1.0, "seed": None}, ""),
        ({"top_k": 0, "repetition_penalty": 1.1}, ""),
    ],
)
def test_settings_of_a_draw_need_one(settings: Settings, idle: str, tmp_path: Path) -> None:
    if not idle:
        assert chosen_sampling(tmp_path, settings) == Sampling().changed(settings)
        return
    with pytest.raises(UsageError, match=f"nothing is drawn, as {idle} would have it"):
        chosen_sampling(tmp_path, settings)


def test_a_model_that_asks_for_sampling_has_a_temperature(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"do_sample": true, "temperature": 0.6}')
    assert chosen_sampling(tmp_path, {"seed": 3}).temperature == 0.6
    assert chosen_sampling(tmp_path, {"temperature": 0}).greedy
    with pytest.raises(UsageError, match="nothing is drawn"):
        chosen_sampling(tmp_path, {"temperature": 0, "seed": 3})


def test_all_bad_settings_are_reported_together() -> None:
    with pytest.raises(UsageError) as caught:
        Sampling(temperature=-1, top_k=-1, top_p=2).check()
    assert len(caught.value.problems) == 3
