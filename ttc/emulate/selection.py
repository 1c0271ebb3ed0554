# pyright: reportUnknownMemberType=false
"""Choices among the columns of a row: topk, gather, sampling."""

import torch

from ttc.emulate import fpu
from ttc.emulate.configs import MemoryConfig
from ttc.emulate.dtypes import INTEGERS, DataType, Layout, round_to_bf16_, round_to_nearest_even
from ttc.emulate.elementwise import write_into
from ttc.emulate.errors import require
from ttc.emulate.sfpu import exp_approximate
from ttc.emulate.tensor import Tensor, device_of, extend, output, require_tiles

_MASKED = -3.0e38
_TILE = 32
_NARROW_INDICES = 65536  # columns that indices of 16 bits can count
_LATTICE = 65536  # numbers from 0 to 1 that a draw may be


def topk(
    input_tensor: Tensor,
    k: int,
    dim: int = -1,
    largest: bool = True,
    sorted: bool = True,  # the name that ttnn has
    *,
    stable: bool = False,
    memory_config: MemoryConfig | None = None,
) -> tuple[Tensor, Tensor]:
    """The k largest of the last dimension, largest first, and their columns.

    Only the stable form: of equal values the first one comes first.
    """
    op, x = "topk", input_tensor
    require_tiles(op, x)
    device = device_of(op, x)
    rank = len(x.shape)
    require(dim % rank == rank - 1, op, "only the last dimension is emulated")
    require(largest and sorted and stable, op, "only largest, sorted and stable is emulated")
    require(k <= x.shape[-1], op, f"{k} of {x.shape[-1]} columns")
    require(
        x.dtype in (DataType.BFLOAT16, DataType.BFLOAT8_B, DataType.FLOAT32),
        op,
        f"unsupported element type {x.dtype.name}",
    )
    wide = x.shape[-1] > _NARROW_INDICES or x.dtype is DataType.FLOAT32
    found = [_largest(_whole_rows(one, x.shape[-1]), k) for one in x.values(op)]
    shape, placed = (*x.shape[:-1], k), memory_config or x.memory_config()
    kinds = x.dtype, DataType.UINT32 if wide else DataType.UINT16
    values, columns = (
        output(op, list(stored), shape, kind, placed, device, packed=True)
        for stored, kind in zip(zip(*found, strict=True), kinds, strict=True)
    )
    return values, columns


