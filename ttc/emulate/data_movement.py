# pyright: reportUnknownMemberType=false
"""Operations that move data: reshape, transpose, slice, concat, untilize, copy and reshards.

They change no value unless they also change the element type, which packs as every other write.
"""

from collections.abc import Sequence
from math import prod

import torch

from ttc.emulate.configs import DRAM_MEMORY_CONFIG, MemoryConfig, TensorMemoryLayout
from ttc.emulate.dtypes import DataType, Layout
from ttc.emulate.elementwise import write_into
from ttc.emulate.errors import EmulationError, require
from ttc.emulate.tensor import Shape, Tensor, device_of, output


def reshape(
    input_tensor: Tensor,
    shape: Sequence[int],
    padded_shape: Sequence[int] | None = None,
    *,
    memory_config: MemoryConfig | None = None,
) -> Tensor:
    """The same elements in row-major order under another shape; one size may be -1.

    With `padded_shape` the logical shape is relabelled in place: rows of the padding come in or
    go out, which needs equal padded volumes.
    """
    op = "reshape"
    device = device_of(op, input_tensor)
    values = input_tensor.values(op)
    target = _with_inferred_size(op, shape, prod(input_tensor.shape))
    placed = memory_config or input_tensor.memory_config()
    if padded_shape is not None:
        require(
            prod(padded_shape) == prod(input_tensor.padded_shape)
            and target[-1] == input_tensor.shape[-1],
            op,
            f"padded shape {list(padded_shape)} must relabel {list(input_tensor.padded_shape)}",
        )
        stored = [
            one.reshape((1,) * (len(target) - one.ndim) + one.shape)[_corner(target)]
            for one in values
        ]
    else:
        require(
            prod(target) == prod(input_tensor.shape),
            op,
            f"cannot make {list(target)} from {list(input_tensor.shape)}",
        )
        stored = [_reshape_stored(one, input_tensor.shape, target) for one in values]
    result = output(
        op,
        stored,
        target,
        input_tensor.dtype,
        placed,
        device,
        layout=input_tensor.layout,
        packed=True,
    )
    same_memory = placed == input_tensor.memory_config() and target[-1] == input_tensor.shape[-1]
    if not same_memory:
        return result
    return Tensor(stored, target, result.dtype, result.layout, device, placed, view_of=input_tensor)


def _with_inferred_size(op: str, shape: Sequence[int], volume: int) -> Shape:
    sizes = list(shape)
    if -1 in sizes:
        known = prod(size for size in sizes if size != -1)
        require(sizes.count(-1) == 1 and volume % known == 0, op, f"cannot infer {sizes}")
        sizes[sizes.index(-1)] = volume // known
    return tuple(sizes)


def _corner(shape: Shape) -> tuple[slice, ...]:
    return tuple(slice(0, size) for size in shape)


