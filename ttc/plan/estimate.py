"""A first estimate of time, from measured laws: what bounds each kind of operation, and a total.

Every operation takes the longest of reading its operands, of its arithmetic and of the links
between chips, and then the gap until the next one starts. Nothing overlaps. The laws
(`hardware/laws.yaml`) come from other programs and other software; docs/measurements.md compares
the totals with published figures.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from ttc.hardware.chips import Chip
from ttc.hardware.laws import Laws, load_laws
from ttc.plan.exchange import Collective
from ttc.plan.memory import dram_bytes
from ttc.plan.operations import collectives_of, operations_of, reads_of, results_of
from ttc.plan.placement import TILE_BYTES, TensorPlan, tiles
from ttc.plan.plan import (
    HeadPlan,
    PhasePlan,
    Plan,
    PlannedAttention,
    PlannedEmbedding,
    PlannedLinear,
    PlannedNorm,
    PlannedOp,
    WeightPlan,
)
from ttc.spec.fidelity import Fidelity

Bound = Literal["DRAM", "compute", "links", "overhead"]

# Passes of the matrix unit over the mantissas of its operands.
PHASES = {"LoFi": 1, "HiFi2": 2, "HiFi3": 3, "HiFi4": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Seconds that one operation takes, and what they are spent on."""

    kind: str
    seconds: float
    bound: Bound


@dataclass(frozen=True, slots=True, kw_only=True)
class KindTime:
    """All operations of one kind in a step: milliseconds, and by what most of them are bound."""

    kind: str
    ms: float
    bound: Bound


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """A decode step with `tokens` in each user's cache, or a prefill of `tokens` after `start`, of
    each of `prompts`."""

    tokens: int
    start: int
    ms: float
    kinds: tuple[KindTime, ...]
    prompts: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Times of a plan. Decode: with few tokens in the caches and with a full context. `chunks`: the
    largest chunk as the last of a context, if it is not the first as well. `batched`: first chunks
    of several prompts."""

    decode: tuple[StepTime, ...]
    prefill: tuple[StepTime, ...]
    chunks: tuple[StepTime, ...]
    batched: tuple[StepTime, ...]
    sources: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Priced:
    """What times depend on beside the operations: a chip, and what lies on it.

    `cache` is the key cache of a layer, `ranks` the chips that share a user, `slots` the users of
    a decode step.
    """

    chip: Chip
    weights: tuple[WeightPlan, ...]
    cache: TensorPlan
    ranks: int
    slots: int
    vocab: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    priced: Priced
    laws: Laws
    stored: dict[str, TensorPlan]
    tokens: int
    start: int
    prompts: int
    decode: bool

    @property
    def chip(self) -> Chip:
        return self.priced.chip


def estimate(plan: Plan, chip: Chip) -> Estimate:
    """The time of a decode step at both ends of the context, and of each bucket of a prefill."""
    priced = Priced(
        chip=chip,
        weights=plan.weights,
        cache=plan.kv_cache.tensor[0],
        ranks=plan.parallel.tp,
        slots=plan.slots,
        vocab=plan.vocab,
    )
    short, chunk = min(plan.buckets[0], plan.context), plan.prefill_chunk_tokens
    last = (plan.context - 1) // chunk * chunk
    return Estimate(
        decode=tuple(
            step_time(priced, plan.decode, plan.head, tokens)
            for tokens in dict.fromkeys((short, plan.context))
        ),
        prefill=tuple(step_time(priced, phase, plan.head, phase.tokens) for phase in plan.prefill),
        chunks=tuple(
            step_time(priced, phase, plan.head, phase.tokens, last)
            for phase in plan.chunks
            if last and phase.tokens == chunk
        ),
        batched=tuple(step_time(priced, phase, plan.head, phase.tokens) for phase in plan.batched),
        sources=tuple(sorted(load_laws(chip.arch).sources.items())),
    )


def step_time(
    priced: Priced, phase: PhasePlan, head: HeadPlan, tokens: int, start: int = 0
) -> StepTime:
    """A decode step with `tokens` in each cache, or a prefill of `tokens` that `start` precede, of
    each of the phase's prompts."""
    laws, decode = load_laws(priced.chip.arch), phase.decode

    def step(layer: int | None, *, decode: bool) -> _Step:
        stored = {w.name: w.tensor for w in priced.weights if w.decoder in (None, layer)}
        return _Step(
            priced=priced,
            laws=laws,
            stored=stored,
            tokens=tokens,
            start=start,
            prompts=phase.prompts,
            decode=decode,
        )

    costs: list[tuple[int, Cost]] = []
    for decoder in phase.decoders:
        layer = step(decoder.layers[0], decode=decode)
        costs += [(len(decoder.layers), cost) for cost in _costs(layer, decoder.ops)]
    costs += [(1, cost) for cost in _costs(step(None, decode=decode), phase.enter)]
    costs += [(1, cost) for cost in _costs(step(None, decode=True), head.ops)]
    if phase.prompts > 1:
        costs.append((1, _pick(step(None, decode=False), phase)))
    if decode:
        seconds = priced.vocab * laws.argmax_seconds_each_logit
        costs.append((1, Cost(kind="sampling", seconds=seconds, bound="compute")))
        if head.gather:
            costs.append((1, _exchange(step(None, decode=True), head.gather)))
    kinds = _by_kind(costs)
    ms = sum(kind.ms for kind in kinds)
    return StepTime(tokens=tokens, start=start, ms=ms, kinds=kinds, prompts=phase.prompts)


