"""Convert weights for the device, one tensor at a time, into the cache.

ttnn packs on the host and needs no device, but it does need a cluster to be described before it is
imported; the caller sees to that and hands ttnn in.

The bytes are those of ttnn.from_torch for the same matrix, dtype and memory config. It follows that
a float32 matrix in a sharded placement is rounded to bf16 before it is packed to a block format
(ttnn 0.81.1 does so, and does not for interleaved ones); a bf16 checkpoint knows no difference.
"""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ttc.checkpoint.cache import WeightCache
from ttc.checkpoint.index import PendingWeight, WeightSource, weight_origin
from ttc.checkpoint.layouts import reorder_rows, rope_table
from ttc.checkpoint.shards import local_matrix
from ttc.plan.placement import Placement
from ttc.plan.plan import WeightPart, WeightPlan

DTYPES = {"bf16": "bfloat16", "bfp8": "bfloat8_b", "bfp4": "bfloat4_b", "fp32": "float32"}
LAYOUTS = {"tile": "TILE_LAYOUT", "row_major": "ROW_MAJOR_LAYOUT"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a conversion is, in bytes as stored on the device, and the weight it is at."""

    done_bytes: int
    total_bytes: int
    name: str


def convert_weights(
    ttnn: Any,
    report: Callable[[Progress], None] | None = None,
    *,
    pending: Sequence[PendingWeight],
    source: WeightSource,
    cache: WeightCache,
) -> None:
    """Convert what `find_pending` returned; every finished tensor is in the cache at once.

    Memory: the parts of one stored tensor, their joined copy and ttnn's packed copy. `report` is
    called before each tensor and at the end. All arguments can be pickled, so that the call can be
    a job of another process (the first two are what such a job is given).
    """
    total = sum(item.weight.tensor.stored_bytes for item in pending)
    done = 0
    for item in pending:
        if report:
            report(Progress(done_bytes=done, total_bytes=total, name=item.weight.full_name))
        _convert(item, source, cache, ttnn)
        done += item.weight.tensor.stored_bytes
    if report:
        report(Progress(done_bytes=done, total_bytes=total, name=""))


def build_weight(weight: WeightPlan, source: WeightSource, rank: int = 0) -> torch.Tensor:
    """What the plan says of one weight of a rank, as a bf16 or float32 tensor of `weight.shape`.

    A weight stored as bf16 is rounded to nearest even as soon as it is read, which halves the rest
    of the work; ttnn itself packs to the block formats.
    """
    if weight.table is not None:
        return _rounded(rope_table(weight.table, weight.shape), weight)

    def read(part: WeightPart, rows: slice) -> torch.Tensor:
        tensor = source.tensor(weight, part)
        whole = (rows.start, rows.stop) == (0, tensor.shape[0])
        values = _rounded(source.checkpoint.read(tensor.name, None if whole else rows), weight)
        heads = tensor.heads * values.shape[0] // tensor.shape[0]
        return reorder_rows(values, heads, tensor.rows, part.rows)

    return local_matrix(weight, rank, read, lambda part: source.tensor(weight, part).shape[0])


def placement_to_memory_config(ttnn: Any, placement: Placement) -> Any:
    """The ttnn memory config of a placement, whose grid of DRAM is one of banks."""
    buffer = ttnn.BufferType.DRAM if placement.buffer == "dram" else ttnn.BufferType.L1
    layout = getattr(ttnn.TensorMemoryLayout, placement.layout.upper())
    if not placement.grid:
        return ttnn.MemoryConfig(layout, buffer)
    ranges = [
        ttnn.CoreRange(ttnn.CoreCoord(x0, y0), ttnn.CoreCoord(x1, y1))
        for x0, y0, x1, y1 in placement.grid
    ]
    shard = ttnn.ShardSpec(
        ttnn.CoreRangeSet(ranges), list(placement.shard), ttnn.ShardOrientation.ROW_MAJOR
    )
    return ttnn.MemoryConfig(layout, buffer, shard)


def _rounded(values: torch.Tensor, weight: WeightPlan) -> torch.Tensor:
    return values.to(torch.bfloat16) if weight.dtype == "bf16" else values


def _convert(item: PendingWeight, source: WeightSource, cache: WeightCache, ttnn: Any) -> None:
    weight = item.weight

    def write(path: Path) -> None:
        values = build_weight(weight, source)
        packed = ttnn.from_torch(
            values,
            dtype=getattr(ttnn, DTYPES[weight.dtype]),
            layout=getattr(ttnn, LAYOUTS[weight.layout]),
            memory_config=placement_to_memory_config(ttnn, weight.memory),
        )
        del values
        _dump(ttnn, path, packed)

    cache.store(item.key, weight_origin(weight, source), write)


def _dump(ttnn: Any, path: Path, tensor: Any) -> None:
    """Write a tensor file; a write that fails is an OSError again, not ttnn's RuntimeError."""
    try:
        ttnn.dump_tensor(str(path), tensor)
    except RuntimeError as error:
        number = re.search(r"errno=(\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
