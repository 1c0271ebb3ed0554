"""Rotary position embedding: each kind has exactly its own fields.

The formulas are those of transformers/modeling_rope_utils.py. Two kinds change with the length of
the sequence, `dynamic` with every token beyond the original context and `longrope` once. As in
transformers all tokens of a prompt turn as its length says, each later token as the length up to it
says, and keys stay in the cache as they were turned.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import ceil, floor, log, pi, sqrt
from typing import Any

from ttc.errors import Problem
from ttc.located import Located

BETA_FAST, BETA_SLOW = 32.0, 1.0  # of the YaRN paper, arxiv.org/abs/2309.00071, section 3.2


@dataclass(frozen=True, slots=True, kw_only=True)
class NoScaling:
    """frequency i = theta ** (-2 i / rotary_dim)"""

    theta: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """Every frequency divided by `factor`."""

    theta: float
    factor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Dynamic:
    """theta grows with the sequence once it exceeds `original_context_tokens`.

    theta' = theta * (factor * tokens / original - (factor - 1)) ** (rotary_dim / (rotary_dim - 2))
    """

    theta: float
    factor: float
    original_context_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama3:
    """Slow frequencies divided by `factor`, fast ones kept, those between blended.

    A frequency is slow when its wavelength exceeds original_context_tokens / low_freq_factor, and
    fast when it is below original_context_tokens / high_freq_factor.
    """

    theta: float
    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Yarn:
    """Frequencies that turn less than `beta_slow` times in the original context are divided by
    `factor`, those that turn more than `beta_fast` times kept, those between blended by index.

    `attention_factor` multiplies cos and sin. `truncate` rounds the two indices outwards.
    """

    theta: float
    factor: float
    original_context_tokens: int
    attention_factor: float
    beta_fast: float
    beta_slow: float
    truncate: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LongRope:
    """Each frequency divided by a factor of its own: a long one in long sequences.

    Long are those of more than `original_context_tokens`.
    `attention_factor` multiplies cos and sin in both cases; `factor` is only where it comes from.
    """

    theta: float
    factor: float
    original_context_tokens: int
    attention_factor: float
    short_factors: tuple[float, ...]
    long_factors: tuple[float, ...]


type Rope = NoScaling | Linear | Dynamic | Llama3 | Yarn | LongRope

KINDS: Mapping[str, type[Rope]] = {
    "none": NoScaling,
    "linear": Linear,
    "dynamic": Dynamic,
    "llama3": Llama3,
    "yarn": Yarn,
    "longrope": LongRope,
}
"""What the field `kind` calls each of them."""


def rope_fields(rope: Rope) -> dict[str, Any]:
    """A table as the fields of a spec, those included that a spec may leave out."""
    kind = next(name for name, each in KINDS.items() if isinstance(rope, each))
    return {"kind": kind} | asdict(rope)


def read_rope(data: Located, rotary_dim: int) -> tuple[Rope, list[Problem]]:
    """A `rope` field of a spec, whose schema holds, and what is wrong between its fields."""
    theta, kind = data["theta"].number, data["kind"].text
    if kind == "none":
        return NoScaling(theta=theta), []
    if kind == "longrope":
        return _read_longrope(data, rotary_dim)
    factor = data["factor"].number
    if kind == "linear":
        return Linear(theta=theta, factor=factor), []
    original = data["original_context_tokens"].integer
    if kind == "dynamic":
        return Dynamic(theta=theta, factor=factor, original_context_tokens=original), []
    if kind == "yarn":
        return _read_yarn(data)
    assert kind == "llama3", "the schema knows the kinds"
    rope = Llama3(
        theta=theta,
        factor=factor,
        low_freq_factor=data["low_freq_factor"].number,
        high_freq_factor=data["high_freq_factor"].number,
        original_context_tokens=original,
    )
    return rope, _check_order(
        data,
        ("low_freq_factor", rope.low_freq_factor),
        ("high_freq_factor", rope.high_freq_factor),
    )


def _read_yarn(data: Located) -> tuple[Yarn, list[Problem]]:
    factor = data["factor"].number
    truncate = data.get("truncate")
    rope = Yarn(
        theta=data["theta"].number,
        factor=factor,
        original_context_tokens=data["original_context_tokens"].integer,
        attention_factor=_number(data, "attention_factor", yarn_attention_factor(factor)),
        beta_fast=_number(data, "beta_fast", BETA_FAST),
        beta_slow=_number(data, "beta_slow", BETA_SLOW),
        truncate=truncate.flag if truncate else True,
    )
    return rope, _check_order(data, ("beta_slow", rope.beta_slow), ("beta_fast", rope.beta_fast))


def _read_longrope(data: Located, rotary_dim: int) -> tuple[LongRope, list[Problem]]:
    original = data["original_context_tokens"].integer
    factor = data["factor"].number
    default = longrope_attention_factor(factor, original)
    short, long = (
        tuple(each.number for each in data[name].elements())
        for name in ("short_factors", "long_factors")
    )
    rope = LongRope(
        theta=data["theta"].number,
        factor=factor,
        original_context_tokens=original,
        attention_factor=_number(data, "attention_factor", default),
        short_factors=short,
        long_factors=long,
    )
    problems = [
        Problem(
            message=f"'{name}' needs {rotary_dim // 2} numbers, one for each pair that turns",
            at=data[name].at,
            note=f"got {len(data[name].elements())}",
        )
        for name in ("short_factors", "long_factors")
        if len(data[name].elements()) != rotary_dim // 2
    ]
    return rope, problems


def _number(data: Located, name: str, default: float) -> float:
    given = data.get(name)
    return given.number if given else default


def _check_order(
    data: Located, lower: tuple[str, float], higher: tuple[str, float]
) -> list[Problem]:
    """Of two limits between which frequencies blend, the higher one must be the greater."""
    (low_name, low), (name, high) = lower, higher
    if high > low:
        return []
    given, other = data.get(name), data.get(low_name)
    at = given.at if given else other.at if other else data.at
    message = f"'{name}' must be greater than '{low_name}'"
    return [Problem(message=message, at=at, note=f"{name} is {high:g}, {low_name} {low:g}")]


def yarn_attention_factor(factor: float, mscale: float = 1.0) -> float:
    """What YaRN multiplies cos and sin by when a model does not say."""
    return 0.1 * mscale * log(factor) + 1.0 if factor > 1 else 1.0


def longrope_attention_factor(factor: float, original_context_tokens: int) -> float:
    """What LongRoPE multiplies cos and sin by when a model does not say."""
    return sqrt(1 + log(factor) / log(original_context_tokens)) if factor > 1 else 1.0


def attention_factor(rope: Rope) -> float:
    """The number that cos and sin are multiplied by."""
    match rope:
        case Yarn() | LongRope():
            return rope.attention_factor
        case _:
            return 1.0


def alike_tokens(rope: Rope, tokens: int) -> int:
    """The length of the shortest sequences whose tokens turn as those of so many tokens do."""
    match rope:
        case Dynamic() if tokens > rope.original_context_tokens:
            return tokens
        case LongRope() if tokens > rope.original_context_tokens:
            return rope.original_context_tokens + 1
        case _:
            return 1


def inverse_frequencies(rope: Rope, rotary_dim: int, tokens: int) -> tuple[float, ...]:
    """The rotary_dim / 2 angles, in radians, by which one position turns each pair of a head.

    tokens  of the sequence, which two of the kinds depend on
    """
    plain = _plain(rope.theta, rotary_dim)
    match rope:
        case NoScaling():
            return plain
        case Linear():
            return tuple(frequency / rope.factor for frequency in plain)
        case Dynamic():
            longer = max(tokens, rope.original_context_tokens) / rope.original_context_tokens
            stretch = rope.factor * longer - (rope.factor - 1)
            exponent = rotary_dim / max(rotary_dim - 2, 1)  # a single pair does not depend on theta
            return _plain(rope.theta * stretch**exponent, rotary_dim)
        case Llama3():
            return tuple(_llama3(rope, frequency) for frequency in plain)
        case Yarn():
            return _yarn(rope, plain, rotary_dim)
        case LongRope():
            is_long = tokens > rope.original_context_tokens
            factors = rope.long_factors if is_long else rope.short_factors
            return tuple(f / factor for f, factor in zip(plain, factors, strict=True))


def _plain(theta: float, rotary_dim: int) -> tuple[float, ...]:
    return tuple(theta ** (-2 * i / rotary_dim) for i in range(rotary_dim // 2))


def _llama3(rope: Llama3, frequency: float) -> float:
    periods = rope.original_context_tokens * frequency / (2 * pi)  # turns within that context
    if periods < rope.low_freq_factor:
        return frequency / rope.factor
    if periods > rope.high_freq_factor:
        return frequency
    fast = (periods - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    return (1 - fast) * frequency / rope.factor + fast * frequency


def _yarn(rope: Yarn, plain: tuple[float, ...], rotary_dim: int) -> tuple[float, ...]:
    def index(turns: float) -> float:
        """The index whose frequency turns so often within the original context."""
        wavelength = rope.original_context_tokens / (turns * 2 * pi)
        return rotary_dim * log(wavelength) / (2 * log(rope.theta))

    first, last = index(rope.beta_fast), index(rope.beta_slow)
    if rope.truncate:
        first, last = floor(first), ceil(last)
    first, last = max(first, 0), min(last, rotary_dim - 1)
    width = last - first if last != first else 0.001  # transformers avoids 0 / 0 in this way
    slow = [min(max((i - first) / width, 0.0), 1.0) for i in range(rotary_dim // 2)]
    return tuple(
        share * frequency / rope.factor + (1 - share) * frequency
        for share, frequency in zip(slow, plain, strict=True)
    )
