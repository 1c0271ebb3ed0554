"""YAML files whose values know where they stand. This module knows no field by name."""

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml
from yaml.composer import Composer
from yaml.constructor import SafeConstructor

from ttc.errors import Problem, Source, SpecError, UsageError, did_you_mean

_JSON_ONLY = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"|\t')
_SURROGATES = re.compile(r"\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")

type Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """A YAML value. `at` is where the value stands, `key_at` where its key does (the value itself
    for list items and for the file), `written` the characters of a scalar before YAML read them.

    The typed accessors are for values that a schema has already checked.
    """

    value: "Scalar | dict[str, Located] | tuple[Located, ...]"
    at: Source
    key_at: Source
    written: str = ""

    def fields(self) -> "dict[str, Located]":
        """The entries of a mapping, in file order."""
        assert isinstance(self.value, dict), f"{self.at} is not a mapping"
        return self.value

    def elements(self) -> "tuple[Located, ...]":
        """The items of a list."""
        assert isinstance(self.value, tuple), f"{self.at} is not a list"
        return self.value

    def __getitem__(self, key: str) -> "Located":
        return self.fields()[key]

    def get(self, key: str) -> "Located | None":
        return self.fields().get(key)

    @property
    def text(self) -> str:
        assert isinstance(self.value, str), f"{self.at} is not text"
        return self.value

    @property
    def integer(self) -> int:
        assert isinstance(self.value, int), f"{self.at} is not a whole number"
        return self.value

    @property
    def number(self) -> float:
        assert isinstance(self.value, int | float), f"{self.at} is not a number"
        return float(self.value)

    @property
    def flag(self) -> bool:
        assert isinstance(self.value, bool), f"{self.at} is not true or false"
        return self.value

    def plain(self) -> object:
        """The value as dict, list and scalars, without places."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, tuple):
            return [child.plain() for child in self.value]
        return self.value

    def part(self, written: str) -> Source:
        """The place of the word `written` inside this text, or of the whole text."""
        start = self.at.text.find(self.written, self.at.column - 1)
        found = re.search(rf"\b{re.escape(written)}\b", self.written)
        if start != self.at.column - 1 or found is None:
            return self.at
        return Source(
            path=self.at.path,
            line=self.at.line,
            column=self.at.column + found.start(),
            width=len(written),
            text=self.at.text,
        )

    def sources(self, prefix: str = "") -> dict[str, Source]:
        """The place of every value below, by dotted path: `dims.kv_heads`, `shape.0`."""
        places: dict[str, Source] = {}
        if isinstance(self.value, dict):
            children: Iterable[tuple[str, Located]] = self.value.items()
        elif isinstance(self.value, tuple):
            children = ((str(index), child) for index, child in enumerate(self.value))
        else:
            return places
        for name, child in children:
            places[prefix + name] = child.at
            places |= child.sources(f"{prefix}{name}.")
        return places


_EXPONENT = re.compile(r"([-+]?)(\d+\.?\d*|\.\d+)[eE]([-+]?)(\d+)")


def exponent_hint(node: Located) -> str:
    """How to write the number that a text was meant to be, "" where it was not: YAML takes an
    exponent only behind a point and with a sign.
    """
    found = _EXPONENT.fullmatch(node.written)
    if not found or not isinstance(node.value, str):
        return ""
    sign, mantissa, exponent_sign, digits = found.groups()
    mantissa = mantissa if "." in mantissa else f"{mantissa}.0"
    proper = f"{sign}{mantissa}e{exponent_sign or '+'}{digits}"
    return f"YAML reads {node.written} as text; write {proper}"


def raise_problems(problems: Iterable[Problem]) -> None:
    """Raise a SpecError that lists the problems in line order, each once; nothing when there are
    none.
    """
    ordered = sorted(
        dict.fromkeys(problems), key=lambda each: (each.at.line, each.at.column) if each.at else ()
    )
    if ordered:
        raise SpecError(ordered)


def read_text(path: Path, *, shown: str = "") -> str:
    """The text of a UTF-8 file. Raises UsageError or SpecError that says why it cannot be read."""
    shown = shown or str(path)
    if path.is_dir():
        names = sorted(each.name for each in path.glob("*.y*ml"))
        raise UsageError(
            Problem(
                message=f"'{shown}' is a folder, expected a file",
                help=f"name a file in it: {', '.join(names)}" if names else "",
            )
        )
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        beside = path.parent.glob(f"*{path.suffix}") if path.parent.is_dir() else ()
        near = sorted(each.name for each in beside)
        hint = did_you_mean(path.name, near)
        raise UsageError(Problem(message=f"there is no file '{shown}'", help=hint)) from None
    except OSError as error:
        raise UsageError(
            Problem(message=f"'{shown}' cannot be read", note=error.strerror or str(error))
        ) from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8", errors="replace")
        at = Source(
            path=shown,
            line=before.count("\n") + 1,
            column=len(before) - (before.rfind("\n") + 1) + 1,
            text=before[before.rfind("\n") + 1 :] + "\ufffd",
        )
        raise SpecError(
            Problem(
                message="the file is not UTF-8 text",
                at=at,
                note=f"byte 0x{data[error.start]:02x}",
                help="save the file as UTF-8",
            )
        ) from None


def parse_yaml(text: str, shown: str) -> tuple[Located | None, list[Problem]]:
    """YAML text -> the value with its places, None when there is none, and what is wrong with it.

    Refused although PyYAML accepts them: duplicate keys, anchors and aliases, tags, numbers that
    are not finite.
    """
    reader = _Reader(text, shown)
    try:
        node = _compose(text)
    except yaml.MarkedYAMLError as error:
        return None, [reader.syntax_problem(error)]
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        at = reader.place(before.count("\n"), error.position - (before.rfind("\n") + 1), 1)
        note = f"U+{error.character:04X}"
        return None, [
            Problem(message=f"{reader.language} does not allow this character", at=at, note=note)
        ]
    except RecursionError:
        return None, [problem_at_start(shown, "the file is nested too deep to be read")]
    if node is None:
        return None, []
    return reader.located(node, None), reader.problems


def parse_json(text: str, shown: str) -> tuple[Located | None, list[Problem]]:
    """JSON text -> as `parse_yaml`, which reads it once it is written as the part of YAML it is.

    What is YAML and no JSON is refused. NaN and Infinity, which Python reads, come as texts.
    """
    if not text.strip():
        return None, []
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return None, [_json_problem(error, shown)]
    except (RecursionError, ValueError):
        pass  # nested too deep, or a number of too many digits: the other reader says where
    return parse_yaml(_as_yaml(text), shown)


def _json_problem(error: json.JSONDecodeError, shown: str) -> Problem:
    """Where a text is no JSON, and what to do about what people write most."""
    position, note, hint = error.pos, error.msg[:1].lower() + error.msg[1:], ""
    before = error.doc[:position].rstrip()
    found = error.doc[position : position + 1]
    if (before.endswith(",") and found in "]}") or "trailing comma" in note:
        position, note = error.doc.rindex(",", 0, position + 1), "nothing comes after this comma"
        hint = "remove it"
    elif found == "'":
        hint = 'texts and names stand in double quotes: "'
    elif found and found in "#/":
        hint = "JSON has no comments: remove it"
    elif "','" in note:
        hint = "a ',' is missing, or a bracket before it is not closed"
    elif not found:
        hint = "a bracket or quote is not closed"
    lines = error.doc[:position].split("\n")
    whole = error.doc.split("\n")[len(lines) - 1].rstrip("\r")
    at = Source(path=shown, line=len(lines), column=len(lines[-1]) + 1, text=whole)
    return Problem(message="the file is not valid JSON", at=at, note=note, help=hint)


def _as_yaml(text: str) -> str:
    """JSON as YAML reads it: no tabs between values, no characters in two halves, and those that
    YAML takes for line breaks or does not allow as escapes."""

    def character(found: re.Match[str]) -> str:
        halves = bytes.fromhex(found[1] + found[2])
        return halves.decode("utf-16-be")

    def escape(found: re.Match[str]) -> str:
        return f"\\u{ord(found[0]):04x}"

    def part(found: re.Match[str]) -> str:
        if found[0] == "\t":
            return " "
        return _JSON_ONLY.sub(escape, _SURROGATES.sub(character, found[0]))

    return _STRING.sub(part, text)


def problem_at_start(shown: str, message: str, help_text: str = "") -> Problem:
    """A problem of the file as a whole."""
    return Problem(message=message, at=Source(path=shown, line=1, column=1), help=help_text)


class _PlainComposer(Composer):
    """A composer without anchors and aliases: each value is written where it is used."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = cast(Any, self).peek_event()
        if getattr(event, "anchor", None) is not None:
            raise yaml.MarkedYAMLError(
                problem="anchors and aliases are not supported", problem_mark=event.start_mark
            )
        return super().compose_node(parent, index)


