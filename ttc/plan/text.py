"""The text form of a plan: plan.yaml, by which two builds are compared, and its fingerprint."""

from dataclasses import fields, is_dataclass
from hashlib import sha256
from typing import Any

from ttc.errors import Source
from ttc.graph.nodes import Node
from ttc.located import yaml_text
from ttc.plan.parallel import ZEROS, HeadLayout
from ttc.plan.placement import Placement, TensorPlan
from ttc.plan.plan import Plan, PlannedOp, WeightPart, WeightPlan
from ttc.plan.tables import MaskTable, RopeTable
from ttc.spec.precision import Fidelity


def plan_text(plan: Plan) -> str:
    """plan.yaml: every choice, in the order the planner made them. Same plan, same text."""
    return yaml_text(plan_data(plan))


def plan_data(plan: Plan) -> dict[str, Any]:
    """The plan as mappings, lists and scalars. Decoders that are alike appear once."""
    data: dict[str, Any] = _data(plan)
    memory = plan.memory
    data["memory"] |= {
        "dram_bytes_per_chip": memory.dram_bytes_per_chip,
        "weight_bytes": memory.weight_bytes,
        "fits": memory.fits,
    }
    return data


def fingerprint(text: str) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of the text of a plan."""
    return sha256(text.encode()).hexdigest()[:16]


def _data(value: Any) -> Any:
    match value:
        case Placement():
            return _placement(value)
        case TensorPlan():
            return _tensor(value)
        case WeightPlan():
            return _weight(value)
        case HeadLayout():
            return _heads(value)
        case Fidelity():
            return value.name
        case Node():
            return _node(value)
        case Source():
            return f"{value.path}:{value.line}"
        case tuple():
            return [_data(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
        case _ if is_dataclass(value):
            return _record(value)
        case _:
            return value


def _record(value: Any) -> dict[str, Any]:
    record: dict[str, Any] = {}
    if isinstance(value, PlannedOp):
        record["op"] = type(value).__name__.removeprefix("Planned")
    for each in fields(value):
        held = getattr(value, each.name)
        if held is not None and held != ():
            record[each.name] = _data(held)
    return record


def _node(node: Node) -> str:
    return f"{', '.join(node.writes)}: {node.op}({', '.join(node.reads)}) {_data(node.at)}"


def _placement(placement: Placement) -> str:
    if not placement.grid:
        return placement.name
    ranges = " ".join(f"({x0},{y0})-({x1},{y1})" for x0, y0, x1, y1 in placement.grid)
    rows, columns = placement.shard
    return f"{placement.name} {placement.buffer} {placement.layout} {rows}x{columns} on {ranges}"


def _tensor(tensor: TensorPlan) -> str:
    sizes = "x".join(str(size) for size in tensor.shape)
    return f"{sizes} {tensor.dtype} {tensor.layout} {_placement(tensor.placement)}"


def _weight(weight: WeightPlan) -> str:
    parts = " | ".join(_part(part) for part in weight.parts)
    match weight.table:
        case RopeTable() as table:
            parts = f"{table.kind}[{table.rows}] {table.order}" + " by step" * table.by_step
        case MaskTable() as table:
            parts = f"mask[{table.rows}]" + (f" of {table.window} keys" if table.window else "")
        case None:
            pass
    turned = " transposed" if weight.transpose else ""
    return f"{weight.full_name} = {parts}{turned} -> {_tensor(weight.tensor)}"


def _part(part: WeightPart) -> str:
    rows = f" {part.rows} of {part.heads} heads" if part.heads else ""
    rows += " flat" * part.flat + f" centred by {part.centred}" * bool(part.centred)
    scale = f" * {part.scale}" if part.scale != 1.0 else ""
    offset = f" + {part.offset}" if part.offset else ""
    shares = "".join(f" {each.dim} by {each.name} ({each.width})" for each in part.shares)
    return f"{part.tensor}[{part.start}:{part.stop}]{rows}{scale}{offset}{shares}"


def _heads(layout: HeadLayout) -> list[str]:
    """One line for each rank; a head of zeros is a dash."""

    def numbers(heads: tuple[int, ...]) -> str:
        return " ".join("-" if head == ZEROS else str(head) for head in heads)

    ranks = enumerate(zip(layout.queries, layout.kv, strict=True))
    return [f"rank {rank}: queries {numbers(q)}, kv {numbers(kv)}" for rank, (q, kv) in ranks]
