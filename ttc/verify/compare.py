"""How closely two sets of logits agree."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Over the positions of a text; every figure but kl is at most 1, and 1 is agreement.

    top1  how often both prefer the same token
    top5  how often our preferred token is among the reference's five best
    pcc   Pearson correlation of all logits
    kl    mean divergence of our distribution from the reference's, in nats
    """

    top1: float
    top5: float
    pcc: float
    kl: float
    positions: int


def compare_logits(ours: NDArray[np.float32], reference: NDArray[np.float32]) -> Agreement:
    """Agreement of logits [positions, vocab] with a reference of the same shape."""
    assert ours.shape == reference.shape, f"{ours.shape} against {reference.shape}"
    best = ours.argmax(-1)
    five = np.argpartition(-reference, 5, axis=-1)[:, :5]
    ours_log, reference_log = log_softmax(ours), log_softmax(reference)
    kl = (np.exp(reference_log) * (reference_log - ours_log)).sum(-1)
    return Agreement(
        top1=float((best == reference.argmax(-1)).mean()),
        top5=float((best[:, None] == five).any(-1).mean()),
        pcc=correlation(ours, reference),
        kl=float(kl.mean()),
        positions=len(ours),
    )


def correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Pearson correlation of two arrays; NaN if one is constant or not finite."""
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    x -= x.mean()
    y -= y.mean()
    norm = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / norm if norm else float("nan")


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Natural logarithm of each row's probabilities."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
