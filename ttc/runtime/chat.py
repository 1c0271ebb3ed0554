"""From messages to the text a chat model was trained on: by its own jinja template."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from ttc.errors import ArtefactError, Problem, Source, UsageError
from ttc.runtime.request import Message
from ttc.runtime.template_process import TemplateFault, TemplateProcess

CONFIG, TEMPLATE_FILE = "tokenizer_config.json", "chat_template.jinja"
KEY = "chat_template"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatTemplate:
    """A chat template and the special tokens it may name (bos_token, eos_token, ...).

    path   the file that it is from, a .jinja file of its own or another; "" where there is none
    """

    text: str
    special_tokens: Mapping[str, str]
    path: str = ""
    process: TemplateProcess = field(default_factory=TemplateProcess, compare=False, repr=False)

    def check(self) -> list[Problem]:
        """What makes the text no template, at its place; whether it renders is not known yet."""
        try:
            self.process.parse(self.text)
        except TemplateFault as fault:
            return [self._problem("the chat template is not valid", fault)]
        return []

    def render(self, messages: Iterable[Message]) -> str:
        """The prompt that asks for the next assistant message.

        UsageError if the template refuses the messages, fails, or takes too much time or memory.
        """
        try:
            return self.process.render(self.text, messages, self.special_tokens)
        except TemplateFault as fault:
            refused = fault.kind == "refusal"
            message = f"the chat template {'refuses' if refused else 'fails on'} these messages"
            problem = self._problem(
                f"{message}: {fault.message}" if refused and fault.message else message,
                fault,
                help="--no-chat-template sends the prompt as it is",
            )
            raise UsageError(problem) from fault

    def _problem(self, message: str, fault: TemplateFault, help: str = "") -> Problem:
        """What is wrong, at the line of the file if that is the template's own."""
        lines = self.text.splitlines()
        text = lines[fault.line - 1] if 0 < fault.line <= len(lines) else ""
        note = "" if fault.kind == "refusal" else _why(fault)
        whole = self.path.endswith(".jinja")
        if whole and fault.line:
            at, details = Source(path=self.path, line=fault.line, column=1, text=text), ()
        else:
            at = _key_place(self.path) if self.path.endswith(".json") else None
            place = f"line {fault.line} of {KEY}: {text.strip()}" if fault.line else ""
            if self.path and at is None:
                place = f"{self.path}, {place}" if place else self.path
            details = (place,) if place else ()
        return Problem(message=message, at=at, note=note, details=details, help=help)


def _why(fault: TemplateFault) -> str:
    match fault.kind:
        case "depth":
            return "it is nested too deeply, or calls itself without end"
        case "memory" | "time":
            return f"it takes more than {fault.message}"
        case "length":
            return f"it makes a text of {fault.message}"
        case "end":
            return f"the process that renders it ended {fault.message}"
        case _:
            return fault.message


def _key_place(path: str) -> Source | None:
    """Where a JSON file has the template."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return None
    for number, line in enumerate(lines, 1):
        if (column := line.find(f'"{KEY}"')) >= 0:
            start = line[: column + len(KEY) + 2]
            return Source(
                path=path, line=number, column=column + 1, width=len(KEY) + 2, text=f"{start}: ..."
            )
    return None


def load_chat_template(folder: Path) -> ChatTemplate | None:
    """The template of chat_template.jinja or tokenizer_config.json; None for a base model."""
    path = folder / CONFIG
    try:
        read: object = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(read, dict):
        raise _damaged(path, "it is not a JSON object")
    config = cast(dict[str, Any], read)
    file = folder / TEMPLATE_FILE
    whole = file.exists()
    try:
        template = file.read_text(encoding="utf-8") if whole else _default(config.get(KEY))
    except (OSError, ValueError) as error:
        raise _damaged(file, str(error)) from error
    if template is None:
        return None
    if not isinstance(template, str):
        raise _damaged(path, f"its {KEY} is {template!r:.40}, expected text")
    tokens = {
        name: text
        for name, value in config.items()
        if name.endswith("_token") and (text := _token_text(value)) is not None
    }
    return ChatTemplate(text=template, special_tokens=tokens, path=str(file if whole else path))


def _damaged(path: Path, why: str) -> ArtefactError:
    return ArtefactError(Problem(message=f"{path} is damaged: {why}", help="run ttc compile again"))


def _default(template: object) -> object:
    """A tokenizer config holds one template, or a list of named ones of which one is "default"."""
    if not isinstance(template, list):
        return template
    named = [
        cast(dict[str, object], each)
        for each in cast(list[object], template)
        if isinstance(each, dict)
    ]
    return next((each.get("template") for each in named if each.get("name") == "default"), None)


def _token_text(value: object) -> str | None:
    """A special token is its text or {"content": text, ...}; add_bos_token and such are flags."""
    if isinstance(value, dict):
        value = cast(dict[str, object], value).get("content")
    return value if isinstance(value, str) else None
