# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
"""Rotary position embedding: neighbouring pairs (the llama ops) and halves (the hf op).

Both compute x * cos + rotated(x) * sin on the matrix unit with BF16 between the steps, by default
HiFi4 with a 16-bit Dst.
"""

from collections.abc import Callable

import torch

from ttc.emulate import fpu
from ttc.emulate.configs import (
    MathFidelity,
    MemoryConfig,
    TensorMemoryLayout,
    WormholeComputeKernelConfig,
)
from ttc.emulate.dtypes import TILE, DataType, round_to_bf16_
from ttc.emulate.errors import EmulationError, require
from ttc.emulate.tensor import Tensor, device_of, extend, output, require_tiles

_DEFAULT = WormholeComputeKernelConfig(math_fidelity=MathFidelity.HiFi4)
_Rotation = Callable[[torch.Tensor], torch.Tensor]


def rotary_embedding_llama(
    input_tensor: Tensor,
    cos_cache: Tensor,
    sin_cache: Tensor,
    trans_mat: Tensor,
    *,
    is_decode_mode: bool = False,
    memory_config: MemoryConfig | None = None,
    compute_kernel_config: WormholeComputeKernelConfig | None = None,
) -> Tensor:
    """Pairs rotated by the 32 x 32 transformation matrix.

    prefill   x [1, heads, seq, head_dim], cos and sin [1, 1, seq or more, head_dim]
    decode    x [1, batch, heads, head_dim], cos and sin [1, batch, 1 or 32, head_dim], one user
              per core
    """
    op = "experimental.rotary_embedding_llama"
    device_of(op, input_tensor, cos_cache, sin_cache, trans_mat)
    for tensor in (input_tensor, cos_cache, sin_cache, trans_mat):
        require(tensor.dtype is DataType.BFLOAT16, op, "all operands must be BFLOAT16")
    require_tiles(op, input_tensor, cos_cache, sin_cache, trans_mat)
    require(trans_mat.shape[-1] == TILE, op, "the transformation matrix must be one tile wide")
    if is_decode_mode:
        _check_decode(op, input_tensor, {"cos": cos_cache, "sin": sin_cache, "trans": trans_mat})
        placed = memory_config or input_tensor.memory_config()
        require(placed.is_sharded(), op, "input and output must have one memory layout")
        users = input_tensor.shape[1]
        for tensor in (cos_cache, sin_cache):
            require(tensor.shape[1] == users, op, "cos and sin must have the batch of the input")
    else:
        _check_prefill(op, input_tensor, cos_cache)
    rotation = _pair_rotation(op, trans_mat, input_tensor.shape[-1])
    return _embed(
        op,
        input_tensor,
        cos_cache,
        sin_cache,
        rotation,
        is_decode_mode,
        memory_config,
        compute_kernel_config,
    )


