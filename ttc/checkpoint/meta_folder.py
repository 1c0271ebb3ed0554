"""A folder as Meta publishes it: params.json, consolidated.NN.pth and tokenizer.model.

Several files hold a part of every matrix each, one for each rank of the model-parallel group that
wrote them; here they are joined while they are read. Files named layers_A-B.pth, as tt-transformers
repacks them, hold whole tensors of some layers.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from ttc.checkpoint.companions import find_companion
from ttc.checkpoint.fingerprint import SourceFiles
from ttc.checkpoint.pickles import read_pickle
from ttc.checkpoint.stored import PLAIN_DTYPES, StoredTensor, read_json, read_values
from ttc.errors import CheckpointError, Problem

PARAMS = "params.json"
QUERY = "layers.0.attention.wq.weight"
SHARDS, REPACKED = "consolidated.*.pth", "layers_*.pth"
EMBEDDING = "tok_embeddings.weight"
JOINED_BY_COLUMNS = ("attention.wo.weight", "feed_forward.w2.weight")
"""What a rank holds of these are columns, of all other matrices rows; the embedding has been both
(llama-models, models/llama3/model.py: RowParallelLinear, ColumnParallelLinear)."""
SCALED_ROPE = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
"""`use_scaled_rope` (llama-models, models/llama3/model.py: apply_scaling). The factor is that of
the release; where params.json does not say it, whoever compares takes the rest."""
SCALING = {"rope_scaling_factor": "factor", "rope_high_freq_factor": "high_freq_factor"}
"""Keys of params.json that say a part of the scaling all the same."""
DEFAULT_THETA = 10000.0
DEFAULT_MULTIPLE = 256
LARGEST = 1e9  # of any number in params.json
READ = {  # least value, and whether it must be there
    "dim": (1, True),
    "n_layers": (1, True),
    "n_heads": (1, True),
    "n_kv_heads": (1, False),
    "multiple_of": (1, False),
    "ffn_dim_multiplier": (0, False),
    "norm_eps": (0, False),
    "rope_theta": (0, False),
    "rope_scaling_factor": (1, False),
    "rope_high_freq_factor": (1, False),
}
KNOWN = {*READ, "use_scaled_rope", "vocab_size", "max_batch_size", "max_seq_len"}
"""The last three say nothing: the rows of the embedding are counted, and -1 stands for them; the
other two are the size of somebody's KV cache."""


def is_meta_folder(path: Path) -> bool:
    """Whether a path is a folder in this layout, as far as its file names say."""
    return (path / PARAMS).is_file() and any(
        True for pattern in (SHARDS, REPACKED) for _ in path.glob(pattern)
    )


class MetaFolder:
    """The tensors of Meta's files, under Meta's names, as if they were not in parts."""

    format: Literal["meta"] = "meta"
    rotary_rows: Literal["pairs"] = "pairs"

    def __init__(self, folder: Path, description: str, notes: Path | None = None) -> None:
        """Read and check all headers; CheckpointError if the parts of a tensor do not match."""
        self.folder = folder
        self.description = description
        self._params = _read_params(folder / PARAMS)
        sharded = sorted(folder.glob(SHARDS))
        paths = sharded or sorted(folder.glob(REPACKED))
        self._files = SourceFiles(paths, notes)
        contents = {path: read_pickle(path) for path in paths}
        self._parts = _by_rank(contents) if sharded else _by_layer(contents)
        self._axes = {name: self._axis(name, parts) for name, parts in self._parts.items()}
        if sharded:
            self._check_complete(len(paths))
        for name, parts in self._parts.items():
            _check_parts(name, parts, self._axes[name])

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of the contents of all files. Hashed on first use."""
        return self._files.fingerprint

    def check_unchanged(self) -> None:
        """CheckpointError if a weight file is not what it was when the checkpoint was opened."""
        self._files.check_unchanged()

    def names(self) -> tuple[str, ...]:
        """Every tensor name, sorted."""
        return tuple(sorted(self._parts))

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of the joined tensor: [out, in] for a matrix."""
        parts, axis = self._parts[name], self._axes[name]
        shape = list(parts[0].shape)
        if axis is not None:
            shape[axis] = sum(part.shape[axis] for part in parts)
        return tuple(shape)

    def unreadable(self, name: str) -> str:
        """Why `read` cannot give this tensor, or an empty string."""
        wrong = [part.dtype for part in self._parts[name] if part.dtype not in PLAIN_DTYPES]
        return f"stored as {wrong[0]}; {', '.join(PLAIN_DTYPES)} can be read" if wrong else ""

    def read(self, name: str, rows: slice | None = None) -> NDArray[Any]:
        """One tensor, or some of its rows: bf16 as uint16 bits, every other dtype as float32."""
        parts, axis = self._parts[name], self._axes[name]
        if axis is None:
            return read_values(name, parts[0], rows)
        if axis == 1:
            return np.concatenate([read_values(name, part, rows) for part in parts], axis=1)
        first, last, _ = (rows or slice(None)).indices(self.shape(name)[0])
        pieces: list[NDArray[Any]] = []
        for part in parts:
            held = part.shape[0]
            if first < min(last, held):
                pieces.append(read_values(name, part, slice(first, min(last, held))))
            first, last = max(first - held, 0), max(last - held, 0)
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def config(self) -> dict[str, Any]:
        """What params.json says, under the names of a Hugging Face config.json.

        A key that is not known stays under its own name.
        """
        params = self._params
        dim, heads = int(params["dim"]), int(params["n_heads"])
        config: dict[str, Any] = {key: each for key, each in params.items() if key not in KNOWN}
        config |= {
            "architectures": ["LlamaForCausalLM"],
            "hidden_size": dim,
            "num_hidden_layers": int(params["n_layers"]),
            "num_attention_heads": heads,
            "num_key_value_heads": int(params.get("n_kv_heads") or heads),
            "head_dim": dim // heads,
            "intermediate_size": ffn_size(params),
            "rms_norm_eps": float(params.get("norm_eps", 1e-5)),
            "rope_theta": float(params.get("rope_theta", DEFAULT_THETA)),
            "rope_scaling": _scaling(params),
        }
        if EMBEDDING in self._parts:
            config["vocab_size"] = self.shape(EMBEDDING)[0]
        return config

    def companion(self, name: str) -> Path | None:
        """The path of another file of the folder, such as tokenizer.model, or None."""
        return find_companion(self.folder, name)

    def _check_complete(self, files: int) -> None:
        """CheckpointError where the parts of a query projection are not as wide as the model."""
        dim = int(self._params["dim"])
        rows = self.shape(QUERY)[0] if QUERY in self._parts else dim
        part = rows // files
        if part and rows < dim and dim % part == 0:
            needed = dim // part
            raise CheckpointError(
                Problem(
                    message=f"{self.description} is not complete: {files} of {needed} parts are "
                    "there",
                    note=f"'{QUERY}' has {rows} of {dim} rows",
                    help=f"download all of consolidated.00.pth to consolidated.{needed - 1:02}.pth",
                )
            )

    def _axis(self, name: str, parts: tuple[StoredTensor, ...]) -> int | None:
        """The dim along which the parts are joined; None if there is one, or all are the same."""
        shape = parts[0].shape
        if len(parts) == 1 or len(shape) != 2:
            return None
        if name == EMBEDDING:
            return 0 if shape[1] == self._params["dim"] else 1
        return 1 if name.endswith(JOINED_BY_COLUMNS) else 0


