"""Collectives along a line of eight chips: the same form as ttnn's, or both refuse."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from ttc.emulate import ttnn as emulated
from ttc.verify.mock_mesh import MockHost

pytestmark = pytest.mark.mock

MESH = "T3K"
HIDDEN = 1024


def semaphores(m: Any, count: int) -> list[Any]:
    return [m.t.create_global_semaphore(m.device, m.cores(64), 0) for _ in range(count)]


def reduced(m: Any, width: int = HIDDEN, dtype: str = "bfloat16", **changed: Any) -> Any:
    x = m.tensor((1, 1, 32, width), dtype, changed.pop("memory", None))
    return m.t.all_reduce(x, **{"cluster_axis": 1} | changed)


def scattered(m: Any, dim: int = 3, rows: int = 32, width: int = HIDDEN, **changed: Any) -> Any:
    x = m.tensor((1, 1, rows, width), memory=changed.pop("memory", None))
    return m.t.reduce_scatter(x, dim, **{"cluster_axis": 1} | changed)


def gathered(m: Any, dim: int = 3, width: int = 128, **changed: Any) -> Any:
    x = m.tensor((1, 1, 32, width), changed.pop("dtype", "bfloat16"), changed.pop("memory", None))
    return m.t.all_gather(x, dim, **{"cluster_axis": 1} | changed)


def parts(m: Any, width: int = HIDDEN, axis: int = 1) -> Any:
    return m.t.mesh_partition(m.tensor((1, 1, 32, width)), 3, axis)


def gathered_async(m: Any, count: int = 2) -> Any:
    x = m.tensor((1, 1, 32, 128))
    sent = semaphores(m, count)
    return m.t.experimental.all_gather_async(
        x, dim=3, multi_device_global_semaphore=sent, topology=m.t.Topology.Linear
    )


def scattered_async(m: Any, count: int = 3, cores: int = 32, **changed: Any) -> Any:
    x = m.tensor((1, 1, 32, HIDDEN), memory=m.wide(HIDDEN, cores))
    return m.t.experimental.reduce_scatter_minimal_async(
        x,
        dim=3,
        multi_device_global_semaphore=semaphores(m, count),
        topology=m.t.Topology.Linear,
        **changed,
    )


def buffered(m: Any, x: Any = None, buffer: Any = None, axis: int = 1, **changed: Any) -> Any:
    x = x or m.tensor((1, 1, 32, HIDDEN), memory=m.wide(HIDDEN, 16))
    buffer = buffer or m.tensor((1, 1, 32, 8 * HIDDEN), memory=m.wide(8 * HIDDEN, 16))
    settings = {"memory_config": m.wide(HIDDEN, 16), "num_links": 1} | changed
    (semaphore,) = semaphores(m, 1)
    return m.t.experimental.all_reduce_async(x, buffer, axis, m.device, semaphore, **settings)


CASES: dict[str, Callable[[Any], Any]] = {
    "reduce": lambda m: reduced(m),
    "reduce shards": lambda m: reduced(m, memory=m.wide(HIDDEN, 32)),
    "reduce to other shards": lambda m: reduced(
        m, memory=m.wide(HIDDEN, 32), memory_config=m.wide(HIDDEN, 16)
    ),
    "reduce blocks": lambda m: reduced(m, dtype="bfloat8_b"),
    "reduce an odd width": lambda m: reduced(m, 576),
    "reduce along the other axis": lambda m: reduced(m, cluster_axis=0),
    "reduce without an axis": lambda m: reduced(m, cluster_axis=None),
    "scatter": lambda m: scattered(m),
    "scatter rows": lambda m: scattered(m, 2, rows=256),
    "scatter shards": lambda m: scattered(m, memory=m.wide(HIDDEN, 32)),
    "scatter to L1": lambda m: scattered(m, memory_config=m.t.L1_MEMORY_CONFIG),
    "scatter parts of tiles": lambda m: scattered(m, width=576),
    "scatter an odd width": lambda m: scattered(m, width=100),
    "scatter a dim that is not there": lambda m: scattered(m, 5),
    "gather": lambda m: gathered(m),
    "gather rows": lambda m: gathered(m, 2),
    "gather blocks": lambda m: gathered(m, dtype="bfloat8_b"),
    "gather parts of tiles": lambda m: gathered(m, width=72),
    "gather to shards": lambda m: gathered(m, memory_config=m.wide(HIDDEN, 32)),
    "gather shards that do not fit": lambda m: gathered(m, memory=m.wide(128, 4)),
    "gather a dim that is not there": lambda m: gathered(m, 4),
    "gather along the other axis": lambda m: gathered(m, cluster_axis=0),
    "part": lambda m: parts(m),
    "part along the other axis": lambda m: parts(m, axis=0),
    "part of tiles": lambda m: parts(m, 576),
    "part an odd width": lambda m: parts(m, 100),
    "gather, async": lambda m: gathered_async(m),
    "gather, async, one semaphore": lambda m: gathered_async(m, 1),
    "scatter, async": lambda m: scattered_async(m),
    "scatter, async, to shards": lambda m: scattered_async(m, memory_config=m.wide(128, 4)),
    # On other cores: ttnn counts semaphores only where it has no such program yet.
    "scatter, async, two semaphores": lambda m: scattered_async(m, 2, cores=16),
    "reduce into a buffer": lambda m: buffered(m),
    "reduce into a buffer, as blocks": lambda m: buffered(m, dtype=m.t.bfloat8_b),
    "reduce into a buffer, wide sums": lambda m: buffered(m, fp32_dest_acc=True),
    "reduce into a buffer, no placement": lambda m: buffered(m, memory_config=None),
    "reduce into a buffer from DRAM": lambda m: buffered(m, m.tensor((1, 1, 32, HIDDEN))),
    "reduce into a buffer in DRAM": lambda m: buffered(m, buffer=m.tensor((1, 1, 32, 8 * HIDDEN))),
    "reduce into a buffer, to DRAM": lambda m: buffered(m, memory_config=m.t.DRAM_MEMORY_CONFIG),
    "reduce into a small buffer": lambda m: buffered(
        m, buffer=m.tensor((1, 1, 32, 4 * HIDDEN), memory=m.wide(4 * HIDDEN, 16))
    ),
    "reduce into a buffer on other cores": lambda m: buffered(
        m, memory_config=m.sharded("WIDTH", 32, 64, m.cores(16, first=16))
    ),
    "reduce into a buffer along the other axis": lambda m: buffered(m, axis=0),
}


@pytest.mark.parametrize("name", CASES)
def test_same_form_or_both_refuse(name: str, compare: Callable[[str], None]) -> None:
    compare(name)


def golden(ttnn: Any, values: torch.Tensor) -> dict[str, torch.Tensor]:
    """What ttnn's golden functions make of values [8, height, width], one per device of a line."""
    line = {"cluster_axis": 1, "_ttnn_golden_mesh_shape": (1, 8)}

    def of(operation: Any, *arguments: int, differ: int | None = 0) -> torch.Tensor:
        function = ttnn.get_golden_function(operation)
        shards = [one[None, None] for one in values]
        return function(shards, *arguments, _ttnn_golden_mesh_shard_dims=[None, differ], **line)

    return {
        "all_gather": of(ttnn.all_gather, 3),
        "all_reduce": of(ttnn.all_reduce),
        "reduce_scatter": of(ttnn.reduce_scatter, 3),
        "mesh_partition": of(ttnn.mesh_partition, 3, differ=None),
    }


