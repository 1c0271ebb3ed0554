"""Speeds of a run as tt-transformers reports them: a table, a record, lines of CSV."""

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ttc.runtime.generate import Timing

STEPS = (1, 128, 1024, 4096)
"""Decode steps whose speed is told on its own: attention reads more with every token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSpeed:
    """The speed of one decode step, counted from 1."""

    step: int
    seconds: float
    tokens_per_s_per_user: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Speeds of one batch of prompts. None where nothing of the kind was done.

    ttft_s            to the first token, the mean of all users, waiting for others included
    prefill_tokens_per_s         prompt tokens over the seconds in which prompts were read
    decode_tokens_per_s_per_user, decode_tokens_per_s  without the first step, which compiles
    compile_prefill_s, compile_decode_s  the first prefill and the first step of the batch: on a
                      device they compile what they run, unless an earlier batch did
    at                the speed of single steps
    """

    batch: int
    users: int
    prompt_tokens: int
    new_tokens: int
    cached_tokens: int
    ttft_s: float
    prefill_tokens_per_s: float | None
    decode_tokens_per_s_per_user: float | None
    decode_tokens_per_s: float | None
    compile_prefill_s: float | None
    compile_decode_s: float | None
    total_s: float
    at: tuple[StepSpeed, ...]

    def to_json(self) -> dict[str, Any]:
        record = asdict(self)
        return record | {"at": {str(each.pop("step")): each for each in record["at"]}}


def summarise(batch: int, timing: Timing, *, new_tokens: int, cached_tokens: int) -> Summary:
    """What the times of a batch come to. `batch` counts from 0."""
    later = timing.steps[1:] or timing.steps
    seconds = sum(each for _, each in later)
    return Summary(
        batch=batch,
        users=sum(each.prompts for each in timing.prefills),
        prompt_tokens=sum(each.tokens for each in timing.prefills),
        new_tokens=new_tokens,
        cached_tokens=cached_tokens,
        ttft_s=timing.ttft_s,
        prefill_tokens_per_s=timing.prefill_tokens_per_s,
        decode_tokens_per_s_per_user=len(later) / seconds if later else None,
        decode_tokens_per_s=sum(users for users, _ in later) / seconds if later else None,
        compile_prefill_s=timing.prefills[0].seconds if timing.prefills else None,
        compile_decode_s=timing.steps[0][1] if timing.steps else None,
        total_s=timing.total_s,
        at=tuple(
            StepSpeed(step=step, seconds=each, tokens_per_s_per_user=1 / each)
            for step in STEPS
            if step <= len(timing.steps)
            for _, each in [timing.steps[step - 1]]
        ),
    )


def summary_rows(summaries: Sequence[Summary]) -> list[tuple[str, ...]]:
    """A row for each figure, a column for each batch; the first column names the figure."""
    rows = [
        ("batch", [str(each.batch) for each in summaries]),
        ("users", [str(each.users) for each in summaries]),
        ("prompt tokens", [str(each.prompt_tokens) for each in summaries]),
        ("new tokens", [str(each.new_tokens) for each in summaries]),
        ("TTFT, ms", [_number(1000 * each.ttft_s) for each in summaries]),
        ("prefill, t/s", [_number(each.prefill_tokens_per_s) for each in summaries]),
        ("decode, t/s/u", [_number(each.decode_tokens_per_s_per_user) for each in summaries]),
        ("decode, t/s", [_number(each.decode_tokens_per_s) for each in summaries]),
        ("first prefill, s", [_number(each.compile_prefill_s) for each in summaries]),
        ("first decode step, s", [_number(each.compile_decode_s) for each in summaries]),
    ]
    for step in STEPS:
        speeds = [{at.step: at.tokens_per_s_per_user for at in each.at} for each in summaries]
        if any(step in each for each in speeds):
            cells = [_number(each.get(step)) for each in speeds]
            rows.append((f"at token {step}, t/s/u", cells))
    return [(name, *cells) for name, cells in rows]


def write_summaries(path: Path, summaries: Sequence[Summary]) -> None:
    """A line of CSV for each batch, with the names of `Summary`, and `at_N` in tokens/s/user."""
    names = [name for name in Summary.__dataclass_fields__ if name != "at"]
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow([*names, *(f"at_{step}" for step in STEPS)])
        for each in summaries:
            speeds = {at.step: at.tokens_per_s_per_user for at in each.at}
            out.writerow([getattr(each, name) for name in names] + [speeds.get(s) for s in STEPS])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"