class _FastLoader(_PlainComposer, yaml.CSafeLoader):
    """libyaml finds the tokens, four times as fast. Its own composer stays out of it: that one
    crashes on a text that is nested too deep, where Python's raises RecursionError."""

    def __init__(self, text: str) -> None:
        Composer.__init__(self)
        yaml.CSafeLoader.__init__(self, text)


class _ExactLoader(_PlainComposer, yaml.SafeLoader):
    """PyYAML finds the tokens: its errors say more, and where."""


def _compose(text: str) -> yaml.Node | None:
    try:
        return _FastLoader(text).get_single_node()
    except yaml.YAMLError:
        return _ExactLoader(text).get_single_node()


_CORE = "tag:yaml.org,2002:"
_TEXT_TAGS = {f"{_CORE}{kind}" for kind in ("str", "timestamp", "value", "merge")}
_COLLECTION_TAGS = {f"{_CORE}map", f"{_CORE}seq"}
_SYNTAX_HELP = (
    ("'\\t'", "indent with spaces; YAML does not allow a tab here"),
    (
        "mapping values are not allowed",
        "a text with ': ' in it needs quotes; check the indentation",
    ),
    ("anchors and aliases", "write the value out"),
    ("another document", "keep one document in a file: remove the '---' line"),
    ("expected ',' or", "a ',' is missing, or a bracket before it is not closed"),
    ("could not find expected ':'", "every field is written as 'name: value'"),
    ("<stream end>", "a bracket or quote is not closed"),
    ("end of stream", "a bracket or quote is not closed"),
)


