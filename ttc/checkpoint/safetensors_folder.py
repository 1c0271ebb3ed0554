"""A folder in Hugging Face's layout: config.json and one safetensors file, or shards and an index.

Opening reads and checks the headers only; `read` maps one tensor at a time and lets go of the file.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from ttc.checkpoint.fingerprint import Span, combine_fingerprints, fingerprint_file
from ttc.errors import CheckpointError, Problem

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
HEADER_LIMIT_BYTES = 100_000_000  # the limit of the safetensors library itself

# Sizes of the dtypes of the format: github.com/huggingface/safetensors, tensor.rs (Dtype::bitsize).
DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4,
    "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
READABLE_DTYPES = {"BF16": "<u2", "F16": "<f2", "F32": "<f4", "F64": "<f8"}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """What a safetensors header says of one tensor, and the file whose header says it."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    span: Span


class SafetensorsFolder:
    """The tensors of a Hugging Face folder, by the names of its safetensors headers."""

    format: Literal["hf"] = "hf"
    rotary_rows: Literal["halves"] = "halves"

    def __init__(self, folder: Path, description: str) -> None:
        """Read and check every header; CheckpointError names the file and the bytes missing."""
        self.folder = folder
        self.description = description
        self._tensors: dict[str, StoredTensor] = {}
        parts: list[tuple[str, str]] = []
        for path, expected in _weight_files(folder).items():
            header_bytes, tensors = read_header(path)
            _check_against_index(path, expected, tensors)
            _add_tensors(self._tensors, tensors)
            spans = (tensor.span for tensor in tensors.values())
            parts.append((path.name, fingerprint_file(path, header_bytes, spans)))
        self.fingerprint = combine_fingerprints(parts)

    def names(self) -> tuple[str, ...]:
        """Every tensor name, sorted."""
        return tuple(sorted(self._tensors))

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape as stored: [out, in] for a matrix."""
        return self._tensors[name].shape

    def unreadable(self, name: str) -> str:
        """Why `read` cannot give this tensor, or an empty string."""
        dtype = self._tensors[name].dtype
        if dtype in READABLE_DTYPES:
            return ""
        return f"stored as {dtype}; {', '.join(READABLE_DTYPES)} can be read"

    def read(self, name: str, rows: slice | None = None) -> NDArray[Any]:
        """One tensor, or some of its rows: bf16 as uint16 bits, every other dtype as float32."""
        stored = self._tensors[name]
        values = read_rows(stored, READABLE_DTYPES[stored.dtype], name, rows)
        return values if stored.dtype == "BF16" else values.astype(np.float32, copy=False)

    def config(self) -> dict[str, Any] | None:
        """The contents of config.json, or None if the folder has none."""
        path = self.folder / "config.json"
        return read_json(path) if path.is_file() else None

    def companion(self, name: str) -> Path | None:
        """The path of another file of the folder, such as tokenizer.json, or None."""
        path = self.folder / name
        return path if path.is_file() else None


def read_rows(stored: StoredTensor, dtype: str, name: str, rows: slice | None) -> NDArray[Any]:
    """A tensor, or some rows of it, as numpy reads its bytes.

    Read and not mapped: a file that is cut off while it is mapped ends the process.
    """
    first, last, _ = (rows or slice(None)).indices(stored.shape[0] if stored.shape else 1)
    shape = (last - first, *stored.shape[1:]) if stored.shape else ()
    row_bytes = stored.span.size_bytes // stored.shape[0] if stored.shape and stored.shape[0] else 0
    try:
        with stored.path.open("rb") as file:
            start = stored.span.offset + first * row_bytes
            values = np.fromfile(file, dtype=dtype, count=math.prod(shape), offset=start)
            found = f"expected {math.prod(shape):,} values, found {values.size:,}"
    except OSError as error:
        values, found = np.empty(0), error.strerror or str(error)
    if values.size != math.prod(shape):
        raise CheckpointError(
            Problem(
                message=f"cannot read tensor '{name}' from {stored.path.name}",
                note=found,
                help="the file changed after it was opened; run the command again",
            )
        )
    return values.reshape(shape)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that must hold one object; CheckpointError says where it does not parse."""
    try:
        content: object = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            Problem(
                message=f"{path.name} cannot be read as JSON",
                note=str(error),
                help="download or write the file again",
            )
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            Problem(
                message=f"{path.name} must hold a JSON object",
                note=f"it holds a {type(content).__name__}",
                help="download or write the file again",
            )
        )
    return cast(dict[str, Any], content)


