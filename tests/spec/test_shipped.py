"""What comes with ttc: every YAML file is valid and as short as a port should be."""

from pathlib import Path

import pytest

from ttc.spec import library
from ttc.spec.check import check_all, check_file

pytestmark = pytest.mark.fast

ROOT = library.shipped(library.SPECS).parent
FILES = {check.path: check for check in check_all(ROOT)}
LONGEST = {library.SPECS: 25, library.ARCHITECTURES: 60, library.PROFILES: 40}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_shipped_file_is_valid_and_short(path: Path) -> None:
    assert not FILES[path].problems, "\n\n".join(map(str, FILES[path].problems))
    folder = path.parent.name
    assert FILES[path].kind.replace(" ", "_") + "s" == folder
    lines = path.read_text().splitlines()
    assert len(lines) <= LONGEST[folder]
    schema = lines[0].removeprefix("# yaml-language-server: $schema=")
    assert (path.parent / schema).is_file(), "the first line names the schema for editors"


def test_the_kind_is_told_by_the_fields_wherever_the_file_is(tmp_path: Path) -> None:
    for path, check in FILES.items():
        copy = tmp_path / path.name
        copy.write_text(path.read_text())
        assert check_file(copy).kind == check.kind


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    (problem,) = check_file(tmp_path / "none.yaml").problems
    assert problem.message.startswith("there is no file")
