"""Row orders, tables and shapes: from checkpoint matrices to what is stored for the device.

Pure torch. A matrix is [out, in]; a head's rows are either two halves (i turns with
i + head_dim / 2, the order of Hugging Face) or pairs (2i turns with 2i + 1).
"""

from collections.abc import Sequence
from math import prod

import torch

from ttc.checkpoint.files import RowOrder
from ttc.plan.plan import RopeTable
from ttc.spec.rope import attention_factor, inverse_frequencies

TRANSFORMATION_ROWS = 32


def reorder_rows(
    matrix: torch.Tensor, heads: int, stored: RowOrder, wanted: RowOrder
) -> torch.Tensor:
    """The rows of every head in the wanted order; any shape whose first dim is heads * head_dim.

    With heads 0 nothing turns and the tensor is returned as it is.
    """
    if heads == 0 or stored == wanted:
        return matrix
    rows, rest = matrix.shape[0], matrix.shape[1:]
    assert rows % (2 * heads) == 0, f"{rows} rows are not {heads} heads of an even size"
    half = rows // heads // 2
    split = (heads, 2, half) if stored == "halves" else (heads, half, 2)
    return matrix.reshape(*split, *rest).transpose(1, 2).reshape(rows, *rest)


def assemble(
    parts: Sequence[torch.Tensor], transpose: bool, shape: tuple[int, int, int, int]
) -> torch.Tensor:
    """Parts [out_i, in] (or [n]) as one tensor of `shape`: joined, transposed, zero padded.

    A vector fills the shape in order. A matrix fills the last two dims from the top left corner,
    or all leading dims if its rows are exactly theirs.
    """
    joined = parts[0] if len(parts) == 1 else torch.cat(tuple(parts))
    if joined.dim() == 1:
        return _padded(joined, prod(shape)).reshape(shape)
    assert joined.dim() == 2, f"a weight of {joined.dim()} dims has no layout yet"
    matrix = joined.t() if transpose else joined
    rows, columns = matrix.shape
    if rows == prod(shape[:3]) and columns == shape[3]:
        return matrix.reshape(shape).contiguous()
    assert shape[:2] == (1, 1), f"{rows} x {columns} does not fill {shape}"
    return _padded(matrix, *shape[2:]).reshape(shape)


def rope_table(table: RopeTable, shape: tuple[int, int, int, int]) -> torch.Tensor:
    """The table as float32 of `shape`; cos and sin are [rows, head_dim] before that.

    Angles are position * inverse frequency, in float64 up to the cosine: float32 would be off by
    0.008 rad at position 131072. A table has a row for every position of the planned context.
    """
    if table.kind == "transformation":
        values = transformation_matrix().repeat(table.rows // TRANSFORMATION_ROWS, 1)
        return assemble([values], False, shape)
    turned = inverse_frequencies(table.rope, table.head_dim, table.rows)
    frequencies = torch.tensor(turned, dtype=torch.float64)
    angles = torch.arange(table.rows, dtype=torch.float64)[:, None] * frequencies
    values = angles.cos() if table.kind == "cos" else angles.sin()
    values = (values * attention_factor(table.rope)).float()
    if table.order == "pairs":
        values = values.repeat_interleave(2, dim=1)
    else:
        values = torch.cat((values, values), dim=1)
    return assemble([values], False, shape)


def transformation_matrix() -> torch.Tensor:
    """T [32, 32] of ttnn's rotary operation on pairs: x @ T is (-x[2i+1], x[2i]) for each pair."""
    matrix = torch.zeros(TRANSFORMATION_ROWS, TRANSFORMATION_ROWS)
    even = torch.arange(0, TRANSFORMATION_ROWS, 2)
    matrix[even, even + 1] = 1.0
    matrix[even + 1, even] = -1.0
    return matrix


def _padded(values: torch.Tensor, *sizes: int) -> torch.Tensor:
    """A contiguous tensor of the given sizes with `values` in its first corner and zeros beside."""
    found = tuple(values.shape)
    if found == sizes:
        return values.contiguous()
    assert all(a <= b for a, b in zip(found, sizes, strict=True)), f"{found} exceeds {sizes}"
    padded = values.new_zeros(sizes)
    padded[tuple(slice(size) for size in found)] = values
    return padded
