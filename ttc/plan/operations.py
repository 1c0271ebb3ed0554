"""What planned operations launch, read and define: the facts that planning and memory share."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ttc.plan.exchange import Collective
from ttc.plan.placement import TILE, TensorPlan
from ttc.plan.plan import (
    HeadPlan,
    PhasePlan,
    PlannedAdd,
    PlannedAttention,
    PlannedConcat,
    PlannedEmbedding,
    PlannedGated,
    PlannedLinear,
    PlannedNorm,
    PlannedOp,
    PlannedPositions,
    PlannedRope,
    PlannedRows,
    PlannedScale,
    PlannedSplitQkv,
    PlannedUnary,
)
from ttc.plan.scores import Scores, score_names
from ttc.plan.tables import PlannedMask

# Attention made of products: scores, cap, mask, softmax, results, and heads side by side; a decode
# step takes its queries from their shards, regroups them, and brings the results back.
SCORE_OPERATIONS = 6

# What feeds a decode step's result into the next: logits as rows, the largest of each, and the
# next positions in the sequence and in the tables.
ADVANCE_OPERATIONS = 2
FEEDBACK_OPERATIONS = 2 + ADVANCE_OPERATIONS


def operations_of(ops: Iterable[PlannedOp]) -> int:
    """Device operations that planned operations launch."""
    return sum(_operations(op) for op in ops)


def _operations(op: PlannedOp) -> int:
    match op:
        case PlannedLinear():
            return len(op.programs) + _joining(op) + _launched(op.collective)
        case PlannedRope():
            return 1 if op.fused else 2
        case PlannedAttention(scores=Scores() as scores):
            moved = 2 * (1 + scores.regroup) if op.decode else 2 * (scores.cached is not None)
            return _updates(op) + SCORE_OPERATIONS + moved
        case PlannedAttention(decode=True):
            # update, attention, joined heads, and shards for them
            return _updates(op) + 2 + (op.gathered.placement != op.split.placement)
        case PlannedAttention():
            return _updates(op) + 1 + op.continues  # joined heads
        case PlannedRows():
            return 2
        case PlannedNorm():
            return (1 if op.gathered is None else 2) + _launched(op.gather)
        case PlannedEmbedding():
            return 1 + _launched(op.gather)
        case PlannedConcat():
            return op.moved + 1
        case PlannedSplitQkv() | PlannedGated() | PlannedAdd() | PlannedUnary() | PlannedScale():
            return 1


def _updates(op: PlannedAttention) -> int:
    """What writes k and v to the cache: casts and two fills, or an update or two."""
    if op.decode:
        return 1 if op.fused_update else 2
    return (2 if op.cast_kv else 0) + 2


def _joining(op: PlannedLinear) -> int:
    """What brings the parts of a product together: each is moved, then all are concatenated."""
    if len(op.programs) > 1:
        return len(op.programs) + 1
    return op.collective is None and op.out.placement != op.split_outs[0].placement


def decode_operations(decode: PhasePlan, head: HeadPlan) -> int:
    """Device operations of one greedy decode step, its choice and the next positions included."""
    decoders = sum(len(each.layers) * operations_of(each.ops) for each in decode.decoders)
    enter = operations_of(decode.enter) + sum(map(_position_operations, decode.positions))
    enter += sum(map(_mask_operations, decode.masks))
    parts = len(head.choice_columns)
    ranges = 2 * parts if parts > 1 else 0  # each is cut out and made rows, then all are joined
    feedback = FEEDBACK_OPERATIONS + ranges + _launched(head.gather)
    return enter + decoders + operations_of(head.ops) + feedback


def sampling_operations(head: HeadPlan) -> int:
    """Device operations of a draw, its log-probabilities and the next positions."""
    gathered = 2 * _launched(head.gather) if head.sampling.whole else 0
    own = head.sampling.operations + head.sampling.logprob_operations
    return own + gathered + ADVANCE_OPERATIONS


def _position_operations(positions: PlannedPositions) -> int:
    """cos and sin each: gathered, made tiles of if the rows do not fill them, and spread."""
    return 2 * (1 + (positions.rows % TILE > 0) + positions.decode * len(positions.placements))


def _mask_operations(mask: PlannedMask) -> int:
    """The users' positions are cut out, their rows gathered, made tiles of, and spread."""
    rows = mask.gathered.shape[2]
    return (rows < mask.positions) + 1 + (rows % TILE > 0) + (mask.gathered != mask.out)


