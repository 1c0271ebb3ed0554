"""The header of a file that torch.save wrote: which tensors it holds, and where they lie.

torch reads it with weights_only, so that no code of the file is run, and with tensors that have no
data. Their values are then read like those of a safetensors file, without torch.
"""

import pickle
from pathlib import Path
from typing import Any, cast

from ttc.checkpoint.fingerprint import Span
from ttc.checkpoint.stored import StoredTensor, refuse_pointer
from ttc.errors import CheckpointError, Problem

DTYPES = {
    "bfloat16": "BF16", "float16": "F16", "float32": "F32", "float64": "F64",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "bool": "BOOL",
    "uint8": "U8", "int8": "I8", "int16": "I16", "int32": "I32", "int64": "I64",
}  # fmt: skip


def read_pickle(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a .pth or .bin file by name; CheckpointError if it is not one, or cut off."""
    refuse_pointer(path)
    content = _load(path)
    if not isinstance(content, dict):
        raise _invalid(path, f"it holds a {type(content).__name__}, not tensors by name")
    size_bytes = path.stat().st_size
    tensors: dict[str, StoredTensor] = {}
    for name, value in cast(dict[object, Any], content).items():
        if not isinstance(name, str) or not hasattr(value, "untyped_storage"):
            raise _invalid(path, f"its entry {name!r} is not a tensor")
        tensors[name] = _stored(path, name, value, size_bytes)
    return tensors


def _load(path: Path) -> object:
    import torch  # here: safetensors, the usual format, needs no torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    try:
        with FakeTensorMode():
            return cast(object, torch.load(path, map_location="cpu", mmap=True, weights_only=True))
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError, ValueError, KeyError) as error:
        lines = str(error).strip().splitlines()
        raise _invalid(path, lines[0] if lines else type(error).__name__) from error


def _stored(path: Path, name: str, tensor: Any, size_bytes: int) -> StoredTensor:
    dtype = DTYPES.get(str(tensor.dtype).removeprefix("torch."))
    if dtype is None or not tensor.is_contiguous():
        raise _invalid(path, f"tensor '{name}' is {tensor.dtype} with strides {tensor.stride()}")
    start = tensor.untyped_storage()._checkpoint_offset
    span = Span(
        offset=start + tensor.storage_offset() * tensor.element_size(),
        size_bytes=tensor.numel() * tensor.element_size(),
    )
    if span.offset + span.size_bytes > size_bytes:
        raise _invalid(path, f"tensor '{name}' ends beyond the {size_bytes:,} bytes of the file")
    return StoredTensor(path=path, dtype=dtype, shape=tuple(tensor.shape), span=span)


def _invalid(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        Problem(
            message=f"{path} cannot be read as a file of tensors",
            note=what,
            help="download it again, or save the model as safetensors",
        )
    )
