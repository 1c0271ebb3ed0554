"""Cluster descriptors are what ttnn's own reader expects; that they open is a mock test."""

import re
from pathlib import Path

import pytest
import yaml

from ttc.hardware.descriptor import HOST_ONLY, cluster_descriptor, mesh_graph_descriptor
from ttc.hardware.hardware import load_mesh, mesh_names, shipped_mesh_names

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("name", mesh_names())
def test_each_channel_has_one_link_and_is_switched_on(name: str) -> None:
    mesh = load_mesh(name)
    links = yaml.safe_load(cluster_descriptor(mesh))["ethernet_connections"]
    ends = [(end["chip"], end["chan"]) for link in links for end in link]
    assert len(ends) == len(set(ends)) == 2 * sum(wire.links for wire in mesh.cluster.wiring)
    assert not any(mesh.chip.harvest.ethernet >> channel & 1 for _, channel in ends)


@pytest.mark.parametrize("name", mesh_names())
def test_each_chip_is_described(name: str) -> None:
    mesh = load_mesh(name)
    text = yaml.safe_load(cluster_descriptor(mesh))
    chips = set(range(mesh.cluster.chips))
    assert set(text["arch"]) == set(text["harvesting"]) == set(text["chip_unique_ids"]) == chips
    assert {chip for board in text["boards"] for chip in board[2]["chips"]} == chips
    assert len(set(text["chip_unique_ids"].values())) == len(chips)
    assert all(
        each["harvest_mask"] == mesh.chip.harvest.tensix for each in text["harvesting"].values()
    )


def test_remote_chips_hang_on_the_channels_of_their_host() -> None:
    links = yaml.safe_load(cluster_descriptor(load_mesh("N300")))["ethernet_connections"]
    assert links == [
        [{"chip": 0, "chan": 8}, {"chip": 1, "chan": 0}],
        [{"chip": 0, "chan": 9}, {"chip": 1, "chan": 1}],
    ]


def test_galaxy_chips_stand_on_four_trays() -> None:
    buses = yaml.safe_load(cluster_descriptor(load_mesh("TG")))["chip_to_bus_id"]
    assert all(re.fullmatch(r"0x[0-9a-f]{4}", bus) for bus in buses.values())
    numbers = [int(bus, 16) for bus in buses.values()]
    assert len(set(numbers)) == 32
    assert {number >> 4 for number in numbers} == {0x0, 0x4, 0x8, 0xC}
    assert {number & 0xF for number in numbers} == set(range(1, 9))


@pytest.mark.parametrize(
    ("name", "dims", "kinds"),
    [
        ("ROW", "1, 3", "LINE, LINE"),
        ("ROW:2x1", "1, 3", "LINE, LINE"),
        ("TORUS", "4, 4", "RING, RING"),
        ("TORUS:16x1", "16, 1", "RING, LINE"),
        ("TORUS:2x2", "4, 4", "LINE, LINE"),
        ("SIX", "2, 3", "LINE, LINE"),
        ("SIX:1x6", "1, 6", "LINE, RING"),
    ],
)
def test_a_machine_that_ttnn_does_not_know_is_described(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, dims: str, kinds: str
) -> None:
    ring = "fabric: FABRIC_1D_RING, topology: ring"
    line = "fabric: FABRIC_1D, topology: linear"
    rest = "chip: blackhole_p150, boards: {type: p150}, links: {axis0: 2, axis1: 2, source: desk}"
    (tmp_path / "meshes").mkdir()
    (tmp_path / "meshes" / "lab.yaml").write_text(f"""
sources: {{desk: a desk}}
meshes:
  ROW: {{shapes: [1x3, 2x1], {line}, wiring: {{grid: [1, 3], links: 2, source: desk}}, {rest}}}
  SIX: {{shapes: [2x3, 1x6], {ring}, wiring: {{grid: [2, 3], links: 3, source: desk}}, {rest}}}
  TORUS:
    {{shapes: [4x4, 16x1, 2x2], {ring}, {rest},
     wiring: {{grid: [4, 4], links: 2, wrap: true, source: desk}}}}
""")
    monkeypatch.chdir(tmp_path)
    text = mesh_graph_descriptor(load_mesh(name))
    assert f"device_topology {{ dims: [ {dims} ] dim_types: [ {kinds} ] }}" in text
    assert "arch: BLACKHOLE" in text
    assert f"count: {3 if 'SIX' in name else 2} policy" in text


@pytest.mark.parametrize("name", shipped_mesh_names())
def test_ttnn_knows_the_meshes_that_everyone_has(name: str) -> None:
    assert mesh_graph_descriptor(load_mesh(name)) == ""


def test_the_host_only_cluster_has_one_chip() -> None:
    assert yaml.safe_load(HOST_ONLY)["chips"] == {0: [0, 0, 0, 0]}
