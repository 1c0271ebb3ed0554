"""From logits to the next token: greedy, temperature, top-k and top-p."""

import math
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ttc.errors import Problem, UsageError
from ttc.runtime.request import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is drawn. The default is greedy.

    temperature  0 is greedy; otherwise logits are divided by it
    top_k        keep the k most likely tokens; 0 keeps all
    top_p        keep the smallest set of most likely tokens whose probabilities sum to this
    seed         of the random generator; None draws a different text every time
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0 or self.top_k == 1

    def changed(self, settings: Settings) -> "Sampling":
        """With what the settings say about sampling, which leaves out what nobody asked for."""
        names = ("temperature", "top_k", "top_p", "seed")
        given = {name: to for name, to in settings.items() if name in names and to is not None}
        return replace(self, **cast(dict[str, Any], given))

    def check(self) -> None:
        """Raise UsageError that names every setting out of its range."""
        problems: list[Problem] = []
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            problems.append(
                _out_of_range("temperature", self.temperature, "a number of at least 0", "0.7")
            )
        if self.top_k < 0:
            problems.append(_out_of_range("top_k", self.top_k, "0 (all tokens) or more", "40"))
        if not 0 < self.top_p <= 1:
            problems.append(_out_of_range("top_p", self.top_p, "above 0 and at most 1", "0.9"))
        if self.seed is not None and self.seed < 0:
            problems.append(_out_of_range("seed", self.seed, "0 or more", "1"))
        if problems:
            raise UsageError(problems)

    def generator(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)


def _out_of_range(name: str, value: float, expected: str, example: str) -> Problem:
    return Problem(
        message=f"{name} is {value}, expected {expected}", help=f"for example {name}={example}"
    )


def sample(logits: NDArray[np.float32], how: Sampling, generator: np.random.Generator) -> int:
    """The next token for one user. `logits` [vocab] float32.

    The order is that of Hugging Face: temperature, then top_k, then top_p on what is left.
    """
    assert logits.ndim == 1, f"sample takes the logits of one user, got shape {logits.shape}"
    assert not np.isnan(logits).any(), "the program produced NaN logits"
    if how.greedy:
        return int(logits.argmax())
    order = np.argsort(-logits, kind="stable")
    if how.top_k:
        order = order[: how.top_k]
    scaled = logits[order].astype(np.float64) / how.temperature
    weights = np.exp(scaled - scaled[0])
    weights /= weights.sum()
    if how.top_p < 1.0:
        # A token stays while the ones before it have not reached top_p: at least one always stays.
        keep = np.cumsum(weights) - weights < how.top_p
        order, weights = order[keep], weights[keep] / weights[keep].sum()
    return int(generator.choice(order, p=weights))
