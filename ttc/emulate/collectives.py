# pyright: reportUnknownMemberType=false
"""Collectives: all_gather, reduce_scatter, all_reduce, mesh_partition and their async forms.

They work along one axis of the mesh, on each line of devices by itself. Devices that end up with
the same values share one tensor. Which sum ttnn 0.81.1 forms is in its ccl/reduce_scatter and was
seen on mock meshes: `collective_sums` says how each of them adds.
"""

from collections.abc import Callable, Sequence
from math import prod

import torch

from ttc.emulate import collective_sums
from ttc.emulate.configs import (
    BufferType,
    CoreRangeSet,
    MemoryConfig,
    TensorMemoryLayout,
    Topology,
    WormholeComputeKernelConfig,
)
from ttc.emulate.device import MeshDevice
from ttc.emulate.dtypes import BLOCK_FORMATS, TILE, DataType, Layout, pack_on_device
from ttc.emulate.errors import EmulationError, require
from ttc.emulate.mesh_tensor import MeshTensor, shards_of
from ttc.emulate.tensor import Tensor, extend, output

_DIRECT_BYTES = 512 * 1024
"""ttnn sends every part straight to its owner up to this size of the input (ccl/reduce_scatter)."""

_TILE_BYTES = {DataType.BFLOAT16: 2048, DataType.FLOAT32: 4096, DataType.BFLOAT8_B: 1088}


class GlobalSemaphore:
    """What the async forms take to meet; emulated devices need not."""


def create_global_semaphore(
    mesh_device: MeshDevice,
    cores: CoreRangeSet,
    initial_value: int,
    buffer_type: BufferType = BufferType.L1,
) -> GlobalSemaphore:
    del mesh_device, cores, initial_value, buffer_type
    return GlobalSemaphore()


def all_gather(
    input_tensor: MeshTensor,
    dim: int,
    *,
    cluster_axis: int | None = None,
    memory_config: MemoryConfig | None = None,
    num_links: int | None = None,
    topology: Topology | None = None,
) -> MeshTensor:
    """The tensors of a line one after the other along `dim`, on each of its devices."""
    del num_links, topology  # only how the data travels
    return _gather("all_gather", input_tensor, dim, cluster_axis, memory_config)


def all_gather_async(
    input_tensor: MeshTensor,
    persistent_output_buffer: None = None,
    *,
    dim: int,
    multi_device_global_semaphore: Sequence[GlobalSemaphore],
    cluster_axis: int | None = None,
    memory_config: MemoryConfig | None = None,
    num_links: int | None = None,
    topology: Topology = Topology.Ring,
    barrier_semaphore: GlobalSemaphore | None = None,
) -> MeshTensor:
    """As all_gather."""
    op = "experimental.all_gather_async"
    del persistent_output_buffer, num_links, topology, barrier_semaphore
    _check_semaphores(op, multi_device_global_semaphore, 2)
    return _gather(op, input_tensor, dim, cluster_axis, memory_config)


def reduce_scatter(
    input_tensor: MeshTensor,
    dim: int,
    *,
    cluster_axis: int | None = None,
    memory_config: MemoryConfig | None = None,
    intermediate_memory_config: MemoryConfig | None = None,
    num_links: int | None = None,
    topology: Topology | None = None,
    compute_kernel_config: WormholeComputeKernelConfig | None = None,
) -> MeshTensor:
    """The sum over a line, cut along `dim`: device i of the line keeps slice i."""
    op = "reduce_scatter"
    del num_links
    tuned = compute_kernel_config is not None or intermediate_memory_config is not None
    chosen = topology or _mesh_of(op, input_tensor).topology
    dim = _dimension(op, input_tensor, dim)

    def sums(line: Sequence[Tensor]) -> list[torch.Tensor]:
        return _sums(op, line, dim, chosen, relay_only=tuned, config=compute_kernel_config)

    return _scatter(op, input_tensor, dim, cluster_axis, memory_config, sums)


