"""The real ttnn on mock meshes: programs of one decoder, of sizes that divide over no chips."""

from dataclasses import replace
from pathlib import Path

import pytest

from ttc.compiler import compile_model
from ttc.hardware.hardware import load_mesh
from ttc.plan.operations import operations_of
from ttc.spec.model import Dims, load_model
from ttc.spec.precision import load_profile
from ttc.verify.mock_mesh import MockHost
from ttc.verify.mock_program import verify_program

pytestmark = pytest.mark.mock

TINY = Path(__file__).parents[1] / "data" / "tiny.yaml"


def sizes(text: str) -> Dims:
    """`heads/kv_heads head_dim hidden ffn vocab`."""
    heads, head_dim, hidden, ffn, vocab = text.split()
    queries, kv = heads.split("/")
    return Dims(
        hidden=int(hidden),
        layers=1,
        heads=int(queries),
        kv_heads=int(kv),
        head_dim=int(head_dim),
        rotary_dim=int(head_dim),
        ffn=int(ffn),
        vocab=int(vocab),
    )


@pytest.mark.parametrize(
    ("mesh", "text", "precision", "batch"),
    [
        ("N300", "9/3 64 576 1536 49152", "performance", 1),
        ("N300", "71/1 128 1056 999 5001", "bf16", 3),
        ("T3K", "28/4 128 3584 18944 152064", "performance", 32),
        ("T3K", "40/10 128 5120 17920 100352", "accuracy", 1),
        ("T3K:2x4", "5/5 96 544 1536 167", "performance", 2),
        ("TG", "9/3 64 576 1536 49152", "bf16", 8),
        ("P150x4", "128/4 192 1024 4000 51713", "accuracy", 1),
        ("P150x4", "5/5 96 544 1536 167", "bf16", 1),
        ("N150", "62/1 64 1376 3264 45461", "accuracy", 8),
    ],
)
def test_any_sizes(
    mock_host: MockHost, tmp_path: Path, mesh: str, text: str, precision: str, batch: int
) -> None:
    spec = replace(load_model(TINY), dims=sizes(text))
    target = load_mesh(mesh)
    compiled = compile_model(spec, target, load_profile(precision), batch=batch, context=128)
    program = tmp_path / "model.py"
    program.write_text(compiled.module)
    report = verify_program(program, target, host=mock_host)
    assert report.findings == ()
    plan = compiled.plan
    assert len(report.decode) == operations_of(plan.decode.decoders[0].ops)
    assert len(report.prefill) == operations_of(plan.prefill[0].decoders[0].ops)


def test_the_collectives_of_a_decoder(mock_host: MockHost, tmp_path: Path) -> None:
    """One operation adds over 8 chips in decode; a prefill scatters its sums and gathers."""
    spec = replace(load_model(TINY), dims=sizes("32/8 128 4096 14336 128256"))
    compiled = compile_model(spec, load_mesh("T3K"), load_profile("performance"), context=128)
    program = tmp_path / "model.py"
    program.write_text(compiled.module)
    report = verify_program(program, load_mesh("T3K"), host=mock_host)
    assert report.findings == ()
    assert (len(report.decode), len(report.prefill)) == (18, 20)
    names = [each.split()[1] for each in report.decode]
    assert names.count("AllReduceAsyncDeviceOperation") == 2
    names = [each.split()[1] for each in report.prefill]
    assert names.count("AllGatherDeviceOperation") == 2
