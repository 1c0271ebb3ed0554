# pyright: reportUnknownMemberType=false
"""The Pareto front of a search: as a table, and as a picture with the presets marked."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ttc.search.search import Point


def pareto(points: Sequence[Point]) -> tuple[Point, ...]:
    """The points that no other beats: none reads as little and has as high a top-1."""
    front: list[Point] = []
    for each in sorted(points, key=lambda point: (point.bytes_read, -point.measured.top1)):
        if not front or each.measured.top1 > front[-1].measured.top1:
            front.append(each)
    return tuple(front)


def front_lines(points: Sequence[Point]) -> list[str]:
    """A line per point for people, the cheapest first."""
    lines = [f"{'':14} {'MB read':>8} {'tokens/s':>9} {'top-1':>7} {'top-5':>7} {'KL':>8}"]
    for each in sorted(points, key=lambda point: point.bytes_read):
        m = each.measured
        lines.append(
            f"{each.name:14} {each.bytes_read / 1e6:8.1f} {each.tokens_per_s:9.1f} {m.top1:7.2%} "
            f"{m.top5:7.2%} {m.kl:8.5f}"
        )
    return lines


def write_front(path: Path, points: Sequence[Point]) -> None:
    """The same as CSV."""
    lines = ["name,bytes_read,tokens_per_s,top1,top5,kl,perplexity"]
    for each in sorted(points, key=lambda point: point.bytes_read):
        m = each.measured
        lines.append(
            f"{each.name},{each.bytes_read:.0f},{each.tokens_per_s:.2f},{m.top1:.5f},{m.top5:.5f},"
            f"{m.kl:.6f},{m.perplexity:.4f}"
        )
    path.write_text("\n".join(lines) + "\n")


def draw_front(path: Path, found: Sequence[Point], presets: Sequence[Point], title: str) -> None:
    """Top-1 over bytes; the front as a line, the presets as stars with their names."""
    from matplotlib.figure import Figure  # takes a second, and only pictures need it

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes: Any = figure.subplots()
    front = pareto(found)
    for points, style in ((found, "o"), (front, "-")):
        axes.plot(
            [each.bytes_read / 1e6 for each in points],
            [100 * each.measured.top1 for each in points],
            style,
            color="tab:blue",
            label="found" if style == "o" else "best of them",
        )
    for each in presets:
        place = (each.bytes_read / 1e6, 100 * each.measured.top1)
        axes.plot(*place, "*", color="tab:red", markersize=12)
        axes.annotate(each.name, place, textcoords="offset points", xytext=(8, -4))
    axes.set_xlabel("MB read by a decode step")
    axes.set_ylabel("top-1 against Hugging Face, %")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path)
