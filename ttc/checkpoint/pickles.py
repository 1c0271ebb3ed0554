"""The header of a file that torch.save wrote: which tensors it holds, and where they lie.

torch reads it with weights_only, so that no code of the file is run, and with tensors that have no
data. Their values are then read like those of a safetensors file, without torch.
"""

import pickle
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast
from zipfile import ZIP_STORED, BadZipFile, ZipFile

from ttc.checkpoint.fingerprint import Span
from ttc.checkpoint.stored import StoredTensor, fetch_again, refuse_pointer
from ttc.errors import CheckpointError, Problem

DTYPES = {
    "bfloat16": "BF16", "float16": "F16", "float32": "F32", "float64": "F64",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "bool": "BOOL",
    "uint8": "U8", "int8": "I8", "int16": "I16", "int32": "I32", "int64": "I64",
}  # fmt: skip

LOCAL_NAME, LOCAL_HEADER = 26, 30  # where a zip entry's header has the length of its name; its own


def read_pickle(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a .pth or .bin file by name; CheckpointError if it is not one, or cut off."""
    refuse_pointer(path)
    _check_archive(path)
    content = _load(path)
    if not isinstance(content, dict):
        raise _invalid(path, f"it holds a {type(content).__name__}, not tensors by name")
    records = _records(path)
    tensors: dict[str, StoredTensor] = {}
    for name, value in cast(dict[object, Any], content).items():
        if not isinstance(name, str) or not hasattr(value, "untyped_storage"):
            raise _invalid(path, f"its entry {name!r} is not a tensor")
        tensors[name] = _stored(path, name, value, records)
    return tensors


def _check_archive(path: Path) -> None:
    try:
        with ZipFile(path) as archive:
            archive.infolist()
    except (BadZipFile, ValueError, NotImplementedError, struct.error) as error:
        with path.open("rb") as file:
            start = file.read(4)
        cut = start == b"PK\3\4"
        why = "it is cut off" if cut else "it is no archive, as torch.save writes since torch 1.6"
        raise _invalid(path, why) from error


def _load(path: Path) -> object:
    import torch  # here: safetensors, the usual format, needs no torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    try:
        with FakeTensorMode():
            return cast(object, torch.load(path, map_location="cpu", mmap=True, weights_only=True))
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = f"a reference to {named[1]}" if named else "something else"
        why = f"it holds {what} beside tensors; no code of a checkpoint is ever run"
        raise _invalid(path, why) from error
    except Exception as error:  # whatever torch's unpickler makes of a damaged program
        lines = str(error).strip().splitlines()
        raise _invalid(path, lines[0] if lines else type(error).__name__) from error


def _records(path: Path) -> dict[int, int]:
    """The bytes of each file in the archive that torch.save writes, by where they start in it.

    torch maps an archive without looking at these sizes.
    """
    records: dict[int, int] = {}
    with ZipFile(path) as archive, path.open("rb") as file:
        for entry in archive.infolist():
            if entry.compress_type != ZIP_STORED:
                raise _invalid(path, f"its part {entry.filename} is compressed")
            if entry.filename.endswith("/byteorder") and archive.read(entry) == b"big":
                raise _invalid(path, "it was written on a machine of the other byte order")
            file.seek(entry.header_offset + LOCAL_NAME)
            name, extra = struct.unpack("<HH", file.read(4).ljust(4, b"\0"))
            records[entry.header_offset + LOCAL_HEADER + name + extra] = entry.file_size
    return records


def _stored(path: Path, name: str, tensor: Any, records: Mapping[int, int]) -> StoredTensor:
    dtype = DTYPES.get(str(tensor.dtype).removeprefix("torch."))
    if dtype is None or not tensor.is_contiguous():
        raise _invalid(path, f"tensor '{name}' is {tensor.dtype} with strides {tensor.stride()}")
    start = tensor.untyped_storage()._checkpoint_offset
    span = Span(
        offset=start + tensor.storage_offset() * tensor.element_size(),
        size_bytes=tensor.numel() * tensor.element_size(),
    )
    if tensor.numel() and start not in records:  # torch computes places, and looks none up
        raise _invalid(path, f"tensor '{name}' does not lie where torch.save puts it")
    if tensor.numel() and span.offset + span.size_bytes > start + records[start]:
        held = f"{records[start]:,} bytes that the file has of it"
        raise _invalid(path, f"tensor '{name}' ends beyond the {held}")
    return StoredTensor(path=path, dtype=dtype, shape=tuple(tensor.shape), span=span)


def _invalid(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        Problem(
            message=f"{path} cannot be read as a file of tensors",
            note=what,
            help=f"{fetch_again(path)}, or save the model as safetensors",
        )
    )
