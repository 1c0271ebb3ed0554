"""Cache blocks of other sizes and numbers on the real ttnn: accepted, and as large as planned."""

from pathlib import Path

import pytest

from ttc.compiler import compile_model
from ttc.hardware.hardware import load_mesh
from ttc.plan.paging import Paging
from ttc.spec.model import load_model
from ttc.spec.precision import load_profile
from ttc.verify.mock_mesh import MockHost
from ttc.verify.mock_program import verify_program

pytestmark = pytest.mark.mock


@pytest.mark.parametrize(
    ("mesh", "paging"),
    [
        ("N150", Paging(block_tokens=64, max_blocks=20)),
        ("P150", Paging(block_tokens=256)),
        ("N300", Paging(max_blocks=40)),
    ],
)
def test_blocks(mock_host: MockHost, tmp_path: Path, mesh: str, paging: Paging) -> None:
    board = load_mesh(mesh)
    spec, profile = load_model("smollm2-135m-instruct"), load_profile("performance")
    built = compile_model(spec, board, profile, batch=8, context=512, paging=paging)
    program = tmp_path / "model.py"
    program.write_text(built.module)
    memory = built.plan.memory
    seen = verify_program(
        program, board, host=mock_host, trace_region_bytes=memory.trace_region_bytes
    )
    assert seen.findings == ()
    staying = memory.weight_bytes + memory.kv_cache_bytes + memory.rope_bytes + memory.input_bytes
    assert seen.dram_bytes_per_chip == staying
