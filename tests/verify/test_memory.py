"""The memory plan against ttnn's own allocator: whole programs on mock boards, to the byte."""

from dataclasses import replace
from pathlib import Path

import pytest

from ttc.compiler import Compiled, compile_model
from ttc.hardware.hardware import Mesh, load_mesh
from ttc.plan.operations import decode_operations, sampling_operations
from ttc.plan.placement import TILE
from ttc.spec.model import load_model
from ttc.spec.precision import load_profile
from ttc.verify.mock_mesh import MockHost
from ttc.verify.mock_program import MockReport, verify_program

pytestmark = pytest.mark.mock

# ttnn keeps a table of where tiles go for each change of shape that moves them, from the first run
# on: 1280 bytes of each bank for the masks of a decode step of Gemma 2, which are the only ones.
RESHAPE_BYTES = 12 * 1280

NORMS_OF_HEADS = str(Path(__file__).parents[1] / "data" / "norms_of_heads.yaml")


def compiled(
    spec: str, mesh: Mesh, precision: str, *, batch: int, context: int, chunk: int | None = None
) -> Compiled:
    profile = load_profile(precision)
    return compile_model(load_model(spec), mesh, profile, batch=batch, context=context, chunk=chunk)


def report(host: MockHost, folder: Path, built: Compiled, mesh: Mesh) -> MockReport:
    """What ttnn says about a program on a board whose trace region is the planned one."""
    program = folder / "model.py"
    program.write_text(built.module)
    trace = built.plan.memory.trace_region_bytes
    return verify_program(program, mesh, host=host, trace_region_bytes=trace)


@pytest.mark.parametrize(
    ("spec", "mesh", "precision", "batch", "context"),
    [
        ("smollm2-135m-instruct", "N150", "performance", 32, 256),
        ("smollm2-135m-instruct", "P100", "bf16", 8, 512),
        ("smollm2-1.7b-instruct", "N150", "bf16", 3, 256),
        ("llama-3.1-8b-instruct", "P150", "accuracy", 16, 256),
        ("smollm2-135m-instruct", "N300", "bf16", 4, 256),
        ("llama-3.2-1b-instruct", "T3K", "performance", 4, 256),
        ("smollm2-1.7b-instruct", "N150", "performance", 1, 1024),
        ("llama-3.2-1b-instruct", "N300", "accuracy", 2, 1024),
        ("llama-3.2-1b-instruct", "N150", "performance", 16, 1024),
        ("gemma-2-2b", "N150", "performance", 2, 512),
        ("gemma-2-9b", "N150", "performance", 1, 256),  # 9 parts of logits wait in L1
        (NORMS_OF_HEADS, "N300", "performance", 1, 512),
        (NORMS_OF_HEADS, "T3K", "accuracy", 8, 256),
    ],
)
def test_planned_memory_is_what_ttnn_allocates(
    mock_host: MockHost,
    tmp_path: Path,
    spec: str,
    mesh: str,
    precision: str,
    batch: int,
    context: int,
) -> None:
    board = load_mesh(mesh)
    built = compiled(spec, board, precision, batch=batch, context=context)
    seen = report(mock_host, tmp_path, built, board)
    memory = built.plan.memory
    assert seen.findings == ()
    staying = memory.weight_bytes + memory.kv_cache_bytes + memory.rope_bytes + memory.input_bytes
    assert seen.dram_bytes_per_chip == staying
    planned = staying + memory.activation_bytes
    assert 0.98 * planned < seen.dram_peak_bytes_per_chip <= planned + RESHAPE_BYTES
    measured = seen.l1_peak_bytes_per_core
    assert 0.95 * measured < memory.l1_peak_bytes_per_core < 1.1 * measured
    assert decode_operations(built.plan.decode, built.plan.head) == seen.decode_step_ops
    assert sampling_operations(built.plan.head) == seen.sample_ops


@pytest.mark.parametrize(
    ("spec", "mesh", "precision", "context", "chunk"),
    [
        # Products with all keys of a cache, on a mesh whose collectives keep buffers.
        ("gemma-2-9b", "T3K", "performance", 8192, 768),
        # Heads of 256 in bf16: 256 queries at once do not fit.
        ("gemma-3-1b-it", "N150", "bf16", 4096, 2048),
    ],
)
def test_attention_of_long_prompts_fits_in_l1(
    mock_host: MockHost,
    tmp_path: Path,
    spec: str,
    mesh: str,
    precision: str,
    context: int,
    chunk: int,
) -> None:
    board = load_mesh(mesh)
    built = compiled(spec, board, precision, batch=1, context=context, chunk=chunk)
    seen = report(mock_host, tmp_path, built, board)
    assert seen.findings == ()
    assert 0.95 < built.plan.memory.l1_peak_bytes_per_core / seen.l1_peak_bytes_per_core < 1.1


def test_the_largest_context_allocates_and_one_block_more_does_not(
    mock_host: MockHost, tmp_path: Path
) -> None:
    spec, board, precision, batch = "llama-3.1-8b-instruct", load_mesh("N150"), "accuracy", 32
    planned = compiled(spec, board, precision, batch=batch, context=1024).plan
    largest = planned.largest.context
    # Twice the memory, so that the planner lets through what does not fit on the true board.
    chip = replace(board.chip, dram_bank_bytes=2 * board.chip.dram_bank_bytes)
    roomy = replace(board, chip=chip)
    for context, fits in ((largest, True), (largest + TILE, False)):
        built = compiled(spec, roomy, precision, batch=batch, context=context, chunk=256)
        kinds = {finding.kind for finding in report(mock_host, tmp_path, built, board).findings}
        assert kinds == (set() if fits else {"out of memory"})
