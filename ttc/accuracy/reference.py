# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
"""References: a text's tokens, and what a trusted model thinks comes after each of them.

A reference is a .refpt file, which tt-transformers reads and writes too: `torch.save` of a dict.

    reference_tokens  int64 [1, tokens]
    top5_tokens       int64 [tokens - 1, 5], the best first; row i is about token i + 1
    top_tokens        int32 [tokens - 1, 1000], and
    top_log_probs     float32, of the same shape: natural logarithms
    true_log_probs    float32 [tokens - 1], of the token that truly comes next

Only ttc writes the last three; without them there is no KL divergence.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from ttc.checkpoint.files import Checkpoint
from ttc.errors import Problem, UsageError
from ttc.spec.model import ModelSpec
from ttc.verify.compare import log_softmax
from ttc.verify.reference import build_reference

KEPT = 1000
"""Likeliest tokens of a position that are kept; the others share one bucket of probability."""

type Ids = NDArray[np.int64]
type Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What the reference model expects after each token of a text but the last.

    top_ids    [positions, n], the best first, n at least 5
    top_log_probs  [positions, n], natural logarithms
    true_log_probs  [positions], of the text's next token; both None where the file does not say
    """

    token_ids: tuple[int, ...]
    top_ids: Ids
    top_log_probs: Floats | None
    true_log_probs: Floats | None

    @property
    def positions(self) -> int:
        return len(self.top_ids)


def reduce_logits(token_ids: Sequence[int], logits: NDArray[np.float32]) -> Reference:
    """The reference that logits [tokens - 1, vocab] make."""
    kept = min(KEPT, logits.shape[1])
    best = np.argpartition(-logits, kept - 1, axis=1)[:, :kept]
    values = np.take_along_axis(logits, best, 1)
    order = np.argsort(-values, axis=1, kind="stable")
    ids = np.take_along_axis(best, order, 1).astype(np.int64)
    log_probs = log_softmax(logits)
    return Reference(
        token_ids=tuple(token_ids),
        top_ids=ids,
        top_log_probs=np.take_along_axis(log_probs, ids, 1),
        true_log_probs=log_probs[np.arange(len(logits)), list(token_ids[1:])],
    )


def make_reference(spec: ModelSpec, checkpoint: Checkpoint, token_ids: Sequence[int]) -> Reference:
    """Ask Hugging Face transformers, in float32 and with the checkpoint's own tensors."""
    model = build_reference(spec, checkpoint)
    with torch.inference_mode():
        logits = model(torch.tensor([list(token_ids[:-1])])).logits[0].float().numpy()
    return reduce_logits(token_ids, cast(NDArray[np.float32], logits))


def reference_path(folder: Path, fingerprint: str, token_ids: Sequence[int]) -> Path:
    """Where the reference of a checkpoint for a text is kept."""
    parts = (fingerprint, version("transformers"), "float32", *map(str, token_ids))
    return folder / f"{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:32]}.refpt"


def save_reference(path: Path, reference: Reference) -> None:
    """Write a .refpt file; it appears when it is complete."""
    data = {
        "reference_tokens": torch.tensor([reference.token_ids]),
        "top5_tokens": torch.from_numpy(np.ascontiguousarray(reference.top_ids[:, :5])),
    }
    if reference.top_log_probs is not None and reference.true_log_probs is not None:
        data["true_log_probs"] = torch.from_numpy(reference.true_log_probs.astype(np.float32))
        data["top_tokens"] = torch.from_numpy(reference.top_ids.astype(np.int32))
        data["top_log_probs"] = torch.from_numpy(reference.top_log_probs.astype(np.float32))
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    torch.save(data, unfinished)
    unfinished.rename(path)


def load_reference(path: Path) -> Reference:
    """Read a .refpt file of ttc or of tt-transformers. Raises UsageError if it is none."""
    try:
        data = torch.load(path, weights_only=True, map_location="cpu")
        tokens = tuple(int(token) for token in data["reference_tokens"].flatten())
        five = data["top5_tokens"].reshape(-1, data["top5_tokens"].shape[-1])
        ids = data.get("top_tokens", five).numpy().astype(np.int64)
        known = {
            name: data[name].numpy().astype(np.float64)[: len(tokens) - 1]
            for name in ("top_log_probs", "true_log_probs")
            if name in data
        }
    except FileNotFoundError:
        raise UsageError(Problem(message=f"there is no file {path}")) from None
    except Exception as error:  # whatever torch makes of a file that is not one of its own
        raise UsageError(
            Problem(
                message=f"{path} is not a reference",
                note="a reference is a .refpt file: tokens of a text, reference_tokens, and what "
                "Hugging Face finds likeliest after each, top5_tokens",
                details=(error.strerror,) if isinstance(error, OSError) and error.strerror else (),
                help="make one with --make-reference; a text file is given with --text",
            )
        ) from error
    if len(ids) < len(tokens) - 1 or ids.ndim != 2 or ids.shape[1] < 5:
        shape = "x".join(map(str, ids.shape))
        message = f"{path} holds {len(tokens)} tokens and best tokens of shape {shape}"
        raise UsageError(Problem(message=message, help="expected 5 for every token but the last"))
    return Reference(
        token_ids=tokens,
        top_ids=ids[: len(tokens) - 1],  # a file may say more: what comes after the last token
        top_log_probs=known.get("top_log_probs"),
        true_log_probs=known.get("true_log_probs"),
    )
