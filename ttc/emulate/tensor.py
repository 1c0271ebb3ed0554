# pyright: reportUnknownMemberType=false
"""Device tensors: logical shape, type, layout, placement, and the values of each device.

`stored` holds one torch tensor per device. It may be smaller than the logical shape in any
dimension: only a leading corner is then stored and everything outside reads as zero. That is how
the padding users of a decode batch and the padding tokens of a prefill bucket cost nothing: the
host marks the real ones with `mark_live_rows` and every operation keeps the corner.

Float values are stored as float32, or as bfloat16 where they came from the host (exact, as every
type but FLOAT32 fits); integers are int64.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import prod

import torch

from ttc.emulate.configs import (
    DRAM_MEMORY_CONFIG,
    BufferType,
    MemoryConfig,
    TensorMemoryLayout,
)
from ttc.emulate.device import Banks, MeshDevice
from ttc.emulate.dtypes import BLOCK_FORMATS, INTEGERS, TILE, DataType, Layout, pack_on_device
from ttc.emulate.errors import EmulationError, require

Shape = tuple[int, ...]


class _Allocation:
    """Device memory. A view outlives the tensor it was made of, but freeing it frees that too."""

    __slots__ = ("alive", "base")

    def __init__(self, base: "_Allocation | None" = None) -> None:
        self.alive = True
        self.base = base

    def free(self) -> None:
        self.alive = False
        if self.base is not None:
            self.base.free()


class Tensor:
    """A tensor on a device (or, with `device` None, on the host)."""

    __slots__ = (
        "_allocation",
        "_device",
        "_memory_config",
        "dtype",
        "layout",
        "operands",
        "shape",
        "stored",
    )

    def __init__(
        self,
        stored: list[torch.Tensor],
        shape: Shape,
        dtype: DataType,
        layout: Layout,
        device: MeshDevice | None,
        memory_config: MemoryConfig = DRAM_MEMORY_CONFIG,
        view_of: "Tensor | None" = None,
    ) -> None:
        self.stored = stored
        self.shape = shape
        self.dtype = dtype
        self.layout = layout
        # Forms of the values that an operation keeps for its next call, by name. What changes
        # the values in place clears them.
        self.operands: dict[str, list[torch.Tensor]] = {}
        self._device = device
        self._memory_config = memory_config
        self._allocation = _Allocation(view_of._allocation if view_of is not None else None)

    @property
    def padded_shape(self) -> Shape:
        return padded_shape(self.shape, self.layout)

    def memory_config(self) -> MemoryConfig:
        return self._memory_config

    def device(self) -> MeshDevice | None:
        return self._device

    def is_sharded(self) -> bool:
        return self._memory_config.is_sharded()

    def is_allocated(self) -> bool:
        return self._allocation.alive

    def deallocate(self, force: bool = True) -> None:
        del force
        self._allocation.free()
        self.stored = []
        self.operands = {}

    def clone(self) -> "Tensor":
        """The same values in device memory of their own."""
        return Tensor(
            [one.clone() for one in self.stored],
            self.shape,
            self.dtype,
            self.layout,
            self._device,
            self._memory_config,
        )

    def values(self, op: str) -> list[torch.Tensor]:
        """The stored corner on each device as float32 (int64 for integers). Do not change it."""
        if not self._allocation.alive:
            raise EmulationError(op, "input tensor is not allocated (used after deallocate)")
        if self.stored[0].dtype is torch.bfloat16:
            return [one.to(torch.float32) for one in self.stored]
        return self.stored

    def dense(self, op: str) -> list[torch.Tensor]:
        """As `values`, with the parts that are not stored filled with zeros."""
        return [extend(one, self.shape) for one in self.values(op)]

    def __repr__(self) -> str:
        return (
            f"Tensor({list(self.shape)}, {self.dtype.name}, {self.layout.name}, "
            f"{self._memory_config})"
        )


def extend(values: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """`values` with zeros appended in every dimension up to `shape`."""
    if values.shape == tuple(shape):
        return values
    pads: list[int] = []
    for have, want in zip(reversed(values.shape), reversed(shape), strict=True):
        pads += [0, want - have]
    return torch.nn.functional.pad(values, pads)


def padded_shape(shape: Shape, layout: Layout) -> Shape:
    """Logical shape rounded up to whole tiles in its last two dimensions."""
    if layout is Layout.ROW_MAJOR or not shape:
        return shape
    matrix = (1, *shape) if len(shape) == 1 else shape
    height, width = -(-matrix[-2] // TILE) * TILE, -(-matrix[-1] // TILE) * TILE
    return (*matrix[:-2], height, width)


def device_of(op: str, *tensors: Tensor) -> MeshDevice:
    """The one device all operands are on; all of them must be allocated."""
    device = tensors[0].device()
    if device is None:
        raise EmulationError(op, "operands must be on a device")
    for tensor in tensors:
        require(tensor.device() is device, op, "operands must be on one device")
        require(tensor.is_allocated(), op, "an operand is not allocated (used after deallocate)")
    return device


def output(
    op: str,
    stored: list[torch.Tensor],
    shape: Sequence[int],
    dtype: DataType,
    memory_config: MemoryConfig,
    device: MeshDevice,
    *,
    layout: Layout = Layout.TILE,
    wide_dst: bool = True,
    precise: bool = False,
    packed: bool = False,
) -> Tensor:
    """The result of an operation: packed as the device packs it, placement checked.

    packed   the values are already in `dtype` (data only moved)
    For wide_dst and precise see `pack_on_device`. May change `stored` in place.
    """
    shape = tuple(shape)
    if not packed:
        require(
            dtype is not DataType.BFLOAT4_B,
            op,
            "no operation may write BFLOAT4_B: the packer truncates, which costs 21 % of accuracy",
        )
        if device.rounding:
            stored = [
                pack_on_device(one, dtype, wide_dst=wide_dst, precise=precise) for one in stored
            ]
    check_placement(op, shape, dtype, layout, memory_config, device)
    return Tensor(stored, shape, dtype, layout, device, memory_config)


def check_placement(
    op: str,
    shape: Shape,
    dtype: DataType,
    layout: Layout,
    memory_config: MemoryConfig,
    device: MeshDevice,
) -> None:
    """Refuse what ttnn's tensor specification refuses: formats, shard shapes, cores, banks."""
    if dtype in BLOCK_FORMATS and layout is not Layout.TILE:
        raise EmulationError(op, f"only TILE layout is supported for {dtype.name}")
    if not memory_config.is_sharded():
        return
    problem = _placement_problem(shape, layout, memory_config, device.banks)
    if problem:
        raise EmulationError(op, problem)


