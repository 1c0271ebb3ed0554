"""The process that renders chat templates: `python -P template_child.py SECONDS MEGABYTES`.

A template is a program of whoever made the checkpoint. jinja's sandbox keeps it from Python's
objects, and not from taking all time and memory there is: `'a' * 10**11`, two nested loops, a
string that doubles. The limits that hold for whatever a template finds are those of a process, so
that it gets one of its own. This file imports nothing of ttc, and so starts in 0.15 s.

A request is a line of JSON on stdin, {"template", "variables"}, without variables only to be
parsed. The answer is a line of JSON on stdout: {"text"}, or {"kind", "message", "line"} of an
error. A rendering that takes too long ends the process by SIGPROF.
"""

import json
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from datetime import datetime
from typing import Any, cast

import jinja2
import jinja2.sandbox
from jinja2.ext import Extension
from jinja2.nodes import Node
from jinja2.parser import Parser

ADDED_CHARACTERS = 1_000_000
"""A template may add this much to four times the text of the messages."""


def main(seconds: float, megabytes: int) -> None:
    """Answer one request after the other, until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    environment = make_environment()
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = megabytes << 20
    resource.setrlimit(
        resource.RLIMIT_AS, (limit if most == resource.RLIM_INFINITY else min(limit, most), most)
    )
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, seconds)
        answer = json.dumps(answer_to(environment, line))
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(answer, flush=True)


def answer_to(environment: jinja2.Environment, request: str) -> dict[str, Any]:
    """The text that a template makes, or what is wrong with it and in which of its lines."""
    try:
        asked = json.loads(request)
        template = environment.from_string(asked["template"])
        variables = asked.get("variables")
        text = "" if variables is None else template.render(variables)
        text.encode()
        most = ADDED_CHARACTERS + 4 * len(request)
        if len(text) > most:
            message = f"{len(text):,} characters, more than {most:,}"
            return {"kind": "length", "message": message, "line": 0}
        return {"text": text}
    except jinja2.TemplateSyntaxError as error:
        return {"kind": "syntax", "message": error.message or "", "line": error.lineno}
    except jinja2.TemplateError as error:
        return {"kind": "refusal", "message": str(error), "line": _line(error)}
    except MemoryError:
        return {"kind": "memory", "message": "", "line": 0}
    except RecursionError as error:
        return {"kind": "depth", "message": "", "line": _line(error)}
    except Exception as error:  # whatever Python raises at what a template does
        message = f"{type(error).__name__}: {error}"
        return {"kind": "failure", "message": message[:300], "line": _line(error)}


def _line(error: BaseException) -> int:
    """The line of the template that was at work; 0 if none was."""
    lines = [
        frame.lineno or 0
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename in ("<template>", "<unknown>")
    ]
    return lines[-1] if lines else 0


class _GenerationBlock(Extension):
    """`{% generation %}` marks the assistant's text for training; here it prints its body."""

    tags = {"generation"}  # noqa: RUF012 - jinja declares it as an instance variable

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def make_environment() -> jinja2.Environment:
    """The names and settings Hugging Face templates rely on, and no others."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_GenerationBlock, "jinja2.ext.loopcontrols"],
    )
    filters = cast(dict[str, Callable[..., Any]], environment.filters)
    filters["tojson"] = _to_json
    names = cast(dict[str, Callable[..., Any]], environment.globals)
    for unused in ("lipsum", "cycler", "joiner"):
        del names[unused]
    names["raise_exception"] = _raise
    names["strftime_now"] = _strftime_now
    return environment


def _to_json(value: Any, indent: int | None = None, ensure_ascii: bool = False, **rest: Any) -> str:
    """jinja's own filter escapes HTML, which a prompt must not have."""
    return json.dumps(value, indent=indent, ensure_ascii=ensure_ascii, **rest)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
