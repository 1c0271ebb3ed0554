# pyright: reportUnknownMemberType=false
"""softmax of the last dimension: maximum, difference, exponential, sum, reciprocal, product.

Intermediate results are float32 (read back as TF32) with a wide Dst and BF16 with a 16-bit Dst, as
in the kernels of ttnn 0.81.1.
"""

import torch

from ttc.emulate import fpu
from ttc.emulate.configs import MathFidelity, MemoryConfig, WormholeComputeKernelConfig
from ttc.emulate.dtypes import round_to_bf16_
from ttc.emulate.errors import require
from ttc.emulate.sfpu import exp_accurate, exp_approximate
from ttc.emulate.tensor import Tensor, device_of, extend, output, require_tiles

_DEFAULT = WormholeComputeKernelConfig(math_fidelity=MathFidelity.HiFi4)


def softmax(
    input_tensor: Tensor,
    dim: int = -1,
    *,
    memory_config: MemoryConfig | None = None,
    compute_kernel_config: WormholeComputeKernelConfig | None = None,
    numeric_stable: bool = True,
) -> Tensor:
    """exp(x - max) / sum of them, over the last dimension. Shape of the input."""
    op, x = "softmax", input_tensor
    require_tiles(op, x)
    device = device_of(op, x)
    last = len(x.shape) - 1
    require(dim in (-1, last), op, f"only the last dimension is emulated, got {dim}")
    require(numeric_stable, op, "only the numerically stable form is emulated")
    config = compute_kernel_config or _DEFAULT
    results: list[torch.Tensor] = []
    for one in x.values(op):
        values = extend(one, (*one.shape[:-1], x.shape[-1]))
        shifted = values - values.amax(-1, keepdim=True)
        results.append(
            _kernel(shifted, config)
            if device.rounding
            else shifted.to(torch.float64).softmax(-1).to(torch.float32)
        )
    placed = memory_config or x.memory_config()
    wide = config.fp32_dest_acc_en
    return output(op, results, x.shape, x.dtype, placed, device, wide_dst=wide)


def _kernel(shifted: torch.Tensor, config: WormholeComputeKernelConfig) -> torch.Tensor:
    fidelity, wide = config.math_fidelity, config.fp32_dest_acc_en
    if fidelity is MathFidelity.Invalid:
        fidelity = MathFidelity.HiFi4
    exp = exp_approximate if config.math_approx_mode else exp_accurate
    if not wide:
        powers = exp(round_to_bf16_(shifted), 1.0, wide_dst=False)
        total = round_to_bf16_(fpu.row_sums(powers))
        return fpu.multiply(powers, round_to_bf16_(total.reciprocal_()), fidelity, wide_dst=False)
    powers = fpu.as_tf32(exp(fpu.as_tf32(shifted), 1.0, wide_dst=True))
    inverse = fpu.as_tf32(fpu.row_sums(powers).reciprocal_())
    return fpu.multiply(powers, inverse, fidelity, wide_dst=True, from_tf32=True)