def reduce_scatter_minimal_async(
    input_tensor: MeshTensor,
    persistent_output_buffers: None = None,
    *,
    dim: int,
    multi_device_global_semaphore: Sequence[GlobalSemaphore],
    cluster_axis: int | None = None,
    memory_config: MemoryConfig | None = None,
    intermediate_memory_config: MemoryConfig | None = None,
    num_links: int | None = None,
    topology: Topology = Topology.Ring,
    barrier_semaphore: GlobalSemaphore | None = None,
    compute_kernel_config: WormholeComputeKernelConfig | None = None,
) -> MeshTensor:
    """As reduce_scatter, always with partial sums that travel from device to device."""
    op = "experimental.reduce_scatter_minimal_async"
    del persistent_output_buffers, intermediate_memory_config, num_links, barrier_semaphore
    _check_semaphores(op, multi_device_global_semaphore, 3)
    dim = _dimension(op, input_tensor, dim)

    def sums(line: Sequence[Tensor]) -> list[torch.Tensor]:
        return _sums(op, line, dim, topology, relay_only=True, config=compute_kernel_config)

    return _scatter(op, input_tensor, dim, cluster_axis, memory_config, sums)


def all_reduce(
    input_tensor: MeshTensor,
    *,
    cluster_axis: int | None = None,
    memory_config: MemoryConfig | None = None,
    num_links: int | None = None,
    topology: Topology | None = None,
) -> MeshTensor:
    """The sum over a line, on each of its devices.

    A reduce_scatter and an all_gather along the last dimension that divides into whole tiles;
    where neither the width nor the height does, all devices get all parts and add for themselves.
    """
    op = "all_reduce"
    del num_links
    mesh, shards = shards_of(op, input_tensor)
    chosen = topology or mesh.topology
    placed = memory_config or input_tensor.memory_config()
    results = list(shards)
    for line in _lines(op, mesh, cluster_axis):
        tensors = [shards[device] for device in line]
        dim = _dim_of_whole_tiles(tensors[0], len(line))
        if dim is None:
            total = _broadcast_sum(op, tensors)
        else:
            total = torch.cat(_sums(op, tensors, dim, chosen, relay_only=False), dim)
            stored = max(tensor.values(op)[0].shape[dim] for tensor in tensors)
            total = total.narrow(dim, 0, stored)
        shared = _placed(op, total, input_tensor.shape, tensors[0], placed)
        for device in line:
            results[device] = shared
    return MeshTensor(mesh, results)


def all_reduce_async(
    input_tensor: MeshTensor,
    buffer_tensor: MeshTensor,
    cluster_axis: int,
    mesh_device: MeshDevice,
    multi_device_global_semaphore: GlobalSemaphore,
    *,
    dtype: DataType | None = None,
    memory_config: MemoryConfig | None = None,
    topology: Topology = Topology.Linear,
    num_links: int | None = None,
    use_noc1_only: bool = False,
    fp32_dest_acc: bool = False,
) -> MeshTensor:
    """As all_reduce in one operation: every device sends its part into the buffers of all.

    Each adds what arrived pair by pair, by position. All tensors are width sharded in L1.
    """
    op = "experimental.all_reduce_async"
    del multi_device_global_semaphore, topology, num_links, use_noc1_only
    mesh, shards = shards_of(op, input_tensor)
    require(mesh is mesh_device, op, "the input is on another mesh")
    placed = memory_config or input_tensor.memory_config()
    lines = mesh.lines(op, cluster_axis)
    require(len(lines[0]) % 2 == 0, op, "only an even number of devices is supported")
    _check_buffer(op, input_tensor, buffer_tensor, placed, len(lines[0]))
    to = dtype or input_tensor.dtype
    add = collective_sums.Addition(
        dtype=_dtype_of_sums(op, to, as_blocks=True),
        rounding=mesh.rounding,
        wide_dst=fp32_dest_acc,
    )
    results = list(shards)
    for line in lines:
        parts = _whole_each(op, [shards[device] for device in line], len(input_tensor.shape) - 1)
        total = collective_sums.in_pairs(parts, add)
        shared = output(op, [total], input_tensor.shape, to, placed, mesh.chip, packed=True)
        for device in line:
            results[device] = shared
    return MeshTensor(mesh, results)


