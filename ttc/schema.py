"""JSON Schema for YAML files, its errors told at file:line:column.

    Located tree --jsonschema--> ValidationErrors --explain--> problems with place and way out

What a file may hold is said by `ttc/schemas/*.schema.json`, which editors can use as well; this
module knows no field by name. All problems of a file are reported together, in line order.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, cast

from jsonschema import Draft202012Validator, ValidationError, validators
from referencing import Registry, Resource

from ttc.errors import Problem, did_you_mean
from ttc.located import (
    Located,
    exponent_hint,
    parse_yaml,
    problem_at_start,
    raise_problems,
    read_text,
)

SCHEMAS = Path(__file__).parent / "schemas"


def load_yaml(
    path: Path,
    schema: str,
    *,
    shown: str = "",
    variants: Mapping[str, str] | None = None,
    parse: Callable[[str, str], tuple[Located | None, list[Problem]]] = parse_yaml,
) -> Located:
    """Read a YAML file and check it against `ttc/schemas/<schema>.schema.json`.

    `shown` is the path to print in errors; `variants` has, by a field, the schema of the files that
    give it; `parse` is `parse_json` for JSON. Raises SpecError with all problems of the file,
    UsageError when there is no such file.
    """
    shown = shown or str(path)
    root, problems = parse(read_text(path, shown=shown), shown)
    if root is None:
        fields = load_schema(schema).get("required", [])
        help_text = f"expected the fields {', '.join(fields)}" if fields else ""
        problems = problems or [problem_at_start(shown, "the file is empty", help_text)]
    else:
        given = root.fields() if isinstance(root.value, dict) else {}
        schema = next((name for field, name in (variants or {}).items() if field in given), schema)
        known = {(each.at.line, each.at.column) for each in problems if each.at}
        problems += [  # a value that YAML could not read needs no second complaint
            each
            for each in check_schema(root, schema)
            if each.at and (each.at.line, each.at.column) not in known
        ]
    raise_problems(problems)
    assert root is not None, "a file without a value has a problem"
    return root


@cache
def load_schema(name: str) -> Mapping[str, Any]:
    """The JSON Schema `ttc/schemas/<name>.schema.json`."""
    return json.loads((SCHEMAS / f"{name}.schema.json").read_text(encoding="utf-8"))


@cache
def _validator(name: str) -> Any:
    """A validator in which 4096.0 is no integer; schemas refer to each other by file name."""

    def retrieve(uri: str) -> Resource[Any]:
        return Resource.from_contents(load_schema(uri.removesuffix(".schema.json")))

    def is_integer(_checker: object, value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)

    checker = Draft202012Validator.TYPE_CHECKER.redefine("integer", is_integer)
    strict = cast(Any, validators).extend(Draft202012Validator, type_checker=checker)
    registry: Any = Registry(retrieve=retrieve)  # pyright: ignore[reportCallIssue]
    return strict(load_schema(name), registry=registry)


def is_valid(value: object, schema: str) -> bool:
    """Whether mappings, lists and scalars, of whatever file, are what a schema says."""
    return bool(_validator(schema).is_valid(value))


def check_schema(root: Located, schema: str, value: object = None) -> list[Problem]:
    """What jsonschema finds wrong in a value, each problem at its place in the file.

    value   what another reader made of the same text, if not YAML's meaning of it is to count
    """
    value = root.plain() if value is None else value
    errors: Iterable[ValidationError] = _validator(schema).iter_errors(value)
    return [problem for error in errors for problem in _explain(error, root)]


def _explain(error: ValidationError, root: Located) -> Iterator[Problem]:
    path = list(error.absolute_path)
    node = root
    for step in path:
        node = node.elements()[step] if isinstance(step, int) else node[step]
    explain = _EXPLAIN.get(str(error.validator))
    if explain is None:
        yield Problem(message=f"{_label(path)} is not valid", at=node.at, note=error.message)
        return
    for item in explain(error, node, _label(path)):
        yield from _explain(item, root) if isinstance(item, ValidationError) else (item,)


type _Explained = Iterator[Problem | ValidationError]


def _label(path: list[Any]) -> str:
    if not path:
        return "the file"
    if isinstance(path[-1], int):
        return f"item {path[-1] + 1} of {_label(path[:-1])}"
    return f"'{path[-1]}'"


def _owner(error: ValidationError) -> str:
    """What the mapping of an error is called: its field, or the title of the file's schema."""
    path = [str(step) for step in error.absolute_path]
    if not path:
        title = str(cast(Mapping[str, str], error.schema).get("title", "file")).lower()
        return f"{'an' if title[0] in 'aeiou' else 'a'} {title}"
    if isinstance(error.absolute_path[-1], int) and len(path) == 1:
        return f"item {int(path[0]) + 1}"
    return path[-1] if path[-1].isidentifier() else " ".join(path[-2:])


