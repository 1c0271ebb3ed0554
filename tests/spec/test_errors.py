"""Golden error texts: `errors/NAME.yaml` gives `errors/NAME.txt`.

The first line of each YAML file says at which line:column its errors are; the texts are rewritten
by `pytest --update-golden`.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from ttc.spec.check import check_file

pytestmark = pytest.mark.fast

CASES = sorted((Path(__file__).parent / "errors").glob("*.yaml"))


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_error_text(path: Path, golden: Callable[[Path, str], None]) -> None:
    problems = check_file(path).problems
    places = [f"{each.at.line}:{each.at.column}" for each in problems if each.at]
    assert f"# errors at {', '.join(places)}" == path.read_text().splitlines()[0]
    golden(path.with_suffix(".txt"), "\n\n".join(map(str, problems)) + "\n")


def test_every_text_has_its_case() -> None:
    texts = {path.stem for path in CASES[0].parent.glob("*.txt")}
    assert texts == {path.stem for path in CASES}
