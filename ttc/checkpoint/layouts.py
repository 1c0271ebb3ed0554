"""Row orders and tables: what a checkpoint matrix becomes on the way to the device. Pure numpy.

A matrix is [out, in]; a head's rows are either two halves (i turns with i + head_dim / 2, the order
of Hugging Face) or pairs (2i turns with 2i + 1).
"""

import numpy as np
from numpy.typing import NDArray

from ttc.checkpoint.files import RowOrder
from ttc.plan.tables import MaskTable, RopeTable
from ttc.spec.rope import alike_tokens, attention_factor, inverse_frequencies

TRANSFORMATION_ROWS = 32


def row_order(
    rows: int, heads: int, stored: RowOrder, wanted: RowOrder, rotary_dim: int = 0
) -> NDArray[np.int64]:
    """The stored row at each wanted place, for `heads` heads of equal size (0: nothing turns).

    stored  the first rotary_dim rows of a head turn (0: all), as two halves or as pairs
    wanted  the rotary operation turns whole heads, so that halves are those of the head: the rows
            that do not turn are shared out behind both; behind pairs they stay together
    """
    places = np.arange(rows)
    if heads == 0:
        return places
    head_dim = rows // heads
    turning = rotary_dim or head_dim
    assert rows == heads * head_dim, f"{rows} rows are not {heads} heads"
    assert turning % 2 == 0, f"{rows} rows are not {heads} heads of an even size"
    split = places.reshape(heads, head_dim)
    halves = stored == "halves"
    first = split[:, : turning // 2] if halves else split[:, 0:turning:2]
    second = split[:, turning // 2 : turning] if halves else split[:, 1:turning:2]
    still = split[:, turning:]
    if wanted == "pairs":
        pairs = np.stack((first, second), axis=2).reshape(heads, turning)
        return np.concatenate((pairs, still), axis=1).reshape(rows)
    middle = still.shape[1] // 2
    parts = (first, still[:, :middle], second, still[:, middle:])
    return np.concatenate(parts, axis=1).reshape(rows)


# What a mask adds to the scores of hidden keys: no score comes near, and exp of it is 0. Finite, so
# that a row of hidden keys alone gives no NaN.
HIDDEN = -1.0e9


def table_values(table: RopeTable | MaskTable) -> NDArray[np.float32]:
    """A table as float32 [rows, columns]."""
    return rope_table(table) if isinstance(table, RopeTable) else mask_table(table)


def mask_table(table: MaskTable) -> NDArray[np.float32]:
    """[position, key]: 0 for the keys up to the position, at most `window` of them; else HIDDEN."""
    seen = np.tri(table.rows, dtype=bool)
    if table.window:
        seen &= ~np.tri(table.rows, k=-table.window, dtype=bool)
    return np.where(seen, np.float32(0.0), np.float32(HIDDEN))


def rope_table(table: RopeTable, tokens: int = 0) -> NDArray[np.float32]:
    """The table as float32 [rows, columns]; cos and sin have head_dim columns.

    Angles are position * inverse frequency, in float64 up to the cosine: float32 would be off by
    0.008 rad at position 131072. A table has a row for every position of the planned context.

    tokens  the length of the sequence, where one is at hand
    """
    if table.kind == "transformation":
        return np.tile(transformation_matrix(), (table.rows // TRANSFORMATION_ROWS, 1))
    turning = _turning(table, tokens)
    width = turning.shape[1]
    frequencies = np.zeros((len(turning), table.head_dim // 2))
    frequencies[:, :width] = turning
    angles = np.arange(table.rows, dtype=np.float64)[:, None] * frequencies
    turned = np.cos(angles) if table.kind == "cos" else np.sin(angles)
    turned[:, :width] *= attention_factor(table.rope)
    values = turned.astype(np.float32)
    if table.order == "pairs":
        return np.repeat(values, 2, axis=1)
    return np.concatenate((values, values), axis=1)


def _turning(table: RopeTable, tokens: int) -> NDArray[np.float64]:
    """Inverse frequencies [1, rotary_dim / 2], or [rows, rotary_dim / 2] where rows differ."""
    rope, turning = table.rope, table.rotary_dim
    if not table.by_step:
        return np.array([inverse_frequencies(rope, turning, tokens or table.rows)])
    alike = [alike_tokens(rope, position + 1) for position in range(table.rows)]
    known = {each: inverse_frequencies(rope, turning, each) for each in set(alike)}
    return np.array([known[each] for each in alike])


def transformation_matrix() -> NDArray[np.float32]:
    """T [32, 32] of ttnn's rotary operation on pairs: x @ T is (-x[2i+1], x[2i]) for each pair."""
    matrix = np.zeros((TRANSFORMATION_ROWS, TRANSFORMATION_ROWS), np.float32)
    even = np.arange(0, TRANSFORMATION_ROWS, 2)
    matrix[even, even + 1] = 1.0
    matrix[even + 1, even] = -1.0
    return matrix