def _scaling(params: Mapping[str, Any]) -> dict[str, Any] | None:
    """`rope_scaling`, without the factor where params.json does not say it."""
    if not params.get("use_scaled_rope"):
        return None
    said = {name: float(params[key]) for key, name in SCALING.items() if key in params}
    return {**SCALED_ROPE, **said}


def ffn_size(params: Mapping[str, Any]) -> int:
    """The width of the feed-forward: 2/3 of 4 dim, times a factor, up to a multiple."""
    width = int(2 * 4 * int(params["dim"]) / 3)
    if params.get("ffn_dim_multiplier") is not None:
        width = int(float(params["ffn_dim_multiplier"]) * width)
    multiple = int(params.get("multiple_of", DEFAULT_MULTIPLE))
    return -(-width // multiple) * multiple


def _read_params(path: Path) -> dict[str, Any]:
    """params.json; CheckpointError unless every number that is used is one, and possible."""
    params = read_json(path)
    problems: list[Problem] = []
    for name, (least, needed) in READ.items():
        value = params.get(name)
        if value is None and not needed:
            continue
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not least <= cast(float, value) <= LARGEST:
            problems.append(
                Problem(
                    message=f"{path} has {name}: {value!r}, expected a number from {least:g}",
                    help="download the file again",
                )
            )
    if problems:
        raise CheckpointError(problems)
    return {name: value for name, value in params.items() if value is not None}


type _Contents = Mapping[Path, Mapping[str, StoredTensor]]


def _by_rank(contents: _Contents) -> dict[str, tuple[StoredTensor, ...]]:
    """Every tensor's parts, in the order of the file names."""
    files = list(contents.items())
    names = set(files[0][1])
    for path, tensors in files[1:]:
        if different := sorted(names ^ set(tensors)):
            raise CheckpointError(
                Problem(
                    message=f"{path} and {files[0][0].name} hold different tensors",
                    note=f"'{different[0]}' is in one of them only",
                    help="download the files again; all of one model are needed",
                )
            )
    return {name: tuple(tensors[name] for _, tensors in files) for name in names}


def _by_layer(contents: _Contents) -> dict[str, tuple[StoredTensor, ...]]:
    parts: dict[str, tuple[StoredTensor, ...]] = {}
    for path, tensors in contents.items():
        for name, tensor in tensors.items():
            if name in parts:
                raise CheckpointError(
                    Problem(
                        message=f"tensor '{name}' is stored twice",
                        note=f"in {parts[name][0].path.name} and in {path.name}",
                        help="remove the file that does not belong to this checkpoint",
                    )
                )
            parts[name] = (tensor,)
    return parts


def _check_parts(name: str, parts: tuple[StoredTensor, ...], axis: int | None) -> None:
    def fixed(part: StoredTensor) -> tuple[object, ...]:
        return part.dtype, *(size for dim, size in enumerate(part.shape) if dim != axis)

    for part in parts[1:]:
        if fixed(part) != fixed(parts[0]):
            raise CheckpointError(
                Problem(
                    message=f"the parts of '{name}' do not fit together",
                    note=f"{parts[0].dtype} {list(parts[0].shape)} in {parts[0].path.name}, "
                    f"{part.dtype} {list(part.shape)} in {part.path.name}",
                    help="download the files again; all of one model are needed",
                )
            )