@lru_cache(maxsize=4096)
def _placement_problem(
    shape: Shape, layout: Layout, memory_config: MemoryConfig, banks: Banks
) -> str:
    spec = memory_config.shard_spec
    if spec is None:
        return f"{memory_config.memory_layout.name} needs a shard spec here"
    physical = padded_shape(shape, layout)
    height, width = prod(physical[:-1]), physical[-1]
    shard_height, shard_width = spec.shape
    if layout is Layout.TILE and (shard_height % TILE or shard_width % TILE):
        return f"shard shape {spec.shape} must be made of {TILE}x{TILE} tiles"
    off_grid = _core_without_bank(memory_config, banks)
    if off_grid:
        return off_grid
    rows, columns = -(-height // shard_height), -(-width // shard_width)
    cores = spec.num_cores()
    match memory_config.memory_layout:
        case TensorMemoryLayout.WIDTH_SHARDED:
            if shard_height != height:
                return f"shard height {shard_height} must match physical height {height}"
            if columns > cores:
                return f"{columns} shards along the width do not fit on {cores} cores"
        case TensorMemoryLayout.HEIGHT_SHARDED:
            if shard_width != width:
                return f"shard width {shard_width} must match physical width {width}"
            if rows > cores:
                return f"{rows} shards along the height do not fit on {cores} cores"
        case _:
            box = spec.grid.bounding_box()
            across, down = box.end.x - box.start.x + 1, box.end.y - box.start.y + 1
            if columns > across or rows > down:
                return f"{rows} x {columns} shards do not fit on {down} x {across} cores"
    return ""


def _core_without_bank(memory_config: MemoryConfig, banks: Banks) -> str:
    assert memory_config.shard_spec is not None, "checked by the caller"
    is_dram = memory_config.buffer_type is BufferType.DRAM
    limit = (banks.dram_banks, 1) if is_dram else banks.grid
    for x, y in memory_config.shard_spec.grid.cores:
        if x >= limit[0] or y >= limit[1]:
            return f"shard core ({x}, {y}) has no {memory_config.buffer_type.name} bank here"
    return ""


def is_float(dtype: DataType) -> bool:
    return dtype not in INTEGERS


def require_tiles(op: str, *tensors: Tensor) -> None:
    for tensor in tensors:
        if tensor.layout is not Layout.TILE:
            raise EmulationError(op, f"operands must be in TILE layout, got {tensor}")


def matches(stored: torch.Tensor, shape: Shape) -> bool:
    """Whether all of a logical shape is stored."""
    return stored.shape == shape
