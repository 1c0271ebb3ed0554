"""The emulator accepts and refuses what ttnn does, and its results have the same form.

A module here holds CASES, each a few calls on a Maker. They run on the real ttnn (a mock mesh, no
values) and on the emulator; shape, element type, layout and placement of the results must agree,
or both must refuse. MESH names the mesh of a module that wants another than one N150.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from math import ceil
from pathlib import Path
from typing import Any

import pytest

from ttc.emulate import ttnn as emulated
from ttc.hardware.hardware import Mesh, load_mesh
from ttc.verify.mock_mesh import MockHost

HIDDEN, HEADS, KV_HEADS, HEAD_DIM = 576, 9, 3, 64
QKV = (HEADS + 2 * KV_HEADS) * HEAD_DIM


@dataclass
class Maker:
    """Tensors and configs of one ttnn, real or emulated."""

    t: Any
    device: Any

    def tensor(self, shape: Any, dtype: str = "bfloat16", memory: Any = None, rows: bool = False):
        return self.t.empty(
            shape,
            dtype=getattr(self.t, dtype),
            layout=self.t.ROW_MAJOR_LAYOUT if rows else self.t.TILE_LAYOUT,
            device=self.device,
            memory_config=memory or self.t.DRAM_MEMORY_CONFIG,
        )

    def cores(self, count: int, width: int = 8, first: int = 0) -> Any:
        """Cores `first` .. counted row by row over `width` columns."""
        return self.core_set([(i % width, i // width) for i in range(first, first + count)])

    def core_set(self, cores: list[tuple[int, int]]) -> Any:
        rows: dict[int, list[int]] = {}
        for x, y in cores:
            rows.setdefault(y, []).append(x)
        t = self.t
        return t.CoreRangeSet(
            [
                t.CoreRange(t.CoreCoord(min(xs), y), t.CoreCoord(max(xs), y))
                for y, xs in rows.items()
            ]
        )

    def sharded(self, kind: str, height: int, width: int, cores: Any, buffer: str = "L1") -> Any:
        t = self.t
        spec = t.ShardSpec(cores, [height, width], t.ShardOrientation.ROW_MAJOR)
        layout = getattr(t.TensorMemoryLayout, f"{kind}_SHARDED")
        return t.MemoryConfig(layout, getattr(t.BufferType, buffer), spec)

    def wide(self, width: int, cores: int, grid: int = 8) -> Any:
        return self.sharded("WIDTH", 32, ceil(width / 32 / cores) * 32, self.cores(cores, grid))

    def by_user(self, users: int, width: int = HEAD_DIM, first: int = 0) -> Any:
        return self.sharded("HEIGHT", 32, width, self.cores(users, first=first))

    def in_banks(self, depth: int, width: int, banks: int = 12) -> Any:
        cores = self.core_set([(bank, 0) for bank in range(banks)])
        return self.sharded("WIDTH", depth, ceil(width / 32 / banks) * 32, cores, "DRAM")

    def kernel(self, wide: bool = True) -> Any:
        return self.t.WormholeComputeKernelConfig(
            math_fidelity=self.t.MathFidelity.HiFi2,
            math_approx_mode=False,
            fp32_dest_acc_en=wide,
            packer_l1_acc=True,
        )

    def norm(self, x: int, y: int, subblock: int = 1, height: int = 1, width: int = 1) -> Any:
        return self.t.LayerNormShardedMultiCoreProgramConfig(
            compute_with_storage_grid_size=(x, y),
            subblock_w=subblock,
            block_h=height,
            block_w=width,
            inplace=False,
        )

    def attention(self, q: int, k: int) -> Any:
        return self.t.SDPAProgramConfig(
            compute_with_storage_grid_size=(8, 8),
            exp_approx_mode=False,
            q_chunk_size=q,
            k_chunk_size=k,
        )

    def x(self, memory: Any = None, dtype: str = "bfloat16", rows: int = 32) -> Any:
        return self.tensor((1, 1, rows, HIDDEN), dtype, memory)

    def ids(self, *shape: int, dtype: str = "uint32") -> Any:
        return self.tensor(shape, dtype, rows=True)

    def logits(self, rows: bool = True, dtype: str = "bfloat16") -> Any:
        return self.tensor((1, 1, 32, 512), dtype, rows=rows)

    def cache(self, dtype: str = "bfloat8_b", kv_heads: int = KV_HEADS) -> Any:
        return self.tensor((64, kv_heads, 32, HEAD_DIM), dtype)

    def table(self, users: int = 32, dtype: str = "int32") -> Any:
        return self.tensor((users, 2), dtype, rows=True)

    def silu(self) -> Any:
        return [self.t.UnaryOpType.SILU]

    def heads(self, memory: Any = None, rows: int = 32, dtype: str = "bfloat16", **changed: Any):
        x = self.tensor((1, 1, rows, QKV), dtype, memory or self.t.L1_MEMORY_CONFIG)
        settings = {"num_heads": HEADS, "num_kv_heads": KV_HEADS}
        settings["memory_config"] = self.t.L1_HEIGHT_SHARDED_MEMORY_CONFIG
        return self.t.experimental.nlp_create_qkv_heads_decode(x, **settings | changed)

    def apart(self, rows: int = 32) -> Any:
        memory = self.sharded("WIDTH", 32, 64, self.cores(15))
        return self.heads(memory, rows, overlap_qk_coregrid=False)


def describe(result: Any) -> Any:
    """Everything about a result but its values."""
    if isinstance(result, list | tuple):
        return tuple(describe(one) for one in result)
    memory = result.memory_config()
    shards: Any = None
    if memory.shard_spec is not None:
        cores = {
            (x, y)
            for one in memory.shard_spec.grid.ranges()
            for x in range(one.start.x, one.end.x + 1)
            for y in range(one.start.y, one.end.y + 1)
        }
        shards = (list(memory.shard_spec.shape), sorted(cores))
    where = memory.memory_layout.name, memory.buffer_type.name, shards
    return list(result.shape), result.dtype.name, result.layout.name, where


def outcome(case: Callable[[Any], Any], maker: Maker) -> Any:
    try:
        return describe(case(maker))
    except (RuntimeError, TypeError) as refusal:
        return "refused", str(refusal)


def real_outcomes(path: Path, ttnn: Any, device: Any) -> dict[str, Any]:
    """What the cases of the module at `path` give on the real ttnn."""
    spec = spec_from_file_location("cases", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    maker = Maker(ttnn, device)
    return {name: outcome(case, maker) for name, case in module.CASES.items()}


@dataclass(frozen=True)
class Outcomes:
    """What the cases of one module give on both."""

    cases: dict[str, Callable[[Any], Any]]
    mesh: Mesh
    real: dict[str, Any]

    def emulated(self, name: str, grid: tuple[int, int] = (8, 8)) -> Any:
        shape = emulated.MeshShape(self.mesh.rows, self.mesh.cols)
        device = emulated.open_mesh_device(shape, grid=grid)
        return outcome(self.cases[name], Maker(emulated, device))


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, mock_host: MockHost) -> Outcomes:
    mesh = load_mesh(getattr(request.module, "MESH", "N150"))
    real = mock_host.run(mesh, partial(real_outcomes, request.path))
    return Outcomes(request.module.CASES, mesh, real)


@pytest.fixture
def compare(outcomes: Outcomes) -> Callable[[str], None]:
    def check(name: str) -> None:
        expected, got = outcomes.real[name], outcomes.emulated(name)
        if "refused" in (expected[0], got[0]):
            both = ("refused", "refused")
            assert (expected[0], got[0]) == both, f"ttnn: {expected}\nours: {got}"
        else:
            assert got == expected

    return check
