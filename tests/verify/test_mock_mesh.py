"""Jobs on the real ttnn without hardware: verdicts, crashes, and no trace left behind."""

import os
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ttc.errors import Problem, UsageError
from ttc.hardware.hardware import load_mesh, mesh_names
from ttc.verify.finding import MockFinding
from ttc.verify.mock_mesh import (
    MockCrash,
    MockHost,
    MockJobError,
    MockRefusal,
    run_on_mock,
)
from ttc.verify.overlay import ttnn_package

pytestmark = pytest.mark.mock


def tile_tensor(ttnn: Any, device: Any, rows: int, columns: int, memory: Any = None) -> Any:
    return ttnn.empty(
        (1, 1, rows, columns),
        dtype=ttnn.bfloat16,
        layout=ttnn.TILE_LAYOUT,
        device=device,
        memory_config=memory or ttnn.DRAM_MEMORY_CONFIG,
    )


def measure(ttnn: Any, device: Any) -> tuple[int, int, int, int, int]:
    grid = device.compute_with_storage_grid_size()
    dram = ttnn.get_memory_view(device, ttnn.BufferType.DRAM)
    l1 = ttnn.get_memory_view(device, ttnn.BufferType.L1)
    return grid.x, grid.y, dram.num_banks, dram.total_bytes_per_bank, l1.total_bytes_per_bank


def reduce_over_mesh(ttnn: Any, device: Any) -> tuple[int, ...]:
    """A program that fills the grid on every chip, then one that crosses the links."""
    shape = tuple(device.shape)
    rows = ttnn.empty(
        (1, 1, 4096, 4096), dtype=ttnn.bfloat16, layout=ttnn.ROW_MAJOR_LAYOUT, device=device
    )
    tiles = ttnn.to_layout(rows, ttnn.TILE_LAYOUT)
    return tuple(ttnn.all_reduce(tiles, cluster_axis=0 if shape[0] > 1 else 1).shape)


def exhaust_dram(ttnn: Any, device: Any) -> None:
    kept = [tile_tensor(ttnn, device, 32768, 32768) for _ in range(20)]
    del kept


def clash_in_l1(ttnn: Any, device: Any) -> None:
    kept = [tile_tensor(ttnn, device, 1024, 1024, ttnn.L1_MEMORY_CONFIG) for _ in range(40)]
    program = matmul_program(ttnn, in0_block_w=4, per_core_m=8, per_core_n=16)
    multiply(ttnn, device, 2048, 4096, 4096, program)
    del kept


def multiply_with_block(in0_block_w: int, ttnn: Any, device: Any) -> None:
    program = matmul_program(ttnn, in0_block_w=in0_block_w, per_core_m=1, per_core_n=1)
    multiply(ttnn, device, 256, 256, 256, program)


def matmul_program(ttnn: Any, *, in0_block_w: int, per_core_m: int, per_core_n: int) -> Any:
    return ttnn.MatmulMultiCoreReuseMultiCastProgramConfig(
        compute_with_storage_grid_size=(8, 8),
        in0_block_w=in0_block_w,
        out_subblock_h=1,
        out_subblock_w=1,
        per_core_M=per_core_m,
        per_core_N=per_core_n,
        transpose_mcast=False,
        fused_activation=None,
    )


def multiply(ttnn: Any, device: Any, m: int, k: int, n: int, program: Any) -> None:
    a, b = tile_tensor(ttnn, device, m, k), tile_tensor(ttnn, device, k, n)
    ttnn.matmul(a, b, program_config=program)


def replay_a_trace(ttnn: Any, device: Any) -> None:
    x = tile_tensor(ttnn, device, 32, 32)
    ttnn.begin_trace_capture(device, cq_id=0)
    ttnn.add(x, x)


def add_a_number(number: int, ttnn: Any) -> int:
    return number + 1


def sleep(ttnn: Any) -> None:
    time.sleep(60)


def divide_by_zero(ttnn: Any) -> float:
    return 1 / 0


def blame_the_user(ttnn: Any) -> None:
    raise UsageError(Problem(message="no such thing", help="try another"))


def pack(ttnn: Any, report: Any) -> float:
    import torch

    report("packing")
    packed = ttnn.from_torch(torch.ones(32, 32), dtype=ttnn.bfloat8_b, layout=ttnn.TILE_LAYOUT)
    report("packed")
    return ttnn.to_torch(packed).sum().item()


def print_loudly(ttnn: Any) -> None:
    print("from Python")
    os.write(1, b"from C")
    os.write(2, b"from C")


def refusal(host: MockHost, job: Any, mesh: str = "N150") -> MockFinding:
    with pytest.raises(MockRefusal) as caught:
        host.run(load_mesh(mesh), job)
    return caught.value.finding


@pytest.mark.parametrize("name", mesh_names())
def test_meshes_open_with_the_planned_grid_and_memory(mock_host: MockHost, name: str) -> None:
    chip = load_mesh(name).chip
    expected = (
        chip.grid.x,
        chip.grid.y,
        chip.dram_banks,
        chip.dram_bank_bytes,
        chip.l1_bytes_per_core,
    )
    assert mock_host.run(load_mesh(name), measure) == expected


@pytest.mark.parametrize("name", ["N300", "T3K", "P150x4"])
def test_collectives_cross_the_links(mock_host: MockHost, name: str) -> None:
    assert mock_host.run(load_mesh(name), reduce_over_mesh) == (1, 1, 4096, 4096)


