# pyright: reportUnknownMemberType=false
"""The vector unit: activations, exponential and reciprocal, as its kernels compute them.

SiLU, GELU, tanh, accurate exp and reciprocal are within one BF16 step of the true function on
Wormhole, so they are the float32 function followed by the rounding of the kernel. Only approximate
exp (off by up to 3.4 %) and accurate exp for a 16-bit Dst (a quadratic, 0.2 %) have shapes of their
own. Constants are those of the ttnn 0.81.1 kernels.

Functions are taken in float64 and rounded to float32, so that they are the same on every machine:
the float32 ones of libraries and GPUs differ in the last bit.
"""

from collections.abc import Callable
from functools import partial

import torch

from ttc.emulate.configs import UnaryOpType, UnaryWithParam
from ttc.emulate.dtypes import round_to_bf16_, truncate_to_bf16
from ttc.emulate.errors import EmulationError, require

_LOG2_E = 1.4426950408889634


def activation(
    values: torch.Tensor, function: UnaryOpType | UnaryWithParam, *, rounding: bool
) -> torch.Tensor:
    """A function of each BF16 value as a step of an operation, itself rounded to BF16."""
    if isinstance(function, UnaryOpType):
        function = UnaryWithParam(function)
    kind, param = function.op_type, function.param
    match kind:
        case UnaryOpType.SILU:
            result = _in_float64(torch.nn.functional.silu, values)
        case UnaryOpType.GELU:
            _require_exact(kind, param)
            result = _in_float64(torch.nn.functional.gelu, values)
        case UnaryOpType.GELU_TANH:
            result = _in_float64(partial(torch.nn.functional.gelu, approximate="tanh"), values)
        case UnaryOpType.RELU:
            result = torch.relu(values)
        case UnaryOpType.TANH:
            _require_exact(kind, param)
            result = _in_float64(torch.tanh, values)
        case UnaryOpType.EXP:
            result = _in_float64(torch.exp, values)
        case UnaryOpType.MUL_UNARY_SFPU:
            if param is None:
                raise EmulationError("MUL_UNARY_SFPU", "the factor is missing")
            result = values * param
    return round_to_bf16_(result) if rounding else result


def _in_float64(
    function: Callable[[torch.Tensor], torch.Tensor], values: torch.Tensor
) -> torch.Tensor:
    return function(values.to(torch.float64)).to(torch.float32)


def _require_exact(kind: UnaryOpType, param: float | None) -> None:
    """Without a number, or with another than 0, ttnn takes an approximation."""
    require(param == 0.0, kind.name, "only the exact form is emulated: UnaryWithParam(.., 0.0)")


def exp_approximate(values: torch.Tensor, scale: float, *, wide_dst: bool) -> torch.Tensor:
    """exp(scale * values) by Schraudolph's method with an 8-bit fraction, as attention runs it."""
    steps = values.mul(256.0 * _LOG2_E * scale).add_(32500.818359375)
    steps = torch.floor(steps.add_(0.5)).clamp_(0.0, 32767.0)
    result = steps.to(torch.int32).bitwise_left_shift_(15).view(torch.float32)
    return result if wide_dst else truncate_to_bf16(result)


def exp_accurate(values: torch.Tensor, scale: float, *, wide_dst: bool) -> torch.Tensor:
    """exp(scale * values); with a 16-bit Dst a quadratic in the fraction, rounded to BF16."""
    if wide_dst:
        return _in_float64(torch.exp, values.mul(scale))
    power = values.to(torch.float64).mul_(scale * 1.4426950216293335).add_(127.0).clamp_(0.0, 255.0)
    whole = torch.floor(power)
    fraction = power.sub_(whole).mul_(1 << 23).floor_().to(torch.float32)
    series = fraction.mul(4.791750143340323e-15).add_(7.839635491371155e-08)
    mantissa = series.mul_(fraction).add_(1.0017248).view(torch.int32).bitwise_and_(0x7FFFFF)
    bits = whole.to(torch.int32).bitwise_left_shift_(23).bitwise_or_(mantissa)
    return round_to_bf16_(bits.view(torch.float32))
