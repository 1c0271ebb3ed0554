# pyright: reportUnknownMemberType=false
"""Between torch and the device: from_torch, to_torch, empty, and which rows are real.

On a mesh every device gets the same values unless a mapper deals them out.
"""

from collections.abc import Sequence

import torch

from ttc.emulate.configs import DRAM_MEMORY_CONFIG, MemoryConfig
from ttc.emulate.device import MeshDevice
from ttc.emulate.distribution import MeshComposer, MeshMapper
from ttc.emulate.dtypes import BLOCK_FORMATS, NOBODY, DataType, Layout, pack_on_host
from ttc.emulate.errors import EmulationError, require
from ttc.emulate.mesh_tensor import MeshTensor, replicated
from ttc.emulate.tensor import Tensor, check_placement, is_float

_OF_TORCH = {
    torch.bfloat16: DataType.BFLOAT16,
    torch.float32: DataType.FLOAT32,
    torch.float16: DataType.BFLOAT16,
    torch.int32: DataType.INT32,
    torch.int64: DataType.UINT32,
    torch.uint32: DataType.UINT32,
}
_TO_TORCH = {
    DataType.BFLOAT16: torch.bfloat16,
    DataType.FLOAT32: torch.float32,
    DataType.BFLOAT8_B: torch.float32,
    DataType.BFLOAT4_B: torch.float32,
    DataType.UINT16: torch.uint16,
    DataType.UINT32: torch.uint32,
    DataType.INT32: torch.int32,
}


def from_torch(
    tensor: torch.Tensor,
    dtype: DataType | None = None,
    *,
    layout: Layout | None = None,
    device: MeshDevice | None = None,
    memory_config: MemoryConfig | None = None,
    mesh_mapper: MeshMapper | None = None,
) -> Tensor | MeshTensor:
    """A tensor of the same logical shape, converted as ttnn's host code converts.

    With a mapper each device gets its part; without a device the result is for its mesh.
    """
    if dtype is None:
        if tensor.dtype not in _OF_TORCH:
            raise EmulationError("from_torch", f"{tensor.dtype} has no counterpart; give a dtype")
        dtype = _OF_TORCH[tensor.dtype]
    if layout is None:
        layout = Layout.TILE if dtype in BLOCK_FORMATS else Layout.ROW_MAJOR
    chip = None if device is None else device.chip

    def convert(part: torch.Tensor) -> Tensor:
        stored = _stored_form(part, dtype, rounding=chip is None or chip.rounding)
        return _on_chip("from_torch", stored, dtype, layout, chip, memory_config)

    if mesh_mapper is not None:
        pieces = mesh_mapper.deal("from_torch", tensor)
        converted = {id(piece): convert(piece) for piece in {id(p): p for p in pieces}.values()}
        return MeshTensor(device, [converted[id(piece)] for piece in pieces])
    return convert(tensor) if device is None else replicated(device, convert(tensor))


def _stored_form(values: torch.Tensor, dtype: DataType, *, rounding: bool) -> torch.Tensor:
    """A copy in the form that tensors store, rounded as the host does."""
    if not is_float(dtype):
        return values.to(torch.int64, copy=True)
    if not rounding:
        return values.to(torch.float32, copy=True)
    stored = pack_on_host(values, dtype)
    if dtype is not DataType.FLOAT32:
        stored = stored.to(torch.bfloat16)
    return stored.clone() if stored is values else stored


def _on_chip(
    op: str,
    stored: torch.Tensor,
    dtype: DataType,
    layout: Layout,
    chip: MeshDevice | None,
    memory_config: MemoryConfig | None,
) -> Tensor:
    placed = memory_config or DRAM_MEMORY_CONFIG
    shape = tuple(stored.shape)
    if chip is None:
        require(dtype not in BLOCK_FORMATS or layout is Layout.TILE, op, f"{dtype.name} needs TILE")
    else:
        check_placement(op, shape, dtype, layout, placed, chip)
        stored = stored.to(chip.torch_device)
    return Tensor([stored], shape, dtype, layout, chip, placed)


def to_torch(
    tensor: Tensor | MeshTensor,
    dtype: torch.dtype | None = None,
    *,
    mesh_composer: MeshComposer | None = None,
) -> torch.Tensor:
    """The values at the logical shape; rows that are not stored are zero.

    Those of a mesh need a composer that says how to join them.
    """
    if isinstance(tensor, MeshTensor):
        if mesh_composer is None:
            raise EmulationError(
                "to_torch",
                f"cannot convert a tensor of {len(tensor.shards)} devices to one; supply a mesh "
                "composer to concatenate the shards",
            )
        return mesh_composer.join([to_torch(shard, dtype) for shard in tensor.shards])
    values = tensor.dense("to_torch")[0]
    if dtype is None:
        rounded = tensor.device() is None or _rounding(tensor)
        dtype = _TO_TORCH[tensor.dtype] if rounded or not is_float(tensor.dtype) else torch.float32
    return values.to("cpu", dtype, copy=True)


def _rounding(tensor: Tensor) -> bool:
    device = tensor.device()
    return device is None or device.rounding


def empty(
    shape: Sequence[int],
    dtype: DataType = DataType.BFLOAT16,
    layout: Layout = Layout.ROW_MAJOR,
    *,
    device: MeshDevice,
    memory_config: MemoryConfig = DRAM_MEMORY_CONFIG,
) -> Tensor | MeshTensor:
    """Device memory. Its values are zeros here and undefined in ttnn."""
    kind = torch.float32 if is_float(dtype) else torch.int64
    zeros = torch.zeros(tuple(shape), dtype=kind, device=device.torch_device)
    return replicated(device, _on_chip("empty", zeros, dtype, layout, device.chip, memory_config))


def mark_live_rows(tensor: Tensor, *counts: int, parts: int = 1) -> None:
    """Say which entries of the last dimension belong to real users or tokens: of each of `parts`
    equal parts the first so many, and none of the parts that have no count.

    For the integer tensors a program starts from (tokens, rope positions). What is computed from
    the other entries is then zero and costs nothing, or little between real ones. ttnn has no such
    function: on a device the padding is computed like everything else, and nobody may read it there
    either.
    """
    size = tensor.shape[-1] // parts
    wanted = ", ".join(map(str, counts))
    fits = 0 < len(counts) <= parts and all(0 < count <= size for count in counts)
    require(fits, "mark_live_rows", f"{wanted} of {size} in {parts} parts")
    entries = torch.arange((len(counts) - 1) * size + counts[-1])
    live = entries % size < torch.tensor(counts)[entries // size]
    tensor.stored = [
        torch.where(live.to(one.device), one[..., : len(live)], NOBODY) for one in tensor.stored
    ]
    tensor.operands.clear()


def deallocate(tensor: Tensor, force: bool = True) -> None:
    """Free a tensor. Using it afterwards raises; freeing it again does nothing."""
    tensor.deallocate(force)


def copy_host_to_device_tensor(host_tensor: Tensor, device_tensor: Tensor) -> None:
    """Replace all values of a device tensor, those of rows that were not live included."""
    op = "copy_host_to_device_tensor"
    require(device_tensor.is_allocated(), op, "device tensor is not allocated")
    require(
        (host_tensor.shape, host_tensor.dtype, host_tensor.layout)
        == (device_tensor.shape, device_tensor.dtype, device_tensor.layout),
        op,
        f"{host_tensor} does not fit {device_tensor}",
    )
    device_tensor.stored = [host_tensor.stored[0].clone() for _ in device_tensor.stored]
    device_tensor.operands.clear()