def rotary_embedding_llama_fused_qk(
    q_input_tensor: Tensor,
    k_input_tensor: Tensor,
    cos_cache: Tensor,
    sin_cache: Tensor,
    trans_mat: Tensor,
    *,
    compute_kernel_config: WormholeComputeKernelConfig | None = None,
) -> tuple[Tensor, Tensor]:
    """q and k [1, batch, heads, head_dim] of one decode step, on cores that do not overlap.

    cos and sin [1, 2 * batch, 1 or 32, head_dim]: the rows of q's users, then those of k's.
    """
    op = "experimental.rotary_embedding_llama_fused_qk"
    q, k = q_input_tensor, k_input_tensor
    device = device_of(op, q, k, cos_cache, sin_cache, trans_mat)
    for tensor in (q, k, cos_cache, sin_cache, trans_mat):
        require(tensor.dtype is DataType.BFLOAT16, op, "all operands must be BFLOAT16")
    require_tiles(op, q, k, cos_cache, sin_cache, trans_mat)
    _check_decode(op, q, {"k": k, "cos": cos_cache, "sin": sin_cache, "trans": trans_mat})
    users = q.shape[1] + k.shape[1]
    for tensor in (cos_cache, sin_cache):
        require(tensor.shape[1] == users, op, f"cos and sin must have {users} rows for q and k")
    q_cores, k_cores = (_cores(op, tensor) for tensor in (q, k))
    require(q_cores.isdisjoint(k_cores), op, "q and k must not overlap")
    require(
        len(_cores(op, trans_mat)) >= users, op, "the transformation matrix must be on all cores"
    )
    # Both at once, the heads of k after those of q.
    heads = (q.shape[2], k.shape[2])
    both = [
        torch.cat(_same_users(*parts), dim=2)
        for parts in zip(q.values(op), k.values(op), strict=True)
    ]
    cosines, sines = (_rows_of_both(op, table, q, k) for table in (cos_cache, sin_cache))
    rotation = _pair_rotation(op, trans_mat, q.shape[-1])
    config = compute_kernel_config or _DEFAULT
    rotated = [
        _rotate(*one, rotation, config, rounding=device.rounding)
        for one in zip(both, cosines, sines, strict=True)
    ]
    results = [
        output(
            op,
            [one[:, :, part] for one in rotated],
            tensor.shape,
            tensor.dtype,
            tensor.memory_config(),
            device,
            wide_dst=config.fp32_dest_acc_en,
        )
        for tensor, part in ((q, slice(0, heads[0])), (k, slice(heads[0], sum(heads))))
    ]
    return results[0], results[1]


def rotary_embedding_hf(
    input_tensor: Tensor,
    cos_cache: Tensor,
    sin_cache: Tensor,
    *,
    is_decode_mode: bool = False,
    memory_config: MemoryConfig | None = None,
    compute_kernel_config: WormholeComputeKernelConfig | None = None,
) -> Tensor:
    """The two halves of each head rotated; shapes as in `rotary_embedding_llama`."""
    op = "experimental.rotary_embedding_hf"
    device_of(op, input_tensor, cos_cache, sin_cache)
    require_tiles(op, input_tensor, cos_cache, sin_cache)
    require(input_tensor.dtype in (DataType.BFLOAT16, DataType.BFLOAT8_B), op, "unsupported type")
    head_dim = input_tensor.shape[-1]
    require(
        head_dim == TILE or head_dim % (2 * TILE) == 0,
        op,
        f"head dimension {head_dim} must be {TILE} or divisible by {2 * TILE}",
    )
    if is_decode_mode:
        _check_decode(op, input_tensor, {"cos": cos_cache, "sin": sin_cache})
    else:
        _check_prefill(op, input_tensor, cos_cache)
        require(
            cos_cache.shape[-2] >= input_tensor.shape[-2], op, "cos has fewer rows than the input"
        )
    return _embed(
        op,
        input_tensor,
        cos_cache,
        sin_cache,
        _rotate_half,
        is_decode_mode,
        memory_config,
        compute_kernel_config,
    )


