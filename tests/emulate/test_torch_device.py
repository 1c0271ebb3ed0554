"""The emulator computes where its device says: no operation makes a tensor anywhere else.

Fake tensors have a device and no values, so that a GPU is not needed; torch refuses to combine
those of two devices.
"""

from collections.abc import Callable

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from ttc.emulate import fpu, ttnn
from ttc.emulate.configs import MathFidelity

pytestmark = pytest.mark.emulate

GPU = "cuda:0"
DEVICE = ttnn.open_mesh_device(ttnn.MeshShape(1, 1), torch_device=GPU)
CONFIGS = [
    ttnn.WormholeComputeKernelConfig(
        math_fidelity=fidelity, fp32_dest_acc_en=wide, packer_l1_acc=True
    )
    for fidelity in (MathFidelity.LoFi, MathFidelity.HiFi2, MathFidelity.HiFi4)
    for wide in (True, False)
]


def on_gpu(shape: tuple[int, ...], dtype: ttnn.DataType = ttnn.bfloat16) -> ttnn.Tensor:
    tensor = ttnn.empty(shape, dtype, ttnn.TILE_LAYOUT, device=DEVICE)
    assert isinstance(tensor, ttnn.Tensor)
    return tensor


def product(config: ttnn.WormholeComputeKernelConfig) -> ttnn.Tensor:
    return ttnn.linear(
        on_gpu((1, 1, 32, 128)),
        on_gpu((1, 1, 128, 64), ttnn.bfloat4_b),
        compute_kernel_config=config,
        dtype=ttnn.bfloat8_b,
    )


def normed(config: ttnn.WormholeComputeKernelConfig) -> ttnn.Tensor:
    return ttnn.rms_norm(
        on_gpu((1, 1, 32, 128)),
        weight=on_gpu((1, 1, 1, 128)),
        epsilon=1e-5,
        compute_kernel_config=config,
    )


def attended(config: ttnn.WormholeComputeKernelConfig) -> ttnn.Tensor:
    q, k, v = (on_gpu((1, heads, 64, 32)) for heads in (4, 2, 2))
    return ttnn.transformer.scaled_dot_product_attention(
        q, k, v, is_causal=True, scale=0.5, compute_kernel_config=config
    )


def gated(config: ttnn.WormholeComputeKernelConfig) -> ttnn.Tensor:
    del config
    silu = [ttnn.UnaryOpType.SILU]
    a, b = on_gpu((1, 1, 32, 64)), on_gpu((1, 1, 32, 64))
    return ttnn.mul(a, b, input_tensor_a_activations=silu, dtype=ttnn.bfloat8_b)


@pytest.mark.parametrize(
    "config", CONFIGS, ids=lambda c: f"{c.math_fidelity.name} {c.fp32_dest_acc_en}"
)
@pytest.mark.parametrize("operation", [product, normed, attended, gated])
def test_operations_stay_on_the_device(
    operation: Callable[[ttnn.WormholeComputeKernelConfig], ttnn.Tensor],
    config: ttnn.WormholeComputeKernelConfig,
) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        result = operation(config)
        assert [str(one.device) for one in result.stored] == [GPU]


def test_what_comes_from_the_host_goes_there_and_back() -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        tensor = ttnn.from_torch(torch.zeros(1, 1, 32, 32), ttnn.bfloat16, device=DEVICE)
        assert isinstance(tensor, ttnn.Tensor)
        assert str(tensor.stored[0].device) == GPU
        assert ttnn.to_torch(tensor).device.type == "cpu"


def test_tensors_of_two_devices_are_refused() -> None:
    """The tests above can fail."""
    with FakeTensorMode(allow_non_fake_inputs=True), pytest.raises(RuntimeError, match="device"):
        fpu.wide_matmul(torch.zeros(4, 32, device=GPU), torch.zeros(32, 4), MathFidelity.HiFi4)
