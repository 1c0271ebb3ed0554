"""The names of ttnn that emitted modules and the runtime use, and no others.

A program runs on the emulator unchanged when the name `ttnn` is bound to this module. Arguments
have ttnn's names; those that are not emulated are refused as unknown.
"""

from ttc.emulate import experimental, transformer
from ttc.emulate.configs import (
    DRAM_MEMORY_CONFIG,
    L1_HEIGHT_SHARDED_MEMORY_CONFIG,
    L1_MEMORY_CONFIG,
    L1_WIDTH_SHARDED_MEMORY_CONFIG,
    BufferType,
    CoreCoord,
    CoreGrid,
    CoreRange,
    CoreRangeSet,
    LayerNormShardedMultiCoreProgramConfig,
    MathFidelity,
    MatmulMultiCoreReuseMultiCast1DProgramConfig,
    MatmulMultiCoreReuseMultiCastDRAMShardedProgramConfig,
    MatmulMultiCoreReuseMultiCastProgramConfig,
    MemoryConfig,
    MinimalMatmulConfig,
    SDPAProgramConfig,
    ShardOrientation,
    ShardSpec,
    TensorMemoryLayout,
    UnaryOpType,
    WormholeComputeKernelConfig,
)
from ttc.emulate.data_movement import (
    concat,
    copy,
    interleaved_to_sharded,
    reshape,
    sharded_to_interleaved,
    to_memory_config,
    transpose,
    untilize,
)
from ttc.emulate.data_movement import slice_tensor as slice
from ttc.emulate.device import Arch, MeshDevice, MeshShape, close_mesh_device, open_mesh_device
from ttc.emulate.dtypes import DataType, Layout
from ttc.emulate.elementwise import add, multiply, typecast
from ttc.emulate.host import (
    copy_host_to_device_tensor,
    deallocate,
    empty,
    from_torch,
    mark_live_rows,
    to_torch,
)
from ttc.emulate.indices import argmax, embedding, plus_one
from ttc.emulate.matmul import linear, matmul
from ttc.emulate.norm import rms_norm
from ttc.emulate.tensor import Tensor
from ttc.emulate.tensorbin import load_tensor

bfloat16 = DataType.BFLOAT16
bfloat8_b = DataType.BFLOAT8_B
bfloat4_b = DataType.BFLOAT4_B
float32 = DataType.FLOAT32
uint32 = DataType.UINT32
int32 = DataType.INT32
TILE_LAYOUT = Layout.TILE
ROW_MAJOR_LAYOUT = Layout.ROW_MAJOR
mul = multiply

__all__ = [
    "DRAM_MEMORY_CONFIG",
    "L1_HEIGHT_SHARDED_MEMORY_CONFIG",
    "L1_MEMORY_CONFIG",
    "L1_WIDTH_SHARDED_MEMORY_CONFIG",
    "ROW_MAJOR_LAYOUT",
    "TILE_LAYOUT",
    "Arch",
    "BufferType",
    "CoreCoord",
    "CoreGrid",
    "CoreRange",
    "CoreRangeSet",
    "DataType",
    "LayerNormShardedMultiCoreProgramConfig",
    "Layout",
    "MathFidelity",
    "MatmulMultiCoreReuseMultiCast1DProgramConfig",
    "MatmulMultiCoreReuseMultiCastDRAMShardedProgramConfig",
    "MatmulMultiCoreReuseMultiCastProgramConfig",
    "MemoryConfig",
    "MeshDevice",
    "MeshShape",
    "MinimalMatmulConfig",
    "SDPAProgramConfig",
    "ShardOrientation",
    "ShardSpec",
    "Tensor",
    "TensorMemoryLayout",
    "UnaryOpType",
    "WormholeComputeKernelConfig",
    "add",
    "argmax",
    "bfloat4_b",
    "bfloat8_b",
    "bfloat16",
    "close_mesh_device",
    "concat",
    "copy",
    "copy_host_to_device_tensor",
    "deallocate",
    "embedding",
    "empty",
    "experimental",
    "float32",
    "from_torch",
    "int32",
    "interleaved_to_sharded",
    "linear",
    "load_tensor",
    "mark_live_rows",
    "matmul",
    "mul",
    "multiply",
    "open_mesh_device",
    "plus_one",
    "reshape",
    "rms_norm",
    "sharded_to_interleaved",
    "slice",
    "to_memory_config",
    "to_torch",
    "transformer",
    "transpose",
    "typecast",
    "uint32",
    "untilize",
]
