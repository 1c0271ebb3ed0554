"""From messages to the text a chat model was trained on: its own jinja template, in a sandbox."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import jinja2
import jinja2.sandbox
from jinja2.ext import Extension
from jinja2.nodes import Node
from jinja2.parser import Parser

from ttc.errors import ArtefactError, Problem, UsageError
from ttc.runtime.request import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatTemplate:
    """A chat template and the special tokens it may name (bos_token, eos_token, ...)."""

    text: str
    special_tokens: Mapping[str, str]

    def render(self, messages: Iterable[Message]) -> str:
        """The prompt that asks for the next assistant message."""
        try:
            return (
                _environment()
                .from_string(self.text)
                .render(messages=list(messages), add_generation_prompt=True, **self.special_tokens)
            )
        except jinja2.TemplateError as error:
            raise UsageError(
                Problem(
                    message=f"the chat template refuses these messages: {error}",
                    help="--no-chat-template sends the prompt as it is",
                )
            ) from error


def load_chat_template(folder: Path) -> ChatTemplate | None:
    """The template of chat_template.jinja or tokenizer_config.json; None for a base model."""
    path = folder / "tokenizer_config.json"
    try:
        read: object = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(read, dict):
        raise _damaged(path, "it is not a JSON object")
    config = cast(dict[str, Any], read)
    file = folder / "chat_template.jinja"
    template = file.read_text() if file.exists() else _default(config.get("chat_template"))
    if template is None:
        return None
    if not isinstance(template, str):
        raise _damaged(path, f"its chat_template is {template!r:.40}, expected text")
    tokens = {
        name: text
        for name, value in config.items()
        if name.endswith("_token") and (text := _token_text(value)) is not None
    }
    return ChatTemplate(text=template, special_tokens=tokens)


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


class _GenerationBlock(Extension):
    """`{% generation %}` marks the assistant's text for training; here it prints its body."""

    tags = {"generation"}  # noqa: RUF012 - jinja declares it as an instance variable

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> jinja2.Environment:
    """The names and settings Hugging Face templates rely on."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_GenerationBlock, "jinja2.ext.loopcontrols"],
    )
    filters = cast(dict[str, Callable[..., Any]], environment.filters)
    filters["tojson"] = _to_json
    names = cast(dict[str, Callable[..., Any]], environment.globals)
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
