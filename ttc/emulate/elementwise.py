# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
"""add, subtract, multiply, comparisons and typecast.

ttnn runs BF16 sums and block format products on the matrix unit, BF16 products on the vector unit
(float32, rounded to nearest even), always with a 16-bit Dst unless an operand is FLOAT32
(defines of the kernels that ttnn 0.81.1 builds for these operations).
"""

from collections.abc import Callable, Sequence

import torch

from ttc.emulate import fpu, sfpu
from ttc.emulate.configs import MathFidelity, MemoryConfig, UnaryOpType, UnaryWithParam
from ttc.emulate.dtypes import BLOCK_FORMATS, DataType, Layout, round_to_nearest_even
from ttc.emulate.errors import EmulationError, require
from ttc.emulate.tensor import Tensor, device_of, extend, is_float, output

type Activations = Sequence[UnaryOpType | UnaryWithParam]
_Kernel = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def add(
    input_tensor_a: Tensor,
    input_tensor_b: Tensor | float,
    *,
    dtype: DataType | None = None,
    memory_config: MemoryConfig | None = None,
    output_tensor: Tensor | None = None,
    input_tensor_a_activations: Activations = (),
    input_tensor_b_activations: Activations = (),
) -> Tensor:
    """activation(a) + activation(b), broadcast as in torch."""

    def kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return fpu.add(a, b, wide_dst=False)

    return _binary(
        "add",
        input_tensor_a,
        input_tensor_b,
        torch.add,
        kernel,
        dtype,
        memory_config,
        output_tensor,
        input_tensor_a_activations,
        input_tensor_b_activations,
    )


def subtract(
    input_tensor_a: Tensor,
    input_tensor_b: Tensor | float,
    *,
    dtype: DataType | None = None,
    memory_config: MemoryConfig | None = None,
    activations: Activations = (),
) -> Tensor:
    """activation(a - b), broadcast as in torch."""

    def kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return fpu.add(a, -b, wide_dst=False)

    def exact(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        result = torch.sub(a, b)
        for one in activations:
            result = sfpu.activation(result, one, rounding=False)
        return result

    a, b = input_tensor_a, input_tensor_b
    wide = DataType.FLOAT32 in (a.dtype, b.dtype if isinstance(b, Tensor) else None)
    require(wide or not activations, "subtract", "only of FLOAT32 are activations emulated")
    return _binary("subtract", a, b, exact, kernel, dtype, memory_config, None, (), ())


def lt(
    input_tensor_a: Tensor,
    input_tensor_b: Tensor | float,
    *,
    memory_config: MemoryConfig | None = None,
) -> Tensor:
    """1 where a < b, else 0, in the element type of a."""

    def kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a < b).to(a.dtype)

    a, b = input_tensor_a, input_tensor_b
    return _binary("lt", a, b, kernel, kernel, None, memory_config, None, (), ())


def le(
    input_tensor_a: Tensor,
    input_tensor_b: Tensor | float,
    *,
    memory_config: MemoryConfig | None = None,
) -> Tensor:
    """1 where a <= b, else 0, in the element type of a."""

    def kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a <= b).to(a.dtype)

    a, b = input_tensor_a, input_tensor_b
    return _binary("le", a, b, kernel, kernel, None, memory_config, None, (), ())


def multiply(
    input_tensor_a: Tensor,
    input_tensor_b: Tensor | float,
    *,
    dtype: DataType | None = None,
    memory_config: MemoryConfig | None = None,
    output_tensor: Tensor | None = None,
    input_tensor_a_activations: Activations = (),
    input_tensor_b_activations: Activations = (),
) -> Tensor:
    """activation(a) * activation(b), broadcast as in torch."""
    both_block = input_tensor_a.dtype in BLOCK_FORMATS and (
        isinstance(input_tensor_b, Tensor) and input_tensor_b.dtype in BLOCK_FORMATS
    )

    def kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        if both_block:
            return fpu.multiply(a, b, MathFidelity.HiFi4, wide_dst=False)
        return round_to_nearest_even(a * b)

    return _binary(
        "multiply",
        input_tensor_a,
        input_tensor_b,
        torch.mul,
        kernel,
        dtype,
        memory_config,
        output_tensor,
        input_tensor_a_activations,
        input_tensor_b_activations,
    )


