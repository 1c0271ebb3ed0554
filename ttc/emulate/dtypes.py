# pyright: reportUnknownMemberType=false
"""Element types, layouts, and how values are rounded on their way into each type.

Values are held as float32 (or as bfloat16 where that is exact); integers as int64. The rules are
those of the packer and of ttnn's host conversion, see `block_float` for the block formats.
"""

from enum import Enum

import torch

from ttc.emulate import block_float


class DataType(Enum):
    """Element types of device tensors."""

    BFLOAT16 = 0
    FLOAT32 = 1
    UINT32 = 2
    BFLOAT8_B = 3
    BFLOAT4_B = 4
    UINT16 = 6
    INT32 = 7


class Layout(Enum):
    """Row major, or tiles of 32 x 32."""

    ROW_MAJOR = 0
    TILE = 1


TILE = 32

# An entry of token ids or positions that belongs to nobody, see `host.mark_live_rows`.
NOBODY = -1
INTEGERS = (DataType.UINT16, DataType.UINT32, DataType.INT32)
BLOCK_FORMATS = {DataType.BFLOAT8_B: block_float.BFP8, DataType.BFLOAT4_B: block_float.BFP4}

_HALF = torch.tensor(0x8000, dtype=torch.int32)
_UPPER = torch.tensor(-0x10000, dtype=torch.int32)


def round_to_bf16_(values: torch.Tensor) -> torch.Tensor:
    """Round float32 to the nearest BF16 in place, ties away from zero: the packer's rounding."""
    values.view(torch.int32).add_(_HALF).bitwise_and_(_UPPER)
    return values


def truncate_to_bf16(values: torch.Tensor) -> torch.Tensor:
    """Drop the low 16 bits of float32: how the unpacker reads float32 for a 16-bit Dst."""
    return values.view(torch.int32).bitwise_and(_UPPER).view(torch.float32)


def round_to_nearest_even(values: torch.Tensor) -> torch.Tensor:
    """Round float32 to BF16, ties to even: host conversion, SFPU multiply, adds in L1."""
    return values.to(torch.bfloat16).to(torch.float32)


def pack_on_device(
    values: torch.Tensor, dtype: DataType, *, wide_dst: bool, precise: bool = False
) -> torch.Tensor:
    """The value that is read back after an operation wrote float32 `values` as `dtype`.

    wide_dst   the values stand in a 32-bit Dst; with a 16-bit Dst they are BF16 values already
    precise    the packer keeps a 16-bit intermediate for block formats (only typecast does)
    May change `values` in place.
    """
    if dtype is DataType.BFLOAT16:
        return round_to_bf16_(values) if wide_dst else values
    if dtype is DataType.BFLOAT8_B:
        early = "truncate" if precise and wide_dst else "bf16" if precise else "six_bits"
        return block_float.quantize_on_device(values, block_float.BFP8, early)
    if dtype is DataType.BFLOAT4_B:
        return block_float.quantize_on_device(values, block_float.BFP4, "six_bits")
    return values


def pack_on_host(values: torch.Tensor, dtype: DataType) -> torch.Tensor:
    """The value of float32 or bfloat16 `values` after `from_torch(..., dtype=dtype)`."""
    if dtype is DataType.BFLOAT16:
        return values.to(torch.bfloat16)
    if dtype in BLOCK_FORMATS:
        return block_float.quantize_on_host(values, BLOCK_FORMATS[dtype])
    return values.to(torch.float32)
