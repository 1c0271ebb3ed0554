"""docs/yaml-files.md says what the code does."""

import re
from pathlib import Path

import pytest

from ttc.spec.steps import OPERATIONS

pytestmark = pytest.mark.fast

TEXT = (Path(__file__).parents[2] / "docs" / "yaml-files.md").read_text()


def test_the_operations_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .* \| (.*)\|$", TEXT, re.MULTILINE)
    documented = {op: set(re.findall(r"`(\w+)", said)) for op, said in rows}
    assert documented == {op: set(each.settings) for op, each in OPERATIONS.items()}


def test_the_error_is_the_one_that_is_printed() -> None:
    golden = Path(__file__).parent / "errors" / "spec_exponent_as_text.txt"
    printed = golden.read_text().replace("tests/spec/errors/spec_exponent_as_text", "NAME")
    assert printed.strip() in TEXT.replace("specs/llama-3.1-8b-instruct", "NAME")
