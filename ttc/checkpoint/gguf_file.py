# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
"""A GGUF file as a checkpoint: tensors dequantised one at a time, metadata as configuration."""

import json
from collections.abc import Mapping
from functools import cache
from math import nextafter
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from gguf import GGMLQuantizationType, dequantize
from numpy.typing import NDArray

from ttc.checkpoint.companions import find_companion
from ttc.checkpoint.fingerprint import SourceFiles
from ttc.checkpoint.gguf_header import Value, read_gguf_header
from ttc.errors import CheckpointError, Problem, did_you_mean

# Metadata key after "<architecture>." -> field of a Hugging Face config.json.
CONFIG_FIELDS = {
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "feed_forward_length": "intermediate_size",
    "vocab_size": "vocab_size",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.layer_norm_epsilon": "layer_norm_eps",
    "use_parallel_residual": "use_parallel_residual",
    "rope.freq_base": "rope_theta",
    "context_length": "max_position_embeddings",
    "attention.key_length": "head_dim",
}
ROPE_FACTORS = "rope_freqs.weight"  # theta^(2i/head_dim) of each pair is multiplied by these
HEAD = "output.weight"
TOKENS = "tokenizer.ggml.tokens"


class GgufFile:
    """The tensors of one GGUF file, under the names of its own convention."""

    format: Literal["gguf"] = "gguf"

    def __init__(self, path: Path, description: str, notes: Path | None = None) -> None:
        """Read and check the header; CheckpointError for a damaged, split or unknown file."""
        self.path = path
        self.description = description
        self._files = SourceFiles([path], notes)
        header = read_gguf_header(path)
        self.metadata = header.metadata
        self._tensors = header.tensors
        self.architecture = _architecture(path, header.metadata)
        self.rotary_rows: Literal["halves", "pairs"] = gguf_formats()["architectures"][
            self.architecture
        ]["rotary_rows"]

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of the contents of the file. Hashed on first use."""
        return self._files.fingerprint

    def check_unchanged(self) -> None:
        """CheckpointError if a weight file is not what it was when the checkpoint was opened."""
        self._files.check_unchanged()

    def names(self) -> tuple[str, ...]:
        """Every tensor name, sorted."""
        return tuple(sorted(self._tensors))

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape in Hugging Face's order: [out, in] for a matrix."""
        return self._tensors[name].shape

    def unreadable(self, name: str) -> str:
        """Why `read` cannot give this tensor, or an empty string."""
        kind = self._tensors[name].kind
        block = np.zeros((1, self._tensors[name].row_bytes), dtype=np.uint8)
        try:
            dequantize(block, kind)
        except NotImplementedError:
            return f"stored as {kind.name}, which the gguf package cannot dequantise"
        return ""

    def read(self, name: str, rows: slice | None = None) -> NDArray[Any]:
        """One tensor, or some of its rows, dequantised to float32; bf16 as uint16 bits."""
        stored = self._tensors[name]
        first, last, _ = (rows or slice(None)).indices(stored.shape[0])
        shape, offset, size_bytes = (
            stored.shape,
            stored.span.offset,
            stored.span.size_bytes,
        )
        if rows is not None:
            assert len(shape) > 1, "only a matrix can be read by rows"
            step = size_bytes // shape[0]
            offset, size_bytes = offset + first * step, (last - first) * step
            shape = (last - first, *shape[1:])
        data = self._bytes(name, offset, size_bytes)
        if stored.kind == GGMLQuantizationType.BF16:
            return data.view("<u2").reshape(shape)
        values = dequantize(data.reshape(-1, stored.row_bytes), stored.kind)
        return np.ascontiguousarray(values, dtype=np.float32).reshape(shape)

    def _bytes(self, name: str, offset: int, size_bytes: int) -> NDArray[np.uint8]:
        try:
            with self.path.open("rb") as file:
                file.seek(offset)
                data = bytearray(file.read(size_bytes))
            found = f"expected {size_bytes:,} bytes, found {len(data):,}"
        except OSError as error:
            data, found = bytearray(), error.strerror or str(error)
        if len(data) != size_bytes:
            raise CheckpointError(
                Problem(
                    message=f"cannot read tensor '{name}' from {self.path}",
                    note=found,
                    help="the file changed after it was opened; run the command again",
                )
            )
        return np.frombuffer(data, dtype=np.uint8)

    def config(self) -> dict[str, Any]:
        """What the metadata says, under the names of a Hugging Face config.json."""
        entry = gguf_formats()["architectures"][self.architecture]
        config: dict[str, Any] = {"architectures": entry["hf_classes"]}
        for key, field in CONFIG_FIELDS.items():
            if (value := self.metadata.get(f"{self.architecture}.{key}")) is not None:
                config[field] = _plain_number(value)
        turning = self.metadata.get(f"{self.architecture}.rope.dimension_count")
        sizes = (config.get("hidden_size"), config.get("num_attention_heads"))
        match (turning, *sizes):
            case int(elements), int(hidden), int(heads) if heads:
                config.setdefault("head_dim", hidden // heads)
                factor = elements / config["head_dim"]
                whole = int(factor * config["head_dim"]) == elements  # a product is cut off
                config["partial_rotary_factor"] = factor if whole else nextafter(factor, 1.0)
            case _:
                pass
        if "vocab_size" not in config and isinstance(self.metadata.get(TOKENS), tuple):
            config["vocab_size"] = len(cast(tuple[str, ...], self.metadata[TOKENS]))
        config["tie_word_embeddings"] = HEAD not in self._tensors
        scaling = self.metadata.get(f"{self.architecture}.rope.scaling.type", "none")
        if scaling != "none":
            config["rope_scaling"] = {"rope_type": scaling}
        elif ROPE_FACTORS not in self._tensors:
            config["rope_scaling"] = None
        return config

    def companion(self, name: str) -> Path | None:
        """The path of a file that lies beside the GGUF file, or None."""
        return find_companion(self.path.parent, name)


@cache
def gguf_formats() -> dict[str, Any]:
    """What GGUF's names mean: row order of each architecture, splits of each tokenizer."""
    text = Path(__file__).with_name("gguf_formats.json").read_text(encoding="utf-8")
    return cast(dict[str, Any], json.loads(text))


def _architecture(path: Path, metadata: Mapping[str, Value]) -> str:
    if metadata.get("split.count", 1) not in (0, 1):
        raise CheckpointError(
            Problem(
                message=f"{path} is one of {metadata['split.count']} parts of a split file",
                help="merge the parts (gguf-split --merge) and give the merged file",
            )
        )
    known = {name for name in gguf_formats()["architectures"] if name != "source"}
    name = metadata.get("general.architecture")
    if name not in known:
        raise CheckpointError(
            Problem(
                message=f"{path} has an architecture that ttc cannot read from GGUF",
                note=f"general.architecture is {name!r}",
                help=did_you_mean(str(name), known) + "; or give the Hugging Face checkpoint",
            )
        )
    return str(name)


def _plain_number(value: Value) -> Value:
    """A number as it was written: GGUF stores 1e-5 as the float32 9.999999747378752e-06."""
    return float(f"{value:.7g}") if isinstance(value, float) else value
