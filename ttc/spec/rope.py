"""Rotary position embedding: each kind has exactly its own fields."""

from dataclasses import dataclass
from math import pi

from ttc.errors import Problem
from ttc.located import Located


@dataclass(frozen=True, slots=True, kw_only=True)
class NoScaling:
    """frequency i = theta ** (-2 i / head_dim)"""

    theta: float


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


type Rope = NoScaling | Llama3


def read_rope(data: Located) -> tuple[Rope, list[Problem]]:
    """The `rope` field of a spec, whose schema holds, and what is wrong between its fields."""
    theta = data["theta"].number
    if data["kind"].text == "none":
        return NoScaling(theta=theta), []
    assert data["kind"].text == "llama3", "the schema knows the kinds"
    rope = Llama3(
        theta=theta,
        factor=data["factor"].number,
        low_freq_factor=data["low_freq_factor"].number,
        high_freq_factor=data["high_freq_factor"].number,
        original_context_tokens=data["original_context_tokens"].integer,
    )
    if rope.high_freq_factor > rope.low_freq_factor:
        return rope, []
    problem = Problem(
        message="'high_freq_factor' must be greater than 'low_freq_factor'",
        at=data["high_freq_factor"].at,
        note=f"low_freq_factor is {data['low_freq_factor'].written}",
    )
    return rope, [problem]


def inverse_frequencies(rope: Rope, head_dim: int) -> tuple[float, ...]:
    """The head_dim / 2 angles, in radians, by which one position turns each pair of a head."""
    plain = tuple(rope.theta ** (-2 * i / head_dim) for i in range(head_dim // 2))
    match rope:
        case NoScaling():
            return plain
        case Llama3():
            return tuple(_llama3(rope, frequency) for frequency in plain)


def _llama3(rope: Llama3, frequency: float) -> float:
    periods = rope.original_context_tokens * frequency / (2 * pi)  # turns within that context
    if periods < rope.low_freq_factor:
        return frequency / rope.factor
    if periods > rope.high_freq_factor:
        return frequency
    fast = (periods - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    return (1 - fast) * frequency / rope.factor + fast * frequency
