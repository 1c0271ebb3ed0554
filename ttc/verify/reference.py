"""Reference logits: Hugging Face transformers in float32, on the checkpoint's own tensors."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
import hashlib
import os
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from ttc.checkpoint.config_reading import TEXT_PARTS, text_part
from ttc.checkpoint.files import Checkpoint
from ttc.checkpoint.layouts import row_order
from ttc.checkpoint.names import Binding, BoundTensor, bind
from ttc.checkpoint.packing import widen_bf16
from ttc.checkpoint.rope_config import rope_scaling
from ttc.errors import CheckpointError, Problem
from ttc.spec.architecture import ROW
from ttc.spec.model import ModelSpec

TEXT = Path(__file__).parent / "texts" / "tower.txt"
"""The text that verification scores: a few sentences with names, numbers and commas."""


def reference_logits(
    spec: ModelSpec, checkpoint: Checkpoint, token_ids: Sequence[int], cache: Path
) -> NDArray[np.float32]:
    """Logits [tokens, vocab] after each token, from the cache folder if they are there already."""
    path = cache / f"{_key(checkpoint, token_ids)}.npy"
    if path.exists():
        return cast(NDArray[np.float32], np.load(path))
    model = build_reference(spec, checkpoint)
    with torch.inference_mode():
        logits = model(torch.tensor([list(token_ids)])).logits[0].float().numpy()
    cache.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}.npy")
    np.save(unfinished, logits)
    unfinished.rename(path)
    return logits


def build_reference(spec: ModelSpec, checkpoint: Checkpoint) -> Any:
    """The transformers model of a checkpoint, in float32, ready to be called."""
    import transformers  # takes seconds, and only the first verification of a checkpoint needs it
    from transformers.modeling_utils import no_init_weights

    fields = checkpoint.config()
    if fields is None:
        raise CheckpointError(
            Problem(
                message=f"{checkpoint.description} says nothing about its configuration",
                help="put the config.json of the model beside the weights",
            )
        )
    classes = spec.architecture.hf_classes
    # A model with vision keeps its text model in a part, which is what the first class is.
    whole = not any(isinstance(fields.get(part), dict) for part in TEXT_PARTS)
    name = ((fields.get("architectures") if whole else None) or classes)[0]
    model_class = getattr(cast(Any, transformers), name)
    config = model_class.config_class(**(_rotation(spec) | text_part(fields)))
    with no_init_weights():
        # Not torch's own attention, which drops the soft cap of scores (transformers 4.57).
        model = model_class._from_config(config, dtype=torch.float32, attn_implementation="eager")
    state = dict(_tensors_by_hugging_face_name(spec, checkpoint, bind(spec, checkpoint)))
    checkpoint.check_unchanged()  # answers are kept under the name of what was hashed
    missing, unexpected = model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    tied = set(model._tied_weights_keys or ()) if config.tie_word_embeddings else set[str]()
    assert not unexpected, f"transformers has no place for {unexpected}"
    assert set(missing) <= tied, f"transformers also needs {missing}"
    return model.eval()


def _rotation(spec: ModelSpec) -> dict[str, Any]:
    """The keys of RoPE, for files that do not have them: transformers 4 does not know the spelling
    of transformers 5, and GGUF files store the factors of scaled RoPE as a tensor.
    """
    local = spec.local_rope
    tables = {"rope_local_base_freq": local.theta} if local is not None else {}
    return {"rope_scaling": rope_scaling(spec.rope), "rope_theta": spec.rope.theta} | tables


def _tensors_by_hugging_face_name(
    spec: ModelSpec, checkpoint: Checkpoint, binding: Binding
) -> Iterator[tuple[str, torch.Tensor]]:
    architecture = spec.architecture
    weights = [("", weight) for weight in architecture.weights]
    for layer in range(spec.dims.layers):
        weights += [(f"decoders.{layer}.", weight) for weight in architecture.decoder_weights]
    parts: dict[str, list[torch.Tensor]] = {}  # of tensors that hold several weights
    for place, weight in weights:
        if spec.tie_embeddings and weight.group == "lm_head":
            continue
        bound = binding.tensors[place + weight.name]
        values = _rows_of(checkpoint, bound)
        layer = place.removeprefix("decoders.").removesuffix(".")
        prefix = architecture.prefixes["hf"].replace("{i}", layer) if place else ""
        if bound.rows == "pairs":  # all of a head turns where a format stores pairs
            values = values[row_order(values.shape[0], bound.heads, "pairs", "halves")]
        if ROW in weight.hf:
            for row, each in enumerate(values):
                yield prefix + weight.hf.replace(ROW, str(row)), torch.from_numpy(each)
            continue
        parts.setdefault(prefix + weight.hf, []).append(torch.from_numpy(values))
        if architecture.is_last(weight):
            yield prefix + weight.hf, torch.cat(parts.pop(prefix + weight.hf))


def _rows_of(checkpoint: Checkpoint, bound: BoundTensor) -> NDArray[np.float32]:
    """A weight as float32, with its rows as they are stored."""
    if ROW in bound.name:
        values = np.stack([checkpoint.read(name) for name in bound.tensors])
    else:
        values = checkpoint.read(bound.name)[bound.first : bound.first + bound.shape[0]]
    return widen_bf16(values) if values.dtype == np.uint16 else values


def _key(checkpoint: Checkpoint, token_ids: Sequence[int]) -> str:
    """What the logits depend on."""
    parts = (
        checkpoint.fingerprint,
        version("transformers"),
        "float32, eager",
        *map(str, token_ids),
    )
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:32]
