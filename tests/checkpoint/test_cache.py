import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ttc.checkpoint.cache import CacheEntry, Sink, WeightCache, entry_key, link_entry
from ttc.errors import CheckpointError

pytestmark = pytest.mark.fast

ORIGIN = {"shape": [1, 2]}
KEY = entry_key(ORIGIN)
CONTENT = bytes(range(256)) * 40


def write_content(sink: Sink) -> None:
    sink.write(CONTENT)


def must_not_write(_: Sink) -> None:
    pytest.fail("the entry was written again")


@pytest.fixture
def cache(tmp_path: Path) -> WeightCache:
    return WeightCache(tmp_path / "cache")


@pytest.fixture
def entry(cache: WeightCache) -> CacheEntry:
    return stored(cache)


def stored(cache: WeightCache) -> CacheEntry:
    entry = cache.store(ORIGIN, write_content)
    assert entry is not None
    return entry


def damage(entry: CacheEntry, change: Callable[[bytearray], object]) -> None:
    data = bytearray(entry.path.read_bytes())
    change(data)
    entry.path.chmod(0o644)
    entry.path.write_bytes(data)


def test_keys_depend_on_values_and_not_on_order() -> None:
    assert entry_key({"a": 1, "b": [2]}) == entry_key({"b": [2], "a": 1})
    assert entry_key({"a": 1, "b": [2]}) != entry_key({"a": 1, "b": [3]})


def test_stored_once_and_found(cache: WeightCache, entry: CacheEntry) -> None:
    assert entry.path.read_bytes() == CONTENT
    assert entry.size_bytes == len(CONTENT)
    assert cache.look_up(KEY).entry == entry
    assert cache.store(ORIGIN, must_not_write) == entry


def test_nothing_is_found_in_an_empty_cache(cache: WeightCache) -> None:
    found = cache.look_up(KEY)
    assert found.entry is None
    assert found.damage == ""


def test_the_record_says_what_it_was_made_from(entry: CacheEntry) -> None:
    record = json.loads(entry.path.with_suffix(".json").read_text())
    assert record["origin"] == {"shape": [1, 2]}


def test_a_truncated_file_is_replaced(cache: WeightCache, entry: CacheEntry) -> None:
    damage(entry, lambda data: data.__delitem__(slice(-100, None)))
    assert "has 10,140 bytes, expected 10,240" in cache.look_up(KEY).damage
    assert stored(cache).path.read_bytes() == CONTENT
    assert cache.look_up(KEY).damage == ""


def test_a_foreign_file_of_the_same_size(cache: WeightCache, entry: CacheEntry) -> None:
    damage(entry, lambda data: data.__setitem__(100, 1))
    assert "the first 4096 bytes" in cache.look_up(KEY).damage


def test_a_flipped_bit_is_found_when_verifying(cache: WeightCache, entry: CacheEntry) -> None:
    damage(entry, lambda data: data.__setitem__(9_000, data[9_000] ^ 1))
    assert "the contents of" in cache.look_up(KEY).damage  # it was written to since
    os.utime(entry.path, ns=(entry.modified_ns, entry.modified_ns))
    assert cache.look_up(KEY).entry == entry
    verifying = WeightCache(cache.root, verify=True)
    assert "the contents of" in verifying.look_up(KEY).damage
    assert stored(verifying).path.read_bytes() == CONTENT


@pytest.mark.parametrize("suffix", [".tensorbin", ".json", ".part"])
def test_a_folder_in_place_of_a_file(cache: WeightCache, entry: CacheEntry, suffix: str) -> None:
    path = entry.path.with_suffix(suffix)
    path.unlink(missing_ok=True)
    (path / "inner").mkdir(parents=True)
    assert (cache.look_up(KEY).entry is None) is (suffix != ".part")
    entry.path.with_suffix(".part").mkdir(exist_ok=True)
    assert stored(WeightCache(cache.root)).path.read_bytes() == CONTENT
    assert cache.look_up(KEY).entry is not None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"bytes": 1}', '{"bytes": "x"}', "[" * 100_000])
