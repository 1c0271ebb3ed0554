"""What a checkpoint says before a tensor is read: configuration, tensor names and shapes.

A folder is opened as it is. Of a repository on the Hugging Face hub config.json and the headers of
its safetensors files are fetched (by range requests), and no weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ttc.checkpoint.files import HUB_ID, Headers, open_checkpoint
from ttc.checkpoint.stored import PLAIN_DTYPES
from ttc.errors import CheckpointError, Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteHeaders:
    """The headers of a repository; `tensors` is name -> (dtype, shape)."""

    description: str
    tensors: Mapping[str, tuple[str, tuple[int, ...]]]
    fields: Mapping[str, Any]
    format: Literal["hf"] = "hf"
    rotary_rows: Literal["halves"] = "halves"

    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self.tensors))

    def shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name][1]

    def unreadable(self, name: str) -> str:
        dtype = self.tensors[name][0]
        return "" if dtype in PLAIN_DTYPES else f"stored as {dtype}"

    def config(self) -> Mapping[str, Any]:
        return self.fields


def open_headers(source: str) -> Headers:
    """The headers of a local checkpoint or of a repository ORG/NAME[@REVISION] on the hub.

    CheckpointError if there is no such checkpoint, or the hub cannot be reached.
    """
    hub = HUB_ID.fullmatch(source)
    if hub is None or Path(source).expanduser().exists() or source.endswith(".gguf"):
        return open_checkpoint(source)
    from ttc.checkpoint.hub import remote_headers  # 0.4 s that local files do not need

    fields, tensors = remote_headers(hub["id"], hub["revision"])
    if fields.get("quantization_config"):
        raise CheckpointError(
            Problem(
                message=f"{source} is quantised: its headers do not show the shapes of its weights",
                help="download it, and name the folder",
            )
        )
    return RemoteHeaders(description=source, tensors=tensors, fields=fields)
