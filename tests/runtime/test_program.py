"""Loading an emitted module: which `ttnn` it sees, and that nothing is left behind."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

from ttc.errors import ArtefactError
from ttc.runtime.program import load_program, ttnn_answers_with

pytestmark = pytest.mark.fast

SOURCE = """
import ttnn

BATCH = 1
NAME = ttnn.name


def decode():
    return ttnn.name
"""


def backend(name: str) -> ModuleType:
    module = ModuleType(name)
    module.__dict__["name"] = name
    return module


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "model.py"
    file.write_text(SOURCE)
    return file


def test_two_copies_live_side_by_side(path: Path) -> None:
    first = load_program(path, backend("first"))
    second = load_program(path, backend("second"))
    assert (first.decode(), second.decode(), first.decode()) == ("first", "second", "first")


def test_the_name_is_restored(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ttnn", raising=False)
    load_program(path, backend("first"))
    assert "ttnn" not in sys.modules
    real = backend("real")
    monkeypatch.setitem(sys.modules, "ttnn", real)
    load_program(path, backend("first"))
    assert sys.modules["ttnn"] is real


def test_the_name_is_restored_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    real = backend("real")
    monkeypatch.setitem(sys.modules, "ttnn", real)
    with pytest.raises(ZeroDivisionError), ttnn_answers_with(backend("first")):
        raise ZeroDivisionError
    assert sys.modules["ttnn"] is real


def test_nothing_is_written_or_registered(path: Path) -> None:
    before = set(sys.modules)
    load_program(path, backend("first"))
    assert list(path.parent.iterdir()) == [path]
    assert "model" not in set(sys.modules) - before


@pytest.mark.parametrize("text", [None, "def broken(:\n"])
def test_an_unreadable_program_is_the_users_error(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "model.py"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ArtefactError, match="cannot read the program"):
        load_program(file, backend("first"))