def _launched(collective: Collective | None) -> int:
    return 0 if collective is None else collective.operations


def results_of(op: PlannedOp) -> tuple[tuple[str, TensorPlan], ...]:
    """The values an operation defines, with their plans."""
    match op:
        case PlannedSplitQkv():
            return ((op.node.q, op.q), (op.node.k, op.k), (op.node.v, op.v))
        case PlannedRope():
            return ((op.node.q_out, op.q), (op.node.k_out, op.k))
        case PlannedRows():
            return ((op.value, op.out),)
        case _:
            return ((op.node.out, op.out),)


def reads_of(op: PlannedOp) -> tuple[str, ...]:
    """The values an operation reads."""
    match op:
        case PlannedRows():
            return (op.value,)
        case _:
            return op.node.reads


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One call that carries out an operation or a part of it: values it reads and defines."""

    reads: tuple[str, ...]
    writes: tuple[tuple[str, TensorPlan], ...]


def steps_of(op: PlannedOp, values: Mapping[str, TensorPlan]) -> tuple[Step, ...]:
    """The calls of an operation that define values, in order; `values` are those before it."""
    match op:
        case PlannedRope(fused=False):
            q, k = results_of(op)
            return (
                Step(reads=(op.node.q,), writes=(q,)),
                Step(reads=(op.node.k,), writes=(k,)),
            )
        case PlannedAttention():
            return _attention_steps(op, values)
        case PlannedNorm(gather=Collective() as gather):
            whole = f"{op.node.x}_whole"
            return (
                Step(reads=(op.node.x,), writes=((whole, gather.out),)),
                Step(reads=(whole,), writes=results_of(op)),
            )
        case PlannedLinear(collective=None) if len(op.programs) > 1:
            # The parts leave their shards for where they are put together.
            parts = tuple(
                (f"{op.node.out}_{i}", replace(part, placement=op.out.placement))
                for i, part in enumerate(op.split_outs)
            )
            return (
                Step(reads=reads_of(op), writes=parts),
                Step(reads=tuple(name for name, _ in parts), writes=results_of(op)),
            )
        case (
            PlannedLinear(collective=Collective() as exchange)
            | PlannedEmbedding(gather=Collective() as exchange)
        ):
            part = f"{op.node.out}_part"
            return (
                Step(reads=reads_of(op), writes=((part, exchange.x),)),
                Step(reads=(part,), writes=results_of(op)),
            )
        case _:
            return (Step(reads=reads_of(op), writes=results_of(op)),)


def _attention_steps(op: PlannedAttention, values: Mapping[str, TensorPlan]) -> tuple[Step, ...]:
    """k and v as the cache has them, then the attention, at once or product by product."""
    node, steps = op.node, list[Step]()
    k, v = (f"{name}_{op.kv_dtype}" if op.cast_kv else name for name in (node.k, node.v))
    for name, stored in ((node.k, k), (node.v, v)):
        if op.cast_kv:
            cast = replace(values[name], dtype=op.kv_dtype)
            steps.append(Step(reads=(name,), writes=((stored, cast),)))
    if op.continues:
        steps += [Step(reads=(name,), writes=()) for name in (k, v)]
    if op.continues and op.scores is None:
        heads = f"{node.out}_heads"
        return (
            *steps,
            Step(reads=(node.q,), writes=((heads, op.gathered),)),
            Step(reads=(heads,), writes=results_of(op)),
        )
    if op.scores is None:
        return (*steps, Step(reads=(node.q, k, v), writes=results_of(op)))
    queries, scores = op.scores.queries, op.scores.scores
    names = score_names(node.out)
    if op.decode:
        by_user = replace(op.gathered, placement=queries.placement)
        first = names.gathered if op.scores.regroup else names.queries
        steps.append(Step(reads=(node.q, k, v), writes=((first, by_user),)))
        if op.scores.regroup:
            steps.append(Step(reads=(first,), writes=((names.queries, queries),)))
    from_cache = op.decode or op.continues
    keys, values_read = ((), ()) if from_cache else ((k,), (v,))
    if op.scores.cached is not None:
        keys, values_read = (names.keys,), (names.values,)
        taken = op.scores.cached
        steps += [Step(reads=(), writes=((name, taken),)) for name in (*keys, *values_read)]
    asked = names.queries if op.decode else node.q
    steps += [
        Step(reads=(asked, *keys), writes=((names.scores, scores),)),
        Step(reads=(names.scores,), writes=((names.capped, scores),)),
        Step(reads=(names.capped,), writes=((names.masked, scores),)),
        Step(reads=(names.masked,), writes=((names.weights, scores),)),
        Step(reads=(names.weights, *values_read), writes=((names.results, queries),)),
    ]
    joined = names.results
    if op.scores.regroup:
        users = ((names.by_user, replace(op.split, placement=queries.placement)),)
        steps.append(Step(reads=(names.results,), writes=users))
        joined = names.by_user
    return (*steps, Step(reads=(joined,), writes=results_of(op)))


def collectives_of(op: PlannedOp) -> tuple[Collective, ...]:
    """The exchanges between ranks that are part of an operation."""
    match op:
        case (
            PlannedNorm(gather=Collective() as exchange)
            | PlannedEmbedding(gather=Collective() as exchange)
            | PlannedRows(gather=Collective() as exchange)
            | PlannedLinear(collective=Collective() as exchange)
        ):
            return (exchange,)
        case _:
            return ()


def last_reads(ops: Sequence[PlannedOp]) -> dict[str, int]:
    """For each value, the place of the last operation that reads it."""
    return {name: i for i, op in enumerate(ops) for name in reads_of(op)}


def decoder_inputs(ops: Sequence[PlannedOp]) -> set[str]:
    """The values that operations read and none of them defines."""
    return last_reads(ops).keys() - {name for op in ops for name, _ in results_of(op)}


def decoder_outputs(ops: Sequence[PlannedOp]) -> set[str]:
    """The values that operations define and none of them reads."""
    return {name for op in ops for name, _ in results_of(op)} - last_reads(ops).keys()


def peak_bytes(
    ops: Sequence[PlannedOp],
    size: Callable[[TensorPlan], int],
    *,
    entering: Mapping[str, int] | None = None,
    buffers: Callable[[PlannedOp], int] = lambda op: 0,
) -> int:
    """The most bytes at once: values from their operation to their last reader, and `buffers`.

    `entering` are the sizes of the values that the operations find.
    """
    last = last_reads(ops)
    live: dict[str, int] = dict(entering or {})
    peak = 0
    for i, op in enumerate(ops):
        given, part = _passing(op)
        results = {name: size(tensor) for name, tensor in results_of(op)}
        needed = sum(map(size, given)) + buffers(op)
        if part is not None:  # what the operands gave is exchanged once they are gone
            peak = max(peak, sum(live.values()) + needed + size(part))
            live = {name: held for name, held in live.items() if last.get(name, i + 1) > i}
            needed = size(part)
        live |= results
        peak = max(peak, sum(live.values()) + needed)
        live = {name: held for name, held in live.items() if last.get(name, i + 1) > i}
    return peak


def _passing(op: PlannedOp) -> tuple[tuple[TensorPlan, ...], TensorPlan | None]:
    """Values that live within an operation: what is gathered for it, and what it exchanges last."""
    match op:
        case PlannedNorm():
            return (() if op.gather is None else (op.gather.out,)), None
        case PlannedEmbedding():
            return (() if op.gather is None else (op.gather.x,)), None
        case PlannedLinear():
            return (), None if op.collective is None else op.collective.x
        case _:
            return (), None
