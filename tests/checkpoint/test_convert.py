"""Conversion with the real ttnn, on the host; each job runs in a process of its own."""

import functools
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ttc.checkpoint.cache import WeightCache
from ttc.checkpoint.convert import (
    Progress,
    build_weight,
    convert_weights,
    placement_to_memory_config,
)
from ttc.checkpoint.files import open_checkpoint
from ttc.checkpoint.index import PendingWeight, WeightSource, find_pending, link_weights
from ttc.checkpoint.names import bind
from ttc.errors import CheckpointError
from ttc.plan.placement import DRAM, L1, Placement, TensorPlan
from ttc.plan.plan import RopeTable, WeightPart, WeightPlan
from ttc.spec.model import ModelSpec
from ttc.spec.rope import NoScaling
from ttc.verify.mock_mesh import MockHost

pytestmark = pytest.mark.mock

BANKS = Placement(
    name="W", buffer="dram", layout="width_sharded", grid=((0, 0, 11, 0),), shard=(64, 32)
)


def weight(name: str, *tensors: str, **changes: Any) -> WeightPlan:
    plan = WeightPlan(
        name=name,
        decoder=0,
        group="wqkv",
        parts=tuple(WeightPart(tensor=tensor) for tensor in tensors),
        table=None,
        transpose=True,
        tensor=TensorPlan(shape=(1, 1, 64, 64), dtype="bfp8", placement=DRAM),
    )
    return replace(plan, **changes)


WQKV = weight(
    "wqkv",
    parts=(
        WeightPart(tensor="wq", rows="pairs", heads=4),
        WeightPart(tensor="wk", rows="pairs", heads=2),
        WeightPart(tensor="wv"),
    ),
    tensor=TensorPlan(shape=(1, 1, 64, 128), dtype="bfp8", placement=BANKS),
)
PLANS = (
    weight(
        "embed",
        "embed",
        decoder=None,
        transpose=False,
        tensor=TensorPlan(shape=(1, 1, 128, 64), dtype="bf16", placement=DRAM, layout="row_major"),
    ),
    weight(
        "lm_head_1",
        decoder=None,
        parts=(WeightPart(tensor="lm_head", start=96, stop=128),),
        tensor=TensorPlan(shape=(1, 1, 64, 64), dtype="bfp8", placement=DRAM),
    ),
    weight(
        "attn_norm",
        parts=(WeightPart(tensor="attn_norm", stop=64),),
        transpose=False,
        tensor=TensorPlan(shape=(1, 1, 2, 32), dtype="bf16", placement=DRAM, layout="row_major"),
    ),
    WQKV,
    weight("wo", "wo", tensor=TensorPlan(shape=(1, 1, 64, 64), dtype="bfp4", placement=DRAM)),
    weight(
        "rope_cos",
        decoder=None,
        transpose=False,
        table=RopeTable(kind="cos", rope=NoScaling(theta=1e4), head_dim=16, rows=64, order="pairs"),
        tensor=TensorPlan(shape=(1, 1, 64, 16), dtype="bf16", placement=DRAM),
    ),
)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with MockHost(tmp_path_factory.mktemp("mock")) as host:
        yield host


@pytest.fixture
def source(tiny_spec: ModelSpec, tiny_folder: Path) -> WeightSource:
    checkpoint = open_checkpoint(str(tiny_folder))
    return WeightSource(checkpoint=checkpoint, binding=bind(tiny_spec, checkpoint))


@pytest.fixture
def cache(tmp_path: Path) -> WeightCache:
    return WeightCache(tmp_path / "cache")


def convert(
    host: MockHost,
    source: WeightSource,
    cache: WeightCache,
    report: Callable[[Progress], None] | None = None,
) -> tuple[PendingWeight, ...]:
    """Convert what is pending; what that was."""
    pending = find_pending(PLANS, source, cache)
    job = functools.partial(convert_weights, pending=pending, source=source, cache=cache)
    host.run_without_device(job, on_progress=report)
    return pending


def compare_with_packing(ttnn: Any, *, source: WeightSource, folder: Path) -> list[str]:
    """Names of the weights whose file differs from ttnn's packing of the same matrix."""
    dtypes = {"bf16": ttnn.bfloat16, "bfp8": ttnn.bfloat8_b, "bfp4": ttnn.bfloat4_b}
    layouts = {"tile": ttnn.TILE_LAYOUT, "row_major": ttnn.ROW_MAJOR_LAYOUT}
    wrong: list[str] = []
    for plan in PLANS:
        found = ttnn.load_tensor(str(folder / plan.file))
        packed = ttnn.from_torch(
            build_weight(plan, source),
            dtype=dtypes[plan.dtype],
            layout=layouts[plan.layout],
            memory_config=placement_to_memory_config(ttnn, plan.memory),
        )
        same = found.spec == packed.spec and ttnn.to_torch(found).equal(ttnn.to_torch(packed))
        if not same:
            wrong.append(plan.name)
    return wrong


def describe_memory_configs(ttnn: Any) -> list[str]:
    sharded = replace(
        L1, layout="height_sharded", grid=((0, 0, 7, 1), (0, 2, 3, 2)), shard=(32, 64)
    )
    return [str(placement_to_memory_config(ttnn, each)) for each in (DRAM, L1, BANKS, sharded)]


