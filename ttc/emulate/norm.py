# pyright: reportUnknownMemberType=false
"""rms_norm and layer_norm as their kernels do them: square, mean, reciprocal root, scale, weight.

Every step but the root runs on the matrix unit, so the fidelity cuts operands: with HiFi2 the
square sees one operand, the scaling sees the reciprocal root, and the last step sees the weight
at 7 significant bits. Intermediate results are float32 (read back as TF32) with a wide Dst and
BF16 with a 16-bit Dst.
"""

from math import prod

import torch

from ttc.emulate import fpu
from ttc.emulate.configs import (
    LayerNormShardedMultiCoreProgramConfig,
    MathFidelity,
    MemoryConfig,
    TensorMemoryLayout,
    WormholeComputeKernelConfig,
    core_coord,
)
from ttc.emulate.dtypes import TILE, Layout, round_to_bf16_
from ttc.emulate.errors import EmulationError, require
from ttc.emulate.tensor import Tensor, device_of, output, require_tiles

_DEFAULT = WormholeComputeKernelConfig(math_fidelity=MathFidelity.HiFi4)


def rms_norm(
    input_tensor: Tensor,
    *,
    epsilon: float = 1e-12,
    weight: Tensor | None = None,
    memory_config: MemoryConfig | None = None,
    program_config: LayerNormShardedMultiCoreProgramConfig | None = None,
    compute_kernel_config: WormholeComputeKernelConfig | None = None,
) -> Tensor:
    """x / sqrt(mean(x^2) + epsilon) * weight over the last dimension.

    weight   [1, 1, 1, width] in tiles or [1, 1, width / 32, 32] row major
    """
    return _norm(
        "rms_norm",
        input_tensor,
        weight,
        None,
        epsilon,
        memory_config,
        program_config,
        compute_kernel_config,
    )


def layer_norm(
    input_tensor: Tensor,
    *,
    epsilon: float = 1e-12,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    memory_config: MemoryConfig | None = None,
    program_config: LayerNormShardedMultiCoreProgramConfig | None = None,
    compute_kernel_config: WormholeComputeKernelConfig | None = None,
) -> Tensor:
    """(x - mean(x)) / sqrt(var(x) + epsilon) * weight + bias over the last dimension.

    weight, bias   [1, 1, 1, width] in tiles or [1, 1, width / 32, 32] row major
    """
    return _norm(
        "layer_norm",
        input_tensor,
        weight,
        bias,
        epsilon,
        memory_config,
        program_config,
        compute_kernel_config,
    )


def _norm(
    op: str,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    epsilon: float,
    memory_config: MemoryConfig | None,
    program_config: LayerNormShardedMultiCoreProgramConfig | None,
    compute_kernel_config: WormholeComputeKernelConfig | None,
) -> Tensor:
    require_tiles(op, x)
    rows = [row for row in (weight, bias) if row is not None]
    device = device_of(op, x, *rows)
    _check_program(op, x, program_config, memory_config)
    for row in rows:
        _check_weight(op, x, row)
    config = compute_kernel_config or _DEFAULT
    results: list[torch.Tensor] = []
    for index, values in enumerate(x.values(op)):
        gamma, beta = (
            None if row is None else _row(op, row, x.shape[-1], index) for row in (weight, bias)
        )
        if op == "layer_norm":
            values = _centred(values, config, rounding=device.rounding)
        if device.rounding:
            results.append(_kernel(values, gamma, beta, epsilon, config))
            continue
        result = values * _inverse_root(fpu.row_sums(values.square()) / x.shape[-1], epsilon)
        result = result if gamma is None else result * gamma
        results.append(result if beta is None else result + beta)
    return output(
        op,
        results,
        x.shape,
        x.dtype,
        memory_config or x.memory_config(),
        device,
        wide_dst=config.fp32_dest_acc_en,
    )


def _row(op: str, weight: Tensor, width: int, index: int) -> torch.Tensor:
    """The weight as one row, kept on the tensor."""
    name = f"row of {width}"
    if name not in weight.operands:
        weight.operands[name] = [one.reshape(-1)[:width] for one in weight.dense(op)]
    return weight.operands[name][index]


