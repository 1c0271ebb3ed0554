"""Convert weights for the device into the cache: read, reorder, pack, write, forget.

Neither torch nor ttnn is needed: packing.py packs as ttnn does and tensorbin.py writes its files.
Several tensors are worked on at once, as numpy lets other threads run while it computes. What is
held in memory are blocks of rows of the checkpoint, and the packed copy of each tensor in work.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttc.checkpoint.cache import Sink, WeightCache
from ttc.checkpoint.index import PendingWeight, WeightSource, tensor_file, weight_origin
from ttc.checkpoint.packing import Packer
from ttc.checkpoint.strips import LocalMatrix, padded, stored_matrix
from ttc.checkpoint.tensorbin import ALIGNMENT_BYTES, TensorFile
from ttc.plan.placement import TILE, TILE_BYTES, tiles
from ttc.plan.plan import WeightPlan

type Array = NDArray[Any]

ROW_MAJOR_BLOCK_ROWS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a conversion is, in bytes as stored on the device, and the weight it is at."""

    done_bytes: int
    total_bytes: int
    name: str


class _Stopped(Exception):
    """Another tensor failed, or the user interrupts."""


def convert_weights(
    pending: Sequence[PendingWeight],
    source: WeightSource,
    cache: WeightCache,
    *,
    report: Callable[[Progress], None] | None = None,
    packers: int = 2,
) -> None:
    """Convert what `find_pending` returned; every finished tensor is in the cache at once.

    A tensor that another process is converting is left for the end, when it is there as a rule.
    Whatever ends the conversion early (an error, an interrupt, a signal) leaves the finished ones
    to the next run. A tensor whose file changed since the checkpoint was opened is not one of them:
    its key stands for what the file was. `report` is called in this thread, after each tensor.

    packers   tensors that are packed at once; as many again may wait for the disk meanwhile
    """
    total = sum(item.weight.tensor.stored_bytes for item in pending)
    done = 0
    stop, packing = threading.Event(), threading.Semaphore(packers)
    pool = ThreadPoolExecutor(2 * packers, thread_name_prefix="convert")

    def convert(item: PendingWeight, patient: bool) -> bool:
        """Whether the weight is in the cache now; not, if another process has it in work."""

        def write(sink: Sink) -> None:
            with packing:
                try:
                    write_weight(item.weight, source, sink, stop)
                finally:  # first: it is why what was read made no sense
                    source.checkpoint.check_unchanged()

        origin = weight_origin(item.weight, source)
        return cache.store(origin, write, wait=patient) is not None

    try:
        left = list(pending)
        for patient in (False, True):
            busy: list[PendingWeight] = []
            futures: dict[Future[bool], PendingWeight] = {
                pool.submit(convert, item, patient): item for item in left
            }
            waiting = set(futures)
            while waiting:
                finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in finished:
                    item = futures[future]
                    if not future.result():
                        busy.append(item)
                        continue
                    done += item.weight.tensor.stored_bytes
                    name = item.weight.full_name
                    if report:
                        report(Progress(done_bytes=done, total_bytes=total, name=name))
            left = busy
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def write_weight(
    weight: WeightPlan, source: WeightSource, sink: Sink, stop: threading.Event | None = None
) -> None:
    """Write the file of one weight: the header, then what each device stores."""
    file = tensor_file(weight, source.mesh_shape)
    sink.write(file.header())
    for rank in range(file.shards):
        sink.write(bytes(-sink.size_bytes % ALIGNMENT_BYTES))
        matrix = None if weight.table else LocalMatrix(weight, source, rank)
        if matrix is None or matrix.is_vector or not (weight.transpose or file.layout != "tile"):
            _write_whole(file, stored_matrix(weight, source, rank), sink)
        elif weight.transpose:
            _write_columns(file, matrix, sink, stop)
        else:
            _write_rows(file, matrix, sink, stop)


def _write_columns(
    file: TensorFile, matrix: LocalMatrix, sink: Sink, stop: threading.Event | None
) -> None:
    """Tiles of the transposed matrix: 32 rows of the checkpoint are a column of tiles."""
    rows, columns = file.shape[-2:]
    assert prod(file.shape[:-2]) == 1, f"a matrix in tiles has two dims, not {file.shape}"
    assert matrix.columns <= rows, f"{matrix.columns} inputs do not fit {file.shape}"
    assert matrix.rows <= columns, f"{matrix.rows} outputs do not fit {file.shape}"
    packed = np.empty((tiles(rows), tiles(columns), TILE_BYTES[file.dtype]), np.uint8)
    packer = Packer(file.dtype)
    filled = 0
    for first, block in matrix.blocks():
        _check(stop)
        block = padded(block, tiles(block.shape[0]) * TILE, tiles(rows) * TILE)
        for row in range(0, block.shape[0], TILE):
            packer.pack(block[row : row + TILE], packed[:, (first + row) // TILE])
        filled = (first + block.shape[0]) // TILE
    packed[:, filled:] = 0
    sink.write(packed)


def _write_rows(
    file: TensorFile, matrix: LocalMatrix, sink: Sink, stop: threading.Event | None
) -> None:
    """A row-major table, block by block, with zeros on the right and below up to its shape."""
    rows, columns = prod(file.shape[:-1]), file.shape[-1]
    for _, block in matrix.blocks():
        _check(stop)
        sink.write(padded(block, block.shape[0], columns))
    missing = np.zeros((min(rows - matrix.rows, ROW_MAJOR_BLOCK_ROWS), columns), _element(file))
    for first in range(matrix.rows, rows, ROW_MAJOR_BLOCK_ROWS):
        sink.write(missing[: rows - first])


def _write_whole(file: TensorFile, values: Array, sink: Sink) -> None:
    """A matrix that is in memory, in the orientation it is stored in."""
    rows, columns = prod(file.shape[:-1]), file.shape[-1]
    if file.layout == "row_major":
        sink.write(padded(values, rows, columns))
        return
    count, height = prod(file.shape[:-2]), tiles(file.shape[-2]) * TILE  # no tile spans matrices
    values = padded(values.reshape(count, -1, columns), count, height, tiles(columns) * TILE)
    rows, values = count * height, values.reshape(count * height, -1)
    packed = np.empty((tiles(rows), tiles(columns), TILE_BYTES[file.dtype]), np.uint8)
    packer = Packer(file.dtype)
    for column in range(tiles(columns)):
        strip = np.ascontiguousarray(values[:, column * TILE : (column + 1) * TILE].T)
        packer.pack(strip, packed[:, column])
    sink.write(packed)


def _check(stop: threading.Event | None) -> None:
    if stop is not None and stop.is_set():
        raise _Stopped


def _element(file: TensorFile) -> type[np.float32] | type[np.uint16]:
    return np.float32 if file.dtype == "fp32" else np.uint16
