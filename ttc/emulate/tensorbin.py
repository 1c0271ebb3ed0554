# pyright: reportUnknownMemberType=false
"""Reading ttnn's .tensorbin files.

A file is a little-endian u64 header size, a flatbuffer, and the data from the next multiple of 64
bytes on. ttnn ships no schema; the fields read here were found by writing tensors with ttnn 0.81.1
and are compared with ttnn.to_torch in tests/emulate/test_tensorbin.py:

  root           0 tensor spec, 1 mesh shape, 2 shards (one per device; equal ones share their data)
  mesh shape     0 rows and columns (u32 vector)
  tensor spec    0 logical shape (u32 vector), 1 layout table
  layout         0 element type, 1 row major (1) or tiles (2), 3 memory config
  memory config  0 memory layout, 1 buffer type, 2 shard spec
  shard spec     0 core range set, 1 shard height, 2 shard width, 3 orientation
  shard          1 struct of u64 offset and u64 bytes, counted from the start of the data; 2 place
  place          0 row and column of the device (u32 vector)

The data of a tensor is in its logical page order (tiles row by row), whatever its sharding.
"""

import mmap
from math import prod
from pathlib import Path
from struct import unpack_from
from typing import NamedTuple

import torch

from ttc.emulate.block_float import unpack_tiles
from ttc.emulate.configs import (
    BufferType,
    CoreCoord,
    CoreRange,
    CoreRangeSet,
    MemoryConfig,
    ShardOrientation,
    ShardSpec,
    TensorMemoryLayout,
)
from ttc.emulate.device import MeshDevice
from ttc.emulate.dtypes import BLOCK_FORMATS, DataType, Layout
from ttc.emulate.errors import EmulationError
from ttc.emulate.mesh_tensor import MeshTensor, replicated
from ttc.emulate.tensor import Shape, Tensor, check_placement, padded_shape

_ALIGNMENT = 64
_STORAGE = {
    DataType.BFLOAT16: torch.bfloat16,
    DataType.FLOAT32: torch.float32,
    DataType.UINT32: torch.int32,
    DataType.INT32: torch.int32,
}


