"""An exchange between the ranks of a replica, as the plan has it."""

from dataclasses import dataclass
from typing import Literal

from ttc.plan.placement import TensorPlan
from ttc.spec.precision import Fidelity


@dataclass(frozen=True, slots=True, kw_only=True)
class Collective:
    """An exchange between the ranks of a replica, along one axis of the mesh.

    all_gather puts the parts of the width side by side; reduce_scatter adds over the ranks, and
    each keeps its part of the width; all_reduce leaves the sums on every rank. `x` is what each
    rank gives and `out` what it has then. Sums are added as `compute` says, None is ttnn's default
    of a 16-bit Dst: with a `buffer` in the order of the ranks, without one hop by hop around the
    ring or along the line, packed on each hop.
    """

    kind: Literal["all_gather", "reduce_scatter", "all_reduce"]
    axis: int
    topology: Literal["none", "line", "ring"]
    links: int
    x: TensorPlan
    out: TensorPlan
    operations: int
    compute: Fidelity | None = None
    buffer: str = ""
    semaphore: int = 0