def test_a_damaged_record(cache: WeightCache, entry: CacheEntry, text: str) -> None:
    entry.path.with_suffix(".json").write_text(text)
    assert "is not readable" in cache.look_up(KEY).damage
    cache.store(ORIGIN, write_content)
    assert cache.look_up(KEY).entry is not None


def test_an_entry_under_the_name_of_another(cache: WeightCache, entry: CacheEntry) -> None:
    """Sound in itself, and not what the key stands for."""
    other: dict[str, Any] = {"shape": [3, 4]}
    target = cache.root / entry_key(other)[:2] / f"{entry_key(other)}.tensorbin"
    target.parent.mkdir(exist_ok=True)
    entry.path.rename(target)
    entry.path.with_suffix(".json").rename(target.with_suffix(".json"))
    assert "is the record of another tensor" in cache.look_up(entry_key(other)).damage
    found = cache.store(other, lambda sink: sink.write(b"what belongs there"))
    assert found
    assert found.path.read_bytes() == b"what belongs there"


def test_a_copy_of_a_changed_file_is_refused(entry: CacheEntry, tmp_path: Path) -> None:
    damage(entry, lambda data: data.__setitem__(9_000, data[9_000] ^ 1))
    with pytest.raises(CheckpointError, match="was changed"):
        link_entry(entry, tmp_path / "weights" / "w.tensorbin", copy=True)
    assert not list((tmp_path / "weights").iterdir())


def test_a_tensor_without_a_record_is_no_entry(cache: WeightCache, entry: CacheEntry) -> None:
    entry.path.with_suffix(".json").unlink()
    assert cache.look_up(KEY).entry is None


def test_a_record_without_a_tensor_is_no_entry(cache: WeightCache, entry: CacheEntry) -> None:
    entry.path.unlink()
    assert cache.look_up(KEY).entry is None


def test_a_failed_write_leaves_nothing(cache: WeightCache) -> None:
    def fail(sink: Sink) -> None:
        sink.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.store(ORIGIN, fail)
    assert cache.look_up(KEY).entry is None
    assert not list(cache.root.rglob("*.part"))


def test_the_leftover_of_a_killed_process_is_replaced(cache: WeightCache) -> None:
    leftover = cache.root / KEY[:2] / f"{KEY}.part"
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"half")
    assert stored(cache).path.read_bytes() == CONTENT
    assert not leftover.exists()


def test_a_full_disk(cache: WeightCache) -> None:
    def fail(_: Sink) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(CheckpointError, match="the disk is full"):
        cache.store(ORIGIN, fail)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CheckpointError, match="choose a folder that you may write"):
        WeightCache(tmp_path / "file").store(ORIGIN, write_content)


STORE_SLOWLY = """
import sys, time
from pathlib import Path
from ttc.checkpoint.cache import WeightCache

def write(sink):
    with open(sys.argv[2], "a") as log:
        log.write("written;")
    time.sleep(0.5)
    sink.write(b"content")

WeightCache(Path(sys.argv[1])).store({}, write)
"""


def test_two_processes_do_the_work_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", STORE_SLOWLY, str(tmp_path / "cache"), str(tmp_path / "log")]
    processes = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert (tmp_path / "log").read_text() == "written;"


def test_link_is_a_hard_link(entry: CacheEntry, tmp_path: Path) -> None:
    target = tmp_path / "artefact" / "weights" / "w.tensorbin"
    link_entry(entry, target)
    link_entry(entry, target)
    assert target.samefile(entry.path)
    assert not target.is_symlink()


def test_link_replaces_another_file(entry: CacheEntry, tmp_path: Path) -> None:
    target = tmp_path / "w.tensorbin"
    target.write_bytes(b"old")
    link_entry(entry, target)
    assert target.read_bytes() == CONTENT


def test_another_file_system_gets_a_copy(
    entry: CacheEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", fail)
    target = tmp_path / "w.tensorbin"
    link_entry(entry, target)
    assert target.read_bytes() == CONTENT
    assert not target.samefile(entry.path)
