"""Shapes of meshes as they are written: rows x columns, such as 1x8."""

from collections.abc import Collection
from math import prod


def shape_of(text: str) -> tuple[int, int]:
    """(rows, columns) of a shape such as 1x8."""
    rows, cols = text.split("x")
    return int(rows), int(cols)


def machine_shape(shape: str, shapes: Collection[str]) -> str | None:
    """The shape of all chips that ttnn opens `shape` in, itself or a larger one; None: in none.

    ttnn opens a part as it lies, turned, or as a line that winds through rows.
    """
    rows, cols = shape_of(shape)
    most = max(prod(shape_of(each)) for each in shapes)
    if rows * cols == most:
        return shape
    for each in shapes:
        all_rows, all_cols = shape_of(each)
        if all_rows * all_cols < most:
            continue
        lies = rows <= all_rows and cols <= all_cols
        turned = cols <= all_rows and rows <= all_cols
        if lies or turned or min(rows, cols) == 1:
            return each
    return None


def counted(number: int) -> str:
    """1 chip, 2 chips."""
    return "1 chip" if number == 1 else f"{number} chips"