def _rotate_half(x: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


def _pair_rotation(op: str, trans_mat: Tensor, head_dim: int) -> _Rotation:
    """x @ transformation matrix, tile by tile.

    A matrix that only moves and negates is applied as such: the product is exact then.
    """
    name = f"rotation of {head_dim}"
    if name not in trans_mat.operands:
        matrix = trans_mat.values(op)[0].reshape(-1, TILE)[:TILE]
        sources = matrix.abs().argmax(0)
        places = torch.arange(TILE, device=matrix.device)
        signs = matrix[sources, places]
        moved = torch.zeros_like(matrix).index_put_((sources, places), signs)
        require(torch.equal(moved, matrix), op, "the transformation matrix must move single values")
        tiles = head_dim // TILE
        first = torch.arange(tiles, device=matrix.device).mul_(TILE).repeat_interleave(TILE)
        trans_mat.operands[name] = [sources.repeat(tiles) + first, signs.repeat(tiles)]
    columns, signs = trans_mat.operands[name]

    def rotate(x: torch.Tensor) -> torch.Tensor:
        return x.index_select(-1, columns).mul_(signs)

    return rotate


def _embed(
    op: str,
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    rotation: _Rotation,
    decode: bool,
    memory_config: MemoryConfig | None,
    kernel: WormholeComputeKernelConfig | None,
) -> Tensor:
    device, config = device_of(op, x), kernel or _DEFAULT
    results = [
        _rotate(
            values,
            _rows_for(values, cosines, decode),
            _rows_for(values, sines, decode),
            rotation,
            config,
            rounding=device.rounding,
        )
        for values, cosines, sines in zip(x.values(op), cos.values(op), sin.values(op), strict=True)
    ]
    placed = memory_config or x.memory_config()
    wide = config.fp32_dest_acc_en
    return output(op, results, x.shape, x.dtype, placed, device, wide_dst=wide)


def _rotate(
    x: torch.Tensor,
    cosines: torch.Tensor,
    sines: torch.Tensor,
    rotation: _Rotation,
    config: WormholeComputeKernelConfig,
    *,
    rounding: bool,
) -> torch.Tensor:
    """x * cos + rotated(x) * sin, with BF16 between the steps."""
    if not rounding:
        return x * cosines + rotation(x) * sines
    fidelity, wide = config.math_fidelity, config.fp32_dest_acc_en
    if fidelity is MathFidelity.Invalid:
        fidelity = MathFidelity.HiFi4
    products = fpu.multiply(
        torch.stack((x, rotation(x))), torch.stack((cosines, sines)), fidelity, wide_dst=wide
    )
    if wide:
        round_to_bf16_(products)
    return fpu.add(products[0], products[1], wide_dst=wide)


def _rows_for(x: torch.Tensor, table: torch.Tensor, decode: bool) -> torch.Tensor:
    """The rows of a cos or sin table that meet the stored part of x."""
    if decode:
        if table.shape[1] < x.shape[1]:
            table = extend(table, (1, x.shape[1], *table.shape[2:]))
        return table[:, : x.shape[1], :1]
    if table.shape[-2] < x.shape[-2]:
        table = extend(table, (*table.shape[:-2], x.shape[-2], table.shape[-1]))
    return table[..., : x.shape[-2], :]


def _same_users(q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    users = max(q.shape[1], k.shape[1])
    return extend(q, (1, users, *q.shape[2:])), extend(k, (1, users, *k.shape[2:]))


def _rows_of_both(op: str, table: Tensor, q: Tensor, k: Tensor) -> list[torch.Tensor]:
    """A [1, 2 * batch, rows, head_dim] table as [1, users, q heads + k heads, head_dim].

    Kept on the table, which is the same for all decoders of a step.
    """
    stored = max(q.stored[0].shape[1], k.stored[0].shape[1])
    name = f"rows of {q.shape[2]} and {k.shape[2]} heads, {stored} users"
    if name not in table.operands:
        table.operands[name] = [
            torch.cat(
                (
                    one[:, :stored, :1].expand(-1, -1, q.shape[2], -1),
                    one[:, q.shape[1] : q.shape[1] + stored, :1].expand(-1, -1, k.shape[2], -1),
                ),
                dim=2,
            )
            for one in table.dense(op)
        ]
    return table.operands[name]


def _cores(op: str, tensor: Tensor) -> set[tuple[int, int]]:
    spec = tensor.memory_config().shard_spec
    if spec is None:
        raise EmulationError(op, "operands must be height sharded")
    return set(spec.grid.cores)


def _check_decode(op: str, x: Tensor, others: dict[str, Tensor]) -> None:
    for name, tensor in (("input", x), *others.items()):
        layout = tensor.memory_config().memory_layout
        sharded = layout is TensorMemoryLayout.HEIGHT_SHARDED
        require(sharded, op, f"{name} must be height sharded in decode mode")
    require(len(x.shape) == 4 and x.shape[0] == 1, op, f"shape {list(x.shape)} is not one step")


def _check_prefill(op: str, x: Tensor, cos: Tensor) -> None:
    require(
        len(cos.shape) == 4 and cos.shape[1] in (1, x.shape[1]),
        op,
        f"cos of shape {list(cos.shape)} must have 1 or {x.shape[1]} heads",
    )
    require(cos.shape[-1] == x.shape[-1], op, "cos must be as wide as a head")