def _binary(
    op: str,
    a: Tensor,
    b: Tensor | float,
    exact: _Kernel,
    kernel: _Kernel,
    dtype: DataType | None,
    memory_config: MemoryConfig | None,
    into: Tensor | None,
    activations: Activations,
    activations_b: Activations,
) -> Tensor:
    for one in (*activations, *activations_b):
        if not isinstance(one, UnaryOpType | UnaryWithParam):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"ttnn.{op}: activations are UnaryOpType values, got {one!r}")
    device = device_of(op, a, *((b,) if isinstance(b, Tensor) else ()))
    shape = _broadcast_shape(op, a, b)
    rounding = device.rounding and is_float(a.dtype)
    wide = a.dtype is DataType.FLOAT32 or (isinstance(b, Tensor) and b.dtype is DataType.FLOAT32)
    results: list[torch.Tensor] = []
    for index in range(len(a.stored)):
        left, right = _aligned(op, a, b, index)
        for one in activations:
            left = sfpu.activation(left, one, rounding=rounding)
        for one in activations_b:
            right = sfpu.activation(right, one, rounding=rounding)
        results.append(kernel(left, right) if rounding and not wide else exact(left, right))
    placed = memory_config or a.memory_config()
    if placed.is_sharded() and placed.shard_spec is None:
        placed = a.memory_config()
    layout = a.layout
    if isinstance(b, Tensor) and Layout.TILE in (a.layout, b.layout):
        layout = Layout.TILE
    result = output(
        op, results, shape, dtype or a.dtype, placed, device, layout=layout, wide_dst=wide
    )
    if into is None:
        return result
    write_into(op, result, into)
    return into


def _broadcast_shape(op: str, a: Tensor, b: Tensor | float) -> tuple[int, ...]:
    if not isinstance(b, Tensor):
        return a.shape
    require(
        is_float(a.dtype) == is_float(b.dtype),
        op,
        f"mixed element types {a.dtype.name} and {b.dtype.name}",
    )
    if a.shape == b.shape:
        return a.shape
    try:
        return tuple(torch.broadcast_shapes(a.shape, b.shape))
    except RuntimeError:
        message = f"shapes {list(a.shape)} and {list(b.shape)} do not broadcast"
        raise EmulationError(op, message) from None


def _aligned(
    op: str, a: Tensor, b: Tensor | float, index: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Stored values of both, extended with zeros where only one of them stores a part."""
    left = a.values(op)[index]
    if not isinstance(b, Tensor):
        return left, left.new_tensor(b)
    right = b.values(op)[index]
    if left.shape == right.shape:
        return left, right
    rank = max(left.ndim, right.ndim)
    left = left.view((1,) * (rank - left.ndim) + left.shape)
    right = right.view((1,) * (rank - right.ndim) + right.shape)
    sizes_a = (1,) * (rank - len(a.shape)) + a.shape
    sizes_b = (1,) * (rank - len(b.shape)) + b.shape
    both = [max(x, y) for x, y in zip(left.shape, right.shape, strict=True)]

    def target(sizes: Sequence[int], values: torch.Tensor) -> list[int]:
        same = zip(sizes_a, sizes_b, sizes, values.shape, both, strict=True)
        return [want if x == y else have for x, y, _, have, want in same]

    return extend(left, target(sizes_a, left)), extend(right, target(sizes_b, right))


def write_into(op: str, result: Tensor, into: Tensor) -> None:
    """Store a result in a tensor that exists: type, layout and size must be those of the result."""
    require(into.is_allocated(), op, "output tensor is not allocated")
    require(
        result.dtype is into.dtype and result.layout is into.layout,
        op,
        f"output tensor is {into.dtype.name} in {into.layout.name}, the result is "
        f"{result.dtype.name} in {result.layout.name}",
    )
    require(
        result.shape == into.shape,
        op,
        f"output tensor has shape {list(into.shape)}, the result {list(result.shape)}",
    )
    into.stored = result.stored
    into.operands.clear()


def typecast(
    input_tensor: Tensor,
    dtype: DataType,
    *,
    memory_config: MemoryConfig | None = None,
    output_tensor: Tensor | None = None,
) -> Tensor:
    """The values in another element type, packed with the precise 16-bit intermediate."""
    op = "typecast"
    device = device_of(op, input_tensor)
    values = input_tensor.values(op)
    if is_float(dtype) != is_float(input_tensor.dtype):
        values = [one.to(torch.float32 if is_float(dtype) else torch.int64) for one in values]
    else:
        values = [one.clone() for one in values]
    result = output(
        op,
        values,
        input_tensor.shape,
        dtype,
        memory_config or input_tensor.memory_config(),
        device,
        layout=input_tensor.layout,
        wide_dst=input_tensor.dtype is DataType.FLOAT32,
        precise=True,
    )
    if output_tensor is None:
        return result
    write_into(op, result, output_tensor)
    return output_tensor
