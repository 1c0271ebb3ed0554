"""How a program's predictions compare with a reference, position by position."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttc.accuracy.reference import Floats, Ids, Reference
from ttc.runtime.session import Logits
from ttc.verify.compare import log_softmax

COLUMNS = (
    *("position", "phase", "token", "next_token", "predicted", "reference"),
    *("top1", "top5", "kl", "log_prob", "reference_log_prob"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """One entry per position of a text. Logarithms are natural, divergences in nats.

    predicted  the token the program prefers
    log_prob   of the token that truly comes next, by the program and by the reference
    kl         of the program's distribution from the reference's: over the tokens that the
               reference names, and one bucket of all others. NaN without probabilities
    prefill    positions read by prefill; the rest is decoded
    """

    reference: Reference
    prefill: int
    predicted: Ids
    top1: NDArray[np.bool_]
    top5: NDArray[np.bool_]
    kl: Floats
    log_prob: Floats
    reference_log_prob: Floats

    def summary(self, first: int, last: int) -> "Summary":
        """Over the positions from `first` to before `last`."""
        part = slice(first, last)
        return Summary(
            top1=float(self.top1[part].mean()),
            top5=float(self.top5[part].mean()),
            kl=float(self.kl[part].mean()),
            perplexity=float(np.exp(-self.log_prob[part].mean())),
            reference_perplexity=float(np.exp(-self.reference_log_prob[part].mean())),
            tokens=last - first,
        )

    @property
    def headline(self) -> "Summary":
        """What tt-transformers counts: the prediction at the end of the prompt, and every step."""
        return self.summary(self.prefill - 1, len(self.top1))

    @property
    def everything(self) -> "Summary":
        """All positions, those inside the prompt included: twice as many, so half the noise."""
        return self.summary(0, len(self.top1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Means over positions. top1: the program prefers what the reference prefers; top5: it prefers
    one of the reference's five best. NaN where the reference has no probabilities."""

    top1: float
    top5: float
    kl: float
    perplexity: float
    reference_perplexity: float
    tokens: int

    def to_json(self) -> dict[str, Any]:
        """NaN is null: JSON has no other word for it."""
        values = {
            "top1": self.top1,
            "top5": self.top5,
            "kl": self.kl,
            "perplexity": self.perplexity,
            "reference_perplexity": self.reference_perplexity,
        }
        known = {name: None if np.isnan(value) else value for name, value in values.items()}
        return known | {"tokens": self.tokens}


@dataclass(slots=True, kw_only=True)
class Scorer:
    """Takes logits as they come, so that nobody holds those of a whole text."""

    reference: Reference
    prefill: int
    _parts: list[tuple[NDArray[Any], ...]] = field(default_factory=list[Any], init=False)
    _done: int = field(default=0, init=False)

    def add(self, logits: Logits) -> None:
        """Logits [positions, vocab] of the positions that come next."""
        first, last = self._done, self._done + len(logits)
        reference, rows = self.reference, np.arange(len(logits))
        log_probs = log_softmax(logits)
        best, ids = logits.argmax(-1), reference.top_ids[first:last]
        truth = np.array(reference.token_ids[first + 1 : last + 1])
        known, true = reference.top_log_probs, reference.true_log_probs
        nothing = np.full(len(logits), np.nan)
        theirs = nothing if true is None else true[first:last]
        kl = nothing
        if known is not None:
            kl = _divergence(known[first:last], np.take_along_axis(log_probs, ids, 1))
        hit = best[:, None] == ids
        part = (best, hit[:, 0], hit[:, :5].any(1), kl, log_probs[rows, truth], theirs)
        self._parts.append(part)
        self._done = last

    def scores(self) -> Scores:
        columns = [np.concatenate(column) for column in zip(*self._parts, strict=True)]
        predicted, top1, top5, kl, log_prob, theirs = columns
        return Scores(
            reference=self.reference,
            prefill=self.prefill,
            predicted=predicted.astype(np.int64),
            top1=top1.astype(np.bool_),
            top5=top5.astype(np.bool_),
            kl=kl,
            log_prob=log_prob,
            reference_log_prob=theirs,
        )


def _divergence(reference: Floats, ours: Floats) -> Floats:
    """KL of each row's named tokens and of one bucket for all others."""
    p, q = np.exp(reference), np.exp(ours)
    rest_p, rest_q = (np.clip(1 - each.sum(1), 1e-12, None) for each in (p, q))
    return (p * (reference - ours)).sum(1) + rest_p * np.log(rest_p / rest_q)


def write_csv(path: Path, scores: Scores) -> None:
    """One line per position."""
    tokens = scores.reference.token_ids
    with path.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(COLUMNS)
        for at in range(len(scores.top1)):
            phase = "prefill" if at < scores.prefill else "decode"
            numbers = (scores.kl[at], scores.log_prob[at], scores.reference_log_prob[at])
            lines.writerow(
                (
                    *(at, phase, tokens[at], tokens[at + 1]),
                    *(scores.predicted[at], scores.reference.top_ids[at, 0]),
                    *(int(scores.top1[at]), int(scores.top5[at])),
                    *("" if np.isnan(number) else f"{number:.6g}" for number in numbers),
                )
            )


def running(values: Sequence[Any] | NDArray[Any], window: int) -> Floats:
    """Means of the last `window` values at each position; of fewer at the start."""
    sums = np.concatenate(([0.0], np.cumsum(np.asarray(values, dtype=np.float64))))
    ends = np.arange(1, len(sums))
    starts = np.maximum(0, ends - window)
    return (sums[ends] - sums[starts]) / (ends - starts)
