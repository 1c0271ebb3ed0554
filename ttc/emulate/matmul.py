# pyright: reportUnknownMemberType=false
"""linear, matmul and minimal_matmul: arithmetic as the compute config says.

What a matmul computes depends on: the element types, the fidelity, the width of Dst, and, with a
16-bit Dst, on `in0_block_w` and `packer_l1_acc`. Whether ttnn accepts it is `matmul_programs`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import torch

from ttc.emulate import fpu
from ttc.emulate.configs import (
    DRAM_MEMORY_CONFIG,
    CoreGrid,
    MathFidelity,
    MatmulMultiCoreReuseMultiCastDRAMShardedProgramConfig,
    MemoryConfig,
    MinimalMatmulConfig,
    WormholeComputeKernelConfig,
)
from ttc.emulate.dtypes import (
    BLOCK_FORMATS,
    TILE,
    DataType,
    pack_on_device,
    round_to_bf16_,
    truncate_to_bf16,
)
from ttc.emulate.errors import EmulationError
from ttc.emulate.matmul_programs import ProgramConfig, check_program
from ttc.emulate.tensor import Tensor, device_of, extend, is_float, output, require_tiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Arithmetic:
    """How the products of one matmul are formed and summed.

    l1_blocks_over   partial sums are added in L1 if there are more K blocks than this
    """

    fidelity: MathFidelity
    wide_dst: bool
    packer_l1_acc: bool
    in0_block_w: int
    l1_blocks_over: int = 2


def default_fidelity(a: Tensor, b: Tensor, *, has_program: bool) -> MathFidelity:
    """ttnn's choice without a compute config. A program config alone silently means LoFi."""
    if a.dtype is DataType.FLOAT32 and b.dtype is DataType.FLOAT32:
        return MathFidelity.HiFi4
    if not has_program and not (a.dtype in BLOCK_FORMATS and b.dtype in BLOCK_FORMATS):
        return MathFidelity.HiFi2
    return MathFidelity.LoFi


def linear(
    input_tensor_a: Tensor,
    input_tensor_b: Tensor,
    *,
    bias: Tensor | None = None,
    transpose_a: bool = False,
    transpose_b: bool = False,
    memory_config: MemoryConfig | None = None,
    dtype: DataType | None = None,
    program_config: ProgramConfig | None = None,
    compute_kernel_config: WormholeComputeKernelConfig | None = None,
    core_grid: CoreGrid | None = None,
) -> Tensor:
    """a [..., M, K] @ b [..., K, N] (+ bias [1, 1, 1, N])."""
    a = _transposed(input_tensor_a, transpose_a)
    b = _transposed(input_tensor_b, transpose_b)
    _check_operands("linear", a, b)
    has_program = program_config is not None or core_grid is not None
    placed = check_program(
        "linear", a, b, program_config, memory_config or DRAM_MEMORY_CONFIG, compute_kernel_config
    )
    config = compute_kernel_config or WormholeComputeKernelConfig(packer_l1_acc=True)
    fidelity = config.math_fidelity
    if fidelity is MathFidelity.Invalid:
        fidelity = default_fidelity(a, b, has_program=has_program)
    dram_sharded = isinstance(program_config, MatmulMultiCoreReuseMultiCastDRAMShardedProgramConfig)
    arithmetic = Arithmetic(
        fidelity=fidelity,
        wide_dst=config.fp32_dest_acc_en,
        packer_l1_acc=config.packer_l1_acc,
        in0_block_w=_block_width(a, program_config),
        l1_blocks_over=1 if dram_sharded or bias is not None else 2,
    )
    return _run("linear", a, b, bias, arithmetic, dtype or a.dtype, placed)


def matmul(
    input_tensor_a: Tensor,
    input_tensor_b: Tensor,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    memory_config: MemoryConfig | None = None,
    dtype: DataType | None = None,
    program_config: ProgramConfig | None = None,
    compute_kernel_config: WormholeComputeKernelConfig | None = None,
    core_grid: CoreGrid | None = None,
) -> Tensor:
    """As `linear`, without a bias."""
    return linear(
        input_tensor_a,
        input_tensor_b,
        transpose_a=transpose_a,
        transpose_b=transpose_b,
        memory_config=memory_config,
        dtype=dtype,
        program_config=program_config,
        compute_kernel_config=compute_kernel_config,
        core_grid=core_grid,
    )


