"""Whatever is done to a valid file, loading it works or raises a SpecError with a place."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ttc.errors import SpecError
from ttc.spec import library
from ttc.spec.architecture import load_architecture
from ttc.spec.model import load_model
from ttc.spec.precision import load_profile

pytestmark = pytest.mark.fast

ROOT = library.shipped(library.SPECS).parent
FILES: dict[str, Callable[[Path], object]] = {
    "specs/llama-3.1-8b-instruct.yaml": load_model,
    "architectures/llama.yaml": load_architecture,
    "precision_profiles/performance.yaml": load_profile,
}
ODD = [None, True, -1, 0, 3, 2.5, "", "x", "1e-5", "wq", [], ["a", "a"], {}, {"a": 1}, [[{}]]]


def paths(data: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in a nested structure."""
    children = data.items() if isinstance(data, dict) else enumerate(data)
    found: list[tuple[Any, ...]] = []
    for key, child in children:
        found.append((*prefix, key))
        if isinstance(child, dict | list):
            found += paths(child, (*prefix, key))
    return found


@st.composite
def mutated(draw: st.DrawFn, data: Any) -> str:
    """A structure in which one or two values were deleted, renamed or replaced."""
    for _ in range(draw(st.integers(1, 2))):
        *parents, key = draw(st.sampled_from(paths(data)))
        owner = data
        for parent in parents:
            owner = owner[parent]
        action = draw(st.sampled_from(["delete", "rename", "replace"]))
        if action == "rename" and isinstance(owner, dict):
            owner[draw(st.sampled_from([f"{key}x", str(key)[:-1], "other"]))] = owner.pop(key)
        elif action == "replace":
            owner[key] = deepcopy(draw(st.sampled_from(ODD)))
        else:
            del owner[key]
    return yaml.safe_dump(data, sort_keys=False)


def check(name: str, text: str) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / Path(name).name
        path.write_text(text, encoding="utf-8", newline="")
        try:
            FILES[name](path)
        except SpecError as error:
            for problem in error.problems:
                assert problem.at is not None
                assert problem.message
                assert problem.at.path.endswith(path.name)
                assert problem.at.line >= 1
                assert problem.at.column >= 1
                assert problem.at.width >= 1


@pytest.mark.parametrize("name", FILES)
def test_a_field_deleted_renamed_or_replaced(name: str) -> None:
    text = (ROOT / name).read_text()

    @settings(max_examples=25, deadline=None, derandomize=True)
    @given(data=st.data())
    def run(data: st.DataObject) -> None:
        check(name, data.draw(mutated(yaml.safe_load(text))))

    run()


@pytest.mark.parametrize("name", FILES)
def test_characters_inserted_or_deleted(name: str) -> None:
    text = (ROOT / name).read_text()

    @settings(max_examples=25, deadline=None, derandomize=True)
    @given(
        at=st.integers(0, len(text)),
        cut=st.integers(0, 12),
        put=st.text(alphabet="{}[]:,-#&*!|>'\"%@`\t\n\r \x00\x85a1.~?", max_size=3),
    )
    def run(at: int, cut: int, put: str) -> None:
        check(name, text[:at] + put + text[at + cut :])

    run()
