"""Conversion, and its files against those of the real ttnn for the same matrices."""

import functools
import multiprocessing
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ttc.checkpoint.cache import WeightCache
from ttc.checkpoint.convert import Progress, convert_weights
from ttc.checkpoint.files import open_checkpoint
from ttc.checkpoint.index import PendingWeight, WeightSource, find_pending, link_weights
from ttc.checkpoint.names import bind
from ttc.checkpoint.packing import widen_bf16
from ttc.checkpoint.strips import stored_matrix
from ttc.errors import CheckpointError
from ttc.hardware.hardware import load_mesh
from ttc.plan.parallel import ZEROS, even_share, head_share
from ttc.plan.placement import DRAM, Placement, TensorPlan
from ttc.plan.plan import WeightPart, WeightPlan
from ttc.plan.tables import RopeTable
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
        table=RopeTable(
            kind="cos",
            rope=NoScaling(theta=1e4),
            head_dim=16,
            rotary_dim=16,
            rows=64,
            order="pairs",
        ),
        tensor=TensorPlan(shape=(1, 1, 64, 16), dtype="bf16", placement=DRAM),
    ),
)


LAST = even_share("ffn", "out", width=64, ranks=2)
MESH_PLANS = (  # two ranks; what is not divided is stored once
    weight(
        "wqkv",
        parts=(
            WeightPart(
                tensor="wq",
                rows="pairs",
                heads=4,
                shares=(head_share("query heads", "out", ((0, 1), (2, ZEROS)), 16),),
            ),
            WeightPart(tensor="wv", shares=(head_share("kv heads", "out", ((0,), (1,)), 16),)),
        ),
        tensor=TensorPlan(shape=(1, 1, 64, 48), dtype="bfp8", placement=BANKS),
    ),
    weight(
        "w_gate",
        parts=(WeightPart(tensor="w_gate", shares=(LAST,)),),
        tensor=TensorPlan(shape=(1, 1, 64, 64), dtype="bfp4", placement=DRAM),
    ),
    weight(
        "w_down",
        parts=(WeightPart(tensor="w_down", shares=(even_share("ffn", "in", width=64, ranks=2),)),),
        tensor=TensorPlan(shape=(1, 1, 64, 64), dtype="bfp8", placement=DRAM),
    ),
    weight(
        "embed",
        decoder=None,
        parts=(
            WeightPart(tensor="embed", shares=(even_share("hidden", "in", width=32, ranks=2),)),
        ),
        transpose=False,
        tensor=TensorPlan(shape=(1, 1, 128, 32), dtype="bf16", placement=DRAM, layout="row_major"),
    ),
    weight(
        "ffn_norm",
        parts=(
            WeightPart(tensor="ffn_norm", shares=(even_share("hidden", "out", width=32, ranks=2),)),
        ),
        transpose=False,
        tensor=TensorPlan(shape=(1, 1, 1, 32), dtype="bf16", placement=DRAM),
    ),
    weight(
        "attn_norm",
        parts=(WeightPart(tensor="attn_norm"),),
        transpose=False,
        tensor=TensorPlan(shape=(1, 1, 1, 64), dtype="bf16", placement=DRAM),
    ),
    *(  # rows of a matrix, one for each head, as rows and as matrices of one row
        weight(
            name,
            parts=(
                WeightPart(
                    tensor="wv",
                    flat=True,
                    shares=(head_share("query heads", "out", ((0, 2), (1, ZEROS)), 64),),
                ),
            ),
            transpose=False,
            tensor=TensorPlan(shape=shape, dtype="bf16", placement=DRAM),
        )
        for name, shape in (("q_norm", (1, 1, 2, 64)), ("q_norm_heads", (1, 2, 1, 64)))
    ),
)
SHARD_DIMS = {"w_down": 2, "q_norm": 2, "q_norm_heads": 1}  # of others, the last


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with MockHost(tmp_path_factory.mktemp("mock")) as host:
        yield host


@pytest.fixture
def source(tiny_spec: ModelSpec, tiny_folder: Path) -> WeightSource:
    checkpoint = open_checkpoint(str(tiny_folder))
    return WeightSource(
        checkpoint=checkpoint, binding=bind(tiny_spec, checkpoint), chip="wormhole_b0"
    )