def minimal_matmul(
    input_tensor: Tensor,
    weight_tensor: Tensor,
    *,
    bias_tensor: Tensor | None = None,
    config: MinimalMatmulConfig | None = None,
    memory_config: MemoryConfig | None = None,
    dtype: DataType | None = None,
    compute_kernel_config: WormholeComputeKernelConfig | None = None,
) -> Tensor:
    """a [..., M, K] @ b [1, 1, K, N] (+ bias). By default HiFi2 with a wide Dst."""
    _check_operands("experimental.minimal_matmul", input_tensor, weight_tensor)
    kernel = compute_kernel_config or WormholeComputeKernelConfig(
        math_fidelity=MathFidelity.HiFi2, fp32_dest_acc_en=True, packer_l1_acc=True
    )
    fidelity = kernel.math_fidelity
    arithmetic = Arithmetic(
        fidelity=MathFidelity.HiFi2 if fidelity is MathFidelity.Invalid else fidelity,
        wide_dst=kernel.fp32_dest_acc_en,
        packer_l1_acc=True,
        in0_block_w=config.K_block_size if config is not None else 8,
        l1_blocks_over=1,
    )
    return _run(
        "experimental.minimal_matmul",
        input_tensor,
        weight_tensor,
        bias_tensor,
        arithmetic,
        dtype or input_tensor.dtype,
        memory_config or DRAM_MEMORY_CONFIG,
    )


def _transposed(tensor: Tensor, transpose: bool) -> Tensor:
    if not transpose:
        return tensor
    shape = (*tensor.shape[:-2], tensor.shape[-1], tensor.shape[-2])
    stored = [one.transpose(-1, -2).contiguous() for one in tensor.values("matmul")]
    return Tensor(
        stored, shape, tensor.dtype, tensor.layout, tensor.device(), tensor.memory_config(), tensor
    )


def _check_operands(op: str, a: Tensor, b: Tensor) -> None:
    require_tiles(op, a, b)
    for tensor in (a, b):
        if not is_float(tensor.dtype):
            raise EmulationError(op, f"unsupported element type {tensor.dtype.name}")
    if a.shape[-1] != b.shape[-2]:
        raise EmulationError(
            op,
            f"the width of the first operand ({a.shape[-1]}) must be the height of the second "
            f"({b.shape[-2]})",
        )
    batches = b.shape[:-2]
    if prod(batches) != 1 and batches != a.shape[:-2]:
        raise EmulationError(
            op, f"batch dimensions {batches} of the second operand must be 1 or those of the first"
        )