def test_trace_region_takes_dram(mock_host: MockHost) -> None:
    mesh = load_mesh("N150")
    size = 12 << 20
    whole, less = (mock_host.run(mesh, measure, trace_region_bytes=each)[3] for each in (0, size))
    assert whole - less == size // mesh.chip.dram_banks


@pytest.mark.parametrize("mesh", ["N150", "P150"])
def test_out_of_memory_is_a_finding(mock_host: MockHost, mesh: str) -> None:
    finding = refusal(mock_host, exhaust_dram, mesh)
    assert finding.kind == "out of memory"
    assert "2147483648 B DRAM buffer" in finding.info
    assert finding.call == "ttnn.empty"


def test_a_clash_in_l1_is_a_finding(mock_host: MockHost) -> None:
    finding = refusal(mock_host, clash_in_l1)
    assert finding.kind == "L1 clash"
    assert "clash with L1 buffers on core range" in finding.info
    assert finding.call == "ttnn.matmul"


def test_a_wrong_block_width_is_a_finding(mock_host: MockHost) -> None:
    mock_host.run(load_mesh("N150"), partial(multiply_with_block, 4))
    finding = refusal(mock_host, partial(multiply_with_block, 3))
    assert finding.kind == "refused"
    assert "in0_block_w" in finding.condition + finding.info
    assert finding.ttnn_source.startswith("ttnn/")
    assert finding.where.startswith("test_mock_mesh.py:")


def test_wrong_argument_types_are_a_finding(mock_host: MockHost) -> None:
    finding = refusal(mock_host, partial(multiply_with_block, "four"))
    assert finding.kind == "wrong argument"
    assert "in0_block_w: str" in finding.info


def test_a_crash_says_where_and_spoils_nothing(mock_host: MockHost) -> None:
    with pytest.raises(MockCrash, match="ended by signal 11") as caught:
        mock_host.run(load_mesh("N150"), replay_a_trace)
    assert "in replay_a_trace" in caught.value.log
    (problem,) = caught.value.problems
    assert problem.message == "the mock mesh gave no verdict: ended by signal 11"
    assert any("in replay_a_trace" in line for line in problem.details)
    assert pickle.loads(pickle.dumps(caught.value)).log == caught.value.log
    assert mock_host.run_without_device(partial(add_a_number, 1)) == 2


def test_a_job_that_takes_too_long_is_ended(mock_host: MockHost) -> None:
    with pytest.raises(MockCrash, match=r"not finished after 0\.5 seconds"):
        mock_host.run_without_device(sleep, timeout_seconds=0.5)
    assert mock_host.run_without_device(partial(add_a_number, 1)) == 2


def test_errors_of_the_job_keep_their_kind(mock_host: MockHost) -> None:
    with pytest.raises(MockJobError, match="ZeroDivisionError"):
        mock_host.run_without_device(divide_by_zero)
    with pytest.raises(UsageError, match="no such thing") as caught:
        mock_host.run_without_device(blame_the_user)
    assert caught.value.problems[0].help == "try another"


def test_packing_needs_no_device_and_reports(mock_host: MockHost) -> None:
    seen: list[str] = []
    assert mock_host.run_without_device(pack, on_progress=seen.append) == 1024.0
    assert seen == ["packing", "packed"]


def test_an_interrupted_caller_leaves_a_host_that_works(mock_host: MockHost) -> None:
    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mock_host.run_without_device(pack, on_progress=interrupt)
    assert mock_host.run_without_device(partial(add_a_number, 1)) == 2


def test_two_processes_at_once(mock_host: MockHost, mock_folder: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(run_on_mock, load_mesh("P150"), measure, work_folder=mock_folder)
        other = pool.submit(mock_host.run, load_mesh("N150"), measure)
        assert (one.result()[0], other.result()[0]) == (11, 8)


def files_below(folder: Path) -> set[tuple[str, int]]:
    return {(str(file), file.stat().st_mtime_ns) for file in folder.rglob("*") if file.is_file()}


def test_nothing_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    environment = dict(os.environ)
    shared = files_below(Path("/dev/shm"))
    package = {each for each in files_below(ttnn_package()) if "__pycache__" not in each[0]}
    with MockHost(tmp_path / "mock") as host:
        host.run_without_device(print_loudly)
        assert host.run(load_mesh("N150"), measure)[:2] == (8, 8)
    assert dict(os.environ) == environment
    assert files_below(Path("/dev/shm")) == shared
    after = {each for each in files_below(ttnn_package()) if "__pycache__" not in each[0]}
    assert after == package
    assert not list((tmp_path / "here").iterdir())
    assert capfd.readouterr() == ("", "")


def grid_and_chips(ttnn: Any, device: Any) -> tuple[int, int, int]:
    size = device.compute_with_storage_grid_size()
    return size.x, size.y, device.get_num_devices()


def test_the_mesh_of_the_documentation_opens(
    mock_host: MockHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (Path(__file__).parents[2] / "docs" / "adding-a-mesh.md").read_text()
    (tmp_path / "meshes").mkdir()
    (tmp_path / "meshes" / "lab.yaml").write_text(text.split("```")[1].removeprefix("yaml\n"))
    monkeypatch.chdir(tmp_path)
    assert mock_host.run(load_mesh("LAB"), grid_and_chips) == (13, 10, 2)
