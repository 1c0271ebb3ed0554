"""docs/yaml-files.md says what the code does."""

import re
from pathlib import Path

import pytest

from ttc.spec.steps import OPERATIONS

pytestmark = pytest.mark.fast

TEXT = (Path(__file__).parents[2] / "docs" / "yaml-files.md").read_text()


def test_the_operations_are_those_of_the_code() -> None:
    row = r"^\| `(\w+)` \| [^|]* \| ([^|]*)\| ([^|]*)\|$"
    documented = {
        op: (names(needed), names(optional))
        for op, needed, optional in re.findall(row, TEXT, re.MULTILINE)
    }
    assert documented == {
        op: (set(each.settings), set(each.optional)) for op, each in OPERATIONS.items()
    }


def names(said: str) -> set[str]:
    """The settings of a cell: `name` or `name`: what it means."""
    return {re.findall(r"`(\w+)`", part)[0] for part in re.split("[;,] ", said) if part[:1] == "`"}


def test_the_error_is_the_one_that_is_printed() -> None:
    golden = Path(__file__).parent / "errors" / "spec_exponent_as_text.txt"
    printed = golden.read_text().replace("tests/spec/errors/spec_exponent_as_text", "NAME")
    assert printed.strip() in TEXT.replace("specs/llama-3.1-8b-instruct", "NAME")
