"""MockFinding: one thing that ttnn refused, in the few words a person needs."""

import re
import traceback
from dataclasses import dataclass
from pathlib import Path

_FATAL = re.compile(
    r"TT_(?:FATAL|THROW|ASSERT) @ (\S+?):(\d+): ?(.*?)\n(?:info:\n(.*))?", re.DOTALL
)
_FATAL_TO_END = re.compile(_FATAL.pattern + r"\Z", re.DOTALL)
_OURS = Path(__file__).parent  # frames between the program and ttnn that say nothing
_TTNN_FOLDERS = ("ttnn/", "tt_metal/", "tt_stl/")
_MAX_INFO_CHARACTERS = 600
_KINDS = (
    ("out of memory", "Out of Memory"),
    ("L1 clash", "clash with L1 buffers"),
    ("too big for L1", "beyond max L1 size"),
    ("wrong argument", "incompatible function arguments"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MockFinding:
    """A call that the real ttnn would not accept, or something else that a check found.

    `kind` is "out of memory", "L1 clash", "too big for L1", "wrong argument", "refused" (any other
    condition of ttnn), or the name of the check of ours that failed. `condition` is the C++
    expression that was false, `ttnn_source` where in ttnn. `where` names the line of the program
    that made the call, `call` the function called, `step` the comment above it, which says what of
    the architecture it carries out; `phase` is what was being run.
    """

    kind: str
    info: str
    condition: str = ""
    ttnn_source: str = ""
    where: str = ""
    call: str = ""
    step: str = ""
    phase: str = ""

    def __str__(self) -> str:
        head = f"{self.kind}: {self.info}"
        place = " ".join(filter(None, (self.where, self.call, self.step and f"({self.step})")))
        lines = [
            head,
            f"  at {place}" if place else "",
            f"  in {self.phase}" if self.phase else "",
        ]
        if self.ttnn_source:
            lines.append(f"  ttnn {self.ttnn_source}: {self.condition}")
        return "\n".join(line for line in lines if line)


def finding_of(error: BaseException, package: Path) -> MockFinding | None:
    """What ttnn (installed in `package`) refused, or None when the error is not one of ttnn's.

    ttnn's own are those with a TT_FATAL, TT_THROW or nanobind text, and any RuntimeError that
    comes out of a ttnn call: some C++ exceptions carry no more than "bad optional access".
    """
    text = str(error)
    frames = traceback.extract_tb(error.__traceback__)
    callers = [frame for frame in frames if not _is_below(frame.filename, package, _OURS)]
    from_ttnn = bool(frames) and _is_below(frames[-1].filename, package)
    kind = next((kind for kind, mark in _KINDS if mark in text), "refused")
    match = _FATAL_TO_END.search(text) or _FATAL.search(text)
    if match is None and kind != "wrong argument" and not from_ttnn:
        return None
    if match is None:
        condition, source, info = "", "", _first_sentences(text)
    else:
        condition = match[3].strip()
        source = f"{_relative_to_ttnn(match[1])}:{match[2]}"
        info = _shorten((match[4] or "").strip() or condition)
    caller = callers[-1] if callers else None
    return MockFinding(
        kind=kind,
        info=info,
        condition=condition,
        ttnn_source=source,
        where=f"{Path(caller.filename).name}:{caller.lineno}" if caller else "",
        call=_call_text(caller) if caller else "",
    )


def _is_below(file: str, *folders: Path) -> bool:
    return any(Path(file).is_relative_to(folder) for folder in folders)


def _relative_to_ttnn(path: str) -> str:
    """The path inside ttnn's repository; the wheel keeps that of the machine that built it."""
    starts = [path.rfind("/" + folder) for folder in _TTNN_FOLDERS]
    return path[min((start for start in starts if start >= 0), default=-1) + 1 :]


def _first_sentences(text: str) -> str:
    """The first line, and what the call was given; nanobind goes on with every signature."""
    text = text.strip()
    given = re.search(r"Called with:\s*(.*)|(Invoked with types: .*)", text)
    return _shorten(
        f"{text.partition('\n')[0]} {' '.join(filter(None, given.groups())) if given else ''}"
    )


def _shorten(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _MAX_INFO_CHARACTERS else text[: _MAX_INFO_CHARACTERS - 3] + "..."


def _call_text(frame: traceback.FrameSummary) -> str:
    """The name of the call that failed, such as ttnn.linear, else the first source line."""
    line = (frame.line or "").strip()
    name = re.search(r"\bttnn(?:\.\w+)+", line)
    return name[0] if name else line
