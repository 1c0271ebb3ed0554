"""Keeping the weight cache in hand: what is in it, what is wrong with it, what can go."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from filelock import FileLock, Timeout

from ttc.checkpoint.cache import WeightCache


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedWeight:
    """One entry: what it was made from, and whether an artefact shares its file.

    used_at   seconds since the epoch, of the last compile that took it
    damage    what is wrong with it, or an empty string
    """

    key: str
    size_bytes: int
    origin: dict[str, Any]
    linked: bool
    used_at: float
    damage: str

    @property
    def tensors(self) -> tuple[str, ...]:
        """The checkpoint's names of what it holds; the kind of a table."""
        parts = cast(list[dict[str, Any]], self.origin.get("parts", []))
        table = cast(dict[str, Any], self.origin.get("table", {}))
        return tuple(str(part.get("tensor")) for part in parts) or (f"rope {table.get('kind')}",)

    def to_json(self) -> dict[str, Any]:
        """The entry for `--json`."""
        return {
            "key": self.key,
            "bytes": self.size_bytes,
            "tensors": list(self.tensors),
            "linked": self.linked,
            "used_at": self.used_at,
            "damage": self.damage,
            "origin": self.origin,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What was removed: entries, and files that no entry owns."""

    entries: tuple[CachedWeight, ...]
    leftovers: int
    freed_bytes: int


def list_entries(cache: WeightCache) -> tuple[CachedWeight, ...]:
    """Every entry, least recently used first; checked as the cache says (in full or not)."""
    found = [_entry(cache, path) for path in _records(cache.root)]
    return tuple(sorted(found, key=lambda entry: entry.used_at))


def prune(
    cache: WeightCache, *, everything: bool = False, limit_bytes: int | None = None
) -> Pruned:
    """Remove damaged entries and leftovers; all entries, or the least used ones beyond a limit.

    What another process is writing stays. A file that an artefact shares frees no space.
    """
    entries = list_entries(cache)
    doomed = [entry for entry in entries if everything or entry.damage]
    if limit_bytes is not None:
        total = sum(entry.size_bytes for entry in entries if entry not in doomed)
        for entry in entries:
            if total > limit_bytes and entry not in doomed:
                doomed.append(entry)
                total -= entry.size_bytes
    removed = tuple(entry for entry in doomed if _remove(cache, entry.key))
    leftovers = [path for path in _leftovers(cache.root) if _remove_leftover(path)]
    return Pruned(
        entries=removed,
        leftovers=len(leftovers),
        freed_bytes=sum(entry.size_bytes for entry in removed if not entry.linked),
    )


def _entry(cache: WeightCache, record: Path) -> CachedWeight:
    key, tensor = record.stem, record.with_suffix(".tensorbin")
    try:
        content: object = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        content = {}
    fields = cast(dict[str, Any], content) if isinstance(content, dict) else {}
    origin = fields.get("origin")
    exists = tensor.is_file()
    return CachedWeight(
        key=key,
        size_bytes=tensor.stat().st_size if exists else 0,
        origin=cast(dict[str, Any], origin) if isinstance(origin, dict) else {},
        linked=exists and tensor.stat().st_nlink > 1,
        used_at=record.stat().st_mtime,
        damage=cache.look_up(key).damage,
    )


def _records(root: Path) -> Iterator[Path]:
    """The JSON files of entries, but not those that a killed writer left unfinished."""
    return (path for path in sorted(root.glob("??/*.json")) if ".part" not in path.suffixes)


def _leftovers(root: Path) -> Iterator[Path]:
    """Files of writers that were killed, locks of none, and tensors without a record."""
    for path in sorted(root.glob("??/*")):
        keeps = path.suffix == ".json" or path.with_suffix(".json").exists()
        if not keeps or path.name.endswith((".part", ".part.json")):
            yield path


def _remove_leftover(path: Path) -> bool:
    key = path.name.split(".")[0]
    return _locked_unlink(path.parent / f"{key}.lock", path)


def _remove(cache: WeightCache, key: str) -> bool:
    """Whether the entry is gone: the record first, as an entry exists once it does."""
    folder = cache.root / key[:2]
    files = (folder / f"{key}.json", folder / f"{key}.tensorbin", folder / f"{key}.lock")
    return _locked_unlink(files[-1], *files)


def _locked_unlink(lock: Path, *files: Path) -> bool:
    """Remove files under their entry's lock; not if another process holds it."""
    try:
        with FileLock(lock, timeout=0):
            for file in files:
                file.unlink(missing_ok=True)
            lock.unlink(missing_ok=True)
    except Timeout:
        return False
    return True
