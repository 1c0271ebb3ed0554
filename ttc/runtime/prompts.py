"""Prompts from a file in the format of tt-transformers' demo."""

import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from ttc.errors import Problem, Source, UsageError
from ttc.located import Located, parse_json, problem_at_start, read_text
from ttc.runtime.request import Prompt, empty_problem, text_problem
from ttc.schema import check_schema

SHOWN_COLUMNS = 200
"""Lines of a file that are longer are not repeated in an error."""

DOWNLOAD_SECONDS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePrompt:
    """One entry of a file: a prompt, and a text that goes before it, "" for none."""

    prompt: str
    context: str
    at: Source

    def asked(self, *, instruct: bool) -> Prompt:
        """What the model is asked: with `instruct` through the chat template, else as it is.

        A context is put between code fences for a chat, as tt-transformers does.
        """
        if not self.context:
            return Prompt(text=self.prompt, chat=instruct)
        text = f"```{self.context}```\n\n{self.prompt}" if instruct else self.context + self.prompt
        return Prompt(text=text, chat=instruct)

    def placed(self, problem: Problem) -> Problem:
        """What is wrong with it, at its place in the file; the problem's own place stays."""
        if problem.at is None:
            return _short(replace(problem, at=self.at))
        return replace(problem, details=(*problem.details, f"the prompt is at {self.at}"))


def read_prompts(path: Path, *, cache: Path) -> tuple[FilePrompt, ...]:
    """The entries of a JSON file: [{"prompt": ..., "context": ..., "max_length": ...}, ...].

    `context` is a file, named from the folder of this one, or an http(s) address, whose text is
    kept in `cache`; `max_length` says how many of its characters are used. Raises UsageError with
    all problems of the file.
    """
    text = read_text(path)
    root, problems = parse_json(text, str(path))
    if root is None:
        problems = problems or [
            problem_at_start(str(path), "the file is empty", 'write [{"prompt": "..."}]')
        ]
    else:
        problems += check_schema(root, "prompts")
    if problems:
        raise UsageError(map(_short, problems))
    assert root is not None, "a file without a value has a problem"
    return tuple(_read(each, path.parent, cache) for each in root.elements())


def fitted(
    each: FilePrompt, limit: int, encode: Callable[[Prompt], Sequence[int]], *, instruct: bool
) -> FilePrompt:
    """An entry whose context is cut at the end until the prompt has at most `limit` tokens.

    Returned as it is where the context alone is not what makes it too long.
    """
    fitting = each
    while fitting.context:
        tokens = len(encode(fitting.asked(instruct=instruct)))
        if tokens <= limit:
            return fitting
        # One in a hundred more than the average says: most texts then need two looks.
        keep = int(len(fitting.context) * limit / tokens * 0.99)
        fitting = replace(fitting, context=fitting.context[:keep])
    return each


def _read(entry: Located, folder: Path, cache: Path) -> FilePrompt:
    prompt, context, length = entry["prompt"], entry.get("context"), entry.get("max_length")
    if length and not context:
        problem = Problem(
            message="there is no context to cut",
            at=length.key_at,
            note="max_length counts characters of the context",
            help="add a context, or leave max_length out",
        )
        raise UsageError(_short(problem))
    text = _context(context, folder, cache) if context else ""
    problem = empty_problem(prompt.text + text, prompt.at)
    problem = problem or text_problem(prompt.text, "the prompt", prompt.at)
    problem = problem or text_problem(text, "the context", context.at if context else None)
    if problem is not None:
        raise UsageError(_short(problem))
    return FilePrompt(
        prompt=prompt.text, context=text[: length.integer] if length else text, at=entry.at
    )


def _context(named: Located, folder: Path, cache: Path) -> str:
    """The text of a file or of an address."""
    where = named.text
    try:
        if where.startswith(("http://", "https://")):
            return _downloaded(where, cache)
        return (folder / where).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        problem = Problem(
            message="the context cannot be read",
            at=named.at,
            details=(str(error),),
            help="name a text file, or an address that this machine can reach",
        )
        raise UsageError(_short(problem)) from error


def _downloaded(address: str, cache: Path) -> str:
    """The text at an address, from `cache` if it was read before."""
    kept = cache / "contexts" / f"{sha256(address.encode()).hexdigest()[:32]}.txt"
    if not kept.exists():
        with urllib.request.urlopen(address, timeout=DOWNLOAD_SECONDS) as answer:
            content: bytes = answer.read()
        kept.parent.mkdir(parents=True, exist_ok=True)
        part = kept.with_suffix(".part")
        part.write_bytes(content)
        part.rename(kept)
    return kept.read_text(encoding="utf-8-sig")


def _short(problem: Problem) -> Problem:
    """Without the line of the file, where that is a whole book."""
    at = problem.at
    if at is None or len(at.text) <= SHOWN_COLUMNS:
        return problem
    return replace(problem, at=replace(at, text=""))
