"""docs/models.md is what `ttc check --table` prints; a row of each kind is planned again here."""

from pathlib import Path

import pytest

from ttc.hardware.hardware import mesh_names
from ttc.spec.model import load_model
from ttc.table import Row, family_table, row_line, shipped_specs, support_page, support_rows

pytestmark = pytest.mark.fast

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "models.md").read_text()
ROWS = [line for line in PAGE.splitlines() if line.startswith("| [")]
STALE = "docs/models.md is stale: run `ttc check --table > docs/models.md`"


def test_every_spec_has_its_row() -> None:
    assert len(ROWS) == len(shipped_specs()), STALE
    for name, line in zip(shipped_specs(), ROWS, strict=True):
        expected = row_line(Row(spec=load_model(name), contexts={})).split(" | ")[:3]
        assert line.split(" | ")[:3] == expected, STALE


def test_the_page_around_the_rows() -> None:
    page = support_page([])
    assert PAGE.startswith(page), STALE
    assert all(f" {mesh} " in page for mesh in mesh_names())


def test_the_readme_has_the_families() -> None:
    assert family_table() in (ROOT / "README.md").read_text(), "copy the table of docs/models.md"


@pytest.mark.parametrize("name", ["llama-3.1-8b-instruct"])
def test_a_row_is_what_is_planned_now(name: str) -> None:
    (row,) = support_rows([name])
    assert row_line(row) in ROWS, STALE
    assert row.smallest_mesh == "N150"


def test_variants_are_planned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    planned: list[str] = []

    def contexts(spec: str, _precision: str) -> dict[str, int]:
        planned.append(spec)
        return {"N150": 1024, "T3K": 131072}

    monkeypatch.setattr("ttc.table._contexts", contexts)
    first, second, other = support_rows(
        ["llama-3.1-8b-instruct", "selene-1-mini-llama-3.1-8b", "llama-3.2-1b-instruct"]
    )
    assert planned == ["llama-3.1-8b-instruct", "llama-3.2-1b-instruct"]
    assert first.contexts == second.contexts == other.contexts
    cells = row_line(first).split(" | ")
    assert cells[3:5] == ["N150", "1"]
    assert "**128**" in cells, "all that the model can do is bold"
