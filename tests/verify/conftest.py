"""One mock host for all tests: ttnn is imported once, and kernels stay cached between runs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ttc.verify.mock_mesh import MockHost


@pytest.fixture(scope="session")
def mock_folder(request: pytest.FixtureRequest) -> Path:
    cache = request.config.cache
    assert cache is not None
    return cache.mkdir("mock")


@pytest.fixture(scope="session")
def mock_host(mock_folder: Path) -> Iterator[MockHost]:
    with MockHost(mock_folder) as host:
        yield host
