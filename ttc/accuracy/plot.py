# pyright: reportUnknownMemberType=false
"""The picture of an accuracy run: agreement and divergence along the text."""

from pathlib import Path
from typing import Any

import numpy as np

from ttc.accuracy.scores import Scores, running

WINDOW = 64
"""Positions that a point of a curve is the mean of."""


def draw_scores(path: Path, scores: Scores, title: str) -> None:
    """Write a picture; the suffix says of what kind."""
    from matplotlib.figure import Figure  # takes a second, and only pictures need it

    positions = np.arange(len(scores.top1))
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes: Any = figure.subplots(2, 1, sharex=True)
    agreement, divergence = axes
    agreement.plot(positions, 100 * running(scores.top1, WINDOW), label="top-1")
    agreement.plot(positions, 100 * running(scores.top5, WINDOW), label="top-5")
    agreement.set_ylabel(f"agreement, %\n(mean of {WINDOW})")
    agreement.set_title(title)
    agreement.legend()
    divergence.plot(positions, running(-scores.log_prob, WINDOW), label="loss")
    if np.isfinite(scores.kl).any():
        divergence.plot(
            positions, running(-scores.reference_log_prob, WINDOW), label="loss of the reference"
        )
        divergence.plot(positions, running(scores.kl, WINDOW), label="KL divergence")
    divergence.set_ylabel("nats")
    divergence.set_xlabel("position")
    divergence.legend()
    for each in axes:
        each.axvline(scores.prefill - 0.5, color="grey", linestyle=":")
        each.grid(alpha=0.3)
    figure.savefig(path)