@pytest.fixture
def cache(tmp_path: Path) -> WeightCache:
    return WeightCache(tmp_path / "cache")


def convert(
    source: WeightSource,
    cache: WeightCache,
    report: Callable[[Progress], None] | None = None,
    plans: tuple[WeightPlan, ...] = PLANS,
) -> tuple[PendingWeight, ...]:
    """Convert what is pending; what that was."""
    pending = find_pending(plans, source, cache)
    convert_weights(pending, source, cache, report=report)
    return pending


def compare_with_packing(
    ttnn: Any, *, plans: tuple[WeightPlan, ...], source: WeightSource, folder: Path
) -> list[str]:
    """Names of the weights whose file differs from what ttnn writes of the same matrices."""
    import torch

    dtypes = {"bf16": ttnn.bfloat16, "bfp8": ttnn.bfloat8_b, "bfp4": ttnn.bfloat4_b}
    layouts = {"tile": ttnn.TILE_LAYOUT, "row_major": ttnn.ROW_MAJOR_LAYOUT}
    ranks = range(source.mesh_shape[1])
    wrong: list[str] = []
    for plan in plans:
        values = [
            torch.from_numpy(widen_bf16(stored_matrix(plan, source, rank))).reshape(plan.shape)
            for rank in ranks
        ]
        dim = SHARD_DIMS.get(plan.name, 3)
        mapper, whole = None, values[0]
        if len(ranks) > 1:
            across = ttnn.PlacementShard(dim) if plan.divided else ttnn.PlacementReplicate()
            mapper = ttnn.create_mesh_mapper(
                ttnn.MeshShape(*source.mesh_shape),
                ttnn.MeshMapperConfig([ttnn.PlacementReplicate(), across]),
            )
            whole = torch.cat(values, dim) if plan.divided else values[0]
        packed = ttnn.from_torch(
            whole.bfloat16(),
            dtype=dtypes[plan.dtype],
            layout=layouts[plan.layout],
            memory_config=memory_config(ttnn, plan.memory),
            mesh_mapper=mapper,
        )
        theirs = folder / "theirs.tensorbin"
        ttnn.dump_tensor(str(theirs), packed)
        ours = folder / plan.file
        found, expected = ttnn.load_tensor(str(ours)), ttnn.load_tensor(str(theirs))
        same = found.spec == expected.spec and str(found.tensor_topology()) == str(
            expected.tensor_topology()
        )
        if not same or data_of(ours) != data_of(theirs):
            wrong.append(plan.name)
    return wrong


def memory_config(ttnn: Any, placement: Placement) -> Any:
    """The ttnn memory config of a placement."""
    if not placement.grid:
        return ttnn.DRAM_MEMORY_CONFIG
    ((x0, y0, x1, y1),) = placement.grid
    cores = ttnn.CoreRangeSet([ttnn.CoreRange(ttnn.CoreCoord(x0, y0), ttnn.CoreCoord(x1, y1))])
    shard = ttnn.ShardSpec(cores, list(placement.shard), ttnn.ShardOrientation.ROW_MAJOR)
    buffer = ttnn.BufferType.DRAM if placement.buffer == "dram" else ttnn.BufferType.L1
    layout = getattr(ttnn.TensorMemoryLayout, placement.layout.upper())
    return ttnn.MemoryConfig(layout, buffer, shard)


def data_of(path: Path) -> bytes:
    """The bytes of a file after its header."""
    content = path.read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]


def test_files_hold_what_ttnn_packs(
    host: MockHost, source: WeightSource, cache: WeightCache, tmp_path: Path
) -> None:
    steps: list[Progress] = []
    convert(source, cache, steps.append)
    index = link_weights(PLANS, source, cache, tmp_path)
    job = functools.partial(compare_with_packing, plans=PLANS, source=source, folder=tmp_path)
    assert host.run_without_device(job) == []

    assert {step.name for step in steps} == {plan.full_name for plan in PLANS}
    assert steps[-1].done_bytes == steps[-1].total_bytes
    assert index[3].name == "decoders.0.wqkv"
    assert index[3].file == "weights/decoders.0.wqkv.tensorbin"
    assert index[3].size_bytes == (tmp_path / index[3].file).stat().st_size


