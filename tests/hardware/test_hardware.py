from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from ttc.errors import SpecError, UsageError
from ttc.hardware.chips import Chip, Grid, load_chip
from ttc.hardware.hardware import (
    load_mesh,
    mesh_names,
    shipped_mesh_names,
    with_wires,
)

pytestmark = pytest.mark.fast

type Lab = Callable[..., None]


def test_the_meshes_of_tt_transformers_are_known() -> None:
    expected = "N150 N300 N150x4 T3K TG P100 P150 P300 P150x4 P150x8 BHGLX"
    assert mesh_names() == tuple(expected.split())


def test_n150() -> None:
    mesh = load_mesh("N150")
    chip = mesh.chip
    assert (mesh.rows, mesh.cols, mesh.fabric, mesh.topology) == (1, 1, "none", "none")
    assert (chip.arch, chip.grid, chip.grid.cores) == ("wormhole_b0", Grid(x=8, y=8), 64)
    assert (chip.dram_banks, chip.dram_bytes) == (12, 12 * 1072693184)
    assert (chip.l1_bytes_per_core, chip.harvest.tensix) == (1393312, 0x40)
    assert mesh.cluster.boards == ((0,),)
    assert mesh.cluster.coordinates == ((0, 0),)


def test_p150() -> None:
    chip = load_mesh("P150").chip
    assert (chip.arch, str(chip.grid), chip.dram_banks) == ("blackhole", "11x10", 8)
    assert chip.dram_bytes == 8 * 4277141376


def test_a_chip_overrides_its_family() -> None:
    assert load_chip("blackhole_p100").dram_banks == 7
    assert load_chip("blackhole_p100").tile == load_chip("blackhole_p150").tile == 32


@pytest.mark.parametrize("name", mesh_names())
def test_every_mesh_is_consistent(name: str) -> None:
    mesh = load_mesh(name)
    cluster = mesh.cluster
    chips = sorted(chip for board in cluster.boards for chip in board)
    assert chips == list(range(cluster.chips))
    assert mesh.devices == cluster.chips
    assert set(cluster.host_chips) <= set(chips)
    assert {end for wire in cluster.wiring for end in (wire.a, wire.b)} <= set(chips)
    assert (mesh.devices == 1) == (mesh.fabric == "none") == (not cluster.wiring)
    if cluster.grid:
        assert cluster.grid[0] * cluster.grid[1] == cluster.chips
    if cluster.coordinates:
        assert len(set(cluster.coordinates)) == cluster.chips
    pcie = len(mesh.chip.harvest.pcie)
    assert pcie in (1, len(cluster.boards[0]))


@pytest.mark.parametrize("name", mesh_names())
def test_every_number_has_a_source(name: str) -> None:
    chip = load_mesh(name).chip
    numbers = {
        each.name for each in fields(Chip) if isinstance(getattr(chip, each.name), int | float)
    }
    assert chip.sources.keys() == numbers | {"grid", "harvest"}


def test_a_shape_selects_a_part_of_a_mesh() -> None:
    whole, other, part, single = (load_mesh(f"T3K{each}") for each in ("", ":2x4", ":1x4", ":1x1"))
    assert (whole.rows, whole.cols, whole.topology) == (1, 8, "ring")
    assert (other.name, other.rows, other.cols, other.topology) == ("T3K:2x4", 2, 4, "ring")
    assert (part.devices, part.topology, part.fabric) == (4, "linear", "FABRIC_1D")
    assert (single.devices, single.topology, single.fabric, single.links) == (
        1,
        "none",
        "none",
        (0, 0),
    )
    assert part.cluster == whole.cluster
    assert part.chip == whole.chip


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("n150", "there is no mesh 'n150'", "did you mean 'N150'?"),
        ("t3k", "there is no mesh 't3k'", "did you mean 'T3K'?"),
        ("P105:1x1", "there is no mesh 'P105'", "did you mean 'P150'?"),
        ("H100", "there is no mesh 'H100'", "did you mean 'P100'?"),
        ("xyz", "there is no mesh 'xyz'", "valid choices are BHGLX, N150,"),
        ("N300:3x1", "mesh N300 cannot be opened as '3x1'", "valid shapes are N300:1x2, N300:2x1"),
        ("N150:", "mesh N150 cannot be opened as ''", "valid shapes are N150:1x1"),
        ("N150:one", "mesh N150 cannot be opened as 'one'", "valid shapes are N150:1x1"),
    ],
)
def test_an_unknown_mesh_names_a_valid_one(name: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as raised:
        load_mesh(name)
    (problem,) = raised.value.problems
    assert problem.message == message
    assert problem.help.startswith(hint)


def test_a_grid_closes_into_a_torus() -> None:
    torus, open_grid = load_mesh("TG").cluster, load_mesh("BHGLX").cluster
    assert torus.wrap
    assert len(torus.wiring) == 2 * 32
    assert not open_grid.wrap
    assert len(open_grid.wiring) == 8 * 3 + 7 * 4


DOC = Path(__file__).parents[2] / "docs" / "adding-a-mesh.md"


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """The working directory of a user whose mesh is the example of the documentation."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "meshes").mkdir()
    (_, example, *_) = DOC.read_text().split("```")
    text = example.removeprefix("yaml\n")

    def write(old: str = "", new: str = "") -> None:
        assert old in text
        (tmp_path / "meshes" / "lab.yaml").write_text(text.replace(old, new, 1) if old else text)

    return write


def test_a_new_mesh_is_one_entry(lab: Lab) -> None:
    lab()
    assert mesh_names()[-1] == "LAB"
    mesh = load_mesh("LAB")
    assert (mesh.rows, mesh.cols, mesh.links, str(mesh.chip.grid)) == (1, 2, (2, 2), "13x10")
    assert load_mesh("LAB:2x1").rows == 2
    assert load_mesh("N150").chip.name == "wormhole_n150"
    assert "LAB" not in shipped_mesh_names()


@pytest.mark.parametrize(
    ("old", "new", "message", "line"),
    [
        ("topology: linear", "topology: ring", "the wires do not close into a ring", 9),
        ("{axis0: 2, axis1: 2", "{axis0: 3, axis1: 2", "3 links between neighbours do not", 10),
        ("[[0, 1, 2]]", "[[0, 2, 2]]", "a wire goes to chip 2", 12),
        ("[1x2, 2x1", "[1x2, 1x4", "the shape 1x4 has more than the 2 chips of the first", 7),
        ("blackhole_13x10", "blackhole_13x11", "there is no chip 'blackhole_13x11'", 6),
        ("LAB:", "N300:", "there is a mesh 'N300' already", 5),
        ("chip:", "chips:", "unknown field 'chips'", 6),
    ],
)
def test_what_a_mesh_cannot_be_is_told_at_its_line(
    lab: Lab, old: str, new: str, message: str, line: int
) -> None:
    lab(old, new)
    with pytest.raises(SpecError) as raised:
        load_mesh("N150")
    problem = next(each for each in raised.value.problems if message in each.message)
    assert problem.at is not None
    assert (problem.at.path, problem.at.line) == ("meshes/lab.yaml", line)


def test_a_mesh_can_be_used_with_less_than_its_wires() -> None:
    mesh = load_mesh("P150x8")
    assert with_wires(mesh) == mesh
    used = with_wires(mesh, topology="line", links=1)
    assert (used.topology, used.links) == ("linear", (1, 1))
    assert with_wires(mesh, topology="ring", links=2) == mesh
    assert with_wires(load_mesh("N150"), topology="line").topology == "none"
