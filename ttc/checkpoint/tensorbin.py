"""Write ttnn's .tensorbin files without ttnn: a header, then the data of each distinct shard.

A file is a little-endian u64 header size, a flatbuffer, padded so that the data after it starts at
a multiple of 64 bytes, and the data. ttnn ships no schema; the fields below were read out of files
of ttnn 0.81.1, and tests/checkpoint/test_tensorbin.py compares with what ttnn.from_torch gives.

  root           0 tensor spec, 1 mesh shape, 2 shards, 3 topology
  tensor spec    0 logical shape of a shard, 1 layout
  layout         0 dtype, 1 kind of page, 2 page, 3 memory config, 4 alignment
  page           0 tile; empty for row major
  memory config  0 memory layout, 1 buffer type, 2 shard spec, 3 the same as an n-dimensional one
  shard          0 kind of storage, 1 struct of u64 offset and u64 bytes, 2 mesh coordinate
  topology       0 mesh shape, 1 placements, 2 mesh coordinates

A field that holds its default (0) is left out. The data of a shard is in its logical page order
(tiles row by row), whatever its memory config.
"""

from dataclasses import dataclass
from itertools import product
from math import prod
from struct import pack, pack_into

from ttc.plan.placement import ELEMENT_BYTES, TILE, TILE_BYTES, DType, Layout, Placement, tiles

FILE_FORMAT = "ttnn 0.81.1 tensorbin"

