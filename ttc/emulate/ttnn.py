"""The names of ttnn that emitted modules and the runtime use, and no others.

A program runs on the emulator unchanged when the name `ttnn` is bound to this module. Arguments
have ttnn's names; those that are not emulated are refused as unknown. Operations are written for
one device, and `per_device` runs them on a mesh.
"""

from ttc.emulate import (
    data_movement,
    elementwise,
    experimental,
    host,
    indices,
    kv_cache,
    norm,
    reduction,
    selection,
    transformer,
    unary,
)
from ttc.emulate import matmul as matmuls
from ttc.emulate import (
    softmax as softmaxes,
)
from ttc.emulate.collectives import (
    GlobalSemaphore,
    all_gather,
    all_reduce,
    create_global_semaphore,
    mesh_partition,
    reduce_scatter,
)
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
    GeluVariant,
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
    Topology,
    UnaryOpType,
    UnaryWithParam,
    WormholeComputeKernelConfig,
)
from ttc.emulate.device import Arch, MeshDevice, MeshShape, close_mesh_device, open_mesh_device
from ttc.emulate.distribution import (
    ConcatMeshToTensor,
    MeshMapperConfig,
    PlacementReplicate,
    PlacementShard,
    ReplicateTensorToMesh,
    ShardTensorToMesh,
    create_mesh_mapper,
    from_host_shards,
    get_device_tensors,
)
from ttc.emulate.dtypes import DataType, Layout
from ttc.emulate.host import empty, from_torch, to_torch
from ttc.emulate.mesh_tensor import per_device
from ttc.emulate.tensor import Tensor
from ttc.emulate.tensorbin import load_tensor

bfloat16 = DataType.BFLOAT16
bfloat8_b = DataType.BFLOAT8_B
bfloat4_b = DataType.BFLOAT4_B
float32 = DataType.FLOAT32
uint16 = DataType.UINT16
uint32 = DataType.UINT32
int32 = DataType.INT32
TILE_LAYOUT = Layout.TILE
ROW_MAJOR_LAYOUT = Layout.ROW_MAJOR

add = per_device(elementwise.add, writes=["output_tensor"])
subtract = per_device(elementwise.subtract)
lt = per_device(elementwise.lt)
le = per_device(elementwise.le)
mul = multiply = per_device(elementwise.multiply, writes=["output_tensor"])
typecast = per_device(elementwise.typecast, writes=["output_tensor"])
linear = per_device(matmuls.linear)
matmul = per_device(matmuls.matmul)
rms_norm = per_device(norm.rms_norm)
layer_norm = per_device(norm.layer_norm)
unary_chain = per_device(unary.unary_chain)
gelu = per_device(unary.gelu)
silu = per_device(unary.silu)
softmax = per_device(softmaxes.softmax)
fill_cache = per_device(kv_cache.fill_cache, writes=["cache_tensor"])
relu = per_device(unary.relu)
embedding = per_device(indices.embedding)
argmax = per_device(indices.argmax, writes=["output_tensor"])
topk = per_device(selection.topk)
gather = per_device(selection.gather)
sampling = per_device(selection.sampling, writes=["output_tensor"])
sum = per_device(reduction.sum_tensor)
max = per_device(reduction.max_tensor)
cumsum = per_device(reduction.cumsum)
plus_one = per_device(indices.plus_one, writes=["input_tensor"])
concat = per_device(data_movement.concat)
copy = per_device(data_movement.copy, writes=["input_b"])
interleaved_to_sharded = per_device(data_movement.interleaved_to_sharded)
pad = per_device(data_movement.pad)
reshape = per_device(data_movement.reshape)
sharded_to_interleaved = per_device(data_movement.sharded_to_interleaved)
slice = per_device(data_movement.slice_tensor)
to_memory_config = per_device(data_movement.to_memory_config)
transpose = per_device(data_movement.transpose)
untilize = per_device(data_movement.untilize)
untilize_with_unpadding = per_device(data_movement.untilize_with_unpadding)
copy_host_to_device_tensor = per_device(host.copy_host_to_device_tensor, writes=["device_tensor"])
deallocate = per_device(host.deallocate)
mark_live_rows = per_device(host.mark_live_rows, writes=["tensor"])

__all__ = [
    "DRAM_MEMORY_CONFIG",
    "L1_HEIGHT_SHARDED_MEMORY_CONFIG",
    "L1_MEMORY_CONFIG",
    "L1_WIDTH_SHARDED_MEMORY_CONFIG",
    "ROW_MAJOR_LAYOUT",
    "TILE_LAYOUT",
    "Arch",
    "BufferType",
    "ConcatMeshToTensor",
    "CoreCoord",
    "CoreGrid",
    "CoreRange",
    "CoreRangeSet",
    "DataType",
    "GeluVariant",
    "GlobalSemaphore",
    "LayerNormShardedMultiCoreProgramConfig",
    "Layout",
    "MathFidelity",
    "MatmulMultiCoreReuseMultiCast1DProgramConfig",
    "MatmulMultiCoreReuseMultiCastDRAMShardedProgramConfig",
    "MatmulMultiCoreReuseMultiCastProgramConfig",
    "MemoryConfig",
    "MeshDevice",
    "MeshMapperConfig",
    "MeshShape",
    "MinimalMatmulConfig",
    "PlacementReplicate",
    "PlacementShard",
    "ReplicateTensorToMesh",
    "SDPAProgramConfig",
    "ShardOrientation",
    "ShardSpec",
    "ShardTensorToMesh",
    "Tensor",
    "TensorMemoryLayout",
    "Topology",
    "UnaryOpType",
    "UnaryWithParam",
    "WormholeComputeKernelConfig",
    "add",
    "all_gather",
    "all_reduce",
    "argmax",
    "bfloat4_b",
    "bfloat8_b",
    "bfloat16",
    "close_mesh_device",
    "concat",
    "copy",
    "copy_host_to_device_tensor",
    "create_global_semaphore",
    "create_mesh_mapper",
    "cumsum",
    "deallocate",
    "embedding",
    "empty",
    "experimental",
    "fill_cache",
    "float32",
    "from_host_shards",
    "from_torch",
    "gather",
    "gelu",
    "get_device_tensors",
    "int32",
    "interleaved_to_sharded",
    "layer_norm",
    "le",
    "linear",
    "load_tensor",
    "lt",
    "mark_live_rows",
    "matmul",
    "max",
    "mesh_partition",
    "mul",
    "multiply",
    "open_mesh_device",
    "pad",
    "plus_one",
    "reduce_scatter",
    "relu",
    "reshape",
    "rms_norm",
    "sampling",
    "sharded_to_interleaved",
    "silu",
    "slice",
    "softmax",
    "subtract",
    "sum",
    "to_memory_config",
    "to_torch",
    "topk",
    "transformer",
    "transpose",
    "typecast",
    "uint16",
    "uint32",
    "unary_chain",
    "untilize",
    "untilize_with_unpadding",
]
