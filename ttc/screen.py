"""What the command line prints: results on stdout, progress and remarks on stderr."""

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from ttc.alternatives import Alternative
from ttc.plan.estimate import Estimate, StepTime
from ttc.plan.plan import Plan
from ttc.progress import Progress as Reporter
from ttc.progress import silent
from ttc.spec.check import FileCheck
from ttc.spec.precision import TableRow

if TYPE_CHECKING:
    from rich.progress import TaskID

    from ttc.checkpoint.upkeep import CachedWeight
    from ttc.verify.report import Report

DAY_SECONDS = 86400
BYTES_UNITS = ("B", "kB", "MB", "GB", "TB")


class Screen:
    """The two streams of a command; with `as_json` stdout carries nothing but the result."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.out = Console(highlight=False, soft_wrap=True)
        self.err = Console(stderr=True, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """A line of the result, for people."""
        if not self.as_json:
            self.out.print(text, markup=False)

    def note(self, text: str) -> None:
        """A line about what is going on."""
        self.err.print(text, markup=False, style="dim")

    def stream(self, text: str) -> None:
        """A piece of generated text, at once."""
        if not self.as_json:
            sys.stdout.write(text)
            sys.stdout.flush()

    def table(self, table: Table) -> None:
        if not self.as_json:
            self.out.print(table)

    def note_table(self, table: Table) -> None:
        """A table about what is going on."""
        self.err.print(table, style="dim")

    def result(self, record: dict[str, Any]) -> None:
        """The result, for programs."""
        if self.as_json:
            print(json.dumps(record, indent=2))

    @contextmanager
    def interruptible(self, remark: str) -> Iterator[None]:
        """Says how to go on when the user stops what runs inside."""
        try:
            yield
        except KeyboardInterrupt:
            self.note(f"stopped: {remark}")
            raise

    @contextmanager
    def progress(self) -> Iterator[Reporter]:
        """Draws a bar, with a rate for bytes; silent when stderr is a file."""
        if not self.err.is_terminal:
            yield silent
            return
        from rich.progress import (
            BarColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
        )

        bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}"),
            console=self.err,
            transient=True,
        )
        tasks: dict[str, TaskID] = {}

        started: dict[str, float] = {}

        def show(step: str, done: int = 0, total: int = 0, unit: str = "") -> None:
            if step not in tasks:
                for task in tasks.values():
                    bars.update(task, visible=False)
                tasks[step] = bars.add_task(step, total=total or None, detail="")
                started[step] = time.monotonic()
            detail = ""
            if unit == "bytes" and total:
                detail = transfer(done, total, time.monotonic() - started[step])
            bars.update(tasks[step], completed=done, total=total or None, detail=detail)

        with bars:
            yield show


def transfer(done: int, total: int, seconds: float) -> str:
    """How far, how fast and how long yet: "1.2 GB of 2.5 GB, 600 MB/s, 3 s left"."""
    text = f"{amount(done)} of {amount(total)}"
    if not done or seconds <= 0:
        return text
    rate = done / seconds
    return f"{text}, {amount(rate)}/s, {(total - done) / rate:.0f} s left"


def amount(size: float) -> str:
    """Bytes in a unit people read: 1234567 is "1.23 MB"."""
    for unit in BYTES_UNITS:
        if size < 1000 or unit == BYTES_UNITS[-1]:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.3g} {unit}"
        size /= 1000
    raise AssertionError("the last unit takes everything")


def plan_table(plan: Plan) -> Table:
    """The memory of a plan: what lies in DRAM, by group, and the fullest core's L1."""
    memory = plan.memory
    rows = [
        *((f"weights {group}", size) for group, size in memory.weights_by_group),
        ("KV cache", memory.kv_cache_bytes),
        ("RoPE tables", memory.rope_bytes),
        ("inputs", memory.input_bytes),
        ("activations", memory.activation_bytes),
        ("trace region", memory.trace_region_bytes),
    ]
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column(justify="right")
    for name, size in rows:
        table.add_row(name, amount(size), _share(size, memory.dram_limit_bytes))
    dram, l1 = memory.dram_bytes_per_chip, memory.l1_peak_bytes_per_core
    table.add_section()
    table.add_row("DRAM of a chip", amount(dram), _share(dram, memory.dram_limit_bytes))
    table.add_row("L1 of a core", amount(l1), _share(l1, memory.l1_limit_bytes_per_core))
    return table


def _share(size: int, limit: int) -> str:
    return f"{100 * size / limit:.1f} %"