def _largest(values: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """By a key that no two columns share: the value as an integer, then how early it comes."""
    bits = (values + 0.0).view(torch.int32)  # -0.0 is 0.0
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(torch.int64)
    early = torch.arange(values.shape[-1] - 1, -1, -1, device=values.device)
    columns = (ordered * 2**32 + early).topk(k, dim=-1).indices
    return values.gather(-1, columns), columns


def _whole_rows(values: torch.Tensor, columns: int) -> torch.Tensor:
    return extend(values, (*values.shape[:-1], columns))


def gather(
    input: Tensor,  # the name that ttnn has
    dim: int,
    index: Tensor,
    *,
    memory_config: MemoryConfig | None = None,
) -> Tensor:
    """For each entry of the index, the element of that column in the same row."""
    op, x = "gather", input
    require_tiles(op, x, index)
    device = device_of(op, x, index)
    rank = len(x.shape)
    require(dim % rank == rank - 1, op, "only the last dimension is emulated")
    require(len(index.shape) == rank, op, "input and index must have one rank")
    require(
        all(i <= n for i, n in zip(index.shape[:-1], x.shape[:-1], strict=True)),
        op,
        f"an index of {list(index.shape)} into {list(x.shape)}",
    )
    require(index.dtype in (DataType.UINT16, DataType.UINT32), op, f"index of {index.dtype.name}")
    stored: list[torch.Tensor] = []
    for values, columns in zip(x.values(op), index.values(op), strict=True):
        wanted = _whole_rows(columns, index.shape[-1])
        rows = extend(values, (*x.shape[:-1], x.shape[-1]))
        region = tuple(slice(size) for size in wanted.shape[:-1])
        stored.append(rows[region].gather(-1, wanted))
    placed = memory_config or x.memory_config()
    return output(op, stored, index.shape, x.dtype, placed, device, packed=True)


def sampling(
    input_values_tensor: Tensor,
    input_indices_tensor: Tensor,
    k: Tensor,
    p: Tensor,
    temp: Tensor,
    *,
    seed: int = 0,
    output_tensor: Tensor | None = None,
) -> Tensor:
    """An index of each row, drawn by softmax(temp * values) among the k largest, up to p.

    values [1, 1, users, columns], a power of two of tiles; indices alike, row major; k, p and temp
    [users]; -> [1, 1, 1, users] UINT32. `seed` 0 goes on with the numbers of the calls before.
    """
    op, values, indices = "sampling", input_values_tensor, input_indices_tensor
    device = device_of(op, values, indices, k, p, temp)
    _check_sampling(op, values, indices, k, p, temp)
    users = values.shape[2]
    if seed:
        torch.manual_seed(seed)
    drawn: list[torch.Tensor] = []
    for index in range(len(values.stored)):
        each = [_dense(op, tensor, index) for tensor in (values, indices, k, p, temp)]
        drawn.append(_draw(*each).view(1, 1, 1, users))
    shape = (1, 1, 1, users)
    placed = values.memory_config() if output_tensor is None else output_tensor.memory_config()
    result = output(
        op, drawn, shape, DataType.UINT32, placed, device, layout=Layout.ROW_MAJOR, packed=True
    )
    if output_tensor is None:
        return result
    write_into(op, result, output_tensor)
    return output_tensor


def _dense(op: str, tensor: Tensor, index: int) -> torch.Tensor:
    """All values of a device, rows [users, columns] or an entry for each user."""
    values = extend(tensor.values(op)[index], tensor.shape)
    return values.reshape(-1, tensor.shape[-1]) if values.ndim > 1 else values


def _check_sampling(
    op: str, values: Tensor, indices: Tensor, k: Tensor, p: Tensor, temp: Tensor
) -> None:
    require_tiles(op, values)
    require(values.dtype is DataType.BFLOAT16, op, f"values of {values.dtype.name}")
    require(indices.shape == values.shape, op, "values and indices must have one shape")
    require(
        len(values.shape) == 4 and values.shape[:2] == (1, 1) and values.shape[2] <= _TILE,
        op,
        f"values of shape {list(values.shape)}",
    )
    tiles = values.shape[3] // _TILE
    require(
        values.shape[3] % _TILE == 0 and tiles & (tiles - 1) == 0,
        op,
        f"{values.shape[3]} columns are no power of two of tiles",
    )
    for each in (indices, k, p, temp):
        require(each.layout is Layout.ROW_MAJOR, op, f"operands must be row major, got {each}")
    for each in (indices, k):
        require(each.dtype in INTEGERS, op, f"indices and k are integers, got {each.dtype.name}")
    for each in (p, temp):
        require(each.dtype is DataType.BFLOAT16, op, f"p and temp of {each.dtype.name}")
    users = (values.shape[2],)
    require(k.shape == p.shape == temp.shape == users, op, "k, p and temp have an entry per user")


def _draw(
    values: torch.Tensor,
    indices: torch.Tensor,
    k: torch.Tensor,
    p: torch.Tensor,
    temp: torch.Tensor,
) -> torch.Tensor:
    """As the kernels: BF16 probabilities by the approximate exponential.

    Sums are float32 there. Here they are exact, so that they are the same on every machine.
    """
    best, columns = _largest(values, min(_TILE, values.shape[-1]))
    places = torch.arange(best.shape[-1], device=values.device)
    scaled = round_to_nearest_even(best * temp.view(-1, 1))
    scaled = torch.where(places < k.view(-1, 1), scaled, torch.full_like(scaled, _MASKED))
    shifted = round_to_nearest_even(scaled - scaled.amax(-1, keepdim=True))
    powers = round_to_bf16_(exp_approximate(shifted, 1.0, wide_dst=True))
    inverse = round_to_bf16_(fpu.row_sums(powers).reciprocal())
    probabilities = round_to_nearest_even(powers * inverse) * (places < k.view(-1, 1))
    probabilities = probabilities.to(torch.float64)
    sums = probabilities.cumsum(-1)
    kept = (sums - probabilities) <= p.view(-1, 1)
    total = (probabilities * kept).sum(-1, keepdim=True)
    threshold = torch.randint(_LATTICE, (len(best), 1)).to(values.device) / _LATTICE
    place = (probabilities * kept / total).cumsum(-1) > threshold
    first = place.to(torch.int64).argmax(-1, keepdim=True)  # 0 where nothing passes the threshold
    return indices.gather(-1, columns.gather(-1, first))
