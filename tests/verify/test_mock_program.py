"""verify_program on a small program written by hand, and on faulty versions of it."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from ttc.hardware.hardware import load_mesh
from ttc.verify.call_recorder import Graph, device_operations
from ttc.verify.mock_mesh import MockHost
from ttc.verify.mock_program import MockReport, verify_program
from ttc.verify.program_text import check_calls, kept_values

pytestmark = pytest.mark.mock

PROGRAM = Path(__file__).parent / "data" / "two_decoders.py"


class Checker(SimpleNamespace):
    """Verifies the program of `two_decoders.py` with a piece of its text replaced."""

    host: MockHost
    folder: Path

    def edit(self, old: str = "", new: str = "") -> Path:
        text = PROGRAM.read_text()
        assert old in text
        path = self.folder / "program.py"
        path.write_text(text.replace(old, new, 1) if old else text)
        return path

    def report(self, old: str = "", new: str = "", mesh: str = "N150") -> MockReport:
        return verify_program(self.edit(old, new), load_mesh(mesh), host=self.host)


@pytest.fixture
def checker(mock_host: MockHost, tmp_path: Path) -> Checker:
    return Checker(host=mock_host, folder=tmp_path)


def line_of(text: str) -> int:
    return PROGRAM.read_text()[: PROGRAM.read_text().index(text)].count("\n") + 1


@pytest.mark.parametrize("mesh", ["N150", "P150"])
def test_a_good_program(checker: Checker, mesh: str) -> None:
    report = checker.report(mesh=mesh)
    assert report.findings == ()
    result = report.to_json()
    assert result["ok"]
    assert result["device_ops_per_decoder"] == {"decode": 11, "prefill": 11, "prefill_chunk": 0}
    # two decoders; embedding and head; untilize, argmax and twice plus_one
    assert result["device_ops_per_decode_step"] == 2 * 11 + 2 + 4


def test_operations_are_named_with_their_lines(checker: Checker) -> None:
    line = line_of("ttnn.add(x, out, memory_config")
    assert checker.report().decode[-1] == f"add:{line} BinaryNgDeviceOperation"


def test_memory_is_that_of_the_tensors(checker: Checker) -> None:
    report = checker.report()
    caches = 4 * 128 * 2 * 1088  # 4 caches of 128 blocks of 2 tiles of bfp8
    assert caches < report.dram_bytes_per_chip < report.dram_peak_bytes_per_chip < 2 * caches
    assert report.l1_tensor_peak_bytes_per_core < report.l1_peak_bytes_per_core
    assert "decoder_" in report.l1_peak_call


def test_one_more_operation_is_counted(checker: Checker) -> None:
    old = "    ttnn.deallocate(out)\n    ttnn.deallocate(x)\n    return y"
    report = checker.report(
        old, "    ttnn.deallocate(x)\n    x = y\n    y = ttnn.add(x, out)\n" + old
    )
    assert len(report.decode) == 12
    assert len(report.prefill) == 11


def test_a_refused_call_names_its_line_and_the_rest_goes_on(checker: Checker) -> None:
    report = checker.report("    in0_block_w=2,", "    in0_block_w=3,")
    (finding,) = report.findings
    assert "in0_block_w" in finding.condition + finding.info
    line = line_of("out = ttnn.linear(rows, w.wo, program_config")
    assert (finding.where, finding.call) == (f"program.py:{line}", "ttnn.linear")
    assert finding.phase == "prefill_64"
    assert finding.step == "out: the output projection"
    assert len(report.decode) == 11


def test_weights_that_do_not_fit(checker: Checker) -> None:
    report = checker.report('"lm_head": ((1, 1, 64, 96)', '"lm_head": ((1, 1, 640000, 96000)')
    (finding,) = report.findings
    assert finding.kind == "out of memory"
    assert finding.phase == "weights, caches and inputs"


def test_a_module_that_cannot_be_loaded(checker: Checker) -> None:
    report = checker.report("per_core_M=1", "per_core_m=1")
    (finding,) = report.findings
    assert (finding.kind, finding.phase) == ("wrong argument", "load")


def test_a_value_that_nobody_frees(checker: Checker) -> None:
    (finding,) = checker.report("    ttnn.deallocate(attn)\n", "").findings
    assert finding.kind == "not freed"
    assert "attn of decoder_decode is not deallocated: " in finding.info
    assert "bytes of DRAM per chip" in finding.info


def test_memory_that_a_step_keeps(checker: Checker) -> None:
    kept = "    ttnn.deallocate(qkv)\n    ttnn.experimental"
    report = checker.report("    ttnn.deallocate(qkv)\n", "    DECODER[x] = qkv\n")
    (finding,) = report.findings
    assert finding.kind == "leak", kept
    assert "bytes of L1 per core" in finding.info
    assert finding.phase == "decode"


def test_host_calls_are_found_without_running(checker: Checker) -> None:
    path = checker.edit("    rows = ttnn.untilize(logits)", "    rows = ttnn.to_torch(logits)")
    (finding,) = check_calls(path)
    assert finding.kind == "not a device operation"
    assert finding.call == "ttnn.to_torch"
    assert finding.phase == "greedy"
    assert check_calls(PROGRAM) == ()


def test_values_kept_by_a_function(checker: Checker) -> None:
    assert kept_values(checker.edit("    ttnn.deallocate(attn)\n", ""), "decoder_decode") == (
        "attn",
    )
    assert kept_values(PROGRAM, "decoder_decode") == ()


def test_an_operation_on_several_devices_counts_once() -> None:
    def node(counter: int, kind: str, name: str = "") -> dict[str, object]:
        return {"counter": counter, "node_type": kind, "params": {"name": name}}

    graph: Graph = [
        node(0, "capture_start"),
        node(1, "function_start", "ttnn.linear"),
        node(2, "function_start", "MatmulDeviceOperation"),
        node(3, "program_execution"),
        node(4, "program_execution"),
        node(5, "function_end"),
        node(6, "function_start", "Tensor::reshape"),
        node(7, "function_end"),
        node(8, "function_end"),
    ]
    assert device_operations(graph) == ("MatmulDeviceOperation",)
