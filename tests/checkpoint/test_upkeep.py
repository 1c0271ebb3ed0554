"""Looking after the cache, through the library and the command line."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from ttc.checkpoint.cache import Sink, WeightCache, entry_key, link_entry
from ttc.checkpoint.upkeep import list_entries, prune
from ttc.cli import main

pytestmark = pytest.mark.fast


@pytest.fixture
def cache(tmp_path: Path) -> WeightCache:
    return WeightCache(tmp_path / "cache" / "weights")


def store(cache: WeightCache, name: str, size: int, used_at: int) -> str:
    """An entry of `size` bytes, last used at a time."""
    origin = {"parts": [{"tensor": name}], "dtype": "bfp8", "shape": [1, 1, 32, 32]}
    key = entry_key(origin)

    def write(sink: Sink) -> None:
        sink.write(bytes(size))

    assert cache.store(origin, write)
    os.utime(cache.root / key[:2] / f"{key}.json", (used_at, used_at))
    return key


def flip(path: Path) -> None:
    """Flip the last bit and keep the time of modification."""
    before, data = path.stat(), bytearray(path.read_bytes())
    data[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def run(capsys: pytest.CaptureFixture[str], cache: WeightCache, *arguments: str) -> tuple[int, Any]:
    with pytest.raises(SystemExit) as ended:
        main(["cache", *arguments, "--cache", str(cache.root.parent), "--json"])
    return int(ended.value.code or 0), json.loads(capsys.readouterr().out)


def test_entries_least_recently_used_first(cache: WeightCache, tmp_path: Path) -> None:
    new, old = store(cache, "new", 100, 2000), store(cache, "old", 200, 1000)
    found = cache.look_up(old).entry
    assert found is not None
    link_entry(found, tmp_path / "artefact" / "w.tensorbin")
    entries = list_entries(cache)
    assert [entry.key for entry in entries] == [old, new]
    assert [entry.linked for entry in entries] == [True, False]
    assert entries[0].tensors == ("old",)
    cache.touch(old)
    assert [entry.key for entry in list_entries(cache)] == [new, old]


def test_prune_removes_damage_and_leftovers_only(cache: WeightCache) -> None:
    sound, damaged = store(cache, "sound", 100, 1), store(cache, "damaged", 100, 2)
    (cache.root / damaged[:2] / f"{damaged}.tensorbin").unlink()
    folder = cache.root / "00"
    folder.mkdir()
    for name in ("0.part", "1.part.json", "2.tensorbin", "3.lock"):
        (folder / name).write_bytes(b"x")
    with FileLock(folder / "4.lock"):  # another process is writing
        (folder / "4.part").write_bytes(b"x")
        pruned = prune(cache)
        assert (folder / "4.part").exists()
    assert [entry.key for entry in pruned.entries] == [damaged]
    assert cache.look_up(sound).entry
    left = {path.name for path in cache.root.glob("??/*") if path.suffix != ".lock"}
    assert left == {f"{sound}.json", f"{sound}.tensorbin", "4.part"}


def test_prune_to_a_size(cache: WeightCache) -> None:
    keys = [store(cache, str(number), 1000, number) for number in range(4)]
    pruned = prune(cache, limit_bytes=2500)
    assert [entry.key for entry in pruned.entries] == keys[:2]
    assert pruned.freed_bytes == 2000
    assert prune(cache, everything=True).freed_bytes == 2000
    assert list_entries(cache) == ()


def test_the_command_line(capsys: pytest.CaptureFixture[str], cache: WeightCache) -> None:
    key = store(cache, "embed", 5000, 1000)
    assert run(capsys, cache, "list")[1]["entries"][0]["tensors"] == ["embed"]
    assert run(capsys, cache, "size")[1]["bytes"] == 5000
    assert run(capsys, cache, "verify") == (0, {"ok": True, "entries": 1, "damaged": []})
    flip(cache.root / key[:2] / f"{key}.tensorbin")
    assert run(capsys, cache, "list")[1]["entries"][0]["damage"] == ""  # sizes and first bytes
    code, verdict = run(capsys, cache, "verify")
    assert (code, verdict["ok"]) == (1, False)
    assert verdict["damaged"][0]["key"] == key
    code, pruned = run(capsys, cache, "prune", "--max-size", "4k")
    assert (code, pruned["removed"]) == (0, [key])


def test_an_empty_cache(capsys: pytest.CaptureFixture[str], cache: WeightCache) -> None:
    assert run(capsys, cache, "list") == (0, {"entries": []})
    assert run(capsys, cache, "prune", "--all")[1]["removed"] == []


def test_a_size_that_is_none(capsys: pytest.CaptureFixture[str], cache: WeightCache) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["cache", "prune", "--max-size", "lots", "--cache", str(cache.root.parent)])
    assert ended.value.code == 2
    assert "'lots' is not a size" in capsys.readouterr().err