def save_golden(folder: Path, ttnn: Any) -> None:
    torch.save(golden(ttnn, torch.load(folder / "values.pt")), folder / "golden.pt")


def test_values_are_those_of_the_golden_functions(mock_host: MockHost, tmp_path: Path) -> None:
    """ttnn composes its golden results by where they differ: shards side by side, copies once."""
    values = torch.randn(8, 32, 256, generator=torch.Generator().manual_seed(4))
    torch.save(values, tmp_path / "values.pt")
    mock_host.run_without_device(partial(save_golden, tmp_path))
    expected: dict[str, torch.Tensor] = torch.load(tmp_path / "golden.pt")
    mesh = emulated.open_mesh_device(emulated.MeshShape(1, 8), rounding=False)
    x = emulated.from_torch(
        values.flatten(0, 1)[None, None],
        layout=emulated.TILE_LAYOUT,
        device=mesh,
        mesh_mapper=emulated.ShardTensorToMesh(mesh, 2),
    )
    ours = {
        "all_gather": emulated.all_gather(x, 3, cluster_axis=1),
        "all_reduce": emulated.all_reduce(x, cluster_axis=1),
        "reduce_scatter": emulated.reduce_scatter(x, 3, cluster_axis=1),
        "mesh_partition": emulated.mesh_partition(x, 3, 1),
    }
    dims = {"all_gather": 0, "all_reduce": None, "reduce_scatter": 3, "mesh_partition": 3}
    for name, tensor in ours.items():
        shards = [emulated.to_torch(one) for one in emulated.get_device_tensors(tensor)]
        dim = dims[name]
        joined = shards[0] if dim is None else torch.cat(shards, dim)
        assert torch.allclose(joined, expected[name], atol=1e-4), name