def plan_lines(plan: Plan) -> list[str]:
    """What a plan is for, and what else would fit."""
    buckets = ", ".join(map(str, plan.buckets[:-1]))
    rest = f", the rest in {buckets} or one of those" if buckets else ""
    largest = plan.largest
    return [
        f"model      {plan.model}",
        f"mesh       {plan.mesh} ({plan.arch})",
        f"precision  {plan.profile}",
        f"users      {plan.batch} of up to {plan.context} tokens",
        f"prefill    in chunks of {plan.prefill_chunk_tokens} tokens{rest}",
        *_together_lines(plan),
        f"would fit  {largest.context} tokens for {plan.batch}, or {largest.batch} users of "
        f"{plan.context}",
    ]


def _together_lines(plan: Plan) -> list[str]:
    """How many prompts are read at once."""
    sizes = dict.fromkeys((phase.prompts, phase.tokens) for phase in plan.batched)
    words = ", ".join(f"{prompts} of {tokens}" for prompts, tokens in sizes)
    return [f"           or several prompts at once: {words} tokens"] if words else []


def explain_lines(plan: Plan) -> list[str]:
    """The alternatives that were weighed, which was taken, and where tokens are chosen."""
    lines: list[str] = []
    for choice in plan.choices:
        lines.append(f"{choice.name}: {choice.taken}")
        for name, cost in choice.alternatives:
            mark = "*" if name == choice.taken else " "
            lines.append(f"  {mark} {name}: {cost}")
    for place in plan.head.sampling.places:
        lines.append(f"{', '.join(place.settings)} on the {place.where}: {place.why}")
    return lines


def estimate_table(times: Estimate) -> Table:
    """Milliseconds of each step by kind of operation, with the first letter of what bounds it."""
    steps = [(f"decode at {step.tokens}", step) for step in times.decode]
    steps += [(f"prefill {step.tokens}", step) for step in times.prefill]
    steps += [(f"{step.tokens} at {step.start}", step) for step in times.chunks]
    steps += [(f"{step.prompts} x {step.tokens}", step) for step in times.batched]
    kinds = dict.fromkeys(kind.kind for _, step in steps for kind in step.kinds)
    table = Table("ms", box=None, pad_edge=False)
    table.caption = "bound by: D DRAM, c compute, l links between chips, o overhead of starting"
    for name, _ in steps:
        table.add_column(name, justify="right")
    for kind in kinds:
        cells = ({each.kind: each for each in step.kinds}.get(kind) for _, step in steps)
        table.add_row(kind, *(f"{each.ms:.2f} {each.bound[0]}" if each else "" for each in cells))
    table.add_section()
    table.add_row("total", *(f"{step.ms:.2f}" for _, step in steps))
    return table


