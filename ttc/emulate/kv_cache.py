# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
"""Key and value caches: blocks of tokens [blocks, kv_heads, block, head_dim].

A page table [batch, blocks per user] gives the block that holds each part of a user's sequence.
Without one, block u is all of user u's.
"""

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import torch

from ttc.emulate.configs import WormholeComputeKernelConfig
from ttc.emulate.dtypes import TILE, DataType, Layout, pack_on_device
from ttc.emulate.errors import EmulationError, require
from ttc.emulate.tensor import Tensor, device_of, extend, require_tiles


def paged_update_cache(
    cache_tensor: Tensor,
    input_tensor: Tensor,
    *,
    update_idxs_tensor: Tensor | None = None,
    page_table: Tensor | None = None,
    compute_kernel_config: WormholeComputeKernelConfig | None = None,
) -> Tensor:
    """Write one token per user, [1, batch, kv_heads, head_dim], at the users' positions.

    A position of -1 leaves the user's cache as it is.
    """
    op = "experimental.paged_update_cache"
    del compute_kernel_config
    _check_update(op, cache_tensor, input_tensor, update_idxs_tensor, page_table)
    assert update_idxs_tensor is not None, "just checked"
    _update(op, [(cache_tensor, input_tensor)], update_idxs_tensor, page_table)
    return cache_tensor


def paged_fused_update_cache(
    cache_tensor1: Tensor,
    input_tensor1: Tensor,
    cache_tensor2: Tensor,
    input_tensor2: Tensor,
    *,
    update_idxs_tensor: Tensor | None = None,
    page_table: Tensor | None = None,
    compute_kernel_config: WormholeComputeKernelConfig | None = None,
) -> tuple[Tensor, Tensor]:
    """As two `paged_update_cache`; the inputs must lie on different cores."""
    op = "experimental.paged_fused_update_cache"
    del compute_kernel_config
    for cache, tokens in ((cache_tensor1, input_tensor1), (cache_tensor2, input_tensor2)):
        _check_update(op, cache, tokens, update_idxs_tensor, page_table)
    assert update_idxs_tensor is not None, "just checked"
    first, second = (tensor.memory_config().shard_spec for tensor in (input_tensor1, input_tensor2))
    assert first is not None, "sharded device tensors have a shard spec"
    assert second is not None, "sharded device tensors have a shard spec"
    require(
        set(first.grid.cores).isdisjoint(second.grid.cores),
        op,
        f"input_tensor1 ({first.grid}) and input_tensor2 ({second.grid}) must not overlap",
    )
    require(cache_tensor1.dtype is cache_tensor2.dtype, op, "the caches must have one element type")
    updates = [(cache_tensor1, input_tensor1), (cache_tensor2, input_tensor2)]
    _update(op, updates, update_idxs_tensor, page_table)
    return cache_tensor1, cache_tensor2


def _check_update(
    op: str, cache: Tensor, tokens: Tensor, positions: Tensor | None, page_table: Tensor | None
) -> None:
    if positions is None:
        raise EmulationError(op, "update_idxs_tensor is required")
    device_of(op, cache, tokens, positions)
    require_tiles(op, cache, tokens)
    require(tokens.is_sharded(), op, "the input must be sharded")
    require(
        tokens.dtype in (DataType.BFLOAT16, DataType.FLOAT32),
        op,
        "the input must be BFLOAT16 or FLOAT32; the update packs it for the cache",
    )
    require(positions.dtype is DataType.INT32, op, "positions must be INT32")
    batch = tokens.shape[1]
    if page_table is None:
        require(cache.shape[0] == batch, op, f"a cache of {cache.shape[0]} for {batch} users")
    else:
        device_of(op, page_table)
        check_page_table(op, page_table)
        users = page_table.shape[0]
        require(users == batch, op, f"page table of {users} for {batch}")
    require(positions.shape[-1] == batch, op, f"{positions.shape[-1]} positions for {batch} users")
    require(
        tokens.shape[2:] == (cache.shape[1], cache.shape[3]),
        op,
        f"tokens {list(tokens.shape)} do not fit the cache {list(cache.shape)}",
    )


def check_page_table(op: str, page_table: Tensor) -> None:
    require(page_table.dtype is DataType.INT32, op, "the page table must be INT32")
    require(page_table.layout is Layout.ROW_MAJOR, op, "the page table must be row major")


class _Places(NamedTuple):
    """Where the active users' tokens go: user, block, row in the block."""

    users: torch.Tensor
    blocks: torch.Tensor
    rows: torch.Tensor


