"""Which converted weights a plan needs, which of them the cache lacks, and the artefact's index.

Nothing here imports torch or ttnn: with a full cache a compile links files and is done.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache as memoize
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ttc.checkpoint.cache import WeightCache, entry_key, link_entry
from ttc.checkpoint.files import Checkpoint
from ttc.checkpoint.names import Binding, BoundTensor
from ttc.checkpoint.tensorbin import FILE_FORMAT, TensorFile
from ttc.errors import CheckpointError, Problem
from ttc.plan.plan import WeightPart, WeightPlan
from ttc.plan.tables import RopeTable

# Raise it whenever the conversion would write other bytes from the same inputs.
CONVERSION_VERSION = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightSource:
    """Where weights come from, a checkpoint and the tensors that `bind` found in it; and for what.

    chip        the architecture family of the chip; files of one are never loaded on another
    mesh_shape  rows and columns of the chips of a replica
    """

    checkpoint: Checkpoint
    binding: Binding
    chip: str
    mesh_shape: tuple[int, int] = (1, 1)

    def tensor(self, weight: WeightPlan, part: WeightPart) -> BoundTensor:
        """The checkpoint tensor of one part."""
        decoder = "" if weight.decoder is None else f"decoders.{weight.decoder}."
        return self.binding.tensors[decoder + part.tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexEntry:
    """One weight file of an artefact, as the manifest lists it; `file` is relative to it."""

    name: str
    file: str
    size_bytes: int
    sha256: str
    header_sha256: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingWeight:
    """A weight that must be converted; `damage` says what is wrong with a cached file, if any."""

    weight: WeightPlan
    key: str
    damage: str


def weight_origin(weight: WeightPlan, source: WeightSource) -> dict[str, Any]:
    """Everything the stored bytes depend on, as plain values; its hash is the cache key.

    A table depends on no checkpoint, so all models with the same rope share it.
    """
    origin: dict[str, Any] = {
        "conversion": CONVERSION_VERSION,
        "file_format": FILE_FORMAT,
        "ttnn": _ttnn_version(),
        "chip": source.chip,
        "mesh_shape": list(source.mesh_shape),
        "shape": list(weight.shape),
        "dtype": weight.dtype,
        "layout": weight.layout,
        "memory": {
            "buffer": weight.memory.buffer,
            "layout": weight.memory.layout,
            "grid": [list(cores) for cores in weight.memory.grid],
            "shard": list(weight.memory.shard),
        },
    }
    if isinstance(weight.table, RopeTable):
        rope = weight.table.rope
        return origin | {
            "table": asdict(weight.table) | {"rope": {"kind": type(rope).__name__, **asdict(rope)}}
        }
    if weight.table is not None:
        return origin | {"table": {"mask": asdict(weight.table)}}
    return origin | {
        "checkpoint": source.checkpoint.fingerprint,
        "parts": [_part_origin(part, source.tensor(weight, part)) for part in weight.parts],
        "transpose": weight.transpose,
    }


def tensor_file(weight: WeightPlan, mesh_shape: tuple[int, int]) -> TensorFile:
    """The header of a weight's file, which has a shard for each rank if the weight is divided."""
    divided = [share.dim for part in weight.parts for share in part.shares]
    last = "out" if weight.transpose else "in"
    dim = 3 if last in divided or weight.shape[2] == 1 else 2
    if any(part.flat for part in weight.parts):  # heads: rows, or matrices of one row
        dim = 1 if weight.shape[1] > 1 else 2
    return TensorFile(
        shape=weight.shape,
        dtype=weight.dtype,
        layout=weight.layout,
        memory=weight.memory,
        mesh_shape=mesh_shape,
        shard_dim=dim if divided else None,
    )


def find_pending(
    weights: Iterable[WeightPlan], source: WeightSource, cache: WeightCache
) -> tuple[PendingWeight, ...]:
    """The weights that the cache does not hold, in order; reads no tensor of the checkpoint."""
    pending: list[PendingWeight] = []
    for weight in weights:
        key = entry_key(weight_origin(weight, source))
        found = cache.look_up(key)
        if found.entry is None:
            pending.append(PendingWeight(weight=weight, key=key, damage=found.damage))
    return tuple(pending)


def link_weights(
    weights: Iterable[WeightPlan],
    source: WeightSource,
    cache: WeightCache,
    folder: Path,
    *,
    copy: bool = False,
) -> tuple[IndexEntry, ...]:
    """Link every weight into the artefact folder, or copy it; the entries for its manifest.

    CheckpointError if the cache lacks one, which then was damaged or removed just now.
    """
    index: list[IndexEntry] = []
    for weight in weights:
        key = entry_key(weight_origin(weight, source))
        found = cache.look_up(key)
        if found.entry is None:
            raise CheckpointError(
                Problem(
                    message=f"'{weight.full_name}' is not in the weight cache",
                    note=found.damage or f"there is no entry {key}",
                    help="compile again; it will be converted again",
                )
            )
        link_entry(found.entry, folder / weight.file, copy=copy)
        cache.touch(key)
        index.append(
            IndexEntry(
                name=weight.full_name,
                file=weight.file,
                size_bytes=found.entry.size_bytes,
                sha256=found.entry.sha256,
                header_sha256=found.entry.header_sha256,
                key=key,
            )
        )
    return tuple(index)


def _part_origin(part: WeightPart, tensor: BoundTensor) -> dict[str, Any]:
    origin: dict[str, Any] = {"tensor": tensor.name, "start": part.start, "stop": part.stop}
    if tensor.first:
        origin["first"] = tensor.first
    if tensor.heads:
        origin |= {"heads": tensor.heads, "stored": tensor.rows, "wanted": part.rows}
        origin["rotary_dim"] = part.rotary_dim
    if part.flat:
        origin["flat"] = True
    if part.centred:
        origin["centred"] = part.centred
    if part.scale != 1.0 or part.offset != 0.0:
        origin |= {"scale": part.scale, "offset": part.offset}
    if part.shares:
        shares = [
            {"dim": s.dim, "size": s.size, "starts": s.starts, "taken": s.taken}
            for s in part.shares
        ]
        origin["shares"] = shares
    return origin


@memoize
def _ttnn_version() -> str:
    return version("ttnn")