class _Reader:
    """Turns the composed nodes of one text into Located values and collects problems."""

    def __init__(self, text: str, shown: str) -> None:
        self.lines = text.splitlines()
        self.shown = shown
        self.problems: list[Problem] = []

    @property
    def language(self) -> str:
        """What the file is to its writer: JSON is read as the part of YAML that it is."""
        return "JSON" if self.shown.endswith(".json") else "YAML"

    def place(self, line: int, column: int, width: int) -> Source:
        """`line` and `column` count from 0, as PyYAML's marks do."""
        text = self.lines[line].rstrip() if line < len(self.lines) else ""
        return Source(path=self.shown, line=line + 1, column=column + 1, width=width, text=text)

    def at(self, node: yaml.Node) -> Source:
        start, end = node.start_mark, node.end_mark
        line = self.lines[start.line].rstrip() if start.line < len(self.lines) else ""
        stop = end.column if end.line == start.line else len(line)
        return self.place(start.line, start.column, max(1, stop - start.column))

    def syntax_problem(self, error: yaml.MarkedYAMLError) -> Problem:
        mark, context = error.problem_mark, error.context_mark
        reason = error.problem or str(error)
        at_end = mark is not None and mark.line >= len(self.lines)
        if context is not None and (mark is None or at_end):
            mark, context = context, None
        assert mark is not None, "PyYAML always marks a syntax error"
        details: tuple[str, ...] = ()
        if context is not None and (error.context or "").startswith("while"):
            place = self.place(context.line, context.column, 1)
            details = (f"{error.context} that starts at {place}",)
        hints = [hint for needle, hint in _SYNTAX_HELP if needle in reason]
        return Problem(
            message=f"the file is not valid {self.language}",
            at=self.place(mark.line, mark.column, 1),
            note=reason,
            details=details,
            help=hints[0] if hints else "",
        )

    def located(self, node: yaml.Node, key_at: Source | None) -> Located:
        at = self.at(node)
        key = key_at or at
        if not isinstance(node, yaml.ScalarNode) and node.tag not in _COLLECTION_TAGS:
            self._refuse_tag(node.tag, at)
        if isinstance(node, yaml.MappingNode):
            return Located(value=self._mapping(node), at=at, key_at=key)
        if isinstance(node, yaml.SequenceNode):
            children = tuple(self.located(child, None) for child in node.value)
            return Located(value=children, at=at, key_at=key)
        assert isinstance(node, yaml.ScalarNode), "YAML has three kinds of node"
        value = self._scalar(node, at)
        written = cast(str, node.value)
        return Located(value=value, at=key if written == "" else at, key_at=key, written=written)

    def _mapping(self, node: yaml.MappingNode) -> dict[str, Located]:
        entries: dict[str, Located] = {}
        for key, child in node.value:
            key_at = self.at(key)
            if not isinstance(key, yaml.ScalarNode):
                self.problems.append(Problem(message="a field name must be plain text", at=key_at))
                continue
            name = str(key.value)
            value = self.located(child, key_at)
            if name in entries:
                self.problems.append(
                    Problem(
                        message=f"'{name}' is given twice",
                        at=key_at,
                        note="the second time here",
                        details=(f"the first time at {entries[name].key_at}",),
                        help="keep one of them",
                    )
                )
            else:
                entries[name] = value
        return entries

    def _scalar(self, node: yaml.ScalarNode, at: Source) -> Scalar:
        kind = node.tag
        written = str(node.value)
        constructor = SafeConstructor()
        try:
            if kind in _TEXT_TAGS:
                return written
            if kind == f"{_CORE}null":
                return None
            if kind == f"{_CORE}bool":
                return bool(constructor.construct_yaml_bool(node))
            if kind == f"{_CORE}int":
                return int(constructor.construct_yaml_int(node))
            if kind == f"{_CORE}float":
                number = float(constructor.construct_yaml_float(node))
                if math.isfinite(number):
                    return number
                message = f"'{written}' is not a finite number"
                self.problems.append(Problem(message=message, at=at))
                return 0.0
        except (ValueError, KeyError, IndexError):
            message = f"'{written[:40]}' cannot be read as {kind.removeprefix(_CORE)}"
            self.problems.append(Problem(message=message, at=at))
            return None
        self._refuse_tag(kind, at)
        return None

    def _refuse_tag(self, tag: str, at: Source) -> None:
        message = f"the tag '{tag.replace(_CORE, '!!')}' is not supported"
        self.problems.append(Problem(message=message, at=at, help="write a plain value"))


def yaml_text(value: object) -> str:
    """YAML of mappings, lists and scalars, keys in their own order. Same value, same text."""
    return yaml.dump(value, Dumper=yaml.CSafeDumper, sort_keys=False, width=100)
