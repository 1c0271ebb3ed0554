"""The YAML of a spec, as a person would write it."""

import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, cast

from ttc.checkpoint.config_reading import Reading, shortest_cycle
from ttc.spec.architecture import Architecture
from ttc.spec.model import MERGED, ModelSpec
from ttc.spec.rope import (
    BETA_FAST,
    BETA_SLOW,
    LongRope,
    Rope,
    Yarn,
    longrope_attention_factor,
    rope_fields,
    yarn_attention_factor,
)

WIDTH = 100
SCHEMA = "# yaml-language-server: $schema=../ttc/schemas/{}.schema.json"


def spec_fields(reading: Reading, architecture: Architecture) -> dict[str, object]:
    """What a configuration says, as the fields of a spec without `model` and `architecture`.

    Fields that a spec leaves out where they say nothing are left out, and so are numbers that have
    the value which the architecture takes anyway.
    """
    values = reading.values
    numbers = _under("numbers.", values)
    return _fields(
        dims=_under("dims.", values),
        norm_eps=values.get("norm_eps"),
        rope=reading.rope,
        local_rope=reading.local_rope,
        numbers={
            name: value
            for name, value in numbers.items()
            if value != architecture.numbers.get(name)
        },
        options=_unusual(_under("options.", values), architecture),
        kinds=shortest_cycle(reading.kinds),
        tie_embeddings=values.get("tie_embeddings"),
        max_context_tokens=values.get("max_context_tokens"),
    )


def fields_of(spec: ModelSpec) -> dict[str, object]:
    """A spec as the fields that a variant of it inherits."""
    return {"architecture": spec.architecture.name} | _fields(
        dims=asdict(spec.dims),
        norm_eps=spec.norm_eps,
        rope=spec.rope,
        local_rope=spec.local_rope,
        numbers=dict(spec.numbers),
        options=_unusual(spec.options, spec.architecture),
        kinds=spec.layer_kinds,
        tie_embeddings=spec.tie_embeddings,
        max_context_tokens=spec.max_context_tokens,
    )


def _unusual(options: Mapping[str, Any], architecture: Architecture) -> dict[str, Any]:
    """The options that differ from what the architecture takes anyway."""
    usual = architecture.options
    return {name: value for name, value in options.items() if value != usual[name]}


def _under(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        path.removeprefix(prefix): value
        for path, value in values.items()
        if path.startswith(prefix)
    }


def _fields(
    *,
    dims: dict[str, Any],
    norm_eps: float | None,
    rope: Rope | None,
    local_rope: Rope | None,
    numbers: dict[str, Any],
    options: dict[str, Any],
    kinds: tuple[str, ...],
    tie_embeddings: bool | None,
    max_context_tokens: int | None,
) -> dict[str, object]:
    if dims.get("rotary_dim") == dims.get("head_dim"):
        dims.pop("rotary_dim", None)
    fields: dict[str, object | None] = {
        "dims": dims,
        "norm_eps": norm_eps,
        "rope": _rope(rope),
        "local_rope": _rope(local_rope),
        "numbers": numbers or None,
        "options": options or None,
        "layer_kinds": list(kinds) or None,
        "tie_embeddings": tie_embeddings,
        "max_context_tokens": max_context_tokens,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _rope(rope: Rope | None) -> dict[str, object] | None:
    if rope is None:
        return None
    fields = rope_fields(rope)
    defaults: dict[str, object] = {}
    match rope:
        case Yarn():
            defaults = {
                "attention_factor": yarn_attention_factor(rope.factor),
                "beta_fast": BETA_FAST,
                "beta_slow": BETA_SLOW,
                "truncate": True,
            }
        case LongRope():
            default = longrope_attention_factor(rope.factor, rope.original_context_tokens)
            defaults = {"attention_factor": default}
        case _:
            pass
    return {name: value for name, value in fields.items() if value != defaults.get(name, ())}


def differing(fields: Mapping[str, object], base: Mapping[str, object]) -> dict[str, object]:
    """The fields that a variant of `base` has to give: single sizes and numbers, other fields
    whole.
    """
    given: dict[str, object] = {}
    for name, value in fields.items():
        other = base.get(name)
        if name in MERGED and isinstance(other, dict):
            entries = cast(dict[str, object], value)
            held = cast(dict[str, object], other)
            value = {key: each for key, each in entries.items() if held.get(key) != each}
            if not value:
                continue
        if value != other:
            given[name] = value
    return given


def spec_text(fields: Mapping[str, object], *, remarks: Sequence[str] = ()) -> str:
    """The file: `remarks` as comments, then one field after the other, broken at 100 columns."""
    lines = [f"# {remark}" for remark in remarks]
    for name, value in fields.items():
        lines += _wrapped(f"{name}: ", value)
    return "\n".join(lines) + "\n"


def _wrapped(start: str, value: object) -> list[str]:
    """A field on one line, or broken after commas and indented to its bracket."""
    text = start + yaml_value(value)
    lines: list[str] = []
    indent = " " * (len(start) + 1)
    while len(text) > WIDTH:
        cut = text.rfind(", ", len(indent), WIDTH)
        if cut < 0:
            break
        lines.append(text[: cut + 1])
        text = indent + text[cut + 2 :]
    return [*lines, text]


def yaml_value(value: Any) -> str:
    """A value as one writes it in YAML: true, 10000 and 1.0e-5, not True, 10000.0 and 1e-05."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        entries = cast(Mapping[str, object], value).items()
        return "{" + ", ".join(f"{key}: {yaml_value(each)}" for key, each in entries) + "}"
    if isinstance(value, list | tuple):
        items = cast(Sequence[object], value)
        return "[" + ", ".join(map(yaml_value, items)) + "]"
    if isinstance(value, float):
        return _number(value)
    return str(value)


def _number(value: float) -> str:
    """The shortest text of a number; of one that float32 holds exactly, of that float32."""
    if value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    text = repr(value)
    single = struct.unpack("f", struct.pack("f", value))[0] if abs(value) < 3e38 else value
    if single == value:
        digits = (f"{value:.{count}g}" for count in range(1, 10))
        text = next(each for each in digits if struct.pack("f", float(each)) == _bits(single))
    text = re.sub(r"e([-+])0(\d)$", r"e\1\2", text)
    return text.replace("e", ".0e") if "e" in text and "." not in text else text


def _bits(value: float) -> bytes:
    return struct.pack("f", value)
