"""Scratch folders: those of living processes stay, those of killed ones go."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ttc.scratch import scratch_folder, sweep_scratch, work_folder

pytestmark = pytest.mark.fast

HOLD = """
import sys, time
from pathlib import Path
from ttc.scratch import scratch_folder

with scratch_folder(Path(sys.argv[1])) as folder:
    (folder / "large").write_text("x")
    print(folder, flush=True)
    time.sleep(60)
"""


def folders(parent: Path) -> list[Path]:
    return sorted(path for path in (parent / "scratch").iterdir() if path.is_dir())


def test_it_is_gone_afterwards(tmp_path: Path) -> None:
    with scratch_folder(tmp_path / "cache") as folder:
        (folder / "x").write_text("x")
        assert folder.parent == tmp_path / "cache" / "scratch"
    assert [path.name for path in folder.parent.iterdir()] == ["turn.lock"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_killed_process_left_goes_and_that_of_a_living_one_stays(
    tmp_path: Path, number: signal.Signals
) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        left, living = (
            Path(str(each.stdout and each.stdout.readline()).strip()) for each in processes
        )
        processes[0].send_signal(number)
        processes[0].wait()
        assert folders(tmp_path) == sorted([left, living])
        with scratch_folder(tmp_path) as mine:
            assert folders(tmp_path) == sorted([living, mine])
        assert sweep_scratch(tmp_path) == 0
    finally:
        for each in processes:
            each.kill()
            each.communicate()
    assert sweep_scratch(tmp_path) == 1
    assert [path.name for path in (tmp_path / "scratch").iterdir()] == ["turn.lock"]


def test_nothing_to_sweep(tmp_path: Path) -> None:
    assert sweep_scratch(tmp_path) == 0


def test_a_cache_that_cannot_be_written_is_stood_in_for(tmp_path: Path) -> None:
    with work_folder(tmp_path / "cache") as folder:
        assert folder == tmp_path / "cache"
    (tmp_path / "file").write_text("x")
    with work_folder(tmp_path / "file" / "cache") as folder:
        (folder / "x").write_text("x")
    assert not folder.exists()