def _pick(step: _Step, phase: PhasePlan) -> Cost:
    """All tokens become rows, of which the last of each prompt are gathered as tiles."""
    moved = 2 * dram_bytes(phase.residual, step.chip) / step.laws.interleaved_bytes_per_second
    launched = 2 * (step.laws.small_operation_seconds + step.laws.gap_seconds)
    return Cost(kind="other", seconds=launched + moved, bound="DRAM")


def _by_kind(costs: Iterable[tuple[int, Cost]]) -> tuple[KindTime, ...]:
    spent: dict[str, dict[Bound, float]] = {}
    for times, cost in costs:
        by_bound = spent.setdefault(cost.kind, {})
        by_bound[cost.bound] = by_bound.get(cost.bound, 0.0) + times * cost.seconds
    kinds = (
        KindTime(
            kind=kind,
            ms=1000 * sum(by_bound.values()),
            bound=max(by_bound, key=lambda bound: by_bound[bound]),
        )
        for kind, by_bound in spent.items()
    )
    return tuple(sorted(kinds, key=lambda each: -each.ms))


def _costs(step: _Step, ops: Sequence[PlannedOp]) -> list[Cost]:
    values: dict[str, TensorPlan] = {}
    costs: list[Cost] = []
    for op in ops:
        kind, main = _main(step, op, values)
        seconds, bound = max(main, key=lambda each: each[0])
        gaps = operations_of([op]) * step.laws.gap_seconds
        costs.append(Cost(kind=kind, seconds=seconds + gaps, bound=bound))
        costs += [_exchange(step, each) for each in collectives_of(op)]
        values |= dict(results_of(op))
    return costs


type _Times = list[tuple[float, Bound]]


def _exchange(step: _Step, op: Collective) -> Cost:
    """Hops, and the bytes that the fullest link carries, over as many links as are used."""
    laws, ranks = step.laws, step.priced.ranks
    law = laws.exchanges[op.topology, op.kind]
    hops = ranks / 2 if op.topology == "ring" else ranks - 1
    sent = _sent(op, ranks)
    rate = law.bytes_per_second * op.links / laws.exchange_links
    start = law.fixed_seconds + hops * law.hop_seconds
    bound: Bound = "links" if sent / rate > start else "overhead"
    return Cost(kind="collectives", seconds=start + sent / rate, bound=bound)


def _sent(op: Collective, ranks: int) -> float:
    """Bytes that each rank sends on."""
    given = op.x.stored_bytes
    return {
        "all_gather": (ranks - 1) * given,
        "reduce_scatter": (ranks - 1) / ranks * given,
        "all_reduce": 2 * (ranks - 1) / ranks * given,
    }[op.kind]


def sent_bytes(plan: Plan, phase: PhasePlan) -> int:
    """Bytes that each chip sends in the decoders of a step, by way of its links."""
    exchanges = (
        each for decoder in phase.decoders for op in decoder.ops for each in collectives_of(op)
    )
    return round(sum(_sent(each, plan.parallel.tp) for each in exchanges))


