"""Functions of each element as operations of their own, on the vector unit."""

from collections.abc import Sequence

from ttc.emulate import sfpu
from ttc.emulate.configs import GeluVariant, MemoryConfig, UnaryOpType, UnaryWithParam
from ttc.emulate.dtypes import DataType
from ttc.emulate.errors import require
from ttc.emulate.tensor import Tensor, device_of, is_float, output


def unary_chain(
    input_tensor: Tensor,
    ops_chain: Sequence[UnaryWithParam],
    *,
    memory_config: MemoryConfig | None = None,
) -> Tensor:
    """One function after the other, each result rounded in Dst. Shape of the input."""
    return _each("unary_chain", input_tensor, ops_chain, memory_config)


def gelu(
    input_tensor: Tensor,
    *,
    variant: GeluVariant = GeluVariant.Accurate,
    memory_config: MemoryConfig | None = None,
) -> Tensor:
    """x * P(N(0, 1) < x), or its approximation by tanh. Shape of the input."""
    kind = UnaryOpType.GELU_TANH if variant is GeluVariant.Tanh else UnaryOpType.GELU
    return _each("gelu", input_tensor, [UnaryWithParam(kind, 0.0)], memory_config)


def silu(input_tensor: Tensor, *, memory_config: MemoryConfig | None = None) -> Tensor:
    """x * sigmoid(x). Shape of the input."""
    return _each("silu", input_tensor, [UnaryWithParam(UnaryOpType.SILU)], memory_config)


def relu(input_tensor: Tensor, *, memory_config: MemoryConfig | None = None) -> Tensor:
    """max(x, 0). Shape of the input."""
    return _each("relu", input_tensor, [UnaryWithParam(UnaryOpType.RELU)], memory_config)


def _each(
    op: str,
    x: Tensor,
    functions: Sequence[UnaryWithParam],
    memory_config: MemoryConfig | None,
) -> Tensor:
    device = device_of(op, x)
    require(is_float(x.dtype), op, f"unsupported element type {x.dtype.name}")
    wide = x.dtype is DataType.FLOAT32
    results = [one.clone() for one in x.values(op)]
    for function in functions:
        results = [
            sfpu.activation(one, function, rounding=device.rounding and not wide) for one in results
        ]
    placed = memory_config or x.memory_config()
    return output(op, results, x.shape, x.dtype, placed, device, layout=x.layout, wide_dst=wide)
