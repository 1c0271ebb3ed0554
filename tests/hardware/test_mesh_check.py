"""What a user's mesh cannot be is refused at its place, with what to write instead."""

from pathlib import Path

import pytest

from ttc.errors import Problem, SpecError
from ttc.hardware.hardware import SHIPPED, load_mesh, read_meshes

pytestmark = pytest.mark.fast

LAB = {
    "chip": "blackhole_13x10",
    "shapes": "[1x2, 2x1, 1x1]",
    "fabric": "FABRIC_1D",
    "topology": "linear",
    "links": "{axis0: 2, axis1: 2, source: desk}",
    "boards": "{type: p150, chips_per_board: 1}",
    "wiring": "{pairs: [[0, 1, 2]], source: desk}",
}
RING = {"topology": "ring", "fabric": "FABRIC_1D_RING"}
TORUS = {"topology": "ring", "fabric": "FABRIC_2D_TORUS_XY"}
SINGLE = {"shapes": "[1x1]", "fabric": "none", "topology": "none"}
N300 = {
    "chip": "wormhole_n300",
    "boards": "{type: n300, chips: [[1, 0]]}",
    "coordinates": "[[1, 0], [0, 0]]",
}
NO_LINKS = "{axis0: 0, axis1: 0, source: desk}"


def write(folder: Path, changes: dict[str, str], name: str = "LAB") -> Path:
    """An entry that is right but for the changes; an empty text leaves a field out."""
    fields = {key: each for key, each in (LAB | changes).items() if each}
    lines = ["sources: {desk: the cable on the desk}", "meshes:", f"  {name}:"]
    lines += [f"    {key}: {each}" for key, each in fields.items()]
    path = folder / "lab.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


def refused(path: Path) -> list[Problem]:
    with pytest.raises(SpecError) as raised:
        read_meshes(path, shown="meshes/lab.yaml")
    return list(raised.value.problems)


def boards(text: str) -> dict[str, str]:
    return {"boards": f"{{{text}}}"}


def pairs(text: str, **changes: str) -> dict[str, str]:
    return {"wiring": f"{{pairs: {text}, source: desk}}", **changes}


def grid(text: str, **changes: str) -> dict[str, str]:
    return {"wiring": f"{{grid: {text}, source: desk}}", **changes}


TRIANGLES = "[[0,1,2],[1,2,2],[2,0,2],[3,4,2],[4,5,2],[5,3,2]]"
JOINED = TRIANGLES.replace("]]", "],[0,3,2]]")
TWO_AND_THREE = "[[0,2,2],[0,3,2],[0,4,2],[1,2,2],[1,3,2],[1,4,2]]"
STAR = "[[0,1,2],[0,2,2],[0,3,2],[0,4,2]]"

