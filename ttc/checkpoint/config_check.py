"""Compare what a checkpoint says of itself with the spec: a difference means wrong numbers."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from math import isclose
from typing import Any, cast

from ttc.checkpoint.files import Checkpoint
from ttc.checkpoint.gguf_file import ROPE_FACTORS
from ttc.checkpoint.rope_config import rope_scaling
from ttc.errors import CheckpointError, Problem
from ttc.spec.model import ModelSpec
from ttc.spec.rope import inverse_frequencies

DIM_FIELDS = {
    "hidden_size": "hidden",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads",
    "head_dim": "head_dim",
    "intermediate_size": "ffn",
    "vocab_size": "vocab",
}
DEFAULT_THETA = 10000.0  # of transformers and of GGUF readers, when a checkpoint gives none
UNSCALED = ("default", "none")
SCALING_FIELDS = {
    "factor": "factor",
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
    "original_max_position_embeddings": "original_context_tokens",
    "attention_factor": "attention_factor",
    "beta_fast": "beta_fast",
    "beta_slow": "beta_slow",
    "truncate": "truncate",
    "short_factor": "short_factors",
    "long_factor": "long_factors",
}
FLOAT_TOLERANCE = 1e-6  # GGUF stores float32
FACTOR_TOLERANCE = 1e-4


def check_config(spec: ModelSpec, checkpoint: Checkpoint) -> None:
    """CheckpointError with every field in which config.json (or metadata) and spec differ.

    A field that the checkpoint does not give is taken as transformers takes it; a checkpoint
    without any configuration passes, its tensor shapes are all there is to compare.
    """
    config = checkpoint.config()
    if config is None:
        return
    problems = [
        *_architecture(spec, config),
        *_dims(spec, config),
        *_settings(spec, config),
        *_scaling(spec, config),
    ]
    if problems:
        raise CheckpointError(problems)


def check_rope_factors(spec: ModelSpec, checkpoint: Checkpoint) -> None:
    """Compare the frequencies that a GGUF file stores as factors with those of the spec."""
    if checkpoint.format != "gguf" or ROPE_FACTORS not in checkpoint.names():
        return
    rotary_dim = spec.dims.rotary_dim
    factors = cast(list[float], checkpoint.read(ROPE_FACTORS).tolist())
    expected = inverse_frequencies(spec.rope, rotary_dim, spec.max_context_tokens)
    found = [
        spec.rope.theta ** (-2 * i / rotary_dim) / factor if factor else float("inf")
        for i, factor in enumerate(factors)
    ]
    if len(found) != len(expected):
        message = f"{len(expected)} RoPE frequencies in the spec, {len(found)} in the checkpoint"
        raise CheckpointError(_frequencies_differ(spec, message))
    for i, (ours, theirs) in enumerate(zip(expected, found, strict=True)):
        if not isclose(ours, theirs, rel_tol=FACTOR_TOLERANCE):
            message = (
                f"RoPE frequency {i} is {ours:.6g} in the spec, {theirs:.6g} in the checkpoint"
            )
            raise CheckpointError(_frequencies_differ(spec, message))


def _frequencies_differ(spec: ModelSpec, message: str) -> Problem:
    return Problem(
        message=message,
        at=spec.source_of("rope"),
        help="correct rope in the spec, or give another checkpoint",
    )


def _architecture(spec: ModelSpec, config: Mapping[str, Any]) -> Iterator[Problem]:
    classes = cast(list[object], config.get("architectures") or [])
    known = spec.architecture.hf_classes
    if classes and not any(name in known for name in classes):
        yield Problem(
            message=f"the checkpoint is a {classes[0]}, the spec's architecture "
            f"'{spec.architecture.name}' is {' or '.join(known)}",
            at=spec.source_of("architecture"),
            help="choose the architecture of the checkpoint, or give another checkpoint",
        )


def _dims(spec: ModelSpec, config: Mapping[str, Any]) -> Iterator[Problem]:
    given = {field: config.get(field) for field in DIM_FIELDS}
    heads, hidden = given["num_attention_heads"], given["hidden_size"]
    if given["num_key_value_heads"] is None:
        given["num_key_value_heads"] = heads
    if given["head_dim"] is None and isinstance(heads, int) and isinstance(hidden, int) and heads:
        given["head_dim"] = hidden // heads
    dims = asdict(spec.dims)
    for field, name in DIM_FIELDS.items():
        if given[field] is not None and given[field] != dims[name]:
            yield _differs(spec, f"dims.{name}", dims[name], field, given[field])


def _settings(spec: ModelSpec, config: Mapping[str, Any]) -> Iterator[Problem]:
    eps, tie = config.get("rms_norm_eps"), config.get("tie_word_embeddings")
    theta = _rope(config).get("rope_theta", config.get("rope_theta", DEFAULT_THETA))
    if eps is not None and not _close(eps, spec.norm_eps):
        yield _differs(spec, "norm_eps", spec.norm_eps, "rms_norm_eps", eps)
    if tie is not None and tie != spec.tie_embeddings:
        yield _differs(spec, "tie_embeddings", spec.tie_embeddings, "tie_word_embeddings", tie)
    if not _close(theta, spec.rope.theta):
        yield _differs(spec, "rope.theta", spec.rope.theta, "rope_theta", theta)


def _scaling(spec: ModelSpec, config: Mapping[str, Any]) -> Iterator[Problem]:
    if "rope_scaling" not in config and "rope_parameters" not in config:
        return
    given, ours = _rope(config), rope_scaling(spec.rope) or {"rope_type": "none"}
    kind = given.get("rope_type", given.get("type")) or "none"
    if (kind if kind not in UNSCALED else "none") != ours["rope_type"]:
        yield _differs(spec, "rope.kind", ours["rope_type"], "rope_scaling", kind)
        return
    for field, value in ours.items():
        if field in given and field != "rope_type" and not _same(given[field], value):
            yield _differs(spec, f"rope.{SCALING_FIELDS[field]}", value, field, given[field])


def _rope(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The RoPE settings: `rope_scaling`, or `rope_parameters` as transformers 5 writes them."""
    value: object = config.get("rope_parameters") or config.get("rope_scaling")
    return cast(Mapping[str, Any], value) if isinstance(value, dict) else {}


def _close(value: object, expected: float) -> bool:
    return isinstance(value, int | float) and isclose(value, expected, rel_tol=FLOAT_TOLERANCE)


def _same(value: object, expected: float | list[float]) -> bool:
    if isinstance(expected, list):
        given = cast(list[object], value if isinstance(value, list) else [])
        return len(given) == len(expected) and all(map(_close, given, expected))
    return _close(value, expected)


def _differs(spec: ModelSpec, path: str, ours: object, field: str, theirs: object) -> Problem:
    name = path.split(".")[-1]
    return Problem(
        message=f"{name} is {_yaml(ours)} in the spec, {_yaml(theirs)} in the checkpoint",
        at=spec.source_of(path),
        note=f"the checkpoint has {field}: {_yaml(theirs)}",
        help=f"write {name}: {_yaml(theirs)}, or give another checkpoint",
    )


def _yaml(value: object) -> str:
    """A value as one would write it in YAML: true, 10000 and 1.0e-05, not True, 10000.0, 1e-05."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        text = repr(int(value) if value.is_integer() else value)
        return text.replace("e", ".0e") if "." not in text else text
    return str(value)