def _main(step: _Step, op: PlannedOp, values: dict[str, TensorPlan]) -> tuple[str, _Times]:
    """The kind of an operation, and its times by what could bound them."""
    match op:
        case PlannedLinear():
            return _group(step, op), _product(step, op)
        case PlannedAttention(decode=True):
            return "attention", _attention_decode(step, op)
        case PlannedAttention():
            return "attention", _attention_prefill(step, op)
        case PlannedNorm():
            return "norm", _elementwise(step, op, values, step.laws.norm_seconds)
        case PlannedEmbedding():
            return "embedding", _elementwise(step, op, values, step.laws.small_operation_seconds)
        case _:
            small = operations_of([op]) * step.laws.small_operation_seconds
            return "other", _elementwise(step, op, values, small)


def _group(step: _Step, op: PlannedLinear) -> str:
    weight = next(each for each in step.priced.weights if each.name == op.weights[0])
    return f"matmul {weight.group}"


def _product(step: _Step, op: PlannedLinear) -> _Times:
    """Weights stream from DRAM; in decode the cores beside the banks set the pace as well."""
    laws, chip = step.laws, step.chip
    read = sum(dram_bytes(step.stored[name], chip) for name in op.weights)
    times: _Times = [
        (
            len(op.weights) * laws.weights_fixed_seconds + read / laws.weights_bytes_per_second,
            "DRAM",
        )
    ]
    if step.decode:
        fixed, each_phase = laws.weight_tile_cycles
        cycles = fixed + each_phase * PHASES[op.compute.math_fidelity]
        count = sum(
            read_of.shape[2] * read_of.shape[3] // 1024
            for read_of in (step.stored[name] for name in op.weights)
        )
        times.append((count * cycles / (chip.dram_banks * chip.clock_hz), "compute"))
    else:
        rows = step.prompts * step.tokens
        flops = 2.0 * rows * op.rows * op.out.shape[3]
        peak = _peak_flops(chip, op.compute) * laws.gemm_utilisation(rows)
        times.append((flops / peak, "compute"))
    return times


def _peak_flops(chip: Chip, compute: Fidelity) -> float:
    per_core = chip.flops_per_core_cycle * chip.clock_hz / PHASES[compute.math_fidelity]
    return chip.grid.cores * per_core


SCORE_PASSES = 4  # scores, capped, masked, as weights: each is written once and read once


def _attention_decode(step: _Step, op: PlannedAttention) -> _Times:
    """Every user's keys and values are read once; a head is read by few cores only."""
    laws, cache = step.laws, step.priced.cache
    heads, head_dim = cache.shape[1], cache.shape[3]
    seen = min(step.tokens, op.window or step.tokens)
    rows = step.priced.slots * heads * tiles(seen) * tiles(head_dim)
    read = 2 * rows * TILE_BYTES[op.kv_dtype]
    rate = min(laws.cache_bytes_per_second, heads * laws.cache_of_a_head_bytes_per_second)
    others = (operations_of([op]) - 1) * laws.small_operation_seconds
    return [(others + laws.cache_fixed_seconds + read / rate, "DRAM")]


def _attention_prefill(step: _Step, op: PlannedAttention) -> _Times:
    """Scores and sums of what is before and a causal triangle, or of a band that a window cuts."""
    laws, tokens = step.laws, step.tokens
    seen = min(step.start + tokens / 2, op.window or step.start + tokens)
    flops = 4.0 * step.prompts * tokens * seen * op.out.shape[3]
    others = (operations_of([op]) - 1) * laws.small_operation_seconds
    if op.scores is not None:  # all keys, and every product and function goes through DRAM
        flops = 4.0 * tokens * op.scores.scores.shape[3] * op.out.shape[3]
        moved = 2 * SCORE_PASSES * dram_bytes(op.scores.scores, step.chip)
        others += moved / laws.interleaved_bytes_per_second
    return [(others + flops / laws.attention_flops_per_second, "compute")]


def _elementwise(
    step: _Step, op: PlannedOp, values: dict[str, TensorPlan], launch: float
) -> _Times:
    """What is read and written in DRAM, or what it takes to run at all."""
    tensors = [tensor for _, tensor in results_of(op)]
    tensors += [values[name] for name in reads_of(op) if name in values]
    moved = sum(dram_bytes(tensor, step.chip) for tensor in tensors)
    return [(launch, "overhead"), (moved / step.laws.interleaved_bytes_per_second, "DRAM")]
