"""A folder in Hugging Face's layout: config.json and one file of weights, or shards and an index.

safetensors files are taken before pickled ones (.bin). Opening reads and checks the headers only;
`read` takes one tensor at a time and lets go of the file.
"""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from ttc.checkpoint.companions import find_companion
from ttc.checkpoint.fingerprint import SourceFiles
from ttc.checkpoint.pickles import read_pickle
from ttc.checkpoint.quantized import METHODS, dequantized, unsupported_method
from ttc.checkpoint.safetensors_header import read_header
from ttc.checkpoint.stored import (
    PLAIN_DTYPES,
    StoredTensor,
    how_to_get,
    read_json,
    read_values,
)
from ttc.errors import CheckpointError, Problem

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLED_FILE = "pytorch_model.bin"
PICKLED_INDEX = "pytorch_model.bin.index.json"
LAYOUTS = ((SINGLE_FILE, INDEX_FILE), (PICKLED_FILE, PICKLED_INDEX))
"""(the only file, the index of several), in the order of preference."""


class SafetensorsFolder:
    """The tensors of a Hugging Face folder, by the names of its files' headers.

    What is stored quantised has the name and the shape of the weight that it stands for.
    """

    format: Literal["hf"] = "hf"
    rotary_rows: Literal["halves"] = "halves"

    def __init__(self, folder: Path, description: str, notes: Path | None = None) -> None:
        """Read and check every header; CheckpointError names the file and the bytes missing."""
        self.folder = folder
        self.description = description
        self._tensors: dict[str, StoredTensor] = {}
        files, index = _weight_files(folder)
        self._files = SourceFiles(files, notes)
        for path, expected in files.items():
            pickled = path.suffix != ".safetensors"
            tensors = read_pickle(path) if pickled else read_header(path)[1]
            _check_against_index(path, expected, tensors, index)
            _add_tensors(self._tensors, tensors)
        config = self.config() or {}
        if method := unsupported_method(config):
            raise _unsupported(description, method)
        self._computed, self._hidden = dequantized(self._tensors, config)

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of the contents of all files. Hashed on first use."""
        return self._files.fingerprint

    def check_unchanged(self) -> None:
        """CheckpointError if a weight file is not what it was when the checkpoint was opened."""
        self._files.check_unchanged()

    def names(self) -> tuple[str, ...]:
        """Every tensor name, sorted."""
        return tuple(sorted({*self._tensors, *self._computed} - self._parts))

    @property
    def _parts(self) -> frozenset[str]:
        """Tensors that others are computed from; a weight may keep the name of one."""
        return self._hidden - self._computed.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of the values: [out, in] for a matrix."""
        computed = self._computed.get(name)
        return self._tensors[name].shape if computed is None else computed.shape

    def unreadable(self, name: str) -> str:
        """Why `read` cannot give this tensor, or an empty string."""
        if name in self._computed:
            return self._computed[name].fault
        if self._tensors[name].dtype in PLAIN_DTYPES:
            return ""
        readable = ", ".join(PLAIN_DTYPES)
        return (
            f"stored as {self._tensors[name].dtype}; {readable} can be read, and quantised "
            f"weights that config.json describes ({', '.join(METHODS)})"
        )

    def read(self, name: str, rows: slice | None = None) -> NDArray[Any]:
        """One tensor, or some of its rows: bf16 as uint16 bits, every other dtype as float32."""
        computed = self._computed.get(name)
        if computed is None:
            return read_values(name, self._tensors[name], rows)
        first, last, _ = (rows or slice(None)).indices(computed.shape[0])
        return computed.read(slice(first, last)).astype(np.float32, copy=False)

    def config(self) -> dict[str, Any] | None:
        """The contents of config.json, or None if the folder has none."""
        path = self.companion("config.json")
        return None if path is None else read_json(path)

    def companion(self, name: str) -> Path | None:
        """The path of another file of the folder, such as tokenizer.json, or None."""
        return find_companion(self.folder, name)