def _about(schema: Any, name: str) -> tuple[str, ...]:
    """The schema's description of a field, as a detail line."""
    text = cast(dict[str, str], schema).get("description", "") if schema else ""
    return (f"{name}: {text}",) if text else ()


def _unknown_fields(error: ValidationError) -> dict[str, tuple[str, list[str]]]:
    """Each field of the mapping that its schema lacks, with the near field it may stand for."""
    schema = cast(Mapping[str, Any], error.schema)
    given = cast(Mapping[str, Any], error.instance)
    known: list[str] = list(schema.get("properties", {}))
    patterns: list[str] = list(schema.get("patternProperties", {}))
    unknown: dict[str, tuple[str, list[str]]] = {}
    for name in given:
        if name in known or any(re.search(pattern, name) for pattern in patterns):
            continue
        free = [each for each in known if each not in given]
        near = get_close_matches(name, free, n=1) or get_close_matches(name, known, n=1)
        unknown[name] = (near[0] if near else "", known)
    return unknown


def _explain_unknown(error: ValidationError, node: Located, _name: str) -> _Explained:
    for name, (near, choices) in _unknown_fields(error).items():
        yield Problem(
            message=f"unknown field '{name}'",
            at=node[name].key_at,
            note=f"not a field of {_owner(error)}",
            help=did_you_mean(near or name, [near] if near else choices),
        )


def _explain_required(error: ValidationError, node: Located, _name: str) -> _Explained:
    schema = cast(Mapping[str, Any], error.schema)
    named = re.match(r"'([^']*)' is a required property", error.message)
    assert named, "jsonschema names the missing property first"
    name = named[1]
    closed = schema.get("additionalProperties", True) is False
    if closed and any(near == name for near, _ in _unknown_fields(error).values()):
        return  # the misspelt field is reported, with this one as the suggestion
    yield Problem(
        message=f"the field '{name}' is missing",
        at=node.key_at,
        note=f"{_owner(error)} needs '{name}'",
        details=_about(schema.get("properties", {}).get(name), name),
        help=f"add '{name}:'{_with(schema.get('properties', {}).get(name, {}))}",
    )


_KINDS = {
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "boolean": "true or false",
    "object": "a mapping",
    "array": "a list",
    "null": "empty",
}


def _with(schema: Mapping[str, Any]) -> str:
    """What a missing field should hold."""
    if "enum" in schema:
        return f" with one of {', '.join(map(str, schema['enum']))}"
    return f" with {_KINDS[schema['type']]}" if "type" in schema else ""


def _got(node: Located) -> str:
    if isinstance(node.value, dict):
        return "got a mapping"
    if isinstance(node.value, tuple):
        return "got a list"
    return f"got '{node.written}'" if node.written else "got nothing"


def _type_problem(kinds: list[str], node: Located, label: str) -> Problem:
    written, help_text = node.written, ""
    exponent = exponent_hint(node)
    if isinstance(node.value, str) and {"number", "integer"} & set(kinds):
        if exponent and float(written).is_integer() and "number" not in kinds:
            help_text = f"write {int(float(written))}"
        elif exponent:
            help_text = exponent
        elif re.fullmatch(r"[-+]?\d+(\.\d*)?", written):
            help_text = f"write {written} without quotes"
    elif isinstance(node.value, bool) and "string" in kinds:
        help_text = f"YAML reads {written} as true or false; write '{written}' in quotes"
    elif isinstance(node.value, int | float) and "string" in kinds:
        help_text = f"write '{written}' in quotes"
    elif isinstance(node.value, float) and node.value.is_integer() and "integer" in kinds:
        help_text = f"write {int(node.value)}"
    expected = " or ".join(_KINDS[kind] for kind in kinds)
    return Problem(
        message=f"{label} must be {expected}", at=node.at, note=_got(node), help=help_text
    )


def _explain_type(error: ValidationError, node: Located, label: str) -> _Explained:
    kinds: Any = error.validator_value
    pattern = cast(Mapping[str, str], error.schema).get("pattern")
    if pattern and node.written and not re.search(pattern, node.written):
        yield from _explain_pattern(error, node, label)  # quotes would not make it right
        return
    problem = _type_problem([kinds] if isinstance(kinds, str) else list(kinds), node, label)
    about = _about(error.schema, label.strip("'")) if kinds == "object" else ()
    yield replace(problem, details=about)