def _places(
    op: str, cache: Tensor, positions: Tensor, page_table: Tensor | None, index: int
) -> _Places:
    """On one device. Users that are not stored are idle.

    All decoders of a step ask for the same places, so they are kept on the positions.
    """
    name = f"places of device {index} in {cache.shape[0]} blocks of {cache.shape[2]}"
    known = positions.operands.get(name)
    if page_table is not None:
        table = page_table.values(op)[index]
    elif known is not None:
        table = known[0]
    else:
        table = torch.arange(cache.shape[0], device=positions.values(op)[index].device)[:, None]
    if known is None or known[0] is not table:
        at = positions.values(op)[index].reshape(-1)
        users = torch.nonzero(at >= 0).flatten()
        at, block = at[users], cache.shape[2]
        if len(users) and int(at.max()) >= table.shape[1] * block:
            raise EmulationError(op, "a position is beyond the page table")
        blocks = table[users, at // block]
        if len(users):
            check_blocks(op, blocks, cache)
        known = positions.operands[name] = [table, users, blocks, at % block]
    return _Places(*known[1:])


def _update(
    op: str,
    updates: Sequence[tuple[Tensor, Tensor]],
    positions: Tensor,
    page_table: Tensor | None,
) -> None:
    """Write the tokens of each (cache, tokens) pair; the caches have one element type."""
    device = device_of(op, updates[0][0])
    for index in range(device.get_num_devices()):
        place = _places(op, updates[0][0], positions, page_table, index)
        if not len(place.users):
            continue
        rows = torch.stack(
            [
                extend(tokens.values(op)[index], (1, *tokens.shape[1:]))[0, place.users]
                for _, tokens in updates
            ]
        )
        if device.rounding:
            rows = pack_on_device(rows, updates[0][0].dtype, wide_dst=False)
        for (cache, _), one in zip(updates, rows.unbind(0), strict=True):
            into = cache.stored[index]
            into[place.blocks, :, place.rows] = one.to(into.dtype)
            cache.operands.clear()


def check_blocks(op: str, blocks: torch.Tensor, cache: Tensor) -> None:
    low, high = int(blocks.min()), int(blocks.max())
    if low < 0 or high >= cache.shape[0]:
        raise EmulationError(op, f"page table entries {low}..{high} for {cache.shape[0]} blocks")


def fill_cache(
    cache_tensor: Tensor, input_tensor: Tensor, batch_idx: int, *, update_idx: int = 0
) -> Tensor:
    """Write a prefilled sequence [1, kv_heads, seq, head_dim] into the block of one user, from the
    position `update_idx` on.
    """
    op = "fill_cache"
    cache, tokens = cache_tensor, input_tensor
    device_of(op, cache, tokens)
    require_tiles(op, cache, tokens)
    require(0 <= batch_idx < cache.shape[0], op, f"no user {batch_idx} in {cache.shape[0]}")
    fits = tokens.shape[1] == cache.shape[1] and tokens.shape[3] == cache.shape[3]
    require(
        fits and update_idx + tokens.shape[2] <= cache.shape[2],
        op,
        f"tokens {list(tokens.shape)} at {update_idx} do not fit the cache {list(cache.shape)}",
    )
    require(tokens.dtype is cache.dtype, op, "the input must have the element type of the cache")
    require(update_idx % TILE == 0, op, f"update_idx {update_idx} is not a multiple of {TILE}")
    for index, values in enumerate(tokens.values(op)):
        into = cache.stored[index]
        whole = extend(values[0], tokens.shape[1:])
        into[batch_idx, :, update_idx : update_idx + whole.shape[1]] = whole.to(into.dtype)
    cache.operands.clear()
    return cache_tensor


def paged_fill_cache(
    cache_tensor: Tensor,
    input_tensor: Tensor,
    page_table: Tensor,
    *,
    batch_idx: int = 0,
    batch_idx_tensor: Tensor | None = None,
    compute_kernel_config: WormholeComputeKernelConfig | None = None,
) -> Tensor:
    """Write prefilled sequences [batch, kv_heads, seq, head_dim] into the blocks of their users.

    `batch_idx_tensor` has the row of the page table of each; without it there is one sequence.
    """
    op = "experimental.paged_fill_cache"
    del compute_kernel_config
    cache, tokens = cache_tensor, input_tensor
    device_of(op, cache, tokens, page_table)
    sequences = tokens.shape[0]
    if batch_idx_tensor is None:
        require(sequences == 1, op, f"{sequences} sequences need a batch_idx_tensor")
    else:
        device_of(op, cache, batch_idx_tensor)
        count = prod(batch_idx_tensor.shape)
        require(count == sequences, op, f"{count} users for {sequences} sequences")
    require_tiles(op, cache, tokens)
    check_page_table(op, page_table)
    require(
        tokens.dtype is cache.dtype,
        op,
        f"the input ({tokens.dtype.name}) must have the element type of the cache "
        f"({cache.dtype.name})",
    )
    require(
        tokens.shape[1] == cache.shape[1] and tokens.shape[3] == cache.shape[3],
        op,
        f"tokens {list(tokens.shape)} do not fit the cache {list(cache.shape)}",
    )
    block, seq = cache.shape[2], tokens.shape[2]
    count = -(-seq // block)
    require(count <= page_table.shape[1], op, f"{seq} tokens do not fit the page table")
    for index, values in enumerate(tokens.values(op)):
        users = [batch_idx]
        if batch_idx_tensor is not None:
            users = batch_idx_tensor.values(op)[index].flatten().tolist()
        for user, sequence in zip(users, values, strict=False):  # those that are stored
            require(0 <= user < page_table.shape[0], op, f"no user {user} in the page table")
            blocks = page_table.values(op)[index][user, :count]
            # Entries of -1 mark blocks that are not to be written.
            wanted = torch.nonzero(blocks >= 0).flatten()
            if not len(wanted):
                continue
            check_blocks(op, blocks[wanted], cache)
            padded = extend(sequence, (cache.shape[1], count * block, cache.shape[3]))
            pages = padded.unflatten(1, (count, block)).transpose(0, 1)
            into = cache.stored[index]
            into[blocks[wanted]] = pages[wanted].to(into.dtype)
    cache.operands.clear()
    return cache_tensor
