"""Planning a graph node by node, each with the plans of the values it reads."""

from collections.abc import Callable, Mapping
from typing import Any

from ttc.graph.graph import Graph
from ttc.graph.nodes import Node
from ttc.plan.placement import TensorPlan
from ttc.plan.plan import PlannedOp

Values = dict[str, TensorPlan]

# One planner per node type. Each takes its own type of node and of step, and Callable is
# contravariant, so the table is typed loosely.
Planners = Mapping[type[Node], Callable[[Any, Any, Values], tuple[PlannedOp, Values]]]


def plan_nodes(
    graph: Graph, planners: Planners, step: object, inputs: Mapping[str, TensorPlan]
) -> tuple[PlannedOp, ...]:
    """Plan each node in order; `inputs` are the graph's inputs, `step` what all are planned for."""
    values: Values = dict(inputs)
    ops: list[PlannedOp] = []
    for node in graph.nodes:
        op, results = planners[type(node)](node, step, values)
        ops.append(op)
        values |= results
    return tuple(ops)