def _explain_choice(error: ValidationError, node: Located, label: str) -> _Explained:
    given: Any = error.validator_value
    yield _choice_problem(given if str(error.validator) == "enum" else [given], error, node, label)


def _choice_problem(
    choices: list[Any], error: ValidationError, node: Located, label: str
) -> Problem:
    names = [str(choice) for choice in choices]
    expected = f"one of {', '.join(names)}" if len(names) > 1 else f"'{names[0]}'"
    near = get_close_matches(node.written, names, n=1)
    return Problem(
        message=f"{label} must be {expected}",
        at=node.at,
        note=_got(node),
        details=_about(error.schema, label.strip("'")),
        help=f"did you mean '{near[0]}'?" if near else "",
    )


_LIMITS = {
    "minimum": "be at least {}",
    "exclusiveMinimum": "be greater than {}",
    "maximum": "be at most {}",
    "exclusiveMaximum": "be less than {}",
    "multipleOf": "be a multiple of {}",
    "minItems": "have at least {} items",
    "maxItems": "have at most {} items",
    "maxProperties": "have at most {} field(s)",
    "minProperties": "have at least {} field(s)",
    "minLength": "have at least {} character(s)",
    "maxLength": "have at most {} characters",
}


def _explain_limit(error: ValidationError, node: Located, label: str) -> _Explained:
    rule = _LIMITS[str(error.validator)].format(error.validator_value)
    got = _got(node)
    if isinstance(node.value, dict | tuple):
        got = f"got {len(node.value)}"
    yield Problem(message=f"{label} must {rule}", at=node.at, note=got)


def _explain_pattern(error: ValidationError, node: Located, label: str) -> _Explained:
    if isinstance(node.value, dict):  # from propertyNames: the instance is a field name
        name = str(error.instance)
        at, note, label = node[name].key_at, f"not a name that {label.strip("'")} can hold", name
        label = f"'{name}'"
    else:
        at, note = node.at, _got(node)
    about = cast(Mapping[str, str], error.schema).get("description", "")
    details = (f"expected {about}",) if about else ()
    message, help_text = f"{label} is not valid", exponent_hint(node)
    yield Problem(message=message, at=at, note=note, details=details, help=help_text)


def _explain_unique(_error: ValidationError, node: Located, label: str) -> _Explained:
    seen: list[object] = []
    for element in node.elements():
        if element.plain() in seen:
            yield Problem(message=f"{label} repeats {element.written}", at=element.at)
        seen.append(element.plain())


def _explain_alternatives(error: ValidationError, node: Located, label: str) -> _Explained:
    """oneOf and anyOf: explain the alternative that was meant, told by type, then by `const`."""
    branches: dict[int, list[ValidationError]] = {}
    for each in error.context or ():
        branches.setdefault(cast(int, each.schema_path[0]), []).append(each)
    assert branches, "alternatives of a schema must exclude each other"

    def wrong(
        branch: list[ValidationError], keywords: set[str], depth: int
    ) -> ValidationError | None:
        hits = [e for e in branch if e.validator in keywords and len(e.relative_path) <= depth]
        return hits[0] if hits else None

    typed = {k: b for k, b in branches.items() if not wrong(b, {"type"}, 0)}
    if not typed:
        mistyped = [e for b in branches.values() if (e := wrong(b, {"type"}, 0))]
        kinds = list(dict.fromkeys(str(e.validator_value) for e in mistyped))
        yield _type_problem(kinds, node, label)
        return
    meant = {k: b for k, b in typed.items() if not wrong(b, {"const"}, 1)}
    if not meant:
        consts = [e for b in typed.values() if (e := wrong(b, {"const"}, 1))]
        first = consts[0]
        target = node[str(first.relative_path[0])] if first.relative_path else node
        name = f"'{first.relative_path[0]}'" if first.relative_path else label
        yield _choice_problem([e.validator_value for e in consts], first, target, name)
        return
    yield from min(meant.values(), key=len)


_EXPLAIN: dict[str, Callable[[ValidationError, Located, str], _Explained]] = {
    "additionalProperties": _explain_unknown,
    "required": _explain_required,
    "type": _explain_type,
    "enum": _explain_choice,
    "const": _explain_choice,
    "pattern": _explain_pattern,
    "uniqueItems": _explain_unique,
    "oneOf": _explain_alternatives,
    "anyOf": _explain_alternatives,
    **dict.fromkeys(_LIMITS, _explain_limit),
}
