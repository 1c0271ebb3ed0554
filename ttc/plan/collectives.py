"""What the ranks of a replica exchange, and in which form ttnn does it."""

from dataclasses import replace
from typing import Literal

from ttc.plan.exchange import Collective
from ttc.plan.placement import TILE, DType, Placement, TensorPlan
from ttc.plan.setting import Setting
from ttc.spec.fidelity import load_fidelities

# One operation adds what all ranks sent into a buffer that stays in L1. Two buffers at least are
# needed: a rank may send to the next sum while its neighbour still reads this one, but not to the
# one after, which waits for that neighbour.
MIN_SUM_BUFFERS = 2
# The part of L1 that these buffers may take; a sum is three operations where they would not fit.
SUM_BUFFERS_PART = 4
# Sums over the ranks are added in fp32: links are what they wait for, not the matrix unit.
SUMS = "hifi4"


def gather(setting: Setting, x: TensorPlan, placement: Placement) -> Collective:
    """The parts of the width on every rank: one operation, which writes shards as they are read."""
    shape = (*x.shape[:3], x.shape[3] * setting.parallel.tp)
    out = TensorPlan(shape=shape, dtype=x.dtype, placement=placement)
    return _along(setting, "all_gather", x=x, out=out, operations=1)


def scatter_sum(setting: Setting, x: TensorPlan) -> Collective:
    """Sums over the ranks, of which each rank keeps its part of the width.

    A sum whose `compute` is said always travels from rank to rank. Else ttnn sends up to 512 KiB
    around a ring straight to their owners, over half a megabyte of L1 on each core, and keeps its
    semaphores below that for good, where matmuls want their buffers.
    """
    shape = (*x.shape[:3], x.shape[3] // setting.parallel.tp)
    plain = _along(setting, "reduce_scatter", x=x, out=replace(x, shape=shape), operations=1)
    return replace(plain, compute=load_fidelities()[SUMS])


def whole_sum(setting: Setting, x: TensorPlan, out: TensorPlan) -> Collective:
    """Sums over the ranks on every rank, composed by ttnn of other collectives.

    A scattered sum and a gather where the width or the rows divide into whole tiles; else
    everything goes everywhere and is added there. Shards are made interleaved first. It takes no
    `compute`, so that along a ring it would pin L1 as `scatter_sum` says: it goes along a line.
    """
    divides = any(size % (TILE * setting.parallel.tp) == 0 for size in x.shape[2:])
    operations = (2 if divides else 3) + (1 if x.placement.grid else 0)
    plain = _along(setting, "all_reduce", x=x, out=out, operations=operations)
    return replace(plain, topology="line")


def buffered_sum(setting: Setting, x: TensorPlan, out: TensorPlan, number: int) -> Collective:
    """Sums over the ranks on every rank in one operation, the `number`-th of its decoder."""
    plain = _along(setting, "all_reduce", x=x, out=out, operations=1)
    name = buffer_name(number, x.dtype)
    return replace(plain, buffer=name, semaphore=number, compute=load_fidelities()[SUMS])


def buffer_name(number: int, dtype: DType) -> str:
    """The buffer of the `number`-th sum of a decoder."""
    return f"sum_{number}_{dtype}"


def _sum_buffer(setting: Setting, dtype: DType) -> TensorPlan:
    """What every rank's part of one sum is sent to: it lies where the sum will."""
    residual, tp = setting.residual, setting.parallel.tp
    rows, columns = residual.shard
    placement = replace(residual, name=f"SUM_{tp}_L1", shard=(rows, columns * tp))
    shape = (1, 1, TILE, setting.dims.hidden * tp)
    return TensorPlan(shape=shape, dtype=dtype, placement=placement)


def sum_buffers(setting: Setting) -> tuple[tuple[str, TensorPlan], ...]:
    """The buffers that sums of a decode step need, () where they are composed instead."""
    counts = [len(setting.sums_of(graph)) for graph in setting.graph.decoders.values()]
    if setting.parallel.tp == 1 or min(counts) < MIN_SUM_BUFFERS:
        return ()
    dtypes: list[DType] = [each.dtype("collectives", "decode") for each in setting.decoders]
    buffers = [
        (buffer_name(number, dtype), _sum_buffer(setting, dtype))
        for dtype in dict.fromkeys(dtypes)
        for number in range(max(counts))
    ]
    size = sum(buffer.bytes_per_core(setting.chip.grid.cores) for _, buffer in buffers)
    return () if size * SUM_BUFFERS_PART > setting.chip.l1_bytes_per_core else tuple(buffers)


def semaphores(setting: Setting) -> int:
    """How many semaphores the sums of a decode step need: one for each of a decoder."""
    counts = (len(setting.sums_of(graph)) for graph in setting.graph.decoders.values())
    return max(counts) if setting.buffers else 0


def _along(
    setting: Setting,
    kind: Literal["all_gather", "reduce_scatter", "all_reduce"],
    *,
    x: TensorPlan,
    out: TensorPlan,
    operations: int,
) -> Collective:
    parallel = setting.parallel
    return Collective(
        kind=kind,
        axis=parallel.cluster_axis,
        topology=parallel.topology,
        links=parallel.links,
        x=x,
        out=out,
        operations=operations,
    )
