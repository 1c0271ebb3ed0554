"""A content-addressed folder of converted weights, shared by all models, meshes and processes.

`<root>/<first two digits>/<key>.tensorbin` holds a tensor and `<key>.json` beside it its size and
checksums. The key is a hash of everything the tensor was made from (see index.py), so an entry
never changes. An entry exists once its JSON file does: the tensor is written under a temporary
name, flushed to the disk and renamed, then the JSON file in the same way. A crash at any point
leaves no entry, or a whole one. Whatever fails its check is reported, and converted again.

A record is checked by what it says its key is a hash of. A file is checked by its size and its
first bytes, and as a whole if it was written to since it was made (its time of modification says
so) or if that is asked for. What a program loads is always checked as a whole, when it is loaded.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Buffer, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from ttc.errors import CheckpointError, Problem

HEADER_BYTES = 4096  # checked on every use; a foreign or edited file differs early


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheEntry:
    """One converted tensor: its file, and what the file must be."""

    key: str
    path: Path
    size_bytes: int
    sha256: str
    header_sha256: str
    modified_ns: int


class Sink:
    """An unbuffered file that is being written, with its size and checksums."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._head = b""
        self.size_bytes = 0

    def write(self, data: Buffer) -> None:
        """Append the bytes of a buffer of any shape, which must be contiguous."""
        view = memoryview(data).cast("B") if memoryview(data).nbytes else memoryview(b"")
        if len(self._head) < HEADER_BYTES:
            self._head += bytes(view[: HEADER_BYTES - len(self._head)])
        written = 0
        while written < len(view):  # the system takes 2 GiB at most, and less near a limit
            written += self._file.write(view[written:])
        self._digest.update(view)
        self.size_bytes += len(view)

    @property
    def sha256(self) -> str:
        """Checksum (hex) of everything that was written."""
        return self._digest.hexdigest()

    @property
    def header_sha256(self) -> str:
        """Checksum (hex) of the first HEADER_BYTES bytes."""
        return hashlib.sha256(self._head).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class LookUp:
    """What the cache holds under a key: the entry if it is sound, else what is wrong with it.

    Both are empty if there is nothing.
    """

    entry: CacheEntry | None = None
    damage: str = ""


class WeightCache:
    """The cache folder. `verify` compares the sha256 of each whole file, not only of its header."""

    def __init__(self, root: Path, verify: bool = False) -> None:
        self.root = root
        self.verify = verify

    def look_up(self, key: str) -> LookUp:
        """The entry of a key, checked; nothing is repaired here."""
        try:
            recorded = json.loads(self._record_path(key).read_text(encoding="utf-8"))
            entry = CacheEntry(
                key=key,
                path=self._tensor_path(key),
                size_bytes=int(recorded["bytes"]),
                sha256=str(recorded["sha256"]),
                header_sha256=str(recorded["header_sha256"]),
                modified_ns=int(recorded["modified_ns"]),
            )
            if entry_key(recorded["origin"]) != key:
                return LookUp(damage=f"{key}.json is the record of another tensor")
        except (FileNotFoundError, NotADirectoryError):
            return LookUp()
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return LookUp(damage=f"{key}.json is not readable")
        damage = check_file(entry, whole=self.verify)
        return LookUp(damage=damage) if damage else LookUp(entry=entry)

    def touch(self, key: str) -> None:
        """Note that an entry is used; a cache that cannot be written keeps no such notes."""
        with suppress(OSError):
            os.utime(self._record_path(key))

    def store(
        self, origin: Mapping[str, Any], write: Callable[[Sink], None], *, wait: bool = True
    ) -> CacheEntry | None:
        """The entry of what is made from `origin`, written by `write(sink)` unless it is there.

        A lock per entry lets one of several processes do the work. The others wait and then find
        the entry, or get None at once without `wait`. CheckpointError if the folder cannot be
        written or the disk is full.
        """
        key = entry_key(origin)
        folder = self._tensor_path(key).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / f"{key}.lock", timeout=-1 if wait else 0):
                found = self.look_up(key).entry
                return found or self._write_entry(key, origin, write)
        except Timeout:
            return None
        except OSError as error:
            raise _cannot_write(self.root, error) from error

    def _write_entry(
        self, key: str, origin: Mapping[str, Any], write: Callable[[Sink], None]
    ) -> CacheEntry:
        target = self._tensor_path(key)
        temporary = target.with_name(f"{key}.part")
        _free(temporary)  # left by a process that was killed; the lock is ours
        try:
            with temporary.open("xb", buffering=0) as file:
                sink = Sink(file)
                write(sink)
                os.fsync(file.fileno())
            temporary.chmod(0o444)  # artefacts link to it: an edit there would be one here
            entry = CacheEntry(
                key=key,
                path=target,
                size_bytes=sink.size_bytes,
                sha256=sink.sha256,
                header_sha256=sink.header_sha256,
                modified_ns=temporary.stat().st_mtime_ns,
            )
            _free(self._record_path(key))
            if target.is_dir():
                _free(target)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        self._write_record(entry, origin)
        return entry

    def _write_record(self, entry: CacheEntry, origin: Mapping[str, Any]) -> None:
        record = {
            "bytes": entry.size_bytes,
            "sha256": entry.sha256,
            "header_sha256": entry.header_sha256,
            "modified_ns": entry.modified_ns,
            "origin": origin,
        }
        target = self._record_path(entry.key)
        temporary = target.with_suffix(".part.json")
        temporary.write_text(json.dumps(record, indent=1, sort_keys=True), encoding="utf-8")
        _flush(temporary)
        temporary.replace(target)
        _flush(target.parent)

    def _tensor_path(self, key: str) -> Path:
        return self.root / key[:2] / f"{key}.tensorbin"

    def _record_path(self, key: str) -> Path:
        return self.root / key[:2] / f"{key}.json"


