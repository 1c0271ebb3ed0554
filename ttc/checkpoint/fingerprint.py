"""The identity of a checkpoint's files: what is in them, and nothing else.

No date, path or machine enters it, so that a copied checkpoint finds the weights already converted,
and one that was changed never does. Hashing takes a second for 3 GB on two cores, so that the hash
of a file is noted beside its size, inode and times; the time of the last change of the inode cannot
be set by a program, so a file that was edited and then given its old time back is hashed again.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

SEGMENT_BYTES = 64 << 20
BLOCK_BYTES = 1 << 20
SETTLED_SECONDS = 1.0
"""A file that changed less than this ago may change again within the resolution of its times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Where one tensor's bytes lie: `offset` counts from the start of the file."""

    offset: int
    size_bytes: int


def fingerprint_file(path: Path, notes: Path | None = None) -> str:
    """sha256 (hex) over the sha256 of every segment of a file.

    notes   a folder where the hash is kept for the next time; one that cannot be written is no use
    """
    facts = path.stat()
    seen = [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino]
    note = None
    if notes is not None:
        name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()
        note = notes / f"{name}.json"
        if known := _noted(note, seen):
            return known
    offsets = range(0, max(facts.st_size, 1), SEGMENT_BYTES)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        segments = list(pool.map(partial(_segment, path), offsets))
    found = hashlib.sha256(b"".join(segments)).hexdigest()
    age = time.time() - max(facts.st_mtime, facts.st_ctime)
    if note is not None and age > SETTLED_SECONDS:
        _keep(note, {"file": str(path), "seen": seen, "sha256_of_segments": found})
    return found


def fingerprint_files(paths: Iterable[Path], notes: Path | None = None) -> str:
    """sha256 (hex) over the names and fingerprints of files, whatever their order."""
    lines = [f"{path.name}\0{fingerprint_file(path, notes)}\n" for path in paths]
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def _segment(path: Path, offset: int) -> bytes:
    digest, left = hashlib.sha256(), SEGMENT_BYTES
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        while left and (block := file.read(min(left, BLOCK_BYTES))):
            digest.update(block)
            left -= len(block)
    return digest.digest()


def _noted(note: Path, seen: list[int]) -> str:
    try:
        content: object = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return ""
    fields = cast(dict[str, object], content) if isinstance(content, dict) else {}
    return str(fields.get("sha256_of_segments", "")) if fields.get("seen") == seen else ""


def _keep(note: Path, content: dict[str, object]) -> None:
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        unfinished = note.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps(content), encoding="utf-8")
        unfinished.replace(note)
    except OSError:
        return  # a read-only cache: hashed again the next time
