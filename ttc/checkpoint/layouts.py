"""Row orders and tables: what a checkpoint matrix becomes on the way to the device. Pure numpy.

A matrix is [out, in]; a head's rows are either two halves (i turns with i + head_dim / 2, the order
of Hugging Face) or pairs (2i turns with 2i + 1).
"""

import numpy as np
from numpy.typing import NDArray

from ttc.checkpoint.files import RowOrder
from ttc.plan.plan import RopeTable
from ttc.spec.rope import attention_factor, inverse_frequencies

TRANSFORMATION_ROWS = 32


def row_order(rows: int, heads: int, stored: RowOrder, wanted: RowOrder) -> NDArray[np.int64]:
    """The stored row at each wanted place, for `heads` heads of equal size (0: nothing turns)."""
    places = np.arange(rows)
    if heads == 0 or stored == wanted:
        return places
    assert rows % (2 * heads) == 0, f"{rows} rows are not {heads} heads of an even size"
    half = rows // heads // 2
    split = (heads, 2, half) if stored == "halves" else (heads, half, 2)
    return places.reshape(split).swapaxes(1, 2).reshape(rows)


def rope_table(table: RopeTable) -> NDArray[np.float32]:
    """The table as float32 [rows, columns]; cos and sin have head_dim columns.

    Angles are position * inverse frequency, in float64 up to the cosine: float32 would be off by
    0.008 rad at position 131072. A table has a row for every position of the planned context.
    """
    if table.kind == "transformation":
        return np.tile(transformation_matrix(), (table.rows // TRANSFORMATION_ROWS, 1))
    frequencies = np.array(inverse_frequencies(table.rope, table.head_dim, table.rows))
    angles = np.arange(table.rows, dtype=np.float64)[:, None] * frequencies
    turned = np.cos(angles) if table.kind == "cos" else np.sin(angles)
    values = (turned * attention_factor(table.rope)).astype(np.float32)
    if table.order == "pairs":
        return np.repeat(values, 2, axis=1)
    return np.concatenate((values, values), axis=1)


def transformation_matrix() -> NDArray[np.float32]:
    """T [32, 32] of ttnn's rotary operation on pairs: x @ T is (-x[2i+1], x[2i]) for each pair."""
    matrix = np.zeros((TRANSFORMATION_ROWS, TRANSFORMATION_ROWS), np.float32)
    even = np.arange(0, TRANSFORMATION_ROWS, 2)
    matrix[even, even + 1] = 1.0
    matrix[even + 1, even] = -1.0
    return matrix
