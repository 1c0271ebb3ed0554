"""The identity of a checkpoint's files: what is in them, and nothing else.

No date, path or machine enters it, so that a copied checkpoint finds the weights already converted,
and one that was changed never does. Hashing takes a second for 3 GB on two cores, so that the hash
of a file is noted beside its size, inode and times; the time of the last change of the inode cannot
be set by a program, so a file that was edited and then given its old time back is hashed again.

What is converted must be what was hashed, and headers, hash and tensors are read at different
times. So the facts of every file are taken before anything of it is read, and nothing that was made
from a file counts before they were compared once more.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

from ttc.checkpoint.blobs import how_to_replace, hub_blob
from ttc.checkpoint.cache import file_sha256
from ttc.errors import CheckpointError, Problem

SHA256 = re.compile(r"[0-9a-f]{64}")
SEGMENT_BYTES = 64 << 20
BLOCK_BYTES = 1 << 20
SETTLED_SECONDS = 1.0
"""A file that changed less than this ago may change again within the resolution of its times."""

TICK_SECONDS = 0.02
"""At least the resolution of file times on a local file system, which is that of the kernel's
clock: 10 ms at most (CONFIG_HZ of 100)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Where one tensor's bytes lie: `offset` counts from the start of the file."""

    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What changes when a file is written to, cut off, or replaced by another."""

    size_bytes: int
    modified_ns: int
    changed_ns: int
    inode: int


def file_facts(path: Path) -> Facts:
    """The facts of a file now. OSError if there is none."""
    found = path.stat()
    return Facts(
        size_bytes=found.st_size,
        modified_ns=found.st_mtime_ns,
        changed_ns=found.st_ctime_ns,
        inode=found.st_ino,
    )


class SourceFiles:
    """The weight files of a checkpoint as they were when it was opened. Make it before reading."""

    def __init__(self, paths: Iterable[Path], notes: Path | None = None) -> None:
        """Take the facts of all files; OSError if one cannot be looked at.

        A file that was written to just now is waited for: within one tick of the clock another
        change would leave no trace.
        """
        self._facts = {path: file_facts(path) for path in paths}
        self._notes = notes
        self._fingerprint = ""
        last = max((facts.changed_ns for facts in self._facts.values()), default=0)
        age = time.time() - last / 1e9
        if 0 <= age < TICK_SECONDS:
            time.sleep(TICK_SECONDS - age)

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of the contents of all files. Hashed on first use, and then compared."""
        if not self._fingerprint:
            found = fingerprint_files(self._facts, self._notes)
            self.check_unchanged()
            self._fingerprint = found
        return self._fingerprint

    def check_unchanged(self) -> None:
        """CheckpointError with every file that was written to, or replaced, since it was opened."""
        problems: list[Problem] = []
        for path, before in self._facts.items():
            try:
                now = file_facts(path)
            except OSError as error:
                problems.append(_changed(path, error.strerror or str(error)))
                continue
            if now.size_bytes != before.size_bytes:
                what = f"it had {before.size_bytes:,} bytes and now has {now.size_bytes:,}"
                problems.append(_changed(path, what))
            elif now != before:
                replaced = now.inode != before.inode
                what = "another file is in its place" if replaced else "its times say so"
                problems.append(_changed(path, what))
        if problems:
            raise CheckpointError(problems)


def _changed(path: Path, what: str) -> Problem:
    return Problem(
        message=f"{path} changed while it was read",
        note=what,
        help="nothing that was made from it is kept; run again when nothing writes to it any more",
    )


def fingerprint_file(path: Path, notes: Path | None = None) -> str:
    """sha256 (hex) over the sha256 of every segment of a file.

    notes   a folder where the hash is kept for the next time; one that cannot be written is no use

    A file of the hub's cache that is named by its sha256 must have it: CheckpointError.
    """
    facts = file_facts(path)
    seen = [facts.size_bytes, facts.modified_ns, facts.changed_ns, facts.inode]
    note = None
    if notes is not None:
        name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()
        note = notes / f"{name}.json"
        if known := _noted(note, seen):
            return known
    offsets = range(0, max(facts.size_bytes, 1), SEGMENT_BYTES)
    blob = hub_blob(path)
    if blob is not None and not SHA256.fullmatch(blob.name):
        blob = None  # a small file, which has another name
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        whole = pool.submit(file_sha256, path) if blob else None  # the longest, so it begins
        segments = list(pool.map(partial(_segment, path), offsets))
    if blob and whole and whole.result() != blob.name:
        raise CheckpointError(_not_the_hubs(path, blob, whole.result()))
    found = hashlib.sha256(b"".join(segments)).hexdigest()
    age = time.time() - max(facts.modified_ns, facts.changed_ns) / 1e9
    if note is not None and age > SETTLED_SECONDS and file_facts(path) == facts:
        _keep(note, {"file": str(path), "seen": seen, "sha256_of_segments": found})
    return found


def _not_the_hubs(path: Path, blob: Path, sha256: str) -> Problem:
    return Problem(
        message=f"{path} does not hold the bytes that the hub has",
        note=f"{blob} has the sha256 {sha256}, and is named by what it should be",
        help=f"{how_to_replace(blob)}; if it happens again, check HF_ENDPOINT",
    )


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
