"""Errors a user of ttc can cause: where it happened, what was wrong, what was expected, what to do.

Everything the user can get wrong is raised as a `TtcError` made of `Problem`s; everything that is
our own mistake is an `assert`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A place in a text file. `line` and `column` count from 1; `text` is the whole line."""

    path: str
    line: int
    column: int
    width: int = 1
    text: str = ""

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong: `note` stands beside the carets, `details` and `help` below."""

    message: str
    at: Source | None = None
    note: str = ""
    details: tuple[str, ...] = ()
    help: str = ""

    def __str__(self) -> str:
        lines = [f"error: {self.message}"]
        gutter = " "
        if self.at is not None:
            number = str(self.at.line)
            gutter = " " * len(number)
            lines.append(f"{gutter}--> {self.at}")
            if self.at.text:
                before = self.at.text[: self.at.column - 1]
                indent = "".join("\t" if each == "\t" else " " for each in before)
                marker = indent + "^" * max(1, self.at.width)
                lines.append(f"{gutter} |")
                lines.append(f"{number} | {self.at.text}")
                lines.append(f"{gutter} | {marker} {self.note}".rstrip())
        if self.note and (self.at is None or not self.at.text):
            lines.append(f"{gutter} = {self.note}")
        lines += [f"{gutter} = {detail}" for detail in self.details]
        if self.help:
            lines.append(f"{gutter} = help: {self.help}")
        return "\n".join(lines)


class TtcError(Exception):
    """One or more problems in what the user gave us."""

    def __init__(self, problems: Problem | Iterable[Problem]) -> None:
        self.problems = (problems,) if isinstance(problems, Problem) else tuple(problems)
        assert self.problems, "an error needs at least one problem"
        super().__init__("\n\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type["TtcError"], tuple[Any, ...]]:
        """Errors travel between processes with their problems, not as text."""
        return type(self), (self.problems,)


class SpecError(TtcError):
    """A spec, architecture, precision profile or hardware file is not valid."""


class PlanError(TtcError):
    """A valid spec cannot be planned for the mesh, batch, context or precision asked for."""


class CheckpointError(TtcError):
    """A checkpoint is missing, damaged, or does not hold the tensors the spec names."""


class ArtefactError(TtcError):
    """An artefact folder is incomplete, was edited, or was built for something else."""


class UsageError(TtcError):
    """A command line argument or an argument of the Python API is wrong."""


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """A help text that names the nearest valid choice, or all of them when none is near."""
    known = sorted(choices)
    folded = {choice.lower(): choice for choice in known}  # 'n150' is nearer to N150 than to P150
    near = get_close_matches(word.lower(), folded, n=1, cutoff=0.6)
    if near:
        return f"did you mean '{folded[near[0]]}'?"
    return f"valid choices are {', '.join(known)}" if known else ""