def test_files_of_a_mesh_hold_what_a_mapper_gives(
    host: MockHost, source: WeightSource, cache: WeightCache, tmp_path: Path
) -> None:
    source = replace(source, mesh_shape=(1, 2))
    convert(source, cache, plans=MESH_PLANS)
    link_weights(MESH_PLANS, source, cache, tmp_path)
    job = functools.partial(compare_with_packing, plans=MESH_PLANS, source=source, folder=tmp_path)
    assert host.run_without_device(job) == []


def load_on_mesh(ttnn: Any, device: Any, *, paths: list[Path]) -> list[tuple[int, ...]]:
    """Shapes of the shards of files that are loaded on a device."""
    tensors = [ttnn.load_tensor(str(path), device=device) for path in paths]
    return [tuple(ttnn.get_device_tensors(tensor)[1].shape) for tensor in tensors]


def test_files_of_a_mesh_load_on_it(
    host: MockHost, source: WeightSource, cache: WeightCache, tmp_path: Path
) -> None:
    source = replace(source, mesh_shape=(1, 2))
    convert(source, cache, plans=MESH_PLANS)
    index = link_weights(MESH_PLANS, source, cache, tmp_path)
    job = functools.partial(load_on_mesh, paths=[tmp_path / entry.file for entry in index])
    assert host.run(load_mesh("N300"), job) == [plan.shape for plan in MESH_PLANS]


def test_a_full_cache_needs_neither_ttnn_nor_weights(
    source: WeightSource, cache: WeightCache, tmp_path: Path, tiny_folder: Path
) -> None:
    assert len(convert(source, cache)) == len(PLANS)
    (tiny_folder / "model.safetensors").unlink()
    assert find_pending(PLANS, source, cache) == ()
    assert link_weights(PLANS, source, cache, tmp_path)
    assert "ttnn" not in sys.modules


def test_only_what_is_damaged_is_converted_again(
    source: WeightSource, cache: WeightCache, tmp_path: Path
) -> None:
    convert(source, cache)
    before = link_weights(PLANS, source, cache, tmp_path / "before")
    path = cache.look_up(before[0].key).entry
    assert path is not None
    path.path.chmod(0o644)
    path.path.write_bytes(path.path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="'embed' is not in the weight cache"):
        link_weights(PLANS, source, cache, tmp_path / "after")
    (pending,) = convert(source, cache)
    assert pending.weight.name == "embed"
    assert "expected" in pending.damage
    assert link_weights(PLANS, source, cache, tmp_path / "after") == before  # the same bytes


def test_a_full_disk_is_reported(source: WeightSource, cache: WeightCache) -> None:
    pending = find_pending(PLANS, source, cache)
    ordered = sorted(pending, key=lambda item: item.weight.tensor.stored_bytes)
    results = multiprocessing.get_context("spawn").SimpleQueue()
    arguments = (ordered, source, cache, results)
    process = multiprocessing.get_context("spawn").Process(target=convert_limited, args=arguments)
    process.start()
    process.join(60)
    assert "the disk is full" in results.get()
    assert not list(cache.root.rglob("*.part*"))
    assert 0 < len(find_pending(PLANS, source, cache)) < len(PLANS)  # what was done is kept


def convert_limited(
    pending: list[PendingWeight], source: WeightSource, cache: WeightCache, results: Any
) -> None:
    """Convert in a process that may not write a file beyond 10,000 bytes."""
    import resource

    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        convert_weights(pending, source, cache)
    except CheckpointError as error:
        results.put(str(error))
    else:
        results.put("no error")


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
    changed = WeightSource(
        checkpoint=checkpoint, binding=bind(tiny_spec, checkpoint), chip=source.chip
    )
    assert key(WQKV, changed) != key(WQKV)
    assert key(PLANS[-1], changed) == key(PLANS[-1])  # a table depends on no checkpoint
    assert key(WQKV, replace(source, chip="blackhole")) != key(WQKV)
    assert key(WQKV, replace(source, mesh_shape=(1, 2))) != key(WQKV)
