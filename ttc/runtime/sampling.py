"""From logits to the next token: penalties, temperature, top-k and top-p, drawn with a seed."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ttc.errors import ArtefactError, Problem, UsageError
from ttc.runtime.request import Settings

type Row = NDArray[np.float32]
"""Logits of one user, [vocab]."""

LOWEST_TEMPERATURE = 1e-3
"""Of a draw on a device: float32 tells logits over less apart no better than the host's do."""

BELOW_ONE = 1.0 - 2.0**-24
"""The largest float32 below 1."""

LARGEST_PENALTY = 2.0
"""Of presence and frequency, either way: the range of OpenAI's interface."""


LARGEST_FACTOR = 1e4
"""Of the repetition penalty, and 1 / this is the smallest: far more than anybody needs, and logits
that are multiplied or divided by it stay what float32 can hold."""

LARGEST_LOGIT = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class Draw:
    """How a device chooses the next token of one user: among so many of the most likely."""

    top_k: int
    top_p: float = 1.0
    temperature: float = 1.0


LIKELIEST = Draw(top_k=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is drawn. The default is greedy.

    In this order:
    repetition_penalty  of tokens of prompt and answer: logits above 0 are divided by it, others
                        multiplied; 1 is none
    frequency_penalty   taken from a logit for each time its token is in the answer; 0 is none
    presence_penalty    taken from the logits of all tokens of the answer; 0 is none
    temperature         0 is greedy, the best of these logits; otherwise they are divided by it
    top_k               keep the k most likely tokens; 0 keeps all
    top_p               keep the smallest set of most likely tokens whose probabilities sum to this
    seed                of the random generator; None draws a different text every time
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0 or self.top_k == 1

    @property
    def penalises(self) -> bool:
        """Whether tokens that were there before change the logits."""
        others = self.presence_penalty, self.frequency_penalty
        return self.repetition_penalty != 1.0 or others != (0.0, 0.0)

    def changed(self, settings: Settings) -> "Sampling":
        """With what the settings say about sampling, which leaves out what nobody asked for."""
        given = {name: to for name, to in settings.items() if name in _RANGES and to is not None}
        return replace(self, **cast(dict[str, Any], given))

    def check(self) -> None:
        """Raise UsageError that names every setting out of its range."""
        problems = [
            Problem(
                message=f"{name} is {getattr(self, name)!r}, expected {each.expected}",
                help=f"for example {name}={each.example}",
            )
            for name, each in _RANGES.items()
            if not each.holds(getattr(self, name))
        ]
        if problems:
            raise UsageError(problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Range:
    """What a setting may be: between `low` and `high`, with or without the ends."""

    expected: str
    example: str
    low: float
    high: float = math.inf
    without_low: bool = False
    whole: bool = False
    none: bool = False

    def holds(self, value: object) -> bool:
        if value is None:
            return self.none
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return False
        above = value > self.low if self.without_low else value >= self.low
        return math.isfinite(value) and above and value <= self.high


_PENALTY = _Range(
    expected=f"a number from {-LARGEST_PENALTY} to {LARGEST_PENALTY}",
    example="0.5",
    low=-LARGEST_PENALTY,
    high=LARGEST_PENALTY,
)
_RANGES: Mapping[str, _Range] = {
    "temperature": _Range(expected="a number of at least 0", example="0.7", low=0),
    "top_k": _Range(expected="0 (all tokens) or more", example="40", low=0, whole=True),
    "top_p": _Range(
        expected="above 0 and at most 1", example="0.9", low=0, high=1, without_low=True
    ),
    "seed": _Range(expected="0 or more", example="1", low=0, whole=True, none=True),
    "repetition_penalty": _Range(
        expected=f"a number from {1 / LARGEST_FACTOR:g} to {LARGEST_FACTOR:g}, 1 is none",
        example="1.1",
        low=1 / LARGEST_FACTOR,
        high=LARGEST_FACTOR,
    ),
    "presence_penalty": _PENALTY,
    "frequency_penalty": _PENALTY,
}


def default_sampling(folder: Path) -> Sampling:
    """What generation_config.json asks for; greedy unless it asks for sampling."""
    path = folder / "generation_config.json"
    config = cast(dict[str, Any], json.loads(path.read_text())) if path.exists() else {}
    if not config.get("do_sample"):
        return Sampling()
    # 1.0, 50 and 1.0 are what Hugging Face samples with where the file does not say.
    given = {name: value for name, value in config.items() if value is not None}
    return Sampling(
        temperature=float(given.get("temperature", 1.0)),
        top_k=int(given.get("top_k", 0 if "top_k" in config else 50)),
        top_p=float(given.get("top_p", 1.0)),
        repetition_penalty=float(given.get("repetition_penalty", 1.0)),
    )


_OF_A_DRAW: Mapping[str, tuple[float, ...]] = {"top_k": (0, 1), "top_p": (1.0,), "seed": ()}
"""Settings that say how to draw, and those of their values that a greedy choice holds as well."""


def chosen_sampling(folder: Path, settings: Settings) -> Sampling:
    """What is asked for, over what the generation_config.json of a folder asks for.

    UsageError for settings out of range, and for those of a draw where nothing is drawn.
    """
    how = default_sampling(folder).changed(settings)
    how.check()
    given = {name: settings.get(name) for name in _OF_A_DRAW}
    idle = [
        name for name, value in given.items() if value is not None and value not in _OF_A_DRAW[name]
    ]
    if idle and how.temperature == 0.0:
        names = " and ".join(f"{name}={given[name]}" for name in idle)
        raise UsageError(
            Problem(
                message=f"nothing is drawn, as {names} would have it",
                note="the temperature is 0: the choice is greedy",
                help="add a temperature, for example temperature=0.7 (--temperature 0.7), or leave "
                f"{' and '.join(idle)} out",
            )
        )
    return how


class Sampler:
    """Draws the tokens of one user. What others draw makes no difference to it."""

    def __init__(self, how: Sampling, prompt: Sequence[int]) -> None:
        """UsageError for settings out of range."""
        how.check()
        self.how = how
        self._generator = np.random.default_rng(how.seed)
        self._prompt = np.unique(np.asarray(prompt, dtype=np.int64))
        self._answer: Counter[int] = Counter()

    def on_device(self, top_k: int) -> Draw | None:
        """How a device that draws among the `top_k` most likely tokens chooses the same tokens.

        None if it cannot.
        """
        how = self.how
        if how.penalises:
            return None
        if how.greedy:
            return LIKELIEST
        if not 1 <= how.top_k <= top_k or how.temperature < LOWEST_TEMPERATURE:
            return None
        return Draw(top_k=how.top_k, top_p=how.top_p, temperature=how.temperature)

    def number(self) -> float:
        """What decides the next draw, from 0 to below 1; a greedy choice needs none."""
        if self.how.greedy:
            return 0.0
        return min(float(np.float32(self._generator.random())), BELOW_ONE)

    def tell(self, token: int) -> None:
        """A token was drawn, here or on a device."""
        self._answer[token] += 1

    def draw(self, logits: Row) -> int:
        """The next token; `tell` it afterwards. ArtefactError for logits that are not numbers."""
        _check_numbers(logits)
        return sample(self.penalised(logits), self.how, self.number())

    def penalised(self, logits: Row) -> Row:
        """Logits [vocab] after the penalties, finite if they were; the model's own stay."""
        how = self.how
        if not how.penalises:
            return logits
        changed = logits.astype(np.float32, copy=True)
        answer = np.fromiter(self._answer.keys(), np.int64, len(self._answer))
        counts = np.fromiter(self._answer.values(), np.float32, len(self._answer))
        seen = np.union1d(self._prompt, answer)
        factor = np.float32(how.repetition_penalty)
        with np.errstate(over="ignore"):  # only of logits near the end of float32
            old = changed[seen]
            changed[seen] = np.where(old > 0, old / factor, old * factor)
            changed[answer] -= how.frequency_penalty * counts + how.presence_penalty
        return changed.clip(-LARGEST_LOGIT, LARGEST_LOGIT)


def _check_numbers(logits: Row) -> None:
    """Raise ArtefactError where the best of a program's own logits is none."""
    if not math.isfinite(logits[int(logits.argmax())]):  # the first NaN, if there is any
        raise ArtefactError(
            Problem(
                message="the program's logits are not numbers",
                note="a weight holds NaN or infinities, or a value overflowed",
                help="ttc accuracy ARTEFACT --layers shows the first operation that is off",
            )
        )


def logprob(logits: Row, token: int) -> float:
    """The logarithm of the probability that the model itself gives a token, in nats.

    That is before penalties, temperature, top-k and top-p.
    """
    wide = logits.astype(np.float64)
    best = wide.max()
    return float(wide[token] - best - np.log(np.exp(wide - best).sum()))


def sample(logits: Row, how: Sampling, number: float) -> int:
    """The next token for one user. `logits` [vocab] float32; `number` from 0 to below 1 decides.

    The order is that of Hugging Face: temperature, then top_k, then top_p on what is left. Tokens
    share the numbers from 0 to 1 by their probabilities, the most likely first.
    """
    assert logits.ndim == 1, f"sample takes the logits of one user, got shape {logits.shape}"
    _check_numbers(logits)
    likeliest = int(logits.argmax())
    if how.greedy:
        return likeliest
    order = _most_likely(logits, how.top_k)
    below = logits[order].astype(np.float64) - logits[likeliest]
    with np.errstate(over="ignore"):  # the smallest temperatures leave one token
        weights: NDArray[np.float64] = np.exp(below / how.temperature)
    weights /= weights.sum()
    before = np.cumsum(weights) - weights
    # A token stays while the ones before it have not reached top_p: at least one always stays.
    kept = int(np.searchsorted(before, how.top_p)) if how.top_p < 1.0 else len(order)
    drawn = number * float(weights[:kept].sum())
    return int(order[max(0, int(np.searchsorted(before[:kept], drawn, side="right")) - 1)])


def _most_likely(logits: Row, count: int) -> NDArray[np.intp]:
    """Tokens by their logits, the largest and of equal ones the first first; 0 counts all."""
    if not 0 < count < len(logits):
        return np.argsort(-logits, kind="stable")
    least = np.partition(logits, -count)[-count]
    found = np.flatnonzero(logits >= least)
    return found[np.argsort(-logits[found], kind="stable")][:count]