def _check_buffer(
    op: str, x: MeshTensor, buffer: MeshTensor, placed: MemoryConfig, count: int
) -> None:
    configs = {"input": x.memory_config(), "buffer": buffer.memory_config(), "output": placed}
    for name, config in configs.items():
        sharded = config.memory_layout is TensorMemoryLayout.WIDTH_SHARDED
        require(sharded, op, f"unsupported memory layout for the {name} tensor")
    held, written = buffer.memory_config().shard_spec, placed.shard_spec
    assert held is not None, "sharded device tensors have a shard spec"
    if written is None:
        raise EmulationError(op, "the output needs a shard spec")
    inside = set(written.grid.cores) <= set(held.grid.cores)
    require(inside, op, "the output must lie on cores of the buffer")
    wanted = prod(written.shape) * count
    require(
        prod(held.shape) >= wanted, op, f"buffer shards of {held.shape} do not hold {wanted} values"
    )


def mesh_partition(
    input_tensor: MeshTensor,
    dim: int,
    cluster_axis: int | None = None,
    *,
    memory_config: MemoryConfig | None = None,
) -> MeshTensor:
    """Device i of a line keeps slice i of its own tensor: no sum, nothing travels."""
    op = "mesh_partition"
    mesh, _ = shards_of(op, input_tensor)
    dim = _dimension(op, input_tensor, dim)
    if len(mesh.lines(op, cluster_axis)[0]) == 1:
        return input_tensor
    aligned = input_tensor.layout is Layout.ROW_MAJOR or dim < len(input_tensor.shape) - 1

    def parts(line: Sequence[Tensor]) -> list[torch.Tensor]:
        size = input_tensor.shape[dim] // len(line)
        require(aligned or size % TILE == 0, op, f"slices of {size} columns are no whole tiles")
        return [
            _whole(op, tensor, dim).narrow(dim, place * size, size).clone()
            for place, tensor in enumerate(line)
        ]

    return _scatter(op, input_tensor, dim, cluster_axis, memory_config, parts)


def _mesh_of(op: str, tensor: MeshTensor) -> MeshDevice:
    return shards_of(op, tensor)[0]


def _lines(op: str, mesh: MeshDevice, axis: int | None) -> list[list[int]]:
    lines = mesh.lines(op, axis)
    require(len(lines[0]) > 1, op, f"axis {axis} of {mesh.shape} has one device")
    return lines


def _dimension(op: str, tensor: MeshTensor, dim: int) -> int:
    rank = len(tensor.shape)
    require(-rank <= dim < rank, op, f"dim {dim} of a tensor of {rank} dimensions")
    return dim % rank


def _check_semaphores(op: str, semaphores: Sequence[GlobalSemaphore], wanted: int) -> None:
    require(len(semaphores) == wanted, op, f"{wanted} semaphores needed, got {len(semaphores)}")


def _whole(op: str, tensor: Tensor, dim: int, corner: Sequence[int] | None = None) -> torch.Tensor:
    """Stored values with all of one dimension, and at least `corner` of the others."""
    values = tensor.values(op)[0]
    sizes = list(corner or values.shape)
    sizes[dim] = tensor.shape[dim]
    return extend(values, sizes)


def _whole_each(op: str, line: Sequence[Tensor], dim: int) -> list[torch.Tensor]:
    shapes = [tensor.values(op)[0].shape for tensor in line]
    corner = [max(sizes) for sizes in zip(*shapes, strict=True)]
    return [_whole(op, tensor, dim, corner) for tensor in line]


def _placed(
    op: str, values: torch.Tensor, shape: Sequence[int], like: Tensor, placed: MemoryConfig
) -> Tensor:
    chip = like.device()
    assert chip is not None, "shards_of has checked it"
    return output(op, [values], shape, like.dtype, placed, chip, layout=like.layout, packed=True)


def _gather(
    op: str, tensor: MeshTensor, dim: int, axis: int | None, memory_config: MemoryConfig | None
) -> MeshTensor:
    mesh, shards = shards_of(op, tensor)
    dim = _dimension(op, tensor, dim)
    placed = memory_config or tensor.memory_config()
    results = list(shards)
    for line in _lines(op, mesh, axis):
        shape = list(tensor.shape)
        shape[dim] *= len(line)
        parts = _whole_each(op, [shards[device] for device in line], dim)
        shared = _placed(op, torch.cat(parts, dim), shape, shards[line[0]], placed)
        for device in line:
            results[device] = shared
    return MeshTensor(mesh, results)