def weight_files(folder: Path) -> tuple[str, ...]:
    """Names of the weight files that an index in the folder lists; CheckpointError if it is bad."""
    for _, index in LAYOUTS:
        if (folder / index).is_file():
            return tuple(_shards(folder, index))
    return ()


def _unsupported(description: str, method: str) -> CheckpointError:
    return CheckpointError(
        Problem(
            message=f"{description} is quantised with {method}, which ttc cannot read",
            note=f"it reads {', '.join(METHODS)} (FP8, int8 and int4)",
            help="give the checkpoint that it was made from, in bf16",
        )
    )


def _weight_files(folder: Path) -> tuple[dict[Path, frozenset[str]], str]:
    """The weight files of a folder, each with the tensor names the index expects in it; the index.

    An only file is taken before an index, as transformers has it.
    """
    for single, index in LAYOUTS:
        if (folder / single).is_file():
            return {folder / single: frozenset()}, index
        if (folder / index).is_file():
            return _indexed_files(folder, index), index
    found = sorted(entry.name for entry in folder.iterdir())
    listing = ", ".join(found[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "")
    raise CheckpointError(
        Problem(
            message=f"no weights in the checkpoint folder {folder}",
            note=f"expected {SINGLE_FILE} or {INDEX_FILE}; found {listing or 'an empty folder'}",
            help=f"give a folder that holds {SINGLE_FILE} or params.json, a .gguf file or a hub id",
        )
    )


def _indexed_files(folder: Path, index: str) -> dict[Path, frozenset[str]]:
    shards = _shards(folder, index)
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise CheckpointError([_missing_shard(folder, shard, shards, index) for shard in missing])
    return {folder / shard: frozenset(names) for shard, names in sorted(shards.items())}


def _shards(folder: Path, index: str) -> dict[str, set[str]]:
    """File names that an index gives, each with its tensors; a path is no name of a file."""
    weight_map: object = read_json(folder / index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            Problem(
                message=f"{folder / index} has no 'weight_map'",
                help="download the file again; it maps every tensor name to a shard",
            )
        )
    shards: dict[str, set[str]] = {}
    problems: list[Problem] = []
    for name, shard in sorted(cast(dict[str, object], weight_map).items()):
        if not isinstance(shard, str) or not _is_file_name(shard, index):
            problems.append(_outside(name, shard, folder / index))
        else:
            shards.setdefault(shard, set()).add(name)
    if problems:
        raise CheckpointError(problems[:10])
    return shards


def _is_file_name(shard: str, index: str) -> bool:
    suffix = PurePosixPath(index.removesuffix(".index.json")).suffix
    plain = PurePosixPath(shard).name == shard and "\\" not in shard and "\0" not in shard
    return plain and shard.endswith(suffix)


def _outside(name: str, shard: object, index: Path) -> Problem:
    return Problem(
        message=f"{index} places tensor '{name}' outside the checkpoint folder",
        note=f"expected the name of a file in the folder, found {shard!r}",
        help="download the index again; do not use a checkpoint that names other paths",
    )


def _missing_shard(folder: Path, shard: str, shards: Mapping[str, set[str]], index: str) -> Problem:
    names = sorted(shards[shard])
    present = [other for other in shards if (folder / other).is_file()]
    return Problem(
        message=f"missing shard {shard} in the checkpoint folder {folder}",
        note=f"{index} expects {len(names)} tensors in it, the first is '{names[0]}'",
        details=(f"{len(present)} of {len(shards)} shards are there",),
        help=how_to_get(folder / index, shard),
    )


def _check_against_index(
    path: Path, expected: frozenset[str], tensors: Mapping[str, StoredTensor], index: str
) -> None:
    absent = sorted(expected - tensors.keys())
    if absent:
        raise CheckpointError(
            Problem(
                message=f"{path} lacks {len(absent)} tensors that {index} expects in it",
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