WRONG = [  # changes, message, what the carets stand under, note or help
    # links
    (
        {"links": "{axis0: 2, axis1: 0, source: desk}"},
        "neighbours along axis 1 have no",
        "0,",
        "1x2",
    ),
    ({"links": NO_LINKS}, "neighbours along axis 0 have no links", "0, axis1", "write 1 to 2"),
    (
        {"links": NO_LINKS, "wiring": ""},
        "the wires between the 2 chips are missing",
        "LAB",
        "pairs",
    ),
    (pairs("[]", links=NO_LINKS), "no wires lead from chip 0 to chip 1", "[]", "add the missing"),
    (pairs("[[0, 1, 0]]", links=NO_LINKS), "a wire of 0 links is none", "0]]", "how many"),
    ({**SINGLE, "wiring": ""}, "2 links between neighbours do not exist", "2, axis1", "write 0"),
    ({"links": "{axis0: 2, axis1: 2, source: dsk}"}, "there is no source 'dsk'", "dsk", "'desk'"),
    ({"wiring": "{pairs: [[0, 1, 2]], source: d}"}, "there is no source 'd'", "d}", "sources:"),
    (
        pairs("[[0,1,2],[1,2,1]]", shapes="[1x3]"),
        "not all neighbours in 1x3 have so many links",
        "{axis0",
        "1 at most",
    ),
    # boards
    (boards("type: foo"), "there is no board of type 'foo'", "foo", "p150"),
    (boards("type: p105"), "there is no board of type 'p105'", "p105", "did you mean 'p150'?"),
    (boards("type: n150"), "a board of type n150 carries wormhole_b0 chips", "n150", "p150"),
    (boards("type: p150, chips: [[0], [5]]"), "there is no chip 5", "5]", "the chips are 0 to 1"),
    (boards("type: p150, chips: [[0], [0]]"), "chip 0 stands on a board already", "0]]", "once"),
    (boards("type: p150, chips: [[0]]"), "chip 1 stands on no board", "chips", "every chip once"),
    (boards("type: p150, chips: []"), "'chips' must have at least 1 items", "[]", "got 0"),
    (boards("type: p150, chips: [[], [0, 1]]"), "a board of type p150 has 1 chip", "[]", "got 0"),
    (
        boards("type: p150, chips: [[0], [1]], chips_per_board: 1"),
        "'chips' and 'chips_per_board' exclude each other",
        "chips_per_board",
        "keep one of them",
    ),
    (
        boards("type: p150, chips_per_board: 3"),
        "a board of type p150 has no 3 chips",
        "3",
        "write 1",
    ),
    (
        boards("type: p300") | grid("[1, 3], links: 2", shapes="[1x3]"),
        "3 chips do not fill boards",
        "p300",
        "whole boards",
    ),
    (boards("type: p150, host_chips: [7]"), "there is no chip 7", "7", "0 to 1"),
    (boards("type: p150, host_chips: [0, 0]"), "chip 0 is named already", "0]", "once"),
    (boards("type: p150, host_chips: []"), "'host_chips' must have at least 1", "[]", "got 0"),
    (
        boards("type: p150, host_chips: [0]"),
        "the board of chip 1 has 0 chips with a PCIe link",
        "[0]",
        "leave 'host_chips' out",
    ),
    # wiring
    ({"wiring": "{source: desk}"}, "the field 'pairs' or 'grid' is missing", "wiring", "grid: ["),
    (grid("[1, 2]"), "the field 'links' is missing", "wiring", "add 'links:'"),
    (grid("[1, 3], links: 2"), "a grid of 1 x 3 has 3 chips", "[1, 3]", "the first shape has 2"),
    (grid("[1, 2], links: 2, pairs: [[0, 1, 2]]"), "'pairs' and 'grid' exclude", "grid", "one of"),
    (pairs("[[0, 1, 2]], wrap: true"), "'wrap' belongs to a grid", "wrap", "remove it"),
    (pairs("[[0, 0, 2]]"), "a wire goes from chip 0 to itself", "[0, 0", "remove it"),
    (pairs("[[0, 1, 1], [1, 0, 1]]"), "chips 1 and 0 are wired already", "[1, 0", "all links"),
    (pairs("[[0, 1, 13]]"), "13 links end at chip 0", "[[0", "a blackhole_13x10 has 12"),
    (pairs("[[0, 1, 999999999999]]"), "999999999999 links end at chip 0", "[[0", "has 12"),
    (pairs("[[0, 1, 2]]", shapes="[1x3]"), "no wires lead from chip 0 to chip 2", "[[0", "missing"),
    ({"wiring": "", "shapes": "[1x3]"}, "the wires between the 3 chips are missing", "LAB", "add"),
    # fabric and topology
    ({"fabric": "none"}, "2 chips need a fabric", "none", "write FABRIC_1D"),
    ({"topology": "none"}, "2 chips need a topology", "none", "write linear"),
    ({"topology": "ring"}, "FABRIC_1D does not pass messages round", "FABRIC", "FABRIC_1D_RING"),
    ({"fabric": "FABRIC_1D_RING"}, "FABRIC_1D_RING needs a ring", "FABRIC", "write FABRIC_1D,"),
    (RING, "the wires do not close into a ring", "ring", "a ring needs 2"),
    (
        {**SINGLE, "wiring": "", "links": NO_LINKS, "fabric": "FABRIC_1D"},
        "a single chip has no neighbours",
        "FABRIC_1D",
        "write none",
    ),
    # coordinates
    ({"coordinates": "[[0, 0]]"}, "there are 1 coordinates of 2 chips", "[[0", "write 2"),
    (N300 | {"coordinates": ""}, "the field 'coordinates' is missing", "LAB", "PCIe link"),
    (
        {"chip": "wormhole_n150"} | boards("type: n150") | grid("[1, 3], links: 2", shapes="[1x3]"),
        "ttnn opens no machine of 1 x 3",
        "1x3",
        "must be even",
    ),
    ({"coordinates": "[[0, 0], [0, 0]]"}, "two chips have the same", "[0, 0]]", "first at"),
    # shapes
    ({"shapes": "[1x1000000000000]"}, "item 1 of 'shapes' is not valid", "1x1", "1 to 9999"),
    ({"shapes": "[9999x9999]"}, "a mesh of 99980001 chips", "9999x", "the most is 256"),
    (grid("[9999, 9999], links: 2"), "a grid of 9999 x 9999 has 99980001", "[9999", "has 2"),
    ({"shapes": "[0x2]"}, "item 1 of 'shapes' is not valid", "0x2", "1 to 9999 of each"),
    ({"shapes": "['0x2']"}, "item 1 of 'shapes' is not valid", "'0x2'", "1 to 9999 of each"),
    (
        grid("[1, 8], links: 2", shapes="[1x8, 2x2]"),
        "2x2 is no part of a shape of all chips",
        "2x2",
        "add a shape of 8 chips",
    ),
    # layouts
    (pairs(TRIANGLES, shapes="[1x6]"), "no wires lead from chip 0 to chip 3", "[[0", "missing"),
    (pairs(JOINED, shapes="[1x6]", **RING), "the wires do not close into a ring", "ring", "1x6"),
    (pairs(TWO_AND_THREE, shapes="[1x5]", **RING), "the wires do not close", "ring", "1x5"),
    (pairs(STAR, shapes="[1x5]"), "no way was found to lay out the chips as 1x5", "1x5", "wired"),
    (
        grid("[3, 3], links: 2", shapes="[3x3, 1x9]", **RING),
        "the wires do not close",
        "ring",
        "1x9",
    ),
    (grid("[3, 3], links: 2", shapes="[3x3]", **RING), "the wires do not close", "ring", "3x3"),
    (grid("[4, 4], links: 2", shapes="[4x4, 2x8]"), "no way was found", "2x8", "remove the shape"),
    (
        grid(
            "[4, 4], links: 2", shapes="[4x4, 1x16]", topology="ring", fabric="FABRIC_2D_TORUS_XY"
        ),
        "the wires do not close into a ring",
        "ring",
        "4x4",
    ),
]


