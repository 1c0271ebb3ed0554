"""The header of a safetensors file, every size checked against the file before it is used."""

import json
import math
from pathlib import Path
from typing import cast

from ttc.checkpoint.fingerprint import Span
from ttc.checkpoint.stored import StoredTensor, fetch_again, refuse_pointer
from ttc.errors import CheckpointError, Problem

HEADER_LIMIT_BYTES = 100_000_000  # the limit of the safetensors library itself

# Sizes of the dtypes of the format: github.com/huggingface/safetensors, tensor.rs (Dtype::bitsize).
DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4,
    "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip


def read_header(path: Path) -> tuple[int, dict[str, StoredTensor]]:
    """The header of a safetensors file: (bytes before the data, tensors), checked against its size.

    Format: 8 bytes little-endian length n, n bytes of JSON, data; offsets count from the data.
    """
    refuse_pointer(path)
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
    _check_metadata(path, cast(dict[str, object], header).get("__metadata__", {}))
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
    _check_order(path, tensors, 8 + length)
    return 8 + length, tensors


def _check_metadata(path: Path, metadata: object) -> None:
    """The format has texts by name there, and nothing else."""
    texts = cast(dict[str, object], metadata).values() if isinstance(metadata, dict) else (None,)
    if not all(isinstance(each, str) for each in texts):
        raise _bad_header(path, f"its __metadata__ is {metadata!r:.100}, expected texts by name")


def _check_order(path: Path, tensors: dict[str, StoredTensor], start: int) -> None:
    """The format has neither holes nor bytes that two tensors share."""
    before = "the header"
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].span.offset):
        span = tensor.span
        if span.size_bytes and span.offset != start:
            what = "overlaps with" if span.offset < start else "leaves a hole after"
            raise _bad_header(path, f"tensor '{name}' {what} {before}")
        if span.size_bytes:
            before, start = f"'{name}'", span.offset + span.size_bytes


def _stored_tensor(path: Path, name: str, entry: object, data_offset: int) -> StoredTensor:
    fields = cast(dict[str, object], entry) if isinstance(entry, dict) else {}
    dtype, shape, offsets = (
        fields.get("dtype"),
        fields.get("shape"),
        fields.get("data_offsets"),
    )
    wanted = (
        ("dtype", dtype, isinstance(dtype, str), "the name of a dtype"),
        ("shape", shape, _sizes(shape), "whole numbers from 0"),
        ("data_offsets", offsets, _sizes(offsets), "two whole numbers from 0"),
    )
    for field, found, right, expected in wanted:
        if field not in fields:
            raise _bad_header(path, f"tensor '{name}' has no {field}, expected {expected}")
        if not right:
            what = f"tensor '{name}' has the {field} {found!r:.100}, expected {expected}"
            raise _bad_header(path, what)
    assert isinstance(dtype, str)
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


def _truncated(path: Path, needed: int, found: int, why: str) -> CheckpointError:
    return CheckpointError(
        Problem(
            message=f"{path} is truncated",
            note=f"{why} {needed:,} bytes, the file has {found:,}",
            help=f"{fetch_again(path)}; {needed - found:,} bytes are missing",
        )
    )


def _bad_header(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        Problem(
            message=f"{path} is not a valid safetensors file",
            note=what,
            help=fetch_again(path),
        )
    )
