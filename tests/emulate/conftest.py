"""An emulated device, and the real ttnn on a mock mesh to compare with."""

from collections.abc import Iterator

import pytest
import torch

from ttc.emulate import ttnn
from ttc.verify.mock_mesh import MockHost


@pytest.fixture
def device() -> ttnn.MeshDevice:
    return ttnn.open_mesh_device(ttnn.MeshShape(1, 1))


@pytest.fixture
def exact_device() -> ttnn.MeshDevice:
    """A device that rounds nothing."""
    return ttnn.open_mesh_device(ttnn.MeshShape(1, 1), rounding=False)


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def mock_host(request: pytest.FixtureRequest) -> Iterator[MockHost]:
    cache = request.config.cache
    assert cache is not None
    with MockHost(cache.mkdir("mock")) as host:
        yield host
