"""Module constants: placements, programs and fidelities, each distinct one once."""

from ttc.lower.calls import Constant, Expression, Invoke, Name, Ref, Section
from ttc.plan.placement import Placement
from ttc.plan.programs import DramShardedMatmul, MulticastMatmul, SdpaProgram, ShardedNorm
from ttc.spec.precision import Fidelity

Program = DramShardedMatmul | MulticastMatmul | SdpaProgram | ShardedNorm

# Names that ttnn itself has for the placements that need no grid.
NAMED_PLACEMENTS = {
    ("dram", "interleaved"): "DRAM_MEMORY_CONFIG",
    ("l1", "interleaved"): "L1_MEMORY_CONFIG",
    ("l1", "width_sharded"): "L1_WIDTH_SHARDED_MEMORY_CONFIG",
    ("l1", "height_sharded"): "L1_HEIGHT_SHARDED_MEMORY_CONFIG",
}
GENERIC_PLACEMENTS = ("DRAM", "L1", "L1_WIDTH_SHARDED", "L1_HEIGHT_SHARDED")
DTYPES = {
    "bf16": "bfloat16",
    "bfp8": "bfloat8_b",
    "bfp4": "bfloat4_b",
    "fp32": "float32",
    "uint32": "uint32",
    "int32": "int32",
}


class Constants:
    """Gives each distinct value one name, and remembers the order in which they were asked for."""

    def __init__(self, compute_config: str) -> None:
        self._compute_config = compute_config
        self._placements: dict[str, Expression] = {}
        self._programs: dict[str, Expression] = {}
        self._fidelities: dict[str, Expression] = {}

    def placement(self, placement: Placement) -> Ref | Name:
        """A memory config; a placement without a grid of its own leaves it to the operation."""
        if placement.name in GENERIC_PLACEMENTS:
            return Name(name=NAMED_PLACEMENTS[placement.buffer, placement.layout])
        value = _memory_config(placement)
        return Ref(name=_intern(self._placements, placement.name, "", value))

    def program(self, program: Program, name: str, value: str) -> Ref:
        """A program config called `name`; `value` tells apart two that would be called the same."""
        return Ref(name=_intern(self._programs, name, value, _program(program)))

    def fidelity(self, compute: Fidelity) -> Ref:
        """A compute kernel config under the name of its fidelity."""
        value = Invoke(
            self._compute_config,
            kwargs=(
                ("math_fidelity", Name(name=f"MathFidelity.{compute.math_fidelity}")),
                ("math_approx_mode", compute.math_approx),
                ("fp32_dest_acc_en", compute.fp32_dest_acc),
                ("packer_l1_acc", compute.packer_l1_acc),
            ),
        )
        return Ref(name=_intern(self._fidelities, compute.name.upper(), "", value))

    def sections(self) -> tuple[Section, ...]:
        """Everything that was asked for, in three sections."""
        parts = (
            (
                "Placements: buffer, (rows, columns) of a shard, ranges of cores or DRAM banks.",
                self._placements,
            ),
            (
                "Programs, named for the product or the width they compute.",
                self._programs,
            ),
            ("Math fidelities of the precision profile.", self._fidelities),
        )
        return tuple(
            Section(
                comment=comment,
                constants=tuple(Constant(name=name, value=value) for name, value in held.items()),
            )
            for comment, held in parts
            if held
        )


def dtype_name(dtype: str) -> Name:
    """`bf16` -> ttnn.bfloat16."""
    return Name(name=DTYPES[dtype])


def _intern(held: dict[str, Expression], name: str, suffix: str, value: Expression) -> str:
    for candidate in (name, f"{name}_{suffix.upper()}"):
        if held.setdefault(candidate, value) == value:
            return candidate
    raise AssertionError(f"two different constants want the name {name}")


def _memory_config(placement: Placement) -> Invoke:
    buffer = Name(name=f"BufferType.{placement.buffer.upper()}")
    return Invoke(placement.layout, (buffer, placement.shard, *placement.grid), own=True)


def _program(program: Program) -> Invoke:
    match program:
        case ShardedNorm():
            return Invoke(
                "LayerNormShardedMultiCoreProgramConfig",
                kwargs=(
                    ("compute_with_storage_grid_size", program.grid),
                    ("subblock_w", program.subblock_w),
                    ("block_h", program.block_h),
                    ("block_w", program.block_w),
                    ("inplace", False),
                ),
            )
        case DramShardedMatmul():
            return Invoke(
                "MatmulMultiCoreReuseMultiCastDRAMShardedProgramConfig",
                kwargs=(
                    ("in0_block_w", program.in0_block_w),
                    ("per_core_M", program.per_core_m),
                    ("per_core_N", program.per_core_n),
                ),
            )
        case MulticastMatmul():
            return Invoke(
                "MatmulMultiCoreReuseMultiCastProgramConfig",
                kwargs=(
                    ("compute_with_storage_grid_size", program.grid),
                    ("in0_block_w", program.in0_block_w),
                    ("out_subblock_h", program.out_subblock_h),
                    ("out_subblock_w", program.out_subblock_w),
                    ("out_block_h", program.out_block_h),
                    ("out_block_w", program.out_block_w),
                    ("per_core_M", program.per_core_m),
                    ("per_core_N", program.per_core_n),
                    ("transpose_mcast", False),
                    *(() if program.fuse_batch else (("fuse_batch", False),)),
                ),
            )
        case SdpaProgram():
            return Invoke(
                "SDPAProgramConfig",
                kwargs=(
                    ("compute_with_storage_grid_size", program.grid),
                    ("q_chunk_size", program.q_chunk_tokens),
                    ("k_chunk_size", program.k_chunk_tokens),
                    ("exp_approx_mode", False),
                ),
            )