def entry_key(origin: Mapping[str, Any]) -> str:
    """sha256 (hex) of everything a tensor is made from, as canonical JSON."""
    text = json.dumps(origin, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def check_file(entry: CacheEntry, whole: bool) -> str:
    """What is wrong with a file that should be `entry`, or an empty string."""
    name = entry.path.name
    try:
        found = entry.path.stat()
        if found.st_size != entry.size_bytes:
            return f"{name} has {found.st_size:,} bytes, expected {entry.size_bytes:,}"
        if file_sha256(entry.path, HEADER_BYTES) != entry.header_sha256:
            return f"the first {HEADER_BYTES} bytes of {name} were changed"
        touched = found.st_mtime_ns != entry.modified_ns
        if (whole or touched) and file_sha256(entry.path) != entry.sha256:
            return f"the contents of {name} were changed"
    except OSError as error:
        return f"{name}: {error.strerror}"
    return ""


def link_entry(entry: CacheEntry, target: Path, *, copy: bool = False) -> None:
    """Put an entry into an artefact: a hard link, or a copy on another file system or if asked for.

    Never a symbolic link: an artefact must stay whole when it is moved or the cache is emptied, and
    must hold no absolute path.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if not copy and target.exists() and target.samefile(entry.path):
        return
    temporary = target.with_name(target.name + ".part")
    temporary.unlink(missing_ok=True)
    try:
        if copy or not _linked(entry.path, temporary):
            shutil.copy2(entry.path, temporary)
            if file_sha256(temporary) != entry.sha256:
                raise _damaged_copy(entry)
        temporary.replace(target)
    except OSError as error:
        raise _cannot_write(target.parent, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def _linked(path: Path, target: Path) -> bool:
    """Make a hard link; False on another file system, or on one without hard links."""
    try:
        os.link(path, target)
    except OSError:
        return False
    return True


def _free(path: Path) -> None:
    """Remove whatever has a name of the cache, a folder too: nothing but ttc belongs there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Force a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sha256(path: Path, limit_bytes: int | None = None) -> str:
    """Checksum (hex) of a file, or of its first bytes."""
    with path.open("rb") as file:
        if limit_bytes is not None:
            return hashlib.sha256(file.read(limit_bytes)).hexdigest()
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damaged_copy(entry: CacheEntry) -> CheckpointError:
    return CheckpointError(
        Problem(
            message=f"the cached weight {entry.path} was changed",
            note="its checksum differs from the one it was written with",
            help="run again with --verify-weights, which converts damaged weights anew",
        )
    )


def _cannot_write(folder: Path, error: OSError) -> CheckpointError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return CheckpointError(
        Problem(
            message=f"cannot write converted weights to {folder}",
            note="the disk is full" if full else error.strerror or str(error),
            help="free some space and run again; what was converted is kept"
            if full
            else "choose a folder that you may write (--cache, or TTC_CACHE)",
        )
    )
