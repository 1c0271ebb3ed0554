"""Errors a user of ttc can cause: where it happened, what was wrong, what was expected, what to do.

Everything the user can get wrong is raised as a `TtcError` made of `Problem`s; everything that is
our own mistake is an `assert`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

LONG_CHARACTERS = 2000
EXCERPT_CHARACTERS = 400
PROBLEMS_SHOWN = 30
"""Of one error, as text; `TtcError.problems` has all of them, whole."""

_WORD = re.compile(r"\S{200,}")


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
        lines = [f"error: {_shown(self.message)}"]
        gutter = " "
        if self.at is not None:
            number = str(self.at.line)
            gutter = " " * len(number)
            lines.append(f"{gutter}--> {_shown(str(self.at))}")
            if self.at.text:
                before, excerpt = _excerpt(self.at)
                indent = "".join("\t" if each == "\t" else " " for each in before)
                marker = indent + "^" * min(max(1, self.at.width), EXCERPT_CHARACTERS)
                lines.append(f"{gutter} |")
                lines.append(f"{number} | {excerpt}")
                lines.append(f"{gutter} | {marker} {_shown(self.note)}".rstrip())
        if self.note and (self.at is None or not self.at.text):
            lines.append(f"{gutter} = {_shown(self.note)}")
        lines += [f"{gutter} = {_shown(detail)}" for detail in self.details]
        if self.help:
            lines.append(f"{gutter} = help: {_shown(self.help)}")
        return "\n".join(lines)


def _shown(text: str) -> str:
    """A text for a terminal. What files name is not ours: it may be long, or move the cursor."""
    if len(text) > LONG_CHARACTERS:
        text = _WORD.sub(_shortened, text)
    if len(text) > LONG_CHARACTERS:
        text = f"{text[:LONG_CHARACTERS]}... ({len(text):,} characters)"
    return _printable(text)


def _shortened(word: re.Match[str]) -> str:
    return f"{word[0][:60]}...{word[0][-20:]} ({len(word[0]):,} characters)"


def _printable(text: str) -> str:
    """With escapes for what is no character to look at; line ends and tabs stay."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each in "\n\t" else each.encode("unicode_escape").decode()
        for each in text
    )


def _excerpt(at: Source) -> tuple[str, str]:
    """What stands before the place, and the line; of a long line what is around the place."""
    first = 0
    if len(at.text) > EXCERPT_CHARACTERS:
        first = max(0, at.column - 1 - EXCERPT_CHARACTERS // 3)
    shown = at.text[first : first + EXCERPT_CHARACTERS]
    lead = "..." if first else ""
    tail = "..." if first + EXCERPT_CHARACTERS < len(at.text) else ""
    before = lead + _printable(at.text[first : at.column - 1])
    return before, f"{lead}{_printable(shown)}{tail}"


class TtcError(Exception):
    """One or more problems in what the user gave us."""

    def __init__(self, problems: Problem | Iterable[Problem]) -> None:
        self.problems = (problems,) if isinstance(problems, Problem) else tuple(problems)
        assert self.problems, "an error needs at least one problem"
        shown = [str(problem) for problem in self.problems[:PROBLEMS_SHOWN]]
        if more := len(self.problems) - len(shown):
            shown.append(f"and {more:,} more")
        super().__init__("\n\n".join(shown))

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
