"""Programs of attention over prompts: as many queries at once as fit in L1."""

import pytest

from ttc.hardware.hardware import load_mesh
from ttc.plan.matmul import matmul_limit
from ttc.plan.placement import DType
from ttc.plan.programs import SdpaProgram
from ttc.plan.sdpa import plan_sdpa, sdpa_bytes
from ttc.spec.precision import Fidelity

pytestmark = pytest.mark.fast

CHIP = load_mesh("N150").chip


def fidelity(*, fp32: bool) -> Fidelity:
    return Fidelity(
        name="hifi4",
        math_fidelity="HiFi4",
        math_approx=False,
        fp32_dest_acc=fp32,
        packer_l1_acc=True,
    )


# What ttnn 0.81.1 reports on a mock board (`extract_resource_usage_per_core`): queries and keys at
# once, head dim, dtype of queries, of keys, sums in fp32, window -> bytes.
REPORTED: list[tuple[int, int, int, DType, DType, bool, int, int]] = [
    (256, 256, 128, "bf16", "bfp8", True, 0, 851_968),
    (256, 256, 128, "bf16", "bfp8", True, 512, 921_600),
    (256, 256, 128, "bf16", "bfp8", False, 0, 657_408),
    (256, 256, 128, "bf16", "bf16", False, 512, 786_432),
    (64, 256, 64, "bf16", "bfp8", True, 0, 212_992),
    (64, 256, 64, "bf16", "bfp8", False, 512, 188_416),
    (64, 64, 128, "bf16", "bfp8", False, 0, 172_032),
    (256, 256, 96, "bfp8", "bf16", True, 0, 758_272),
    (256, 256, 256, "bfp8", "bf16", True, 512, 1_449_984),
    (128, 256, 256, "bf16", "bf16", False, 512, 974_848),
]


@pytest.mark.parametrize(
    ("queries", "keys", "head_dim", "dtype", "kv_dtype", "fp32", "window", "reported"), REPORTED
)
def test_bytes_are_what_ttnn_reports(
    queries: int,
    keys: int,
    head_dim: int,
    dtype: DType,
    kv_dtype: DType,
    fp32: bool,
    window: int,
    reported: int,
) -> None:
    program = SdpaProgram(grid=(8, 8), q_chunk_tokens=queries, k_chunk_tokens=keys)
    planned = sdpa_bytes(
        program,
        head_dim=head_dim,
        dtype=dtype,
        kv_dtype=kv_dtype,
        window=window,
        compute=fidelity(fp32=fp32),
    )
    assert planned == reported


@pytest.mark.parametrize(
    ("tokens", "head_dim", "queries"),
    [(128, 64, 64), (2048, 64, 256), (2304, 64, 256), (2048, 256, 128), (96, 64, 32)],
)
def test_as_many_queries_at_once_as_fit(tokens: int, head_dim: int, queries: int) -> None:
    program, size = plan_sdpa(
        tokens,
        head_dim=head_dim,
        dtype="bf16",
        kv_dtype="bf16",
        window=0,
        compute=fidelity(fp32=True),
        chip=CHIP,
    )
    assert program.q_chunk_tokens == queries
    assert size <= matmul_limit(CHIP, 0)