@pytest.mark.parametrize(("changes", "message", "under", "more"), WRONG)
def test_what_a_mesh_cannot_be_is_told_at_its_place(
    tmp_path: Path, changes: dict[str, str], message: str, under: str, more: str
) -> None:
    problems = refused(write(tmp_path, changes))
    problem = next((each for each in problems if message in each.message), None)
    assert problem is not None, [each.message for each in problems]
    assert problem.at is not None
    assert problem.at.path == "meshes/lab.yaml"
    assert problem.at.text[problem.at.column - 1 :].startswith(under), str(problem)
    assert more in "\n".join((problem.note, *problem.details, problem.help)), str(problem)


@pytest.mark.parametrize("name", ["all", '""', '"a b"', "a/b", '"a:1x1"', ".hidden", "-x"])
def test_a_mesh_needs_a_name_that_can_be_typed(tmp_path: Path, name: str) -> None:
    (problem,) = refused(write(tmp_path, {}, name))
    assert problem.at is not None
    assert (problem.at.line, problem.at.column) == (3, 3)
    assert "letters, digits" in problem.details[0]


RIGHT = [
    {},
    boards("type: p150"),
    boards("type: p150, chips: [[1], [0]], host_chips: [1, 0]"),
    boards("type: p300, chips: [[0, 1]]"),
    {**SINGLE, "wiring": "", "links": NO_LINKS},
    {"shapes": "[1x2]", "links": "{axis0: 0, axis1: 2, source: desk}"},
    grid("[1, 3], links: 2", shapes="[1x3, 2x1]"),
    grid("[3, 3], links: 2", shapes="[3x3, 1x9, 2x2]"),
    grid("[2, 3], links: 2", shapes="[1x6, 3x2]", **RING),
    grid("[4, 4], links: 2, wrap: true", shapes="[4x4, 1x16]", **RING),
    pairs("[[0,1,2],[1,2,2],[2,0,2]]", shapes="[1x3]", **RING),
    {"coordinates": "[[0, 0], [1, 0]]"},
    N300,
]


@pytest.mark.parametrize("changes", RIGHT)
def test_what_a_mesh_can_be_is_accepted(tmp_path: Path, changes: dict[str, str]) -> None:
    for name in ("LAB", "150", "lab-2.b_c"):
        assert read_meshes(write(tmp_path, changes, name)) == (name,)


def test_the_meshes_that_everyone_has_are_right() -> None:
    assert "TG" in read_meshes(SHIPPED)


def test_host_chips_are_those_of_the_type_of_board(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "meshes").mkdir()
    write(tmp_path / "meshes", N300)
    assert load_mesh("LAB").cluster.host_chips == (1,)
