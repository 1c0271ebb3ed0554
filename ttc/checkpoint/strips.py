"""What one device stores of a weight, read from the checkpoint in blocks of rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttc.checkpoint.index import WeightSource
from ttc.checkpoint.layouts import row_order, table_values
from ttc.checkpoint.packing import all_finite, round_to_bf16, widen_bf16
from ttc.errors import CheckpointError, Problem
from ttc.plan.parallel import Share
from ttc.plan.plan import WeightPart, WeightPlan

type Array = NDArray[Any]

BLOCK_BYTES = 8 << 20  # of checkpoint values held at once, next to what they are packed into
ROW_STEP = 256  # of blocks: whole tiles, and as a rule whole heads, which are then read once
ZERO = -1  # in place of a row or column: it is zeros


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """Rows and columns of one checkpoint tensor, by number; ZERO for zeros, None for all.

    Of each `centred` rows from `first` on the mean is taken out, 0 for none; then what is read is
    multiplied by `scale`, and `offset` is added. A vector is in one tensor or in several, which
    follow each other row by row.
    """

    tensors: tuple[str, ...]
    is_vector: bool
    first: int
    centred: int
    rows: NDArray[np.int64]
    columns: NDArray[np.int64] | None
    scale: float
    offset: float


class LocalMatrix:
    """The parts of a weight, one below the other: a matrix [out, in] as the checkpoint has it.

    Values are uint16 (bf16 bits), or float32 for a weight that is stored as fp32. A weight of
    vectors is a matrix of one row.
    """

    def __init__(self, weight: WeightPlan, source: WeightSource, rank: int) -> None:
        self._source = source
        self._parts = [_part(weight, part, source, rank) for part in weight.parts]
        self._wide = weight.dtype == "fp32"
        self.is_vector = self._parts[0].is_vector
        count = sum(part.rows.size for part in self._parts)
        if self.is_vector:
            self.rows, self.columns = 1, count
        else:
            first = self._parts[0]
            stored, taken = source.checkpoint.shape(first.tensors[0])[1], first.columns
            self.rows, self.columns = count, stored if taken is None else taken.size

    def vector(self) -> Array:
        """All elements of a weight of vectors."""
        return np.concatenate([self._taken(p, self._elements(p), p.rows) for p in self._parts])

    def _elements(self, part: _Part) -> Array:
        """All that the tensors of a vector hold, in one row."""
        read = self._source.checkpoint.read
        values = np.concatenate([read(tensor).reshape(-1) for tensor in part.tensors])
        return _centred(values, part.first, part.centred)

    def blocks(self) -> Iterator[tuple[int, Array]]:
        """(number of the first row, rows) from top to bottom; every block is a new array."""
        row_bytes = self.columns * (4 if self._wide else 2)
        step = max(ROW_STEP, BLOCK_BYTES // row_bytes // ROW_STEP * ROW_STEP)
        for first in range(0, self.rows, step):
            yield first, self._read(first, min(first + step, self.rows))

    def _read(self, first: int, stop: int) -> Array:
        blocks: list[Array] = []
        start = 0
        for part in self._parts:
            rows = part.rows[max(first - start, 0) : max(stop - start, 0)]
            if rows.size:
                blocks.append(self._rows(part, rows))
            start += part.rows.size
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)

    def _rows(self, part: _Part, rows: NDArray[np.int64]) -> Array:
        """Some rows of a part, in the given order; what lies between them is read as well."""
        stored = rows[rows != ZERO]
        if not stored.size:
            return np.zeros((rows.size, self.columns), np.float32 if self._wide else np.uint16)
        low, high = int(stored.min()), int(stored.max()) + 1
        if part.centred:  # whole heads
            low -= (low - part.first) % part.centred
            high += -(high - part.first) % part.centred
        values = self._source.checkpoint.read(part.tensors[0], slice(low, high))
        values = _centred(values, 0, part.centred)
        return self._taken(part, values, np.where(rows == ZERO, ZERO, rows - low))

    def _taken(self, part: _Part, values: Array, rows: NDArray[np.int64]) -> Array:
        """Rows and columns of what was read of a part; CheckpointError unless all are numbers."""
        taken = _take(self._values(values, part), rows, axis=0)
        if part.columns is not None and not self.is_vector:
            taken = _take(taken, part.columns, axis=1)
        if not all_finite(taken):
            raise self._not_finite(part)
        return taken

    def _not_finite(self, part: _Part) -> CheckpointError:
        """What to say of a tensor with values that are no numbers: all of it is counted."""
        checkpoint = self._source.checkpoint
        tensor = self._first_not_finite(part)
        count, *rest = checkpoint.shape(tensor)
        step = max(1, BLOCK_BYTES // (2 * prod(rest))) if rest else count
        nans = infinite = 0
        first = ""
        for start in range(0, count, step):
            rows = slice(start, min(start + step, count)) if rest else None
            values = self._values(checkpoint.read(tensor, rows), part)
            wide = widen_bf16(values) if values.dtype == np.uint16 else values
            nan, wrong = np.isnan(wide), ~np.isfinite(wide)
            nans, infinite = nans + int(nan.sum()), infinite + int((wrong & ~nan).sum())
            if not first and wrong.any():
                row, *column = np.argwhere(wrong)[0]
                first = f"[{', '.join(str(index) for index in (start + row, *column))}]"
        return CheckpointError(
            Problem(
                message=f"'{tensor}' of {checkpoint.description} holds values that are no numbers",
                note=f"{nans:,} NaN and {infinite:,} infinite (or too large for bf16) of "
                f"{count * prod(rest):,}, the first at {first}",
                help="download the checkpoint again, or give another: whatever a model computes "
                "with such a weight is NaN",
            )
        )

    def _first_not_finite(self, part: _Part) -> str:
        """The tensor of a part that holds the values: one of its rows, or the only one."""
        read = self._source.checkpoint.read
        first, *others = part.tensors
        every = [first, *others] if others else []
        wrong = (name for name in every if not all_finite(self._values(read(name), part)))
        return next(wrong, first)

    def _values(self, values: Array, part: _Part) -> Array:
        """Checkpoint values, scaled and moved, in the form that the packer wants."""
        if part.scale != 1.0 or part.offset != 0.0:
            wide = widen_bf16(values) if values.dtype == np.uint16 else values
            values = wide * np.float32(part.scale) + np.float32(part.offset)
        if self._wide:
            return widen_bf16(values) if values.dtype == np.uint16 else values
        return values if values.dtype == np.uint16 else round_to_bf16(values)


def stored_matrix(weight: WeightPlan, source: WeightSource, rank: int = 0) -> Array:
    """All that a rank stores of a weight, [rows, columns] of its shape, before it is packed.

    Tables have no checkpoint; vectors fill the shape in order, matrices from the top left corner.
    """
    rows, columns = prod(weight.shape[:3]), weight.shape[3]
    if weight.table is not None:
        table = table_values(weight.table)
        return padded(table if weight.dtype == "fp32" else round_to_bf16(table), rows, columns)
    matrix = LocalMatrix(weight, source, rank)
    if matrix.is_vector:
        return padded(matrix.vector(), rows * columns).reshape(rows, columns)
    values = np.concatenate([block for _, block in matrix.blocks()])
    return padded(values.T if weight.transpose else values, rows, columns)


def padded(values: Array, *sizes: int) -> Array:
    """Contiguous `values` with zeros after them in every dim, up to `sizes`."""
    if values.shape == sizes:
        return np.ascontiguousarray(values)
    assert all(a <= b for a, b in zip(values.shape, sizes, strict=True)), f"too large for {sizes}"
    larger = np.zeros(sizes, values.dtype)
    larger[tuple(map(slice, values.shape))] = values
    return larger


def _part(weight: WeightPlan, part: WeightPart, source: WeightSource, rank: int) -> _Part:
    tensor = source.tensor(weight, part)
    end = prod(tensor.shape) if part.flat else tensor.shape[0]
    order = row_order(end, tensor.heads, tensor.rows, part.rows, part.rotary_dim)
    out, columns = part.share("out"), part.share("in")
    if out is None:
        rows = order[part.start : part.stop or end]
    else:
        places = _places(out, rank, end)
        rows = np.where(places == ZERO, ZERO, order[places])
    return _Part(
        tensors=tensor.tensors,
        is_vector=part.flat or not tensor.shape[1:],
        first=tensor.first,
        centred=part.centred,
        rows=np.where(rows == ZERO, ZERO, rows + tensor.first),
        columns=None if columns is None else _places(columns, rank, tensor.shape[1]),
        scale=part.scale,
        offset=part.offset,
    )


def _centred(values: Array, first: int, size: int) -> Array:
    """Values less the mean of each `size` rows, from row `first` on; float32 unless size is 0."""
    if not size:
        return values
    wide = widen_bf16(values) if values.dtype == np.uint16 else values.astype(np.float32)
    heads = wide[first : first + (len(wide) - first) // size * size]
    by_head = heads.reshape(-1, size, *wide.shape[1:])
    by_head -= by_head.mean(axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
    return wide


def _places(share: Share, rank: int, end: int) -> NDArray[np.int64]:
    """The elements of a dim that a rank holds, by number, ZERO for zeros."""
    runs = [
        np.concatenate((np.arange(start, stop), np.full(zeros, ZERO)))
        for start, stop, zeros in share.runs(rank, end)
    ]
    return np.concatenate(runs)


def _take(values: Array, places: NDArray[np.int64], axis: int) -> Array:
    """The rows or columns at `places`; a view where they are all that there are, in order."""
    if places.size == values.shape[axis] and np.array_equal(places, np.arange(places.size)):
        return values
    taken = np.take(values, places, axis=axis, mode="wrap")
    zeros = places == ZERO
    if zeros.any():
        if axis == 0:
            taken[zeros] = 0
        else:
            taken[:, zeros] = 0
    return taken
