"""Tables computed from the spec and stored like weights: rotations, and masks of scores."""

from dataclasses import dataclass
from typing import Literal

from ttc.plan.placement import TensorPlan
from ttc.spec.rope import Rope, alike_tokens

RopeForm = Literal["pairs", "halves"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeTable:
    """A table computed from the spec: cos or sin [rows, head_dim], or transformation tiles.

    Elements of a head from `rotary_dim` on do not turn: their cos is 1, their sin 0.

    by_step  row p is of the last token of p + 1, as decode steps need it where the length of a
             sequence matters; else all rows are of one sequence, as long as the table if no length
             is given
    """

    kind: Literal["cos", "sin", "transformation"]
    rope: Rope
    head_dim: int
    rotary_dim: int
    rows: int
    order: RopeForm
    by_step: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskTable:
    """What is added to scores [position, key]: 0 where the query at a position sees the key, else
    a number that no score comes near.

    A query sees the keys up to its own, with a `window` only so many of them.
    """

    window: int
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedMask:
    """The rows of a mask table for the positions of one step, under the name of the table.

    Decode: a row for each user, `out` [users, 1, 1, context]; `positions` are those that the step
    is given, of which the first are the users'. Prefill: `out` [1, 1, tokens, tokens], cut from
    `gathered`, rows of the whole context.
    """

    name: str
    window: int
    decode: bool
    positions: int
    gathered: TensorPlan
    out: TensorPlan


def depends_on_length(rope: Rope, context: int) -> bool:
    """Whether sequences of up to `context` tokens turn by their length as well."""
    return alike_tokens(rope, context) != alike_tokens(rope, 1)


def mask_name(window: int) -> str:
    """The name of a mask, as a stored table and as a value: `mask`, `mask_4096`."""
    return f"mask_{window}" if window else "mask"
