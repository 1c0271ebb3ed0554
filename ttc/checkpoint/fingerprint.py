"""The identity of a checkpoint's files, the same on every machine that holds the same bytes.

No date, path or machine enters it, so that a copied checkpoint finds the weights already converted.
A file of up to `WHOLE_FILE_BYTES` is hashed whole. A larger one is hashed by its size, its header
(names, dtypes, shapes and offsets of all tensors) and three samples of every tensor: training
changes nearly every value of a matrix, so two checkpoints that agree in all of these and differ
elsewhere do not arise by accident.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

WHOLE_FILE_BYTES = 64 << 20
SAMPLE_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Where one tensor's bytes lie: `offset` counts from the start of the file."""

    offset: int
    size_bytes: int


def fingerprint_file(path: Path, header_bytes: int, tensors: Iterable[Span]) -> str:
    """sha256 (hex) of one checkpoint file; the first `header_bytes` bytes hold its header."""
    size_bytes = path.stat().st_size
    digest = hashlib.sha256(f"{size_bytes}\n".encode())
    with path.open("rb") as file:
        if size_bytes <= WHOLE_FILE_BYTES:
            while block := file.read(1 << 20):
                digest.update(block)
            return digest.hexdigest()
        digest.update(file.read(header_bytes))
        for span in sorted(tensors, key=lambda span: span.offset):
            for offset in _sample_offsets(span):
                file.seek(offset)
                digest.update(file.read(min(SAMPLE_BYTES, span.size_bytes)))
    return digest.hexdigest()


def combine_fingerprints(parts: Iterable[tuple[str, str]]) -> str:
    """sha256 (hex) over (what, fingerprint) pairs, whatever their order."""
    lines = [f"{what}\0{fingerprint}\n" for what, fingerprint in sorted(parts)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _sample_offsets(span: Span) -> tuple[int, ...]:
    last = max(0, span.size_bytes - SAMPLE_BYTES)
    return tuple(span.offset + position for position in sorted({0, last // 2, last}))
