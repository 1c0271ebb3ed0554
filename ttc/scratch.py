"""Folders for what nobody keeps, beside what is kept for long.

A folder belongs to the process that holds the lock of the same name. The system gives the lock of
a process that was killed back, so that its folder is removed when the next one is made.
"""

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

from filelock import FileLock, Timeout

FOLDER = "scratch"
TURN = "turn.lock"
"""Held while folders are made or removed, so that none is taken for left before it is locked."""


@contextmanager
def scratch_folder(parent: Path) -> Generator[Path]:
    """An empty folder in `parent` (which is made too), removed at the end of the block.

    Weights can be linked into it and need not be copied where `parent` is the cache.
    """
    root = parent / FOLDER
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / TURN):
        _sweep(root)
        folder = Path(mkdtemp(dir=root, prefix=""))
        mine = FileLock(_lock_of(folder))
        mine.acquire()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        mine.release()
        _lock_of(folder).unlink(missing_ok=True)


@contextmanager
def work_folder(cache: Path) -> Generator[Path]:
    """`cache` if it can be written, else an empty folder for its time, removed afterwards."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=cache):
            pass
    except OSError:
        with TemporaryDirectory(prefix="ttc-") as folder:
            yield Path(folder)
    else:
        yield cache


def sweep_scratch(parent: Path) -> int:
    """Remove the folders in `parent` of processes that were killed; how many there were."""
    root = parent / FOLDER
    if not root.is_dir():
        return 0
    with FileLock(root / TURN):
        return _sweep(root)


def _sweep(root: Path) -> int:
    removed = 0
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        lock = _lock_of(folder)
        try:
            with FileLock(lock, timeout=0):
                shutil.rmtree(folder, ignore_errors=True)
        except Timeout:
            continue
        lock.unlink(missing_ok=True)
        removed += 1
    return removed


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")