def read_header(path: Path) -> tuple[int, dict[str, StoredTensor]]:
    """The header of a safetensors file: (bytes before the data, tensors), checked against its size.

    Format: 8 bytes little-endian length n, n bytes of JSON, data; offsets count from the data.
    """
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size_bytes < 8:
            raise _truncated(path, 8, size_bytes, "the length of its header needs")
        if length > HEADER_LIMIT_BYTES:
            raise _bad_header(path, f"its first 8 bytes give a header of {length:,} bytes")
        if 8 + length > size_bytes:
            raise _truncated(path, 8 + length, size_bytes, "its header alone needs")
        try:
            header: object = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise _bad_header(path, f"its header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise _bad_header(path, "its header is not a JSON object")
    tensors = {
        name: _stored_tensor(path, name, entry, 8 + length)
        for name, entry in cast(dict[str, object], header).items()
        if name != "__metadata__"
    }
    end = max(
        (t.span.offset + t.span.size_bytes for t in tensors.values()),
        default=8 + length,
    )
    if end > size_bytes:
        raise _truncated(path, end, size_bytes, "its header describes")
    if end < size_bytes:
        raise _bad_header(path, f"its header describes {end:,} bytes, the file has {size_bytes:,}")
    return 8 + length, tensors


def _stored_tensor(path: Path, name: str, entry: object, data_offset: int) -> StoredTensor:
    fields = cast(dict[str, object], entry) if isinstance(entry, dict) else {}
    dtype, shape, offsets = (
        fields.get("dtype"),
        fields.get("shape"),
        fields.get("data_offsets"),
    )
    if not isinstance(dtype, str) or not _sizes(shape) or not _sizes(offsets):
        raise _bad_header(path, f"tensor '{name}' lacks a dtype, shape or data_offsets")
    sizes, limits = cast(list[int], shape), cast(list[int], offsets)
    if dtype not in DTYPE_BYTES:
        raise _bad_header(path, f"tensor '{name}' has the unknown dtype '{dtype}'")
    needed = math.prod(sizes) * DTYPE_BYTES[dtype]
    if len(limits) != 2 or limits[1] - limits[0] != needed:
        raise _bad_header(
            path,
            f"tensor '{name}' ({dtype} {sizes}) needs {needed:,} bytes, its offsets are {limits}",
        )
    span = Span(offset=data_offset + limits[0], size_bytes=needed)
    return StoredTensor(path=path, dtype=dtype, shape=tuple(sizes), span=span)


def _sizes(value: object) -> bool:
    """Whether a header value is a list of sizes (bool is an int to Python, not to the format)."""
    if not isinstance(value, list):
        return False
    return all(type(item) is int and item >= 0 for item in cast(list[object], value))


def _weight_files(folder: Path) -> dict[Path, frozenset[str]]:
    """The weight files of a folder, each with the tensor names the index expects in it."""
    if (folder / SINGLE_FILE).is_file():  # first, as transformers has it
        return {folder / SINGLE_FILE: frozenset()}
    if (folder / INDEX_FILE).is_file():
        return _indexed_files(folder)
    found = sorted(entry.name for entry in folder.iterdir())
    pickled = [name for name in found if name.endswith((".bin", ".pth", ".pt"))]
    listing = ", ".join(found[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "")
    raise CheckpointError(
        Problem(
            message=f"no weights in checkpoint folder '{folder.name}'",
            note=f"expected {SINGLE_FILE} or {INDEX_FILE}; found {listing or 'an empty folder'}",
            help="save it as safetensors (model.save_pretrained(..., safe_serialization=True))"
            if pickled
            else f"give a folder that holds {SINGLE_FILE}, a .gguf file or a hub id",
        )
    )


def _indexed_files(folder: Path) -> dict[Path, frozenset[str]]:
    weight_map: object = read_json(folder / INDEX_FILE).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            Problem(
                message=f"{INDEX_FILE} has no 'weight_map'",
                help="download the file again; it maps every tensor name to a shard",
            )
        )
    shards: dict[str, set[str]] = {}
    problems: list[Problem] = []
    for name, shard in sorted(cast(dict[str, object], weight_map).items()):
        if not isinstance(shard, str) or PurePosixPath(shard).name != shard or "\\" in shard:
            problems.append(_outside(name, shard))
        else:
            shards.setdefault(shard, set()).add(name)
    if problems:
        raise CheckpointError(problems[:10])
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise CheckpointError([_missing_shard(folder, shard, shards) for shard in missing])
    return {folder / shard: frozenset(names) for shard, names in sorted(shards.items())}


def _outside(name: str, shard: object) -> Problem:
    return Problem(
        message=f"{INDEX_FILE} places tensor '{name}' outside the checkpoint folder",
        note=f"expected the name of a file in the folder, found {shard!r}",
        help="download the index again; do not use a checkpoint that names other paths",
    )


def _missing_shard(folder: Path, shard: str, shards: Mapping[str, set[str]]) -> Problem:
    names = sorted(shards[shard])
    present = [other for other in shards if (folder / other).is_file()]
    return Problem(
        message=f"missing shard {shard} in checkpoint folder '{folder.name}'",
        note=f"{INDEX_FILE} expects {len(names)} tensors in it, the first is '{names[0]}'",
        details=(f"{len(present)} of {len(shards)} shards are there",),
        help=f"download {shard} into the folder",
    )


def _check_against_index(
    path: Path, expected: frozenset[str], tensors: Mapping[str, StoredTensor]
) -> None:
    absent = sorted(expected - tensors.keys())
    if absent:
        raise CheckpointError(
            Problem(
                message=f"{path.name} lacks {len(absent)} tensors that {INDEX_FILE} expects in it",
                note=f"the first is '{absent[0]}'",
                help=f"they are of different revisions; download {path.name} and the index again",
            )
        )


def _add_tensors(known: dict[str, StoredTensor], new: Mapping[str, StoredTensor]) -> None:
    for name, tensor in new.items():
        if name in known:
            raise CheckpointError(
                Problem(
                    message=f"tensor '{name}' is stored twice",
                    note=f"in {known[name].path.name} and in {tensor.path.name}",
                    help="remove the shard that does not belong to this checkpoint",
                )
            )
        known[name] = tensor


def _truncated(path: Path, needed: int, found: int, why: str) -> CheckpointError:
    return CheckpointError(
        Problem(
            message=f"{path.name} is truncated",
            note=f"{why} {needed:,} bytes, the file has {found:,}",
            help=f"download {path.name} again; {needed - found:,} bytes are missing",
        )
    )


def _bad_header(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        Problem(
            message=f"{path.name} is not a valid safetensors file",
            note=what,
            help=f"download {path.name} again",
        )
    )
