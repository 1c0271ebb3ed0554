"""What a session asks of the emulator."""

from collections.abc import Iterator

import pytest
import torch

from ttc.errors import UsageError
from ttc.hardware.hardware import load_mesh
from ttc.runtime.backends import Backend, open_backend

pytestmark = pytest.mark.emulate


@pytest.fixture
def backend() -> Iterator[Backend]:
    with open_backend("emulate", load_mesh("P150")) as opened:
        yield opened


def test_the_mesh_is_that_of_the_data(backend: Backend) -> None:
    grid = backend.device.compute_with_storage_grid_size()
    assert (grid.x, grid.y) == (11, 10)
    assert backend.device.dram_grid_size().x == 8
    assert backend.device.arch().name == "BLACKHOLE"


@pytest.mark.parametrize("dtype", ["uint32", "int32"])
def test_values_are_written_in_place(backend: Backend, dtype: str) -> None:
    tensor = backend.put(torch.zeros(1, 32, dtype=torch.int32), dtype)
    values = torch.arange(32, dtype=torch.int32)[None]
    backend.write(values, tensor, dtype)
    assert backend.read(tensor).tolist() == values.tolist()


def test_rows_that_are_not_live_can_be_written_again(backend: Backend) -> None:
    tensor = backend.put(torch.arange(32, dtype=torch.int32)[None], "uint32")
    backend.mark_live(tensor, 2)
    assert backend.read(tensor).flatten().tolist() == [0, 1] + [0] * 30
    backend.write(torch.arange(32, dtype=torch.int32)[None] + 5, tensor, "uint32")
    assert backend.read(tensor).flatten().tolist()[:3] == [5, 6, 7]


def test_a_cache_is_zeros(backend: Backend) -> None:
    ttnn = backend.ttnn
    facts = ((4, 2, 32, 64), ttnn.bfloat8_b, ttnn.TILE_LAYOUT, ttnn.DRAM_MEMORY_CONFIG)
    cache = backend.zeros(facts)
    assert not backend.read(cache).any()
    backend.free(cache)


@pytest.mark.parametrize(("gpus", "name"), [(0, "cuda"), (0, "cuda:0"), (1, "cuda:1"), (1, "gpu")])
def test_a_torch_device_that_is_not_here(
    monkeypatch: pytest.MonkeyPatch, gpus: int, name: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    choices = "cpu, cpu-exact" + ", cuda, cuda:0" * gpus
    words = f"torch has no device '{name}' here\n  = help: valid choices are {choices}$"
    with (
        pytest.raises(UsageError, match=words),
        open_backend("emulate", load_mesh("P150"), emulator_device=name),
    ):
        pass
