from collections.abc import Iterator
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from ttc import schema
from ttc.errors import Problem, SpecError
from ttc.located import parse_yaml
from ttc.schema import SCHEMAS, check_schema, load_schema, load_yaml

pytestmark = pytest.mark.fast

THING = """{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "title": "Thing", "type": "object", "additionalProperties": false, "required": ["size"],
  "properties": {
    "size": {"type": "integer", "minimum": 1, "multipleOf": 2, "description": "in tokens"},
    "rate": {"type": "number", "exclusiveMaximum": 1},
    "title": {"type": "string"},
    "name": {"type": "string", "pattern": "^[a-z]+$", "description": "lower case letters"},
    "mode": {"enum": ["fast", "exact"]},
    "list": {"type": "array", "maxItems": 2, "uniqueItems": true, "items": {"type": "string"}},
    "flag": {"type": "boolean"},
    "part": {"anyOf": [{"type": "string"}, {"$ref": "thing.schema.json#/$defs/part"}]},
    "form": {"oneOf": [
      {"type": "object", "required": ["kind", "a"], "additionalProperties": false,
       "properties": {"kind": {"const": "one"}, "a": {"type": "integer"}}},
      {"type": "object", "required": ["kind"], "additionalProperties": false,
       "properties": {"kind": {"const": "two"}, "b": {"type": "integer"}}}]},
    "open": {"type": "object", "propertyNames": {"pattern": "^[0-9]+$", "description": "a number"}}
  },
  "$defs": {"part": {"type": "object", "required": ["x"], "properties": {"x": {"type": "integer"}}}}
}"""


@pytest.fixture(autouse=True)
def thing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "thing.schema.json").write_text(THING)
    with monkeypatch.context() as patch:
        patch.setattr(schema, "SCHEMAS", tmp_path)
        yield
    load_schema.cache_clear()


def problems(text: str) -> list[Problem]:
    root, found = parse_yaml(text, "f.yaml")
    assert root is not None
    return found + check_schema(root, "thing")


@pytest.mark.parametrize(
    ("line", "column", "message", "rest"),
    [
        ("sise: 3", 1, "unknown field 'sise'", "not a field of a thing; did you mean 'size'?"),
        ("size: 0", 7, "'size' must be at least 1", "got '0'"),
        ("size: 3", 7, "'size' must be a multiple of 2", "got '3'"),
        ("size: '4'", 7, "'size' must be a whole number", "got '4'; write 4 without quotes"),
        ("size: 4.0", 7, "'size' must be a whole number", "got '4.0'; write 4"),
        ("size: 1e3", 7, "'size' must be a whole number", "got '1e3'; write 1000"),
        ("size: true", 7, "'size' must be a whole number", "got 'true'"),
        ("size: [2]", 7, "'size' must be a whole number", "got a list"),
        ("size:", 1, "'size' must be a whole number", "got nothing"),
        ("rate: 1e-5", 7, "'rate' must be a number", "YAML reads 1e-5 as text; write 1.0e-5"),
        ("rate: -1E5", 7, "'rate' must be a number", "YAML reads -1E5 as text; write -1.0e+5"),
        ("rate: 1.5", 7, "'rate' must be less than 1", "got '1.5'"),
        ("name: 12", 7, "'name' is not valid", "got '12'; expected lower case letters"),
        ("title: 12", 8, "'title' must be text", "got '12'; write '12' in quotes"),
        ("name: no", 7, "'name' must be text", "YAML reads no as true or false; write 'no' in"),
        ("name: A", 7, "'name' is not valid", "got 'A'; expected lower case letters"),
        ("mode: fasd", 7, "'mode' must be one of fast, exact", "did you mean 'fast'?"),
        ("list: [a, b, c]", 7, "'list' must have at most 2 items", "got 3"),
        ("list: [a, a]", 11, "'list' repeats a", ""),
        ("list: [a, 3]", 11, "item 2 of 'list' must be text", "got '3'; write '3' in quotes"),
        ("flag: 'yes'", 7, "'flag' must be true or false", "got 'yes'"),
        ("part: 3", 7, "'part' must be text or a mapping", "got '3'"),
        ("part: {x: a}", 11, "'x' must be a whole number", "got 'a'"),
        ("part: {y: 1}", 1, "the field 'x' is missing", "part needs 'x'; add 'x:' with a whole"),
        ("form: {kind: tow}", 14, "'kind' must be one of one, two", "did you mean 'two'?"),
        ("form: {kind: one}", 1, "the field 'a' is missing", "form needs 'a'"),
        ("form: {kind: two, a: 1}", 19, "unknown field 'a'", "valid choices are b, kind"),
        ("form: two", 7, "'form' must be a mapping", "got 'two'"),
        ("open: {a: 1}", 8, "'a' is not valid", "expected a number"),
    ],
)
def test_each_kind_of_problem(line: str, column: int, message: str, rest: str) -> None:
    text = f"{line}\n" if line.startswith("si") else f"size: 2\n{line}\n"
    (found,) = problems(text)
    assert found.at is not None
    assert (found.at.line, found.at.column) == (text.count("\n"), column)
    assert found.message == message
    said = "; ".join(each for each in (found.note, *found.details, found.help) if each)
    assert rest in said


def test_a_missing_field_says_what_it_is() -> None:
    (found,) = problems("flag: true\n")
    assert str(found.at) == "f.yaml:1:1"
    assert (found.note, found.details) == ("a thing needs 'size'", ("size: in tokens",))


def test_a_file_that_is_no_mapping() -> None:
    (found,) = problems("- a\n")
    assert (str(found.at), found.message) == ("f.yaml:1:1", "the file must be a mapping")


def test_all_problems_of_a_file_come_together_in_line_order(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text("mode: slow\nmode: fast\nflag: .nan\nrate: 2\nsize: 3\n")
    with pytest.raises(SpecError) as raised:
        load_yaml(path, "thing")
    lines = [each.at.line for each in raised.value.problems if each.at]
    assert lines == [1, 2, 3, 4, 5]


def test_an_empty_file_says_what_it_needs(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text("# nothing\n")
    with pytest.raises(SpecError, match=r"the file is empty\n --> .*:1:1\n.*fields size"):
        load_yaml(path, "thing")


@pytest.mark.parametrize("path", sorted(SCHEMAS.glob("*.json")), ids=lambda path: path.name)
def test_shipped_schemas_are_schemas(path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:  # undone before the fixture's own change is
        patch.setattr(schema, "SCHEMAS", SCHEMAS)
        load_schema.cache_clear()
        contents = load_schema(path.name.removesuffix(".schema.json"))
    Draft202012Validator.check_schema(contents)
    assert contents["$id"] == path.name
    assert contents["title"]
    assert contents["description"]