def _reshape_stored(values: torch.Tensor, old: Shape, new: Shape) -> torch.Tensor:
    """Reshape a corner, keeping it a corner where it is a prefix of the elements in both shapes."""
    if values.shape == old:
        return values.reshape(new)
    count = prod(values.shape)
    if _is_prefix(values.shape, old):
        sizes: list[int] = []
        rest = count
        for position, size in enumerate(new):
            inner = prod(new[position + 1 :])
            if rest >= inner and rest % inner == 0 and rest // inner <= size:
                sizes = [1] * position + [rest // inner, *new[position + 1 :]]
                break
            if size != 1:
                break
        if sizes:
            return values.reshape(sizes)
    pads = [
        pad
        for have, want in zip(reversed(values.shape), reversed(old), strict=True)
        for pad in (0, want - have)
    ]
    return torch.nn.functional.pad(values, pads).reshape(new)


def _is_prefix(stored: Sequence[int], shape: Shape) -> bool:
    """Whether a corner holds the first elements of a shape in row-major order."""
    partial = [at for at, size in enumerate(stored) if size != shape[at]]
    return len(partial) == 1 and all(size == 1 for size in shape[: partial[0]])


def transpose(
    input_tensor: Tensor, dim1: int, dim2: int, *, memory_config: MemoryConfig | None = None
) -> Tensor:
    """Two dimensions exchanged."""
    op = "transpose"
    device = device_of(op, input_tensor)
    shape = list(input_tensor.shape)
    shape[dim1], shape[dim2] = shape[dim2], shape[dim1]
    stored = [one.transpose(dim1, dim2).contiguous() for one in input_tensor.values(op)]
    placed = memory_config or input_tensor.memory_config()
    return output(
        op,
        stored,
        shape,
        input_tensor.dtype,
        placed,
        device,
        layout=input_tensor.layout,
        packed=True,
    )


def slice_tensor(
    input_tensor: Tensor,
    slice_start: Sequence[int],
    slice_end: Sequence[int],
    slice_step: Sequence[int] | None = None,
    *,
    memory_config: MemoryConfig | None = None,
) -> Tensor:
    """The elements from `slice_start` to before `slice_end` in every dimension."""
    op = "slice"
    device = device_of(op, input_tensor)
    steps = list(slice_step) if slice_step is not None else [1] * len(input_tensor.shape)
    bounds = list(zip(slice_start, slice_end, steps, input_tensor.shape, strict=True))
    for first, last, step, size in bounds:
        require(
            0 <= first < last <= size and step > 0, op, f"{first}:{last}:{step} of {size} elements"
        )
    shape = [-(-(last - first) // step) for first, last, step, _ in bounds]
    region = tuple(slice(first, last, step) for first, last, step, _ in bounds)
    stored = [one[region].contiguous() for one in input_tensor.values(op)]
    placed = memory_config or input_tensor.memory_config()
    result = output(
        op,
        stored,
        shape,
        input_tensor.dtype,
        placed,
        device,
        layout=input_tensor.layout,
        packed=True,
    )
    whole = result.shape == input_tensor.shape and placed == input_tensor.memory_config()
    return input_tensor if whole else result


def concat(
    tensors: Sequence[Tensor], dim: int = 0, *, memory_config: MemoryConfig | None = None
) -> Tensor:
    """Tensors one after the other along a dimension; interleaved in DRAM unless told otherwise."""
    op = "concat"
    require(len(tensors) > 0, op, "needs at least one tensor")
    first = tensors[0]
    device = device_of(op, *tensors)
    dim %= len(first.shape)
    for tensor in tensors[1:]:
        require(tensor.dtype is first.dtype, op, "all tensors must have one element type")
        require(tensor.layout is first.layout, op, "all tensors must have one layout")
        same = (
            len(tensor.shape) == len(first.shape)
            and tensor.shape[:dim] == first.shape[:dim]
            and tensor.shape[dim + 1 :] == first.shape[dim + 1 :]
        )
        require(same, op, f"shapes {list(first.shape)} and {list(tensor.shape)} along {dim}")
    shape = list(first.shape)
    shape[dim] = sum(tensor.shape[dim] for tensor in tensors)
    stored: list[torch.Tensor] = []
    for index in range(len(first.stored)):
        parts = [tensor.values(op)[index] for tensor in tensors]
        corner = [max(sizes) for sizes in zip(*(part.shape for part in parts), strict=True)]
        stored.append(
            torch.cat(
                [
                    _extend_to(part, [*corner[:dim], tensor.shape[dim], *corner[dim + 1 :]])
                    for part, tensor in zip(parts, tensors, strict=True)
                ],
                dim=dim,
            )
        )
    placed = memory_config or _interleaved(first.memory_config())
    result = output(
        op, stored, shape, first.dtype, placed, device, layout=first.layout, packed=True
    )
    alone = len(tensors) == 1 and placed == first.memory_config()
    return first if alone else result


def pad(
    input_tensor: Tensor,
    padding: Sequence[tuple[int, int]],
    value: float,
    *,
    memory_config: MemoryConfig | None = None,
) -> Tensor:
    """The tensor with (before, after) more elements in each dimension; only after is emulated."""
    op, x = "pad", input_tensor
    device = device_of(op, x)
    require(len(padding) == len(x.shape), op, f"{len(padding)} pairs for {len(x.shape)} dimensions")
    require(all(before == 0 <= after for before, after in padding), op, "only the end is padded")
    shape = [size + after for size, (_, after) in zip(x.shape, padding, strict=True)]
    stored: list[torch.Tensor] = []
    for values in x.values(op):
        # Rows that are not stored stay so; where a dimension grows all of it is stored.
        grown = [after > 0 for _, after in padding]
        whole = [
            n if more else have for n, more, have in zip(x.shape, grown, values.shape, strict=True)
        ]
        pads = [count for _, after in reversed(padding) for count in (0, after)]
        stored.append(torch.nn.functional.pad(_extend_to(values, whole), pads, value=value))
    placed = memory_config or x.memory_config()
    return output(op, stored, shape, x.dtype, placed, device, layout=x.layout, wide_dst=False)


def _extend_to(values: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    pads = [
        pad
        for have, want in zip(reversed(values.shape), reversed(shape), strict=True)
        for pad in (0, want - have)
    ]
    return torch.nn.functional.pad(values, pads) if any(pads) else values


def _interleaved(memory_config: MemoryConfig) -> MemoryConfig:
    return DRAM_MEMORY_CONFIG if memory_config.is_sharded() else memory_config


def untilize(input_tensor: Tensor, *, memory_config: MemoryConfig | None = None) -> Tensor:
    """From tiles to row major; block formats become BFLOAT16."""
    return _untilized("untilize", input_tensor, input_tensor.shape, memory_config)


def untilize_with_unpadding(
    input_tensor: Tensor,
    output_tensor_end: Sequence[int],
    *,
    memory_config: MemoryConfig | None = None,
    use_multicore: bool = True,
) -> Tensor:
    """As untilize, up to and with the element at `output_tensor_end`."""
    op = "untilize_with_unpadding"
    del use_multicore
    sizes = tuple(last + 1 for last in output_tensor_end)
    fits = len(sizes) == len(input_tensor.shape) and all(
        0 < size <= padded for size, padded in zip(sizes, input_tensor.padded_shape, strict=True)
    )
    require(fits, op, f"no element {list(output_tensor_end)} in {list(input_tensor.shape)}")
    return _untilized(op, input_tensor, sizes, memory_config)


def _untilized(op: str, tensor: Tensor, shape: Shape, memory_config: MemoryConfig | None) -> Tensor:
    device = device_of(op, tensor)
    require(tensor.layout is Layout.TILE, op, "can only untilize tiles")
    blocks = tensor.dtype in (DataType.BFLOAT8_B, DataType.BFLOAT4_B)
    return output(
        op,
        [one[_corner(shape)].clone() for one in tensor.values(op)],
        shape,
        DataType.BFLOAT16 if blocks else tensor.dtype,
        memory_config or tensor.memory_config(),
        device,
        layout=Layout.ROW_MAJOR,
        packed=True,
    )


def to_memory_config(
    tensor: Tensor,
    memory_config: MemoryConfig,
    dtype: DataType | None = None,
) -> Tensor:
    """The tensor in another memory config: shard, reshard, unshard, or between DRAM and L1."""
    return _moved("to_memory_config", tensor, memory_config, dtype)


def interleaved_to_sharded(
    input_tensor: Tensor,
    sharded_memory_config: MemoryConfig,
    output_dtype: DataType | None = None,
) -> Tensor:
    op = "interleaved_to_sharded"
    require(not input_tensor.is_sharded(), op, "the input must be interleaved")
    require(sharded_memory_config.is_sharded(), op, "the result must be sharded")
    return _moved(op, input_tensor, sharded_memory_config, output_dtype)


def sharded_to_interleaved(
    input_tensor: Tensor,
    memory_config: MemoryConfig | None = None,
    output_dtype: DataType | None = None,
) -> Tensor:
    """Into DRAM unless told otherwise. An interleaved input comes back as it is."""
    op = "sharded_to_interleaved"
    placed = memory_config or DRAM_MEMORY_CONFIG
    interleaved = placed.memory_layout is TensorMemoryLayout.INTERLEAVED
    require(interleaved, op, "the memory config must be interleaved")
    if not input_tensor.is_sharded():
        placed = input_tensor.memory_config()
    return _moved(op, input_tensor, placed, output_dtype)


def _moved(op: str, tensor: Tensor, placed: MemoryConfig, dtype: DataType | None) -> Tensor:
    device = device_of(op, tensor)
    target = dtype or tensor.dtype
    same_dtype = target is tensor.dtype
    values = tensor.values(op) if same_dtype else [one.clone() for one in tensor.values(op)]
    result = output(
        op,
        values,
        tensor.shape,
        target,
        placed,
        device,
        layout=tensor.layout,
        wide_dst=tensor.dtype is DataType.FLOAT32,
        packed=same_dtype,
    )
    return tensor if same_dtype and placed == tensor.memory_config() else result


def copy(input_a: Tensor, input_b: Tensor) -> Tensor:
    """Write a's values into b, in b's element type."""
    op = "copy"
    device = device_of(op, input_a, input_b)
    require(
        input_a.shape == input_b.shape,
        op,
        f"shapes {list(input_a.shape)} and {list(input_b.shape)} differ",
    )
    if input_a.layout is not input_b.layout:
        raise EmulationError(op, "both tensors must have one layout")
    values = [one.clone() for one in input_a.values(op)]
    result = output(
        op,
        values,
        input_b.shape,
        input_b.dtype,
        input_b.memory_config(),
        device,
        layout=input_b.layout,
        wide_dst=False,
        packed=input_a.dtype is input_b.dtype,
    )
    write_into(op, result, input_b)
    return input_b
