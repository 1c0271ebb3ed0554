"""The text of a problem, and errors that travel between processes."""

import pickle

import pytest

from ttc.errors import PlanError, Problem, Source, TtcError, did_you_mean

pytestmark = pytest.mark.fast

AT = Source(path="specs/a.yaml", line=3, column=7, width=4, text="dims: {head: 9}")


def test_a_problem_shows_the_place_the_line_and_the_way_out() -> None:
    problem = Problem(
        message="unknown field 'head'",
        at=AT,
        note="not a field of dims",
        details=("dims has 7 fields",),
        help="did you mean 'heads'?",
    )
    assert str(problem) == (
        "error: unknown field 'head'\n"
        " --> specs/a.yaml:3:7\n"
        "  |\n"
        "3 | dims: {head: 9}\n"
        "  |       ^^^^ not a field of dims\n"
        "  = dims has 7 fields\n"
        "  = help: did you mean 'heads'?"
    )


def test_errors_keep_their_problems_between_processes() -> None:
    error = PlanError([Problem(message="one", at=AT), Problem(message="two")])
    copy = pickle.loads(pickle.dumps(error))
    assert isinstance(copy, PlanError)
    assert copy.problems == error.problems
    assert str(copy) == str(error)


def test_an_error_without_a_problem_is_our_own_bug() -> None:
    with pytest.raises(AssertionError):
        TtcError([])


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("kv_head", "did you mean 'kv_heads'?"),
        ("zzz", "valid choices are heads, kv_heads"),
    ],
)
def test_the_nearest_choice(word: str, expected: str) -> None:
    assert did_you_mean(word, ["heads", "kv_heads"]) == expected


def test_names_from_files_neither_move_the_cursor_nor_fill_the_screen() -> None:
    text = str(Problem(message="tensor 'a\x1b[2J\x9b\u202eb'", note="x" * 100_000, help="a\nb"))
    assert "tensor 'a\\x1b[2J\\x9b\\u202eb'" in text
    assert "xxx...xxx" in text
    assert "(100,000 characters)" in text
    assert "help: a\nb" in text
    spaced = str(Problem(message="y " * 50_000))
    assert len(spaced) < 3000


def test_of_a_long_line_what_is_around_the_place() -> None:
    line = "a" * 5000 + "WRONG" + "b" * 5000
    at = Source(path="a.json", line=1, column=5001, width=5, text=line)
    shown = str(Problem(message="no", at=at)).splitlines()
    assert len(shown[3]) < 500
    assert shown[3].index("WRONG") == shown[4].index("^^^^^")
    assert (shown[3][4:7], shown[3][-3:]) == ("...", "...")


def test_of_many_problems_the_first() -> None:
    error = TtcError([Problem(message=f"number {i}") for i in range(5000)])
    assert str(error).endswith("error: number 29\n\nand 4,970 more")
    assert len(error.problems) == 5000
