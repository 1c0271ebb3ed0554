"""How meshes are cut into replicas, and which of those close into a ring."""

from pathlib import Path

import pytest

from ttc.errors import PlanError, SpecError
from ttc.hardware.hardware import load_mesh
from ttc.plan.degree import choose_division
from ttc.spec.model import find_spec, load_model

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("mesh", "tp", "dp", "shape", "axis", "topology"),
    [
        ("N150", 1, 1, (1, 1), 1, "none"),
        ("N300", 2, 1, (1, 2), 1, "line"),
        ("N300:2x1", 2, 1, (2, 1), 0, "line"),
        ("N150x4", 4, 1, (1, 4), 1, "line"),
        ("T3K", 8, 1, (1, 8), 1, "ring"),
        ("T3K:2x4", 4, 2, (1, 4), 1, "line"),
        ("TG", 8, 4, (8, 1), 0, "ring"),
        ("TG:4x8", 8, 4, (1, 8), 1, "ring"),
        ("BHGLX", 8, 4, (8, 1), 0, "line"),
        ("P150x4", 4, 1, (1, 4), 1, "ring"),
        ("P150x8:2x4", 4, 2, (1, 4), 1, "line"),
    ],
)
def test_the_longer_axis_works_on_one_user(
    mesh: str, tp: int, dp: int, shape: tuple[int, int], axis: int, topology: str
) -> None:
    division, _ = choose_division(load_mesh(mesh), None)
    assert (division.tp, division.dp, division.shape) == (tp, dp, shape)
    assert (division.axis, division.topology) == (axis, topology)
    assert division.tp * division.dp == load_mesh(mesh).devices


def test_a_degree_can_be_asked_for() -> None:
    division, choice = choose_division(load_mesh("TG"), 4)
    assert (division.shape, division.dp, division.axis) == ((1, 4), 8, 1)
    assert [name for name, _ in choice.alternatives] == ["8", "4", "2", "1"]
    assert dict(choice.alternatives)["1"] == "32 replicas of 1x1 chips"


def test_a_part_of_a_ring_is_a_line() -> None:
    division, _ = choose_division(load_mesh("T3K"), 4)
    assert (division.shape, division.topology) == ((1, 4), "line")


def test_a_degree_that_the_mesh_does_not_have() -> None:
    with pytest.raises(PlanError, match="replicas of 3 chips") as refused:
        choose_division(load_mesh("T3K"), 3)
    assert "tp can be 1, 2, 4, 8" in str(refused.value)


def test_a_degree_of_a_spec_is_told_at_its_place(tmp_path: Path) -> None:
    text = find_spec("smollm2-135m-instruct").read_text()
    path = tmp_path / "tiny.yaml"
    path.write_text(text + "parallel: {T3K: {tp: 3}}\n")
    with pytest.raises(SpecError, match="cannot be cut into replicas of 3 chips") as caught:
        load_model(path)
    assert str(caught.value.problems[0].at) == f"{path}:{text.count(chr(10)) + 1}:22"


def test_an_odd_row_of_chips_is_no_replica(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ttnn's all_reduce_async adds over an even number of chips."""
    (tmp_path / "meshes").mkdir()
    (tmp_path / "meshes" / "lab.yaml").write_text(
        "sources: {desk: a desk}\nmeshes:\n  NINE:\n    chip: blackhole_p150\n"
        "    shapes: [3x3, 2x3, 1x1]\n    fabric: FABRIC_1D\n    topology: linear\n"
        "    links: {axis0: 2, axis1: 2, source: desk}\n    boards: {type: p150}\n"
        "    wiring: {grid: [3, 3], links: 2, source: desk}\n"
    )
    monkeypatch.chdir(tmp_path)
    division, _ = choose_division(load_mesh("NINE"), None)
    assert (division.tp, division.dp, division.shape) == (1, 9, (1, 1))
    assert choose_division(load_mesh("NINE:2x3"), None)[0].shape == (2, 1)
    with pytest.raises(PlanError, match="even number of chips") as refused:
        choose_division(load_mesh("NINE"), 3)
    assert refused.value.problems[0].help == "tp can be 1"
