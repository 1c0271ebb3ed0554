"""The real ttnn on mocks of machines that nobody sells, from the entries that a user writes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ttc.compiler import compile_model
from ttc.errors import UsageError
from ttc.hardware.hardware import load_mesh
from ttc.spec.model import Dims, load_model
from ttc.spec.precision import load_profile
from ttc.verify.mock_mesh import MockHost
from ttc.verify.mock_program import verify_program

pytestmark = pytest.mark.mock

TINY = Path(__file__).parents[1] / "data" / "tiny.yaml"
SIZES = Dims(
    hidden=576,
    layers=1,
    heads=9,
    kv_heads=3,
    head_dim=64,
    rotary_dim=64,
    ffn=1536,
    vocab=49152,
)

ENTRY = """
    fabric: {fabric}
    topology: {topology}
    links: {{axis0: 1, axis1: 1, source: desk}}
"""
LINE = ENTRY.format(fabric="FABRIC_1D", topology="linear")
RING = ENTRY.format(fabric="FABRIC_1D_RING", topology="ring")
MESHES = f"""
sources: {{desk: cables on a desk}}
meshes:
  ROW:
    chip: blackhole_p150
    shapes: [1x3, 3x1, 2x1, 1x1]{LINE}
    boards: {{type: p150}}
    wiring: {{grid: [1, 3], links: 2, source: desk}}
  SQUARE:
    chip: blackhole_p150
    shapes: [3x3, 1x9, 2x3, 1x4]{LINE}
    boards: {{type: p150}}
    wiring: {{grid: [3, 3], links: 2, source: desk}}
  SIX:
    chip: blackhole_p150
    shapes: [1x6, 3x2, 2x2]{RING}
    boards: {{type: p150}}
    wiring: {{grid: [2, 3], links: 2, source: desk}}
  TORUS:
    chip: blackhole_p150
    shapes: [4x4, 1x16, 1x4]{RING}
    boards: {{type: p150}}
    wiring: {{grid: [4, 4], links: 2, wrap: true, source: desk}}
  PAIRS:
    chip: wormhole_n300
    shapes: [2x3, 1x6]{LINE}
    boards: {{type: n300, chips: [[0, 3], [1, 4], [2, 5]]}}
    coordinates: [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    wiring: {{grid: [2, 3], links: 2, source: desk}}
  CARD:
    chip: blackhole_p300
    shapes: [1x2]{LINE}
    boards: {{type: p300}}
    wiring: {{grid: [1, 2], links: 4, source: desk}}
  WRONG:
    chip: wormhole_n300
    shapes: [1x2]{LINE}
    boards: {{type: n300}}
    coordinates: [[0, 0], [1, 0]]
    wiring: {{pairs: [[0, 1, 9]], source: desk}}
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meshes").mkdir()
    (tmp_path / "meshes" / "desk.yaml").write_text(MESHES)
    monkeypatch.chdir(tmp_path)


def chips_of(_ttnn: Any, device: Any) -> list[int]:
    return list(device.get_device_ids())


@pytest.mark.parametrize(
    "name",
    [
        "ROW",
        "ROW:3x1",
        "ROW:2x1",
        "ROW:1x1",
        "SQUARE",
        "SQUARE:1x9",
        "SQUARE:2x3",
        "SQUARE:1x4",
        "SIX",
        "SIX:3x2",
        "SIX:2x2",
        "TORUS",
        "TORUS:1x16",
        "TORUS:1x4",
        "PAIRS",
        "PAIRS:1x6",
        "CARD",
    ],
)
def test_a_machine_that_ttnn_does_not_know_opens_in_every_shape(
    mock_host: MockHost, name: str
) -> None:
    mesh = load_mesh(name)
    assert not mesh.known_to_ttnn
    assert len(set(mock_host.run(mesh, chips_of))) == mesh.devices


@pytest.mark.parametrize("name", ["ROW", "SIX"])
def test_a_program_runs_on_it(mock_host: MockHost, tmp_path: Path, name: str) -> None:
    """On three chips as three replicas: ttnn adds up over an even number of chips only."""
    spec, mesh = replace(load_model(TINY), dims=SIZES), load_mesh(name)
    compiled = compile_model(spec, mesh, load_profile("performance"), context=128)
    program = tmp_path / "model.py"
    program.write_text(compiled.module)
    assert verify_program(program, mesh, host=mock_host).findings == ()


def test_a_mesh_that_ttnn_does_not_open_is_told_as_such(mock_host: MockHost) -> None:
    with pytest.raises(UsageError, match="ttnn opens no mock of WRONG") as refused:
        mock_host.run(load_mesh("WRONG"), chips_of)
    assert "--backend emulate" in refused.value.problems[0].help
