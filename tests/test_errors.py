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
