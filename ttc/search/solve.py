# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false
"""The exact choice of forms: least cost within a loss, or least loss within a cost.

A multiple-choice knapsack: one binary per item and form, solved by scipy's branch and bound.
Losses are taken to add up, which the measurements afterwards check.
"""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from ttc.search.space import Choice

type Table = Sequence[Sequence[float]]
"""A number for every form of every item; of any kind of sequence."""


def least(minimised: Table, limited: Table, limit: float) -> Choice | None:
    """The choice with the smallest sum of `minimised` whose sum of `limited` is within `limit`.

    None if no choice is within it.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp  # takes half a second

    goal = np.array([value for row in minimised for value in row])
    bound = np.array([value for row in limited for value in row])
    one_each = np.zeros((len(minimised), len(goal)))
    first = 0
    for number, row in enumerate(minimised):
        one_each[number, first : first + len(row)] = 1
        first += len(row)
    scale = max(float(np.abs(goal).max()), 1e-30)
    reach = max(abs(limit), float(np.abs(bound).max()), 1e-30)
    found = cast(Any, milp)(
        goal / scale,
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(bound[None] / reach, -np.inf, limit / reach),
        ],
        integrality=np.ones(len(goal)),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0.0},
    )
    if found.x is None:
        return None
    choice: list[int] = []
    first = 0
    for row in minimised:
        choice.append(int(np.argmax(found.x[first : first + len(row)])))
        first += len(row)
    return tuple(choice)


def total(table: Table, choice: Choice) -> float:
    return sum(row[number] for row, number in zip(table, choice, strict=True))


def ladder(costs: Table, losses: Table, steps: int) -> list[Choice]:
    """The cheapest choices within losses that grow step by step, from no loss to any.

    Each choice once; cost falls and loss grows along the list.
    """
    most = sum(max(row) for row in losses)
    least_loss = min((each for row in losses for each in row if each > 0), default=0.0)
    limits = [0.0, *np.geomspace(max(least_loss, 1e-12), max(most, 1e-12), steps)]
    found = (least(costs, losses, float(limit) * (1 + 1e-9)) for limit in limits)
    return list(dict.fromkeys(each for each in found if each is not None))