def _block_width(a: Tensor, program_config: ProgramConfig | None) -> int:
    """K tiles per block. Without a program config ttnn chooses; two where that divides is usual."""
    if program_config is not None:
        return program_config.in0_block_w
    tiles = -(-a.shape[-1] // TILE)
    return 2 if tiles % 2 == 0 else 1


def _run(
    op: str,
    a: Tensor,
    b: Tensor,
    bias: Tensor | None,
    arithmetic: Arithmetic,
    dtype: DataType,
    memory_config: MemoryConfig,
) -> Tensor:
    device = device_of(op, a, b)
    shape = (*a.shape[:-1], b.shape[-1])
    results: list[torch.Tensor] = []
    biases = bias.values(op) if bias is not None else [None] * len(a.stored)
    for index, values in enumerate(a.values(op)):
        if prod(b.shape[:-2]) != 1:  # every batch has a matrix of its own
            values = extend(values, (*a.shape[:-2], *values.shape[-2:]))
        if values.shape[-1] != a.shape[-1]:
            values = torch.nn.functional.pad(values, (0, a.shape[-1] - values.shape[-1]))

        def product(rows: torch.Tensor, index: int = index) -> torch.Tensor:
            if not device.rounding:
                return fpu.dot(rows, _weights(op, b, "w", index))
            if arithmetic.wide_dst:
                return _wide(op, rows, b, index, arithmetic.fidelity)
            return _narrow(op, rows, a, b, index, arithmetic, dtype)

        result = _of_live_rows(values, product) if prod(b.shape[:-2]) == 1 else product(values)
        added = biases[index]
        if added is not None:
            result = result + added
            if device.rounding and not arithmetic.wide_dst:
                result = round_to_bf16_(result)
        results.append(result)
    return output(op, results, shape, dtype, memory_config, device, wide_dst=arithmetic.wide_dst)


def _of_live_rows(
    values: torch.Tensor, product: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """The product of rows that are not zeros, which is all that padding between prompts costs."""
    live = values.any(-1)
    if values.shape[-2] <= TILE or bool(live.all()):
        return product(values)
    rows = product(values[live].unsqueeze(0).unsqueeze(0))[0, 0]
    result = rows.new_zeros(*values.shape[:-1], rows.shape[-1])
    result[live] = rows
    return result


def _weights(op: str, b: Tensor, form: str, index: int) -> torch.Tensor:
    """A form of the weight ("w", "w5") in the type of sums, kept on the tensor.

    [K, N] where all batch dimensions are 1, so that the product is one GEMM.
    """
    if form not in b.operands:
        values = b.dense(op)
        if prod(b.shape[:-2]) == 1:
            values = [one.view(b.shape[-2], b.shape[-1]) for one in values]
        sums = device_of(op, b).sums
        b.operands[form] = [fpu.weight_form(one, form).to(sums) for one in values]
    return b.operands[form][index]


def _group_weights(op: str, b: Tensor, phase: int, index: int) -> torch.Tensor:
    """`fpu.group_weights` of a phase, kept on the tensor; one more dimension for batches."""
    form = f"groups of phase {phase}"
    if form not in b.operands:
        values = [one.view(-1, *one.shape[-2:]) for one in b.dense(op)]
        if b.dtype is DataType.FLOAT32:
            values = [truncate_to_bf16(one) for one in values]
        sums = device_of(op, b).sums
        grouped = [
            torch.stack([fpu.group_weights(w, phase).to(sums) for w in one]) for one in values
        ]
        b.operands[form] = [one[0] if len(one) == 1 else one for one in grouped]
    return b.operands[form][index]


def _wide(op: str, x: torch.Tensor, b: Tensor, index: int, fidelity: MathFidelity) -> torch.Tensor:
    total: torch.Tensor | None = None
    for values, form in fpu.effective_products(x, fidelity):
        exact = b.dtype is DataType.BFLOAT4_B  # 3 significant bits: every slice is the weight
        product = fpu.dot(values, _weights(op, b, "w" if exact else form, index))
        total = product if total is None else total.add_(product)
    assert total is not None, "every fidelity has a product"
    return total


def _narrow(
    op: str,
    x: torch.Tensor,
    a: Tensor,
    b: Tensor,
    index: int,
    arithmetic: Arithmetic,
    dtype: DataType,
) -> torch.Tensor:
    phases = _phases_that_matter(arithmetic.fidelity, a.dtype, b.dtype)
    weights = [_group_weights(op, b, phase & 1, index) for phase in phases]
    tiles = -(-x.shape[-1] // TILE)
    blocks = -(-tiles // arithmetic.in0_block_w)
    in_l1 = arithmetic.packer_l1_acc and blocks > arithmetic.l1_blocks_over
    to_bfp8 = dtype is DataType.BFLOAT8_B and not arithmetic.packer_l1_acc

    def pack_partial(partial: torch.Tensor) -> torch.Tensor:
        return pack_on_device(partial, dtype, wide_dst=False)

    def product(rows: torch.Tensor, slices: Sequence[torch.Tensor]) -> torch.Tensor:
        return fpu.group_matmul(
            rows,
            slices,
            phases,
            in0_block_w=arithmetic.in0_block_w,
            accumulate_in_l1=in_l1,
            pack_partial=pack_partial if to_bfp8 else None,
        )

    if weights[0].ndim == 3:
        flat = product(x.reshape(-1, x.shape[-1]), weights)
        return flat.view(*x.shape[:-1], flat.shape[-1])  # of no rows, where all are zeros
    batched = x.reshape(-1, *x.shape[-2:]).unbind(0)
    each = [product(*one) for one in zip(batched, zip(*weights, strict=True), strict=True)]
    return torch.stack(each).view(*x.shape[:-1], -1)


def _phases_that_matter(
    fidelity: MathFidelity, activations: DataType, weights: DataType
) -> list[int]:
    """Phases whose slices are not zero everywhere: adding zeros leaves a 16-bit Dst as it is.

    BFP4 has no bits below the top 5, BFP8 none below the top 7.
    """
    return [
        phase
        for phase in fpu.PHASES[fidelity]
        if not (phase & 1 and weights is DataType.BFLOAT4_B)
        and not (phase & 2 and activations in BLOCK_FORMATS)
    ]
