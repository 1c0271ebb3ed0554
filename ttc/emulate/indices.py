# pyright: reportUnknownMemberType=false
"""Operations on token ids and positions: embedding, argmax, plus_one."""

from math import prod

import torch

from ttc.emulate.configs import DRAM_MEMORY_CONFIG, MemoryConfig
from ttc.emulate.dtypes import INTEGERS, NOBODY, DataType, Layout
from ttc.emulate.elementwise import write_into
from ttc.emulate.errors import require
from ttc.emulate.tensor import Tensor, device_of, output

_INT32_MAX = 2**31 - 1


def embedding(
    input_tensor: Tensor,
    weight: Tensor,
    *,
    layout: Layout | None = None,
    dtype: DataType | None = None,
    memory_config: MemoryConfig | None = None,
) -> Tensor:
    """Rows of weight [1, 1, rows, width] at indices [batch, n] (or [1, 1, batch, n]).

    -> [batch, n, width]; row major unless a layout is given. The row of NOBODY is zeros.
    """
    op = "embedding"
    device = device_of(op, input_tensor, weight)
    require(
        input_tensor.dtype in (DataType.UINT32, DataType.BFLOAT16),
        op,
        f"indices must be UINT32 or BFLOAT16, got {input_tensor.dtype.name}",
    )
    leading = prod(input_tensor.shape[:-2])
    require(leading == 1, op, f"indices of shape {list(input_tensor.shape)}")
    count = input_tensor.shape[-1]
    batch = input_tensor.shape[-2] if len(input_tensor.shape) > 1 else 1
    rows, width = weight.shape[-2], weight.shape[-1]
    indices = input_tensor.values(op)
    require(weight.is_allocated(), op, "weight is not allocated")
    results: list[torch.Tensor] = []
    for ids, table in zip(indices, weight.stored, strict=True):
        wanted = ids.reshape(-1, ids.shape[-1]).to(torch.int64)
        live = wanted != NOBODY
        inside = ((wanted >= 0) & (wanted < rows)) | ~live
        require(bool(inside.all()), op, f"an index is outside 0..{rows - 1}")
        gathered = table.view(-1, table.shape[-1])[wanted].to(torch.float32)
        results.append(gathered if bool(live.all()) else gathered * live.unsqueeze(-1))
    return output(
        op,
        results,
        (batch, count, width),
        dtype or DataType.BFLOAT16,
        memory_config or DRAM_MEMORY_CONFIG,
        device,
        layout=layout or Layout.ROW_MAJOR,
        wide_dst=False,
    )


def argmax(
    input_tensor: Tensor,
    dim: int | None = None,
    keepdim: bool = False,
    *,
    memory_config: MemoryConfig | None = None,
    output_tensor: Tensor | None = None,
) -> Tensor:
    """Index of the largest element along the last dimension, the first one on ties.

    The result is UINT32, row major. An output tensor may have any shape of the same volume, as in
    ttnn, which does not compare shapes here.
    """
    op = "argmax"
    device = device_of(op, input_tensor)
    rank = len(input_tensor.shape)
    require(dim is not None and dim % rank == rank - 1, op, "only the last dimension is emulated")
    require(
        input_tensor.dtype in (DataType.BFLOAT16, DataType.FLOAT32),
        op,
        f"unsupported element type {input_tensor.dtype.name}",
    )
    require(not input_tensor.is_sharded(), op, "the input must be interleaved")
    stored = [torch.argmax(one, dim=-1, keepdim=keepdim) for one in input_tensor.values(op)]
    shape = (*input_tensor.shape[:-1], 1) if keepdim else input_tensor.shape[:-1]
    if output_tensor is not None:
        require(
            prod(shape) == prod(output_tensor.shape),
            op,
            f"output tensor of shape {list(output_tensor.shape)} for {list(shape)} results",
        )
        shape = output_tensor.shape
        stored = [one.reshape((1,) * (len(shape) - 1) + (-1,)) for one in stored]
    placed = memory_config or input_tensor.memory_config()
    result = output(
        op, stored, shape, DataType.UINT32, placed, device, layout=Layout.ROW_MAJOR, packed=True
    )
    if output_tensor is None:
        return result
    write_into(op, result, output_tensor)
    return output_tensor


def plus_one(
    input_tensor: Tensor,
    sub_core_grids: None = None,
    skip_negative_entries: bool = False,
) -> Tensor:
    """Add one to every entry in place; negative ones (idle users) can be left as they are."""
    op = "plus_one"
    del sub_core_grids
    device_of(op, input_tensor)
    require(input_tensor.dtype in INTEGERS, op, "only INT32 and UINT32 work")
    require(input_tensor.layout is Layout.ROW_MAJOR, op, "only row major works")
    for values in input_tensor.values(op):
        if skip_negative_entries:
            values.add_(((values >= 0) & (values < _INT32_MAX)).to(values.dtype))
        else:
            values.add_(1)
    input_tensor.operands.clear()
    return input_tensor
