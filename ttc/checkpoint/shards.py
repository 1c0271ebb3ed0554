"""One rank's part of a stored tensor, from whole tensors of a checkpoint. Pure torch."""

from collections.abc import Callable

import torch

from ttc.checkpoint.layouts import assemble
from ttc.plan.parallel import Share
from ttc.plan.plan import WeightPart, WeightPlan

type ReadRows = Callable[[WeightPart, slice], torch.Tensor]
"""Rows of a part's checkpoint tensor, in the order that the part wants; a vector's elements.

A slice is whole heads where heads rotate, and lies within the tensor.
"""


def local_matrix(
    weight: WeightPlan, rank: int, read: ReadRows, rows_of: Callable[[WeightPart], int]
) -> torch.Tensor:
    """What rank `rank` stores of a weight, `weight.shape`: its rows and columns of every part.

    `rows_of` gives the rows of a part's whole tensor. Only the rows of this rank are read.
    """
    parts = [_local_part(part, rank, read, rows_of(part)) for part in weight.parts]
    return assemble(parts, weight.transpose, weight.shape)


def _local_part(part: WeightPart, rank: int, read: ReadRows, rows: int) -> torch.Tensor:
    share = part.share("out")
    if share is None:
        values = read(part, slice(part.start, part.stop or rows))
    else:
        pieces = [
            _with_zeros(read(part, slice(start, stop)), zeros)
            for start, stop, zeros in share.runs(rank, rows)
        ]
        values = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
    columns = part.share("in")
    return values if columns is None else take_columns(values, columns, rank)


def take_columns(values: torch.Tensor, share: Share, rank: int) -> torch.Tensor:
    """The columns of a matrix [out, in] that a rank holds; a copy."""
    runs = share.runs(rank, values.shape[1])
    pieces = [_with_zeros(values[:, start:stop].t(), zeros) for start, stop, zeros in runs]
    return torch.cat(pieces).t().contiguous()


def _with_zeros(values: torch.Tensor, rows: int) -> torch.Tensor:
    """`values` with rows of zeros after it."""
    if rows == 0:
        return values
    return torch.cat((values, values.new_zeros((rows, *values.shape[1:]))))