class _Table:
    """A flatbuffer table: fields are found through its vtable and may be absent."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self._at = at
        self._vtable = at - unpack_from("<i", data, at)[0]
        self._fields = (unpack_from("<H", data, self._vtable)[0] - 4) // 2

    def _field(self, number: int) -> int | None:
        if number >= self._fields:
            return None
        offset = unpack_from("<H", self._data, self._vtable + 4 + 2 * number)[0]
        return self._at + offset if offset else None

    def scalar(self, number: int, form: str) -> int:
        """A number, 0 where the field is absent."""
        at = self._field(number)
        return 0 if at is None else unpack_from(form, self._data, at)[0]

    def _target(self, number: int) -> int | None:
        at = self._field(number)
        return None if at is None else at + unpack_from("<I", self._data, at)[0]

    def table(self, number: int) -> "_Table":
        at = self._target(number)
        assert at is not None, f"field {number} is always written"
        return _Table(self._data, at)

    def has(self, number: int) -> bool:
        return self._field(number) is not None

    def pair(self, number: int, form: str) -> tuple[int, int]:
        """A struct of two numbers behind an offset."""
        at = self._target(number)
        assert at is not None, f"field {number} is always written"
        first, second = unpack_from(form, self._data, at)
        return first, second

    def numbers(self, number: int) -> tuple[int, ...]:
        at = self._target(number)
        if at is None:
            return ()
        count = unpack_from("<I", self._data, at)[0]
        return unpack_from(f"<{count}I", self._data, at + 4)

    def tables(self, number: int) -> list["_Table"]:
        at = self._target(number)
        if at is None:
            return []
        starts = range(at + 4, at + 4 + 4 * unpack_from("<I", self._data, at)[0], 4)
        return [_Table(self._data, one + unpack_from("<I", self._data, one)[0]) for one in starts]


class _File(NamedTuple):
    """What a file holds: its mesh, and for each device where its data lies."""

    root: _Table
    start: int

    @classmethod
    def of(cls, data: mmap.mmap) -> "_File":
        size = unpack_from("<Q", data, 0)[0]
        header = data[8 : 8 + size]
        root = _Table(header, unpack_from("<I", header, 0)[0])
        return cls(root, -(-(8 + size) // _ALIGNMENT) * _ALIGNMENT)

    @property
    def mesh(self) -> tuple[int, ...]:
        return self.root.table(1).numbers(0)

    def places(self) -> dict[tuple[int, ...], tuple[int, int]]:
        """Offset and length in the file by row and column of the device, in their order."""
        found: dict[tuple[int, ...], tuple[int, int]] = {}
        for shard in self.root.tables(2):
            offset, length = shard.pair(1, "<QQ")
            found[shard.table(2).numbers(0)] = (self.start + offset, length)
        return found


def load_tensor(
    file_name: str | Path, *, device: MeshDevice | None = None
) -> "Tensor | MeshTensor":
    """A tensor that ttnn.dump_tensor wrote, with its type, layout and memory config.

    A file of one device is the same on every device of a mesh; devices with equal data share it.
    """
    with (
        open(file_name, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        content = _File.of(data)
        spec = content.root.table(0)
        description = spec.table(1)
        shape: Shape = spec.numbers(0)
        dtype = DataType(description.scalar(0, "<B"))
        layout = Layout.TILE if description.scalar(1, "<B") == 2 else Layout.ROW_MAJOR
        memory_config = _memory_config(description.table(3))
        chip = None if device is None else device.chip
        if chip is not None:
            check_placement("load_tensor", shape, dtype, layout, memory_config, chip)
        tensors: dict[tuple[int, int], Tensor] = {}
        places = content.places()
        for offset, length in set(places.values()):
            raw = torch.frombuffer(bytearray(data[offset : offset + length]), dtype=torch.uint8)
            values = _values(raw, shape, dtype, layout)
            if chip is not None and not chip.rounding and values.is_floating_point():
                values = values.to(torch.float32)
            if chip is not None:
                values = values.to(chip.torch_device)
            tensors[offset, length] = Tensor([values], shape, dtype, layout, chip, memory_config)
    shards = [tensors[place] for place in places.values()]
    if len(shards) == 1:
        return shards[0] if device is None else replicated(device, shards[0])
    if device is not None and content.mesh != tuple(device.shape):
        raise EmulationError("load_tensor", f"a file for the mesh {content.mesh} on {device.shape}")
    return MeshTensor(device, shards)


def _values(raw: torch.Tensor, shape: Shape, dtype: DataType, layout: Layout) -> torch.Tensor:
    """Bytes of a file as values of the logical shape."""
    if layout is Layout.ROW_MAJOR:
        return _stored_form(raw.view(_STORAGE[dtype]), dtype).view(shape)
    padded = padded_shape(shape, layout)
    rows, columns = prod(padded[:-1]) // 32, padded[-1] // 32
    if dtype in BLOCK_FORMATS:
        form = BLOCK_FORMATS[dtype]
        faces = unpack_tiles(raw.view(-1, form.tile_bytes), form)
    else:
        faces = raw.view(_STORAGE[dtype])
    # [tile row, tile column, face row, face column, row, column] -> rows and columns
    faces = faces.view(rows, columns, 2, 2, 16, 16).permute(0, 2, 4, 1, 3, 5)
    values = _stored_form(faces.reshape(padded), dtype)
    matrix = shape if len(shape) > 1 else (1, *shape)
    region = tuple(slice(0, size) for size in matrix)
    return values[region].reshape(shape)


def _stored_form(values: torch.Tensor, dtype: DataType) -> torch.Tensor:
    if dtype is DataType.UINT32:
        return values.to(torch.int64).bitwise_and(0xFFFFFFFF)
    if dtype is DataType.INT32:
        return values.to(torch.int64)
    return values if dtype is DataType.FLOAT32 else values.to(torch.bfloat16)


def _memory_config(table: _Table) -> MemoryConfig:
    layout = TensorMemoryLayout(table.scalar(0, "<B"))
    buffer_type = BufferType(table.scalar(1, "<B"))
    if layout is TensorMemoryLayout.INTERLEAVED or not table.has(2):
        return MemoryConfig(layout, buffer_type)
    spec = table.table(2)
    ranges = [
        CoreRange(_core(one.table(0)), _core(one.table(1))) for one in spec.table(0).tables(0)
    ]
    sizes = (spec.scalar(1, "<I"), spec.scalar(2, "<I"))
    columns = spec.scalar(3, "<B") == 1
    orientation = ShardOrientation.COL_MAJOR if columns else ShardOrientation.ROW_MAJOR
    return MemoryConfig(layout, buffer_type, ShardSpec(CoreRangeSet(ranges), sizes, orientation))


def _core(table: _Table) -> CoreCoord:
    return CoreCoord(table.scalar(0, "<I"), table.scalar(1, "<I"))
