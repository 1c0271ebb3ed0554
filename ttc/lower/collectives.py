"""Exchanges between the chips of a replica -> ttnn calls."""

from ttc.graph.nodes import Node
from ttc.lower.calls import Call, Expression, Name, Pack, Ref, Statement, Unpack
from ttc.lower.constants import Constants, dtype_name
from ttc.plan.exchange import Collective

TOPOLOGIES = {"line": "Topology.Linear", "ring": "Topology.Ring"}
WIDTH = 3  # the dim that ranks divide
_HANDED = ("device", "semaphore", "buffer")  # what a sum needs, as `pack_sum` packs it


def lower_collective(
    op: Collective, x: str, out: str, constants: Constants, of: Node | None = None
) -> tuple[Statement, ...]:
    """The call that makes `out` of what every rank has as `x`, the first of the node `of`."""
    wires: tuple[tuple[str, Expression], ...] = (
        ("num_links", op.links),
        ("topology", Name(name=TOPOLOGIES[op.topology])),
    )
    where: tuple[tuple[str, Expression], ...] = (
        ("cluster_axis", op.axis),
        ("memory_config", constants.placement(op.out.placement)),
    )
    function, args, kwargs = op.kind, (Ref(name=x),), (*where, *wires)
    if op.kind == "all_gather":  # it finds links and topology itself (ttnn 0.81.1 ignores them)
        args, kwargs = (Ref(name=x), WIDTH), where
    elif op.kind == "reduce_scatter":
        args = (Ref(name=x), WIDTH)
        if op.compute is not None:
            kwargs = (*kwargs, ("compute_kernel_config", constants.fidelity(op.compute)))
    elif op.buffer:
        function, args = "experimental.all_reduce_async", (Ref(name=x), Ref(name="buffer"))
        kwargs = (
            ("cluster_axis", op.axis),
            ("mesh_device", Ref(name="device")),
            ("multi_device_global_semaphore", Ref(name="semaphore")),
            ("dtype", dtype_name(op.out.dtype)),
            where[1],
            *wires,
            ("fp32_dest_acc", op.compute is not None and op.compute.fp32_dest_acc),
        )
    value, at = (of.writes[0], of.at) if of else ("", None)
    call = Call(function=function, args=args, kwargs=kwargs, results=(out,), value=value, at=at)
    return (Unpack(names=_HANDED, source=op.buffer), call) if op.buffer else (call,)


def pack_sum(buffer: str, semaphore: int) -> Pack:
    """What a sum needs beside its operand, under the name of its buffer."""
    parts = ("w.device", f"w.semaphores[{semaphore}]", f"w.{buffer}")
    return Pack(name=buffer, parts=tuple(Ref(name=part) for part in parts))
