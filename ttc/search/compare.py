"""`ttc compare`: precision profiles on the same tokens of one text, paired with the first of them.

A text of a thousand tokens resolves a top-1 of 90 % to one point. Paired by position, most of that
noise is the same for two profiles and leaves their difference; KL divergences, which every position
has, resolve it better still.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from ttc.accuracy.teacher import Split
from ttc.hardware.hardware import load_mesh
from ttc.progress import Progress
from ttc.search.bench import BenchSettings, Measured, Profile, open_bench
from ttc.search.space import read_bytes, step_seconds
from ttc.spec.model import load_model


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What a profile has more than the first, and the standard error of that.

    top1   share of positions, 0.01 is one point
    kl     nats
    """

    top1: float
    top1_error: float
    kl: float
    kl_error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One profile: bytes a decode step reads on a chip, its accuracy, its lead over the first."""

    name: str
    bytes_read: float
    tokens_per_s: float
    measured: Measured
    difference: Difference

    def to_json(self) -> dict[str, Any]:
        difference = self.difference
        return {
            "name": self.name,
            "bytes_read": self.bytes_read,
            "tokens_per_s": self.tokens_per_s,
            **self.measured.to_json(),
            "top1_difference": difference.top1,
            "top1_difference_error": difference.top1_error,
            "kl_difference": difference.kl,
            "kl_difference_error": difference.kl_error,
        }


def compare(
    settings: BenchSettings,
    profiles: Mapping[str, Profile],
    text: Path,
    split: Split,
    progress: Progress,
) -> tuple[Compared, ...]:
    """Measure every profile on a text; by name, the first is what others are compared with."""
    model, chip = load_model(settings.spec), load_mesh(settings.mesh).chip
    with open_bench(settings, model, progress) as bench:
        tokens = bench.encode(text, split)
        plans = {name: bench.plan(profile) for name, profile in profiles.items()}
        progress("computing the reference")
        reference = bench.reference(tokens)
        measured: dict[str, Measured] = {}
        for name, profile in profiles.items():
            progress("measuring profiles", len(measured), len(profiles))
            measured[name] = bench.measure(profile, reference, split)
        first = next(iter(measured.values()))
        return tuple(
            Compared(
                name=name,
                bytes_read=read_bytes(plans[name]),
                tokens_per_s=1 / step_seconds(plans[name], chip),
                measured=each,
                difference=paired(each, first),
            )
            for name, each in measured.items()
        )


def paired(ours: Measured, first: Measured) -> Difference:
    """The difference of two measurements of the same tokens, position by position."""
    hits = [int(a) - int(b) for a, b in zip(ours.hits, first.hits, strict=True)]
    kls = [a - b for a, b in zip(ours.kls, first.kls, strict=True)]
    return Difference(
        top1=fmean(hits),
        top1_error=_standard_error(hits),
        kl=fmean(kls),
        kl_error=_standard_error(kls),
    )


def _standard_error(values: Sequence[float]) -> float:
    return stdev(values) / sqrt(len(values)) if len(values) > 1 else float("nan")


def compared_lines(found: Sequence[Compared]) -> list[str]:
    """A line per profile for people, in the order that was asked for."""
    lines = [
        f"{'MB read':>8} {'tokens/s':>9} {'top-1':>7} {'top-5':>7} {'KL':>8}   "
        f"{'top-1 to the first':>18}   {'KL to the first':>18}"
    ]
    for each in found:
        m, d = each.measured, each.difference
        lines.append(
            f"{each.bytes_read / 1e6:8.1f} {each.tokens_per_s:9.1f} {m.top1:7.2%} {m.top5:7.2%} "
            f"{m.kl:8.5f}   {100 * d.top1:+8.2f} ± {100 * d.top1_error:4.2f} %   "
            f"{d.kl:+8.5f} ± {d.kl_error:7.5f}   {each.name}"
        )
    return lines