ALIGNMENT_BYTES = 64
DTYPES: dict[DType, int] = {"bf16": 0, "fp32": 1, "bfp8": 3, "bfp4": 4}
MEMORY_LAYOUTS = {"interleaved": 0, "height_sharded": 2, "width_sharded": 3, "block_sharded": 4}
BUFFERS = {"dram": 0, "l1": 1}
ROW_MAJOR_PAGE, TILE_PAGE = 1, 2
INLINE_STORAGE = 1
REPLICATE, SHARD = 0, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorFile:
    """What the header of a file says.

    shape       logical shape of the tensor on one device
    mesh_shape  rows and columns of the devices the tensor is for
    shard_dim   the dim that is divided along the longer axis of the mesh; None: all hold the same,
                which is then stored once
    """

    shape: tuple[int, ...]
    dtype: DType
    layout: Layout
    memory: Placement
    mesh_shape: tuple[int, int] = (1, 1)
    shard_dim: int | None = None

    @property
    def shards(self) -> int:
        """Number of shards that are stored."""
        return 1 if self.shard_dim is None else prod(self.mesh_shape)

    @property
    def shard_bytes(self) -> int:
        """Bytes of one shard."""
        rows, columns = prod(self.shape[:-1]), self.shape[-1]
        if self.layout == "row_major":
            return rows * columns * ELEMENT_BYTES[self.dtype]
        outer = prod(self.shape[:-2])
        return outer * tiles(self.shape[-2]) * tiles(columns) * TILE_BYTES[self.dtype]

    def offset(self, shard: int) -> int:
        """Where a shard starts, counted from the start of the data."""
        return shard * -(-self.shard_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES

    @property
    def size_bytes(self) -> int:
        """Bytes of the whole file."""
        return len(self.header()) + self.offset(self.shards - 1) + self.shard_bytes

    def header(self) -> bytes:
        """Everything before the data."""
        buffer = bytearray(4)
        pack_into("<I", buffer, 0, _root(self).write(buffer))
        buffer += bytes(-(8 + len(buffer)) % ALIGNMENT_BYTES)
        return pack("<Q", len(buffer)) + buffer


# The flatbuffer: parents before children, as offsets must point forward ----------------------


@dataclass(frozen=True, slots=True)
class _Number:
    """A number inside its table, left out where it is 0."""

    form: str
    value: int


@dataclass(frozen=True, slots=True)
class _Numbers:
    values: tuple[int, ...]

    def write(self, buffer: bytearray) -> int:
        _align(buffer, 4)
        start = len(buffer)
        buffer += pack(f"<I{len(self.values)}I", len(self.values), *self.values)
        return start


@dataclass(frozen=True, slots=True)
class _Span:
    """A struct of u64 offset and u64 bytes."""

    offset: int
    size_bytes: int

    def write(self, buffer: bytearray) -> int:
        _align(buffer, 8)
        start = len(buffer)
        buffer += pack("<QQ", self.offset, self.size_bytes)
        return start


@dataclass(frozen=True, slots=True)
class _Tables:
    tables: tuple["_Table", ...]

    def write(self, buffer: bytearray) -> int:
        _align(buffer, 4)
        start = len(buffer)
        buffer += pack("<I", len(self.tables)) + bytes(4 * len(self.tables))
        for number, table in enumerate(self.tables):
            place = start + 4 + 4 * number
            target = table.write(buffer)
            pack_into("<I", buffer, place, target - place)
        return start


type _Field = "_Number | _Numbers | _Span | _Tables | _Table | None"


@dataclass(frozen=True, slots=True)
class _Table:
    fields: tuple[_Field, ...]

    def write(self, buffer: bytearray) -> int:
        present = [f for f in self.fields if f and not (isinstance(f, _Number) and f.value == 0)]
        last = max((n for n, field in enumerate(self.fields) if field in present), default=-1)
        inline, places = bytearray(4), dict[int, int]()
        for number, field in enumerate(self.fields):
            if field is None or field not in present:
                continue
            form = field.form if isinstance(field, _Number) else "I"
            value = field.value if isinstance(field, _Number) else 0
            _align(inline, len(pack(f"<{form}", 0)))
            places[number] = len(inline)
            inline += pack(f"<{form}", value)
        offsets = [places.get(number, 0) for number in range(last + 1)]
        _align(buffer, 4)
        if (4 + 2 * len(offsets)) % 4:
            buffer += bytes(2)  # so that the table after it is aligned
        vtable = len(buffer)
        buffer += pack(f"<HH{len(offsets)}H", 4 + 2 * len(offsets), len(inline), *offsets)
        start = len(buffer)
        pack_into("<i", inline, 0, start - vtable)
        buffer += inline
        for number, place in places.items():
            field = self.fields[number]
            if field is not None and not isinstance(field, _Number):
                target = field.write(buffer)
                pack_into("<I", buffer, start + place, target - start - place)
        return start


def _align(buffer: bytearray, size: int) -> None:
    buffer += bytes(-len(buffer) % size)


def _root(file: TensorFile) -> _Table:
    devices = tuple(product(*map(range, file.mesh_shape)))
    shards = tuple(
        _Table(
            (
                _Number("B", INLINE_STORAGE),
                _Span(file.offset(0 if file.shards == 1 else number), file.shard_bytes),
                _coordinate(device),
            )
        )
        for number, device in enumerate(devices)
    )
    return _Table(
        (_spec(file), _Table((_Numbers(file.mesh_shape),)), _Tables(shards), _topology(file))
    )


def _spec(file: TensorFile) -> _Table:
    if file.layout == "tile":
        page = _Table((_Table((_Number("I", TILE), _Number("I", TILE))),))
        kind, alignment = TILE_PAGE, (TILE, TILE)
    else:
        page, kind, alignment = _Table(()), ROW_MAJOR_PAGE, (1,)
    layout = _Table(
        (
            _Number("B", DTYPES[file.dtype]),
            _Number("B", kind),
            page,
            _memory_config(file.memory),
            _Numbers(alignment),
        )
    )
    return _Table((_Numbers(file.shape), layout))


def _memory_config(memory: Placement) -> _Table:
    kind = (
        _Number("H", MEMORY_LAYOUTS[memory.layout]),
        _Number("H", BUFFERS[memory.buffer]),
    )
    if not memory.grid:
        return _Table(kind)
    ranges = tuple(_Table((_core(x0, y0), _core(x1, y1))) for x0, y0, x1, y1 in memory.grid)
    cores = _Table((_Tables(ranges),))
    height, width = memory.shard
    return _Table(
        (
            *kind,
            _Table((cores, _Number("I", height), _Number("I", width))),
            _Table((_Numbers(memory.shard), cores)),
        )
    )


def _core(x: int, y: int) -> _Table:
    return _Table((_Number("I", x), _Number("I", y)))


def _coordinate(device: tuple[int, ...]) -> _Table:
    return _Table((_Numbers(device),))


def _topology(file: TensorFile) -> _Table:
    """As a ttnn mesh mapper writes it: one placement for each axis, one axis on a single device."""
    axes = file.mesh_shape if prod(file.mesh_shape) > 1 else (1,)
    devices = tuple(product(*map(range, file.mesh_shape)))
    replicated = _Table((_Number("B", REPLICATE), _Number("i", -1)))
    placements = [replicated for _ in axes]
    if file.shard_dim is not None:
        axis = max(range(len(axes)), key=lambda each: axes[each])
        placements[axis] = _Table((_Number("B", SHARD), _Number("i", file.shard_dim)))
    return _Table(
        (
            _Table((_Numbers(axes),)),
            _Tables(tuple(placements)),
            _Tables(tuple(map(_coordinate, devices))),
        )
    )