def _kernel(
    x: torch.Tensor,
    gamma: torch.Tensor | None,
    beta: torch.Tensor | None,
    epsilon: float,
    config: WormholeComputeKernelConfig,
) -> torch.Tensor:
    fidelity, wide = config.math_fidelity, config.fp32_dest_acc_en
    if fidelity is MathFidelity.Invalid:
        fidelity = MathFidelity.HiFi4
    squares = fpu.multiply(x, x, fidelity, wide_dst=wide)
    if wide:
        mean = fpu.row_sums(fpu.as_tf32(squares)).mul_(1.0 / x.shape[-1])
        root = fpu.as_tf32(_inverse_root(mean, epsilon))
    else:
        mean = _narrow_sum(squares, fidelity).mul_(1.0 / x.shape[-1])
        root = round_to_bf16_(_inverse_root(round_to_bf16_(mean), epsilon))
    scaled = fpu.multiply(x, root, fidelity, wide_dst=wide)
    if gamma is not None:
        scaled = fpu.as_tf32(scaled) if wide else scaled
        scaled = fpu.multiply(scaled, gamma, fidelity, wide_dst=wide, from_tf32=wide)
    return scaled if beta is None else fpu.add(scaled, beta, wide_dst=wide)


def _inverse_root(mean: torch.Tensor, epsilon: float) -> torch.Tensor:
    """1 / sqrt(mean + epsilon), rounded to float32 once: GPUs have an rsqrt of their own."""
    return (mean + epsilon).to(torch.float64).rsqrt_().to(torch.float32)


def _centred(
    x: torch.Tensor, config: WormholeComputeKernelConfig, *, rounding: bool
) -> torch.Tensor:
    """x less its mean, in the width of Dst: a sum times 1 / width, then a difference."""
    mean = fpu.row_sums(x) / x.shape[-1]
    if not rounding:
        return x - mean
    if config.fp32_dest_acc_en:
        return fpu.as_tf32(x - fpu.as_tf32(mean))
    return fpu.add(x, -round_to_bf16_(mean), wide_dst=False)


def _narrow_sum(squares: torch.Tensor, fidelity: MathFidelity) -> torch.Tensor:
    """Row sums through a 16-bit Dst: a matmul with a column of ones."""
    rows = squares.reshape(-1, squares.shape[-1])
    ones = rows.new_ones(rows.shape[1], 1)
    phases = [phase for phase in fpu.PHASES[fidelity] if not phase & 1]
    total = fpu.group_matmul(
        rows,
        [fpu.group_weights(ones, phase).to(torch.float64) for phase in phases],
        phases,
        in0_block_w=-(-rows.shape[1] // TILE),
        accumulate_in_l1=False,
    )
    return total.view(*squares.shape[:-1], 1)


def _check_weight(op: str, x: Tensor, weight: Tensor) -> None:
    if weight.layout is Layout.TILE:
        require(
            weight.padded_shape[-1] == x.padded_shape[-1],
            op,
            f"weight width {weight.shape[-1]} must be that of the input, {x.shape[-1]}",
        )
        return
    require(
        weight.shape[-1] == TILE and prod(weight.shape) == x.padded_shape[-1],
        op,
        f"a row major weight must have shape [..., width / {TILE}, {TILE}], got "
        f"{list(weight.shape)} for width {x.shape[-1]}",
    )


def _check_program(
    op: str,
    x: Tensor,
    program: LayerNormShardedMultiCoreProgramConfig | None,
    memory_config: MemoryConfig | None,
) -> None:
    spec = x.memory_config().shard_spec
    if not x.is_sharded() or spec is None:
        if program is not None:
            raise EmulationError(op, "a sharded program config needs a sharded input")
        return
    layout = x.memory_config().memory_layout
    require(
        layout is not TensorMemoryLayout.HEIGHT_SHARDED, op, "height sharded inputs do not work"
    )
    require(
        memory_config is None or memory_config.is_sharded(),
        op,
        "sharded inputs require sharded outputs",
    )
    if program is None:
        return
    height, width = spec.shape[0] // TILE, spec.shape[1] // TILE
    if (program.block_h, program.block_w) != (height, width):
        raise EmulationError(
            op,
            f"block_h x block_w ({program.block_h} x {program.block_w}) must be the tiles of a "
            f"shard ({height} x {width})",
        )
    if program.block_w % program.subblock_w:
        raise EmulationError(
            op,
            f"block_w ({program.block_w}) must be divisible by subblock_w ({program.subblock_w})",
        )
    grid, box = core_coord(program.compute_with_storage_grid_size), spec.grid.bounding_box()
    if box.end.x - box.start.x >= grid.x or box.end.y - box.start.y >= grid.y:
        raise EmulationError(op, f"the shard grid {spec.grid} does not fit the program grid {grid}")