def alternatives_table(rows: Sequence[Alternative]) -> Table:
    """One row for each way that can be planned; the one that was taken has a star."""
    table = Table(box=None, pad_edge=False)
    table.add_column("replicas x chips", no_wrap=True)
    for name in ("DRAM", "decode", "sent", "tokens/s", "prefill", "sent"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        if not row.reason:
            table.add_row(
                f"{'*' if row.taken else ' '} {_way(row)}",
                amount(row.dram_bytes_per_chip),
                f"{row.decode_ms:.2f}",
                amount(row.decode_sent_bytes),
                f"{row.tokens_per_second_all_users:.0f}",
                f"{row.prefill_ms:.0f}",
                amount(row.prefill_sent_bytes),
            )
    table.caption = "DRAM of a chip; ms, and what a chip sends in them; tokens/s of all users"
    return table


def refused_lines(rows: Sequence[Alternative]) -> list[str]:
    """The ways that cannot be planned, and why."""
    return [f"    {_way(row)}: {row.reason}" for row in rows if row.reason]


def _way(row: Alternative) -> str:
    words = [f"{row.replicas} x {row.tp}"]
    if row.tp > 1:
        words += filter(None, (row.topology, row.prefill_residual))
    return " ".join(words)


def estimate_record(times: Estimate) -> dict[str, Any]:
    """An estimate for `--json`: milliseconds per token and per prefill, and their sources."""

    def steps(each: tuple[StepTime, ...]) -> list[dict[str, Any]]:
        return [
            {
                "tokens": step.tokens,
                "start": step.start,
                "prompts": step.prompts,
                "ms": step.ms,
                "kinds": {kind.kind: {"ms": kind.ms, "bound": kind.bound} for kind in step.kinds},
            }
            for step in each
        ]

    return {
        "decode": steps(times.decode),
        "prefill": steps(times.prefill),
        "chunks": steps(times.chunks),
        "batched": steps(times.batched),
        "sources": dict(times.sources),
    }


def plan_record(plan: Plan) -> dict[str, Any]:
    """A plan for `--json`."""
    memory, largest = plan.memory, plan.largest
    return {
        "fits": memory.fits,
        "model": plan.model,
        "spec": plan.spec,
        "mesh": plan.mesh,
        "precision": plan.profile,
        "batch": plan.batch,
        "context": plan.context,
        "prefill_chunk_tokens": plan.prefill_chunk_tokens,
        "prefill_buckets": list(plan.buckets),
        "prefill_together": [asdict(use) for use in plan.together],
        "dram_bytes_per_chip": memory.dram_bytes_per_chip,
        "dram_limit_bytes": memory.dram_limit_bytes,
        "l1_peak_bytes_per_core": memory.l1_peak_bytes_per_core,
        "l1_limit_bytes_per_core": memory.l1_limit_bytes_per_core,
        "trace_region_bytes": memory.trace_region_bytes,
        "weight_bytes": dict(memory.weights_by_group),
        "kv_cache_bytes": memory.kv_cache_bytes,
        "rope_bytes": memory.rope_bytes,
        "input_bytes": memory.input_bytes,
        "activation_bytes": memory.activation_bytes,
        "largest": {
            "context": largest.context,
            "batch": largest.batch,
            "prefill_bucket": largest.prefill_bucket,
            "max_tokens_all_users": largest.max_tokens_all_users,
        },
        "choices": [
            {"name": choice.name, "taken": choice.taken, "alternatives": dict(choice.alternatives)}
            for choice in plan.choices
        ],
    }


def cache_table(entries: "Iterable[CachedWeight]") -> Table:
    """One line per converted weight."""
    table = Table("key", "size", "dtype", "shape", "holds", "used", box=None, pad_edge=False)
    for entry in entries:
        days = (time.time() - entry.used_at) / DAY_SECONDS
        shape = "x".join(map(str, entry.origin.get("shape", ())))
        used = entry.damage or f"{days:.0f} days ago" + (", linked" if entry.linked else "")
        holds = ", ".join(entry.tensors)
        dtype = str(entry.origin.get("dtype", ""))
        table.add_row(entry.key[:12], amount(entry.size_bytes), dtype, shape, holds, used)
    return table


def check_record(each: FileCheck) -> dict[str, Any]:
    """The verdict on one YAML file for `--json`."""
    return {
        "file": str(each.path),
        "kind": each.kind,
        "ok": not each.problems,
        "problems": [
            {"message": problem.message, "at": str(problem.at or ""), "help": problem.help}
            for problem in each.problems
        ],
    }


def summary_table(rows: Sequence[Sequence[str]]) -> Table:
    """A line for each figure, a column for each batch."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    for _ in rows[0][1:]:
        table.add_column(justify="right")
    for row in rows:
        table.add_row(*row)
    return table


def plan_rows(rows: list[dict[str, Any]]) -> Table:
    """One line per plan: what it is for, and whether it fits or why not."""
    names = ("spec", "mesh", "precision", "status", "context", "reason")
    table = Table(*names, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(str(row.get(name, "")) for name in names))
    return table


def precision_lines(rows: Iterable[TableRow]) -> list[str]:
    """A line per group and value: the decoders that have it, decode, prefill, who says so."""
    head = ("group", "decoders", "decode", "prefill", "origin")
    cells = [head] + [(r.group, r.decoders, r.decode, r.prefill, r.origin) for r in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(4)] + [0]
    return ["  ".join(map(str.ljust, row, widths)) for row in cells]


def verdict_lines(report: "Report") -> list[str]:
    """What verification found, a line for each backend and one for each finding."""
    lines: list[str] = []
    if report.mock is not None:
        mock = report.mock
        lines.append(
            f"mock mesh  {_verdict(mock.ok)}: {len(mock.decode)} device operations per decoder in "
            f"decode, {len(mock.prefill)} in prefill ({len(mock.prefill_chunk)} in later chunks); "
            f"DRAM {amount(mock.dram_peak_bytes_per_chip)}"
            f" of a chip, L1 {amount(mock.l1_peak_bytes_per_core)} of a core"
        )
        lines += [f"           {finding}" for finding in mock.findings]
    if report.emulate is not None:
        agreement = report.emulate.agreement
        lines.append(
            f"emulator   {_verdict(report.emulate.ok)}: over {agreement.positions} tokens, against "
            f"Hugging Face in float32: PCC {agreement.pcc:.5f}, top-1 {agreement.top1:.1%}, "
            f"top-5 {agreement.top5:.1%}"
        )
    return lines


def _verdict(ok: bool) -> str:
    return "ok" if ok else "FAILED"
