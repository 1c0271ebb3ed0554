"""Options and fixtures shared by all tests."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

# Torch's threads spin while they wait, which slows everything else on a small machine down.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

type Golden = Callable[[Path, str], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite the golden files with what came out"
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """`-m fast` does not even import the modules of other tiers: they load torch and ttnn."""
    if config.option.markexpr != "fast" or not collection_path.name.startswith("test_"):
        return None
    return "mark.fast" not in collection_path.read_text(encoding="utf-8") or None


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
