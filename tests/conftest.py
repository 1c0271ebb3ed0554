"""Options and fixtures shared by all tests."""

from collections.abc import Callable
from pathlib import Path

import pytest

type Golden = Callable[[Path, str], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite the golden files with what came out"
    )


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """Compare a text with a golden file; with --update-golden, rewrite the file instead."""

    def compare(path: Path, text: str) -> None:
        if request.config.getoption("--update-golden"):
            path.write_text(text, encoding="utf-8")
        expected = path.read_text(encoding="utf-8") if path.exists() else ""
        assert text == expected, f"{path} differs; run pytest --update-golden and read the diff"

    return compare


@pytest.fixture
def tiny_spec() -> Path:
    """The spec of a model of two small decoders."""
    return Path(__file__).parent / "data" / "tiny.yaml"
