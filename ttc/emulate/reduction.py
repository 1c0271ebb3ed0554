# pyright: reportUnknownMemberType=false
"""Along the last dimension: sum, max and cumsum."""

import torch

from ttc.emulate import fpu
from ttc.emulate.configs import MemoryConfig
from ttc.emulate.dtypes import DataType
from ttc.emulate.errors import require
from ttc.emulate.tensor import Tensor, device_of, extend, output, require_tiles


def sum_tensor(
    input_tensor: Tensor,
    dim: int,
    keepdim: bool = False,
    *,
    memory_config: MemoryConfig | None = None,
) -> Tensor:
    """The sum of each row, of what the matrix unit reads (TF32 of FLOAT32)."""
    op, x = "sum", input_tensor
    wide = _check_rows(op, x, dim, keepdim)
    device = device_of(op, x)
    stored: list[torch.Tensor] = []
    for values in x.values(op):
        read = fpu.as_tf32(values) if device.rounding and wide else values
        stored.append(fpu.row_sums(read))
    return _one_column(op, x, stored, memory_config)


def max_tensor(
    input_tensor: Tensor,
    dim: int,
    keepdim: bool = False,
    *,
    memory_config: MemoryConfig | None = None,
) -> Tensor:
    """The largest of each row, as the matrix unit reads it (TF32 of FLOAT32)."""
    op, x = "max", input_tensor
    wide = _check_rows(op, x, dim, keepdim)
    device = device_of(op, x)
    stored: list[torch.Tensor] = []
    for values in x.values(op):
        rows = extend(values, (*values.shape[:-1], x.shape[-1])).amax(-1, keepdim=True)
        stored.append(fpu.as_tf32(rows) if device.rounding and wide else rows)
    return _one_column(op, x, stored, memory_config)


def _check_rows(op: str, x: Tensor, dim: int, keepdim: bool) -> bool:
    """Refuse all but the last dimension, kept; whether the values are FLOAT32."""
    require_tiles(op, x)
    rank = len(x.shape)
    require(dim % rank == rank - 1 and keepdim, op, "only the last dimension, kept, is emulated")
    return x.dtype is DataType.FLOAT32


def _one_column(
    op: str, x: Tensor, stored: list[torch.Tensor], memory_config: MemoryConfig | None
) -> Tensor:
    placed, wide = memory_config or x.memory_config(), x.dtype is DataType.FLOAT32
    shape = (*x.shape[:-1], 1)
    return output(op, stored, shape, x.dtype, placed, device_of(op, x), wide_dst=wide)


def cumsum(input_tensor: Tensor, dim: int) -> Tensor:
    """Running sums of each row. Those of FLOAT32 are compensated, exact up to their rounding."""
    op, x = "cumsum", input_tensor
    require_tiles(op, x)
    device = device_of(op, x)
    rank = len(x.shape)
    require(dim % rank == rank - 1, op, "only the last dimension is emulated")
    require(x.dtype is DataType.FLOAT32, op, f"only FLOAT32 is emulated, got {x.dtype.name}")
    stored = [
        extend(values, (*values.shape[:-1], x.shape[-1])).double().cumsum(-1).float()
        for values in x.values(op)
    ]
    return output(op, stored, x.shape, x.dtype, x.memory_config(), device)
