"""Tensors that lie in a file as plain values: where, of what dtype and shape; reading them."""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ttc.checkpoint.blobs import how_to_replace, hub_blob, is_from_hub
from ttc.checkpoint.fingerprint import Span
from ttc.errors import CheckpointError, Problem, Source

POINTER = b"version https://git-lfs.github.com/spec/"  # how the file of a git-lfs pointer begins

LONE_SURROGATE = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|"
    r"(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)
"""Half of a character in JSON, if its backslash is not written twice."""

# numpy's names of the dtypes that are read as they are, under the names of safetensors.
PLAIN_DTYPES = {"BF16": "<u2", "F16": "<f2", "F32": "<f4", "F64": "<f8"}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """What a file's header says of one tensor; `dtype` is the name that safetensors has for it."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    span: Span


def read_values(name: str, stored: StoredTensor, rows: slice | None = None) -> NDArray[Any]:
    """A tensor, or some of its rows: bf16 as uint16 bits, every other float as float32."""
    values = read_rows(stored, PLAIN_DTYPES[stored.dtype], name, rows)
    return values if stored.dtype == "BF16" else values.astype(np.float32, copy=False)


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
                message=f"cannot read tensor '{name}' from {stored.path}",
                note=found,
                help="the file changed after it was opened; run the command again",
            )
        )
    return values.reshape(shape)


def refuse_pointer(path: Path) -> None:
    """CheckpointError for the few lines of text that git leaves in place of a large file."""
    with path.open("rb") as file:
        if file.read(len(POINTER)) != POINTER:
            return
    why = "the repository was cloned without its large files"
    help_text = (
        "run `git lfs install` and then `git lfs pull` in the folder, or give the hub id "
        "of the checkpoint, which is then downloaded"
    )
    if is_from_hub(path):
        why = "the hub's repository holds the pointer in place of the file"
        help_text = "give another revision or repository; its owner has to upload the file"
    raise CheckpointError(
        Problem(
            message=f"{path} is a git-lfs pointer, not the file that it stands for",
            note=why,
            help=help_text,
        )
    )


def how_to_get(path: Path, missing: str) -> str:
    """How to get a file that is missing beside `path`."""
    if is_from_hub(path):
        return f"the hub's repository lacks {missing}: give another revision or repository"
    return f"put {missing} of the model into the folder"


def fetch_again(path: Path) -> str:
    """How to replace a damaged file: only what is the checkpoint's own may be deleted."""
    if (blob := hub_blob(path)) is not None:
        return how_to_replace(blob)
    if path.is_symlink():
        return f"{path} is a link to {path.readlink()}: delete the link, and put {path.name} there"
    return f"download {path.name} again"


def read_text(path: Path) -> str:
    """A text file; CheckpointError if it is not UTF-8, or cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise CheckpointError(
            Problem(
                message=f"{path} cannot be read as text",
                note=str(error),
                help=fetch_again(path),
            )
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that must hold one object; CheckpointError says where it does not parse."""
    try:
        refuse_pointer(path)
        text = path.read_text(encoding="utf-8")
        content: object = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            Problem(
                message=f"{path} cannot be read as JSON",
                note=str(error),
                help=fetch_again(path),
            )
        ) from error
    if LONE_SURROGATE.search(text):
        _refuse_surrogates(path, text, content)
    if not isinstance(content, dict):
        raise CheckpointError(
            Problem(
                message=f"{path} must hold a JSON object",
                note=f"it holds a {type(content).__name__}",
                help=fetch_again(path),
            )
        )
    return cast(dict[str, Any], content)


def _refuse_surrogates(path: Path, text: str, content: object) -> None:
    """CheckpointError for half of a character, which no text that is written can hold."""
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        found = LONE_SURROGATE.search(text)
        assert found, "a surrogate that was read was written as an escape"
        start = text.rfind("\n", 0, found.start()) + 1
        at = Source(
            path=str(path),
            line=text.count("\n", 0, found.start()) + 1,
            column=found.start() - start + 1,
            width=len(found[0]),
            text=text[start:].partition("\n")[0],
        )
        raise CheckpointError(
            Problem(
                message=f"{path} holds half of a character",
                at=at,
                note="an escape of U+D800 to U+DFFF without the one that belongs to it",
                help="correct the file: write the character itself, or both escapes",
            )
        ) from error
