import pytest

from ttc.errors import Problem, SpecError, UsageError
from ttc.located import Located, parse_yaml, raise_problems, read_text

pytestmark = pytest.mark.fast


def parsed(text: str) -> Located:
    root, problems = parse_yaml(text, "f.yaml")
    assert root is not None
    assert not problems
    return root


def problem(text: str) -> Problem:
    _, problems = parse_yaml(text, "f.yaml")
    (only,) = problems
    return only


def place(found: Problem) -> tuple[int, int, int]:
    assert found.at is not None
    assert found.at.path == "f.yaml"
    return found.at.line, found.at.column, found.at.width


def test_values_know_where_they_and_their_keys_stand() -> None:
    root = parsed("# comment\na: 1\nb:\n  - x y\n  - {c: 2.5, d: true}\n")
    item = root["b"].elements()[1]
    assert str(root["a"].at) == "f.yaml:2:4"
    assert str(root["a"].key_at) == "f.yaml:2:1"
    assert (root["b"].elements()[0].at.column, root["b"].elements()[0].at.width) == (5, 3)
    assert str(item["d"].at) == "f.yaml:5:17"
    assert item["d"].at.text == "  - {c: 2.5, d: true}"
    assert (root["a"].integer, item["c"].number, item["d"].flag) == (1, 2.5, True)
    assert root.plain() == {"a": 1, "b": ["x y", {"c": 2.5, "d": True}]}


def test_sources_has_every_value_by_dotted_path() -> None:
    sources = parsed("dims: {hidden: 8}\nshape: [a, b]\n").sources()
    assert list(sources) == ["dims", "dims.hidden", "shape", "shape.0", "shape.1"]
    assert str(sources["shape.1"]) == "f.yaml:2:12"


def test_part_points_at_a_word_of_a_text() -> None:
    node = parsed("shape: [heads * head_dim]\nquoted: 'heads * head_dim'\n")
    first = node["shape"].elements()[0]
    assert (first.part("head_dim").column, first.part("head_dim").width) == (17, 8)
    assert first.part("head").column == first.at.column  # no such word
    assert node["quoted"].part("head_dim") == node["quoted"].at  # what is written is not the value


@pytest.mark.parametrize(
    ("text", "at", "note"),
    [
        ("a: 1\n\tb: 2\n", (2, 1, 1), "found character '\\t' that cannot start any token"),
        ("a: {b: 1\n", (1, 4, 1), "expected ',' or '}', but got '<stream end>'"),
        ("a: b: c\n", (1, 5, 1), "mapping values are not allowed here"),
        ("a: &x 1\nb: *x\n", (1, 4, 1), "anchors and aliases are not supported"),
        ("a: *x\n", (1, 4, 1), "anchors and aliases are not supported"),
        ("a: 1\n---\nb: 2\n", (2, 1, 1), "but found another document"),
        ("a: 'x\n", (1, 4, 1), "found unexpected end of stream"),
        ("a: 1\nb: \x07\n", (2, 4, 1), "U+0007"),
    ],
)
def test_what_is_not_yaml(text: str, at: tuple[int, int, int], note: str) -> None:
    found = problem(text)
    assert (place(found), found.note) == (at, note)


@pytest.mark.parametrize(
    ("text", "at", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", (3, 1, 1), "'a' is given twice"),
        ("a: {b: 1, b: 2}\n", (1, 11, 1), "'b' is given twice"),
        ("a: .inf\n", (1, 4, 4), "'.inf' is not a finite number"),
        ("a: 1.0e+999\n", (1, 4, 8), "'1.0e+999' is not a finite number"),
        ("a: !!int x\n", (1, 4, 7), "'x' cannot be read as int"),
        ("a: !!set {b}\n", (1, 4, 9), "the tag '!!set' is not supported"),
        ("a: !thing 1\n", (1, 4, 8), "the tag '!thing' is not supported"),
        ("? [a]\n: 1\n", (1, 3, 3), "a field name must be plain text"),
    ],
)
def test_what_yaml_allows_and_we_do_not(text: str, at: tuple[int, int, int], message: str) -> None:
    found = problem(text)
    assert (place(found), found.message) == (at, message)


def test_a_file_that_is_nested_too_deep() -> None:
    found = problem("a: " + "[" * 1000)
    assert (place(found), found.message) == ((1, 1, 1), "the file is nested too deep to be read")


def test_a_duplicate_key_names_both_places() -> None:
    found = problem("a: 1\nb: 2\na: 3\n")
    assert found.details == ("the first time at f.yaml:1:1",)


def test_numbers_as_keys_are_text() -> None:
    assert list(parsed("31: a\n0-3: b\non: c\n").fields()) == ["31", "0-3", "on"]


def test_an_empty_file_has_no_value() -> None:
    assert parse_yaml("# nothing\n", "f.yaml") == (None, [])


def test_windows_line_ends_and_a_byte_order_mark(tmp_path) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes("\ufeffa: 1\r\nb: 2\r\n".encode())
    assert str(parsed(read_text(path))["b"].at) == "f.yaml:2:4"


def test_a_file_that_is_not_utf8(tmp_path) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(b"a: 1\nb: caf\xe9\n")
    with pytest.raises(SpecError) as raised:
        read_text(path, shown="f.yaml")
    assert place(raised.value.problems[0]) == (2, 7, 1)


def test_a_missing_file_names_the_nearest(tmp_path) -> None:
    (tmp_path / "llama.yaml").write_text("")
    with pytest.raises(UsageError, match=r"did you mean 'llama.yaml'"):
        read_text(tmp_path / "lama.yaml")
    with pytest.raises(UsageError, match="there is no file"):
        read_text(tmp_path / "no" / "such.yaml")


def test_a_folder_names_its_files(tmp_path) -> None:
    (tmp_path / "a.yaml").write_text("")
    with pytest.raises(UsageError, match=r"is a folder.*\n.*a.yaml"):
        read_text(tmp_path)


def test_problems_are_raised_in_line_order() -> None:
    _, twice = parse_yaml("a: 1\na: 2\nb: .nan\na: 3\n", "f.yaml")
    with pytest.raises(SpecError) as raised:
        raise_problems(reversed(twice))
    assert [place(each)[0] for each in raised.value.problems] == [2, 3, 4]
    raise_problems([])
