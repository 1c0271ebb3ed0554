"""Choosing and opening a backend; a device that is not the mesh asked for is refused."""

import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from ttc.errors import UsageError
from ttc.hardware.descriptor import MESH_GRAPH_VARIABLE
from ttc.hardware.hardware import load_mesh
from ttc.runtime import backends
from ttc.runtime.backends import choose_backend, open_backend

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("choice", "simulator", "card", "expected"),
    [
        ("auto", False, False, "emulate"),
        ("auto", False, True, "device"),
        ("auto", True, False, "device"),
        ("emulate", True, True, "emulate"),
        ("device", False, False, "device"),
    ],
)
def test_the_choice(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    choice: str,
    simulator: bool,
    card: bool,
    expected: str,
) -> None:
    monkeypatch.setattr(backends, "DEVICE_FILES", tmp_path if card else tmp_path / "none")
    name, why = choose_backend(choice, simulator=simulator)
    assert name == expected
    assert why


@pytest.mark.parametrize(
    ("choice", "words"), [("mock", "computes no values"), ("gpu", "there is no backend 'gpu'")]
)
def test_choices_that_are_refused(choice: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        choose_backend(choice)


def device_ttnn(log: list[Any], *, grid: tuple[int, int]) -> ModuleType:
    """A ttnn with one device of this grid; what is opened and closed is logged."""
    ttnn: Any = ModuleType("ttnn")
    device = SimpleNamespace(
        get_submeshes=list,
        compute_with_storage_grid_size=lambda: SimpleNamespace(x=grid[0], y=grid[1]),
    )

    def open_mesh_device(shape: tuple[int, int], **settings: int) -> Any:
        log.append(("open", shape, settings))
        return device

    ttnn.MeshShape = lambda rows, cols: (rows, cols)
    ttnn.open_mesh_device = open_mesh_device
    ttnn.close_mesh_device = lambda device: log.append("close")
    ttnn.set_fabric_config = lambda config: log.append(("fabric", config))
    ttnn.FabricConfig = SimpleNamespace(FABRIC_1D="1D")
    return ttnn


def test_a_device_is_opened_and_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[Any] = []
    monkeypatch.setitem(sys.modules, "ttnn", device_ttnn(log, grid=(8, 8)))
    with open_backend("device", load_mesh("N300"), trace_region_bytes=4096) as backend:
        assert backend.ttnn is sys.modules["ttnn"]
    assert log == [("fabric", "1D"), ("open", (1, 2), {"trace_region_size": 4096}), "close"]


def test_another_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[Any] = []
    monkeypatch.setitem(sys.modules, "ttnn", device_ttnn(log, grid=(11, 10)))
    refused = pytest.raises(UsageError, match="has 11x10 cores, a N150 has 8x8")
    with refused, open_backend("device", load_mesh("N150")):
        pass
    assert log[-1] == "close"


@pytest.mark.parametrize("own", ["", "/home/me/graph.textproto"])
def test_a_machine_that_ttnn_does_not_know_is_shown_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str
) -> None:
    (tmp_path / "meshes").mkdir()
    (tmp_path / "meshes" / "lab.yaml").write_text(
        "sources: {desk: a desk}\nmeshes:\n  ROW:\n    chip: blackhole_p150\n    shapes: [1x3]\n"
        "    fabric: FABRIC_1D\n    topology: linear\n    boards: {type: p150}\n"
        "    links: {axis0: 0, axis1: 2, source: desk}\n"
        "    wiring: {grid: [1, 3], links: 2, source: desk}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(MESH_GRAPH_VARIABLE, raising=False)
    if own:
        monkeypatch.setenv(MESH_GRAPH_VARIABLE, own)
    ttnn: Any = device_ttnn([], grid=(11, 10))
    seen: list[str] = []
    ttnn.set_fabric_config = lambda _config: seen.append(os.environ[MESH_GRAPH_VARIABLE])
    monkeypatch.setitem(sys.modules, "ttnn", ttnn)
    with open_backend("device", load_mesh("ROW")):
        if own:
            assert seen == [own]
        else:
            assert "dims: [ 1, 3 ] dim_types: [ LINE, LINE ]" in Path(seen[0]).read_text()
    assert os.environ.get(MESH_GRAPH_VARIABLE, "") == own
