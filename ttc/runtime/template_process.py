"""Chat templates are rendered by a process of their own, within limits of time and memory."""

import json
import signal
import subprocess
import sys
import weakref
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Literal, cast

from ttc.runtime.request import Message

CHILD = Path(__file__).with_name("template_child.py")
RENDER_SECONDS = 5.0
RENDER_MEGABYTES = 512
"""A conversation of a million tokens is a text of 4 MB."""

type Kind = Literal["syntax", "refusal", "failure", "depth", "memory", "length", "time", "end"]


@dataclass(eq=False)
class TemplateFault(Exception):
    """A template that makes no text; `line` counts in the template from 1, 0 if none is known."""

    kind: Kind
    message: str = ""
    line: int = 0


class TemplateProcess:
    """Starts with the first request, serves all later ones, and ends when nobody holds it.

    seconds    of processor time that one rendering may take
    megabytes  of address space, 26 of which Python and jinja take
    """

    def __init__(self, seconds: float = RENDER_SECONDS, megabytes: int = RENDER_MEGABYTES) -> None:
        self._seconds, self._megabytes = seconds, megabytes
        self._running: subprocess.Popen[str] | None = None
        self._lock = Lock()

    def parse(self, template: str) -> None:
        """TemplateFault unless a text is a template."""
        self._ask({"template": template})

    def render(self, template: str, messages: Iterable[Message], names: Mapping[str, str]) -> str:
        """The text for the next answer to messages. TemplateFault if there is none."""
        variables = {**names, "messages": list(messages), "add_generation_prompt": True}
        return str(self._ask({"template": template, "variables": variables})["text"])

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        with self._lock:
            process = self._process()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write(json.dumps(request) + "\n")
                process.stdin.flush()
                answer = process.stdout.readline()
            except BrokenPipeError:
                answer = ""
            except BaseException:  # Ctrl-C: the answer to this must not be taken for the next
                self._end(process)
                raise
            if not answer:
                status = process.wait()
                self._end(process)
                raise self._ended(status)
        fields = cast(dict[str, Any], json.loads(answer))
        if fields.get("kind") == "memory":
            raise TemplateFault("memory", f"{self._megabytes} MB of memory")
        if "text" not in fields:
            raise TemplateFault(**fields)
        return fields

    def _process(self) -> subprocess.Popen[str]:
        if self._running is None or self._running.poll() is not None:
            limits = (str(self._seconds), str(self._megabytes))
            self._running = subprocess.Popen(
                [sys.executable, "-P", str(CHILD), *limits],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                encoding="ascii",
            )
            weakref.finalize(self, _stop, self._running)
        return self._running

    def _ended(self, status: int) -> TemplateFault:
        if status == -signal.SIGPROF:
            return TemplateFault("time", f"{self._seconds:g} s of processor time")
        what = f"by signal {-status}" if status < 0 else f"with exit code {status}"
        return TemplateFault("end", what)

    def _end(self, process: subprocess.Popen[str]) -> None:
        self._running = None
        _stop(process)


def _stop(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with suppress(BrokenPipeError):  # a request that nobody reads any more
                stream.close()