def test_files_hold_what_ttnn_packs(
    host: MockHost, source: WeightSource, cache: WeightCache, tmp_path: Path
) -> None:
    steps: list[Progress] = []
    convert(host, source, cache, steps.append)
    index = link_weights(PLANS, source, cache, tmp_path)
    job = functools.partial(compare_with_packing, source=source, folder=tmp_path)
    assert host.run_without_device(job) == []

    assert [step.name for step in steps] == [plan.full_name for plan in PLANS] + [""]
    assert steps[-1].done_bytes == steps[-1].total_bytes
    assert index[3].name == "decoders.0.wqkv"
    assert index[3].file == "weights/decoders.0.wqkv.tensorbin"
    assert index[3].size_bytes == (tmp_path / index[3].file).stat().st_size


def test_a_weight_is_what_the_plan_says(source: WeightSource, tiny_tensors: dict[str, Any]) -> None:
    built = build_weight(WQKV, source)[0, 0]
    names = ("q_proj", "k_proj", "v_proj")
    q, k, v = (
        torch.from_numpy(tiny_tensors[f"model.layers.0.self_attn.{name}.weight"]) for name in names
    )
    assert built[:, 0].equal(q[0])
    assert built[:, 1].equal(q[8])  # the partner of row 0 in a head of 16
    assert built[:, 64 + 17].equal(k[24])
    assert built[:, 96:].equal(v.t())
    head = torch.from_numpy(tiny_tensors["lm_head.weight"])
    assert build_weight(PLANS[1], source)[0, 0, :, :32].equal(head[96:].t())
    assert build_weight(PLANS[1], source)[0, 0, :, 32:].count_nonzero() == 0


def test_a_full_cache_needs_neither_ttnn_nor_weights(
    host: MockHost, source: WeightSource, cache: WeightCache, tmp_path: Path, tiny_folder: Path
) -> None:
    assert len(convert(host, source, cache)) == len(PLANS)
    (tiny_folder / "model.safetensors").unlink()
    assert find_pending(PLANS, source, cache) == ()
    assert link_weights(PLANS, source, cache, tmp_path)
    assert "ttnn" not in sys.modules


def test_only_what_is_damaged_is_converted_again(
    host: MockHost, source: WeightSource, cache: WeightCache, tmp_path: Path
) -> None:
    convert(host, source, cache)
    before = link_weights(PLANS, source, cache, tmp_path / "before")
    path = cache.look_up(before[0].key).entry
    assert path is not None
    path.path.chmod(0o644)
    path.path.write_bytes(path.path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="'embed' is not in the weight cache"):
        link_weights(PLANS, source, cache, tmp_path / "after")
    (pending,) = convert(host, source, cache)
    assert pending.weight.name == "embed"
    assert "expected" in pending.damage
    assert link_weights(PLANS, source, cache, tmp_path / "after") == before  # the same bytes


def test_a_full_disk_is_reported(
    host: MockHost, source: WeightSource, cache: WeightCache, tmp_path: Path
) -> None:
    pending = find_pending(PLANS, source, cache)
    job = functools.partial(convert_limited, pending=pending, source=source, cache=cache)
    with pytest.raises(CheckpointError, match="the disk is full"):
        host.run_without_device(job)
    assert not list(cache.root.rglob("*.part.*"))
    assert 0 < len(find_pending(PLANS, source, cache)) < len(PLANS)  # what was done is kept


def convert_limited(ttnn: Any, **arguments: Any) -> None:
    """Convert in a process that may not write a file beyond 10,000 bytes."""
    import resource
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    arguments["pending"] = sorted(
        arguments["pending"], key=lambda item: item.weight.tensor.stored_bytes
    )
    convert_weights(ttnn, **arguments)


def test_keys_follow_everything_that_matters(
    source: WeightSource, cache: WeightCache, tiny_spec: ModelSpec, tiny_folder: Path
) -> None:
    def key(plan: WeightPlan, of: WeightSource = source) -> str:
        return find_pending([plan], of, cache)[0].key

    others = [
        replace(WQKV, transpose=False),
        replace(WQKV, parts=WQKV.parts[:2]),
        replace(WQKV, parts=(replace(WQKV.parts[0], rows="halves"), *WQKV.parts[1:])),
        replace(WQKV, decoder=1),
        replace(WQKV, tensor=replace(WQKV.tensor, dtype="bf16")),
        replace(WQKV, tensor=replace(WQKV.tensor, placement=DRAM)),
        replace(WQKV, tensor=replace(WQKV.tensor, shape=(1, 1, 64, 160))),
    ]
    assert len({key(plan) for plan in [WQKV, *others]}) == len(others) + 1
    assert key(replace(WQKV, name="other")) == key(WQKV)
    renamed = replace(WQKV.tensor, placement=replace(BANKS, name="OTHER"))
    assert key(replace(WQKV, tensor=renamed)) == key(WQKV)

    path = tiny_folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    checkpoint = open_checkpoint(str(tiny_folder))
    changed = WeightSource(checkpoint=checkpoint, binding=bind(tiny_spec, checkpoint))
    assert key(WQKV, changed) != key(WQKV)
    assert key(PLANS[-1], changed) == key(PLANS[-1])  # a table depends on no checkpoint


def test_memory_configs(host: MockHost) -> None:
    dram, l1, banks, sharded = host.run_without_device(describe_memory_configs)
    assert "INTERLEAVED,buffer_type=BufferType::DRAM" in dram
    assert "INTERLEAVED,buffer_type=BufferType::L1" in l1
    assert "WIDTH_SHARDED,buffer_type=BufferType::DRAM" in banks
    assert "shape=[64, 32]" in banks
    assert "HEIGHT_SHARDED,buffer_type=BufferType::L1" in sharded
