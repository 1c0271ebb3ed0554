# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
"""Splitting a fused QKV tensor into heads, and joining heads again."""

import torch

from ttc.emulate.configs import (
    MemoryConfig,
    TensorMemoryLayout,
    cores_by_row,
    l1_sharded,
)
from ttc.emulate.dtypes import TILE, DataType
from ttc.emulate.errors import require
from ttc.emulate.tensor import Tensor, device_of, output, require_tiles

_HEIGHT = TensorMemoryLayout.HEIGHT_SHARDED
_WIDTH = TensorMemoryLayout.WIDTH_SHARDED


def nlp_create_qkv_heads_decode(
    input_tensor: Tensor,
    *,
    num_heads: int,
    num_kv_heads: int | None = None,
    overlap_qk_coregrid: bool | None = True,
    memory_config: MemoryConfig | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """[1, 1, batch, (heads + 2 kv_heads) * head_dim] -> q [1, batch, heads, head_dim], k, v.

    One user per core, height sharded whatever memory config is asked for. With a sharded input
    and overlap_qk_coregrid=False k lies on the cores after those of q and v.
    """
    op = "experimental.nlp_create_qkv_heads_decode"
    device = device_of(op, input_tensor)
    require_tiles(op, input_tensor)
    require(input_tensor.dtype is DataType.BFLOAT16, op, "unsupported element type")
    shape = input_tensor.shape
    require(len(shape) == 4 and shape[:2] == (1, 1) and shape[2] <= TILE, op, f"shape {shape}")
    if memory_config is not None and memory_config.is_sharded():
        require(memory_config.memory_layout is _HEIGHT, op, "the results are height sharded")
    kv_heads = num_kv_heads if num_kv_heads is not None else num_heads
    batch = shape[2]
    head_dim = shape[3] // (num_heads + 2 * kv_heads)
    require(head_dim % TILE == 0, op, f"head dimension {head_dim} is not made of tiles")
    grid = device.compute_with_storage_grid_size()
    apart = input_tensor.is_sharded() and overlap_qk_coregrid is False
    if apart:
        spec = input_tensor.memory_config().shard_spec
        assert spec is not None, "sharded device tensors have a shard spec"
        require(
            head_dim % spec.shape[1] == 0 or spec.shape[1] == head_dim,
            op,
            f"shards of width {spec.shape[1]} hold partial heads of {head_dim}, which does not "
            "work when q and k lie on different cores",
        )
    parts = _split_heads(input_tensor.values(op), num_heads, kv_heads, head_dim)
    results: list[Tensor] = []
    for index, (heads, stored) in enumerate(
        zip((num_heads, kv_heads, kv_heads), parts, strict=True)
    ):
        first = batch if apart and index == 1 else 0
        require(first + batch <= grid.x * grid.y, op, "q and k need more cores than there are")
        height = -(-heads // TILE) * TILE
        placed = l1_sharded(_HEIGHT, height, head_dim, cores_by_row(batch, grid, first))
        results.append(
            output(
                op,
                [one.transpose(0, 1) for one in stored],
                (1, batch, heads, head_dim),
                input_tensor.dtype,
                placed,
                device,
                packed=True,
            )
        )
    return results[0], results[1], results[2]


def _split_heads(
    values: list[torch.Tensor], heads: int, kv_heads: int, head_dim: int
) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
    """[1, 1, rows, width] -> q, k, v of every device, [rows, 1, heads, head_dim]."""
    split = [
        one[0, 0]
        .unflatten(-1, (-1, head_dim))
        .unsqueeze(1)
        .split([heads, kv_heads, kv_heads], dim=2)
        for one in values
    ]
    return [one[0] for one in split], [one[1] for one in split], [one[2] for one in split]


def nlp_create_qkv_heads(
    input: Tensor,
    *,
    num_heads: int,
    num_kv_heads: int | None = None,
    transpose_k_heads: bool = True,
    memory_config: MemoryConfig | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """[batch, 1, seq, (heads + 2 kv_heads) * head_dim] -> q [batch, heads, seq, head_dim], k, v.

    k comes transposed, [batch, kv_heads, head_dim, seq], unless transpose_k_heads is False.
    """
    op = "experimental.nlp_create_qkv_heads"
    device = device_of(op, input)
    require_tiles(op, input)
    kv_heads = num_kv_heads if num_kv_heads is not None else num_heads
    shape = input.shape
    require(len(shape) == 4 and shape[1] == 1, op, f"shape {list(shape)} is not emulated")
    require(
        shape[3] % (num_heads + 2 * kv_heads) == 0,
        op,
        f"width {shape[3]} does not hold {num_heads} + 2 * {kv_heads} heads",
    )
    head_dim = shape[3] // (num_heads + 2 * kv_heads)
    placed = memory_config or input.memory_config()
    counts = (num_heads, kv_heads, kv_heads)
    parts = [
        one[:, 0].unflatten(-1, (-1, head_dim)).transpose(1, 2).split(counts, dim=1)
        for one in input.values(op)
    ]
    results: list[Tensor] = []
    for index, (heads, rows) in enumerate(zip(counts, zip(*parts, strict=True), strict=True)):
        stored = [one.contiguous() for one in rows]
        size = (shape[0], heads, shape[2], head_dim)
        if index == 1 and transpose_k_heads:
            stored = [one.transpose(2, 3).contiguous() for one in stored]
            size = (shape[0], heads, head_dim, shape[2])
        results.append(output(op, stored, size, input.dtype, placed, device, packed=True))
    return results[0], results[1], results[2]


def nlp_concat_heads(input_tensor: Tensor, *, memory_config: MemoryConfig | None = None) -> Tensor:
    """[batch, heads, seq, head_dim] -> [batch, 1, seq, heads * head_dim]."""
    op = "experimental.nlp_concat_heads"
    device = device_of(op, input_tensor)
    require_tiles(op, input_tensor)
    batch, heads, seq, head_dim = input_tensor.shape
    stored = [one.transpose(1, 2).flatten(2).unsqueeze(1) for one in input_tensor.values(op)]
    placed = memory_config or input_tensor.memory_config()
    return output(
        op,
        stored,
        (batch, 1, seq, heads * head_dim),
        input_tensor.dtype,
        placed,
        device,
        packed=True,
    )


def nlp_concat_heads_decode(
    input_tensor: Tensor,
    *,
    num_heads: int,
    memory_config: MemoryConfig | None = None,
) -> Tensor:
    """[1, batch, heads or more, head_dim] sharded by user -> [1, 1, 32, num_heads * head_dim].

    One head per core, width sharded whatever memory config is asked for; the batch is padded to
    32 rows.
    """
    op = "experimental.nlp_concat_heads_decode"
    del memory_config
    device = device_of(op, input_tensor)
    require_tiles(op, input_tensor)
    require(input_tensor.is_sharded(), op, "the input must be sharded")
    require(input_tensor.dtype is DataType.BFLOAT16, op, "unsupported element type")
    head_dim = input_tensor.shape[-1]
    require(num_heads <= input_tensor.padded_shape[2], op, f"{num_heads} heads are not there")
    stored: list[torch.Tensor] = []
    for one in input_tensor.values(op):
        if one.shape[2] < num_heads:
            one = torch.nn.functional.pad(one, (0, 0, 0, num_heads - one.shape[2]))
        stored.append(one[:, :, :num_heads].flatten(2).unsqueeze(1))
    cores = cores_by_row(num_heads, device.compute_with_storage_grid_size())
    placed = l1_sharded(_WIDTH, TILE, head_dim, cores)
    return output(
        op,
        stored,
        (1, 1, TILE, num_heads * head_dim),
        input_tensor.dtype,
        placed,
        device,
        packed=True,
    )
