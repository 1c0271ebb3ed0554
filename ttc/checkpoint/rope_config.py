"""RoPE as Hugging Face configurations write it: `rope_scaling`, and `rope_parameters` since
transformers 5, which holds theta as well and may have a part for each kind of layer.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard, cast

from ttc.spec.config_keys import RopeKeys
from ttc.spec.rope import (
    BETA_FAST,
    BETA_SLOW,
    Dynamic,
    Linear,
    Llama3,
    LongRope,
    NoScaling,
    Rope,
    Yarn,
    longrope_attention_factor,
    yarn_attention_factor,
)

SPELLINGS = ("rope_parameters", "rope_scaling")
ORIGINAL, CONTEXT = "original_max_position_embeddings", "max_position_embeddings"
UNSCALED = ("default", "none")
OLD_NAMES = {"su": "longrope"}  # of the first Phi-3 uploads
LARGEST = 1e15  # of any number of a configuration: whole ones are exact up to here
PARTIAL = "partial_rotary_factor"  # transformers 5 moved it here; `sizes` reads it


@dataclass(slots=True)
class RopeReader:
    """Reads one table and keeps account of the keys: those used, those that change nothing with
    the reason, and what is wrong.
    """

    config: Mapping[str, Any]
    context: int | None = None  # what a missing max_position_embeddings stands for
    used: dict[str, object] = field(default_factory=dict[str, object])
    ignored: dict[str, str] = field(default_factory=dict[str, str])
    wrong: list[str] = field(default_factory=list[str])

    def read(self, keys: RopeKeys) -> Rope | None:
        """The table, or None when something is wrong."""
        name, scaling = self._scaling(keys)
        theta = self._theta(keys, name, scaling)
        kinds = _kinds(scaling)
        kind = kinds[0]
        if len(set(kinds)) > 1:
            self.wrong.append(f"{name}.rope_type is {kinds[0]}, and {name}.type is {kinds[1]}")
        fields = {key: value for key, value in scaling.items() if key not in _NAMES}
        if kind in UNSCALED:
            for key in fields:
                self.ignored[f"{name}.{key}"] = f"rope_type is {kind}, which does not read it"
            return NoScaling(theta=theta)
        if kind not in _KINDS:
            known = ", ".join((UNSCALED[0], *_KINDS))
            self.wrong.append(f"{name} has the rope_type '{kind}'; known are {known}")
            return None
        required, optional = _KINDS[kind]
        missing = [key for key in required if fields.get(key) is None]
        unknown = [key for key in fields if key not in (*required, *optional)]
        self.wrong += [f"{name} of type {kind} has no '{key}'" for key in missing]
        self.wrong += [f"{name} of type {kind} has the unknown key '{key}'" for key in unknown]
        self.wrong += [
            f"{name}.{key} is {value!r}, expected "
            + ("true or false" if key == "truncate" else "a number above 0")
            for key, value in fields.items()
            if value is not None and not _valid(key, value)
        ]
        if self.wrong:
            return None
        self.used |= {f"{name}.{key}": value for key, value in fields.items()}
        given = {k: v for k, v in fields.items() if v is not None}
        rope = (
            self._longrope(keys, name, theta, given)
            if kind == "longrope"
            else self._build(kind, theta, given)
        )
        return None if self.wrong else rope

    def _scaling(self, keys: RopeKeys) -> tuple[str, Mapping[str, Any]]:
        """The name of the key that scales the table, and its entries."""
        found: tuple[str, Mapping[str, Any]] = (SPELLINGS[-1], {})
        for name in SPELLINGS:
            value: object = self.config.get(name)
            if not isinstance(value, dict):
                if value is not None:
                    self.wrong.append(f"{name} is {value!r}, expected a mapping")
                elif name in self.config:
                    self.ignored[name] = "not set"
                continue
            entries = cast(Mapping[str, Any], value)
            if keys.section in entries:
                self.used[name] = value
                name, part = f"{name}.{keys.section}", entries[keys.section]
                if not isinstance(part, dict):
                    self.wrong.append(f"{name} is {part!r}, expected a mapping")
                    continue
                entries = cast(Mapping[str, Any], part)
            elif not keys.scaled:
                continue
            self.used[name] = entries.get("rope_type", entries.get("type", "default"))
            if found[1] and entries and _content(entries) != _content(found[1]):
                self.wrong.append(f"{found[0]} and {name} differ: keep the one that is meant")
            found = found if found[1] else (name, entries)
        return found

    def _theta(self, keys: RopeKeys, name: str, scaling: Mapping[str, Any]) -> float:
        """Theta, which both places may give if they agree."""
        inside = f"{name}.rope_theta"
        places = {inside: scaling.get("rope_theta"), keys.theta: self.config.get(keys.theta)}
        given = {place: value for place, value in places.items() if value is not None}
        if len(given) == 2:
            self.ignored[keys.theta] = f"{inside} says it"
            if given[inside] != given[keys.theta]:
                self.wrong.append(
                    f"{keys.theta} is {given[keys.theta]!r}, and {inside} is {given[inside]!r}"
                )
        for place, value in given.items():
            self.used.setdefault(place, value)
            if is_number(value) and value > 0:
                return float(value)
            self.wrong.append(f"{place} is {value!r}, expected a number above 0")
        return keys.absent

    def _build(self, kind: str, theta: float, fields: Mapping[str, Any]) -> Rope:
        if kind == "linear":
            return Linear(theta=theta, factor=fields["factor"])
        if kind == "dynamic":  # transformers takes the model's context for the original one
            original = self._context(CONTEXT)
            return Dynamic(theta=theta, factor=fields["factor"], original_context_tokens=original)
        if kind == "llama3":
            return Llama3(
                theta=theta,
                factor=fields["factor"],
                low_freq_factor=fields["low_freq_factor"],
                high_freq_factor=fields["high_freq_factor"],
                original_context_tokens=fields[ORIGINAL],
            )
        assert kind == "yarn", "the others are built"
        return self._yarn(theta, fields)

    def _yarn(self, theta: float, fields: Mapping[str, Any]) -> Yarn:
        factor = fields["factor"]
        mscale, all_dim = fields.get("mscale"), fields.get("mscale_all_dim")
        default = yarn_attention_factor(factor)
        if mscale and all_dim:
            default = yarn_attention_factor(factor, mscale)
            default /= yarn_attention_factor(factor, all_dim)
        return Yarn(
            theta=theta,
            factor=factor,
            original_context_tokens=fields.get(ORIGINAL) or self._context(CONTEXT),
            attention_factor=fields.get("attention_factor", default),
            beta_fast=fields.get("beta_fast") or BETA_FAST,
            beta_slow=fields.get("beta_slow") or BETA_SLOW,
            truncate=fields.get("truncate", True),
        )

    def _longrope(
        self, keys: RopeKeys, name: str, theta: float, fields: Mapping[str, Any]
    ) -> LongRope:
        """The original context stands beside `rope_scaling`, and then gives the factor;
        transformers reads one inside of it since rope_parameters.
        """
        context, inside = self._context(CONTEXT), fields.get(ORIGINAL)
        beside = self._context(ORIGINAL) or keys.original
        original = beside or context
        if inside and name.startswith(SPELLINGS[0]) and ORIGINAL not in self.config:
            original = beside = inside
        if inside and inside != original:
            self.wrong.append(
                f"{name}.{ORIGINAL} is {inside}, which longrope does not read: {ORIGINAL} beside "
                f"{name} is or stands for {original}"
            )
        factor = context / original if beside else fields.get("factor", context / original)
        return LongRope(
            theta=theta,
            factor=factor,
            original_context_tokens=original,
            attention_factor=fields.get(
                "attention_factor", longrope_attention_factor(factor, original)
            ),
            short_factors=tuple(map(_single, fields["short_factor"])),
            long_factors=tuple(map(_single, fields["long_factor"])),
        )

    def _context(self, key: str) -> int:
        """A number of tokens; 0 where there is none, which is wrong for the context itself."""
        value: object = self.config.get(key)
        if isinstance(value, int) and value > 1:
            self.used[key] = value
            return value
        if value is None and key == CONTEXT and self.context:
            return self.context
        if value is not None or key == CONTEXT:
            self.wrong.append(f"{key} is {value!r}, which its RoPE cannot do with")
        return 2 if key == CONTEXT else 0


_NAMES = ("rope_type", "type", "rope_theta", PARTIAL)
_KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # (required, optional)
    "linear": (("factor",), ()),
    "dynamic": (("factor",), (ORIGINAL,)),
    "llama3": (("factor", "low_freq_factor", "high_freq_factor", ORIGINAL), ()),
    "yarn": (
        ("factor",),
        (
            ORIGINAL,
            "attention_factor",
            "beta_fast",
            "beta_slow",
            "mscale",
            "mscale_all_dim",
            "truncate",
        ),
    ),
    "longrope": (("short_factor", "long_factor"), (ORIGINAL, "factor", "attention_factor")),
}


def _kinds(scaling: Mapping[str, Any]) -> list[str]:
    """What `rope_type` and `type` say, as far as they are there, under the names of today."""
    given = [str(scaling[key]) for key in ("rope_type", "type") if key in scaling] or ["default"]
    named = [OLD_NAMES.get(kind, kind) for kind in given]
    factors = "short_factor" in scaling  # yarn is then longrope, as Phi3Config reads it
    return ["longrope" if kind == "yarn" and factors else kind for kind in named]


def _content(scaling: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """What two spellings of one table must agree in."""
    fields = {k: v for k, v in scaling.items() if k not in _NAMES and v is not None}
    return _kinds(scaling)[0], fields


def fill_scaling(
    config: Mapping[str, Any], rope: Rope | None = None
) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """A configuration whose format does not say all of `rope_scaling`, and what it does not say.

    That is taken from a table of the same kind; without one 1 holds its place.
    """
    scaling: dict[str, Any] = config.get("rope_scaling") or {}
    kind = scaling.get("rope_type", "default")
    required = _KINDS[kind][0] if kind in _KINDS else ()
    unsaid = tuple(key for key in required if scaling.get(key) is None)
    if not unsaid:
        return config, ()
    like = (rope_scaling(rope) if rope else None) or {}
    filled = dict.fromkeys(unsaid, 1.0)
    if like.get("rope_type") == kind:
        filled = {key: like[key] for key in unsaid}
    return {**config, "rope_scaling": {**scaling, **filled}}, unsaid


def _single(value: float) -> float:
    """The nearest float32, which transformers computes with."""
    return float(struct.unpack("f", struct.pack("f", value))[0])


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value of a configuration is a number that can be computed with: JSON files hold
    Infinity, NaN and numbers of any length.
    """
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def _valid(key: str, value: object) -> bool:
    if key == "truncate":
        return isinstance(value, bool)
    if key in ("short_factor", "long_factor"):
        return isinstance(value, list) and all(map(_is_positive, cast(list[object], value)))
    if key in ("mscale", "mscale_all_dim"):
        return is_number(value) and value >= 0
    return _is_positive(value)


def _is_positive(value: object) -> bool:
    return is_number(value) and value > 0


def rope_scaling(rope: Rope) -> dict[str, Any] | None:
    """The `rope_scaling` of a config.json, None for rotary embedding that is not scaled."""
    match rope:
        case NoScaling():
            return None
        case Linear():
            return {"rope_type": "linear", "factor": rope.factor}
        case Dynamic():
            return {"rope_type": "dynamic", "factor": rope.factor}
        case Llama3():
            return {
                "rope_type": "llama3",
                "factor": rope.factor,
                "low_freq_factor": rope.low_freq_factor,
                "high_freq_factor": rope.high_freq_factor,
                ORIGINAL: rope.original_context_tokens,
            }
        case Yarn():
            return {
                "rope_type": "yarn",
                "factor": rope.factor,
                ORIGINAL: rope.original_context_tokens,
                "attention_factor": rope.attention_factor,
                "beta_fast": rope.beta_fast,
                "beta_slow": rope.beta_slow,
                "truncate": rope.truncate,
            }
        case LongRope():
            return {
                "rope_type": "longrope",
                "factor": rope.factor,
                "attention_factor": rope.attention_factor,
                "short_factor": list(rope.short_factors),
                "long_factor": list(rope.long_factors),
            }