def _scatter(
    op: str,
    tensor: MeshTensor,
    dim: int,
    axis: int | None,
    memory_config: MemoryConfig | None,
    slices: Callable[[Sequence[Tensor]], Sequence[torch.Tensor]],
) -> MeshTensor:
    mesh, shards = shards_of(op, tensor)
    placed = memory_config or tensor.memory_config()
    results = list(shards)
    for line in _lines(op, mesh, axis):
        size, rest = divmod(tensor.shape[dim], len(line))
        require(rest == 0, op, f"{tensor.shape[dim]} does not divide among {len(line)} devices")
        shape = [*tensor.shape[:dim], size, *tensor.shape[dim + 1 :]]
        each = slices([shards[device] for device in line])
        for device, values in zip(line, each, strict=True):
            results[device] = _placed(op, values, shape, shards[device], placed)
    return MeshTensor(mesh, results)


def _has_whole_tiles(tensor: Tensor, dim: int, count: int) -> bool:
    """Whether a dimension divides into `count` slices of whole tiles."""
    size = tensor.padded_shape[dim]
    in_tiles = tensor.layout is Layout.TILE and dim >= len(tensor.shape) - 2
    return size % (count * (TILE if in_tiles else 1)) == 0


def _dim_of_whole_tiles(tensor: Tensor, count: int) -> int | None:
    rank = len(tensor.shape)
    candidates = [dim for dim in (rank - 1, rank - 2) if dim >= 0]
    return next((dim for dim in candidates if _has_whole_tiles(tensor, dim, count)), None)


def _sums(
    op: str,
    line: Sequence[Tensor],
    dim: int,
    topology: Topology,
    *,
    relay_only: bool,
    config: WormholeComputeKernelConfig | None = None,
) -> list[torch.Tensor]:
    """The sum over a line in slices along `dim`, one per device.

    Slices that are no whole tiles are cut and padded first, block formats as BFLOAT16.
    """
    first = line[0]
    whole_tiles = _has_whole_tiles(first, dim, len(line))
    dtype = _dtype_of_sums(op, first.dtype, as_blocks=whole_tiles)
    cut = [values.chunk(len(line), dim) for values in _whole_each(op, line, dim)]
    x = torch.stack([torch.stack(slices) for slices in cut])
    small = _bytes(first) <= _DIRECT_BYTES
    how = collective_sums.line
    if topology is Topology.Ring:
        can_be_direct = whole_tiles and small and first.layout is Layout.TILE and not relay_only
        how = collective_sums.direct if can_be_direct else collective_sums.ring
    add = collective_sums.Addition(
        dtype=dtype,
        rounding=_rounding(first),
        wide_dst=config is not None and config.fp32_dest_acc_en,
    )
    total = how(x, add)
    return list(_packed_again(total, first, dtype).unbind(0))


def _broadcast_sum(op: str, line: Sequence[Tensor]) -> torch.Tensor:
    """Block formats are added as BFLOAT16 and packed again."""
    first = line[0]
    dtype = _dtype_of_sums(op, first.dtype, as_blocks=False)
    x = torch.stack(_whole_each(op, line, len(first.shape) - 1))
    total = collective_sums.broadcast(
        x, collective_sums.Addition(dtype=dtype, rounding=_rounding(first))
    )
    return _packed_again(total, first, dtype)


def _dtype_of_sums(op: str, dtype: DataType, *, as_blocks: bool) -> DataType:
    if dtype not in _TILE_BYTES:
        raise EmulationError(op, f"sums of {dtype.name} are not emulated")
    return DataType.BFLOAT16 if dtype in BLOCK_FORMATS and not as_blocks else dtype


def _packed_again(total: torch.Tensor, tensor: Tensor, dtype: DataType) -> torch.Tensor:
    if dtype is tensor.dtype or not _rounding(tensor):
        return total
    return pack_on_device(total, tensor.dtype, wide_dst=False, precise=True)


def _bytes(tensor: Tensor) -> int:
    """Device memory of a tensor in tiles."""
    return prod(tensor.padded_shape) // (TILE * TILE) * _TILE_BYTES[tensor.dtype]


def _rounding(tensor: Tensor) -> bool:
    chip = tensor.device()
    return chip is None or chip.rounding
