"""The steps that read prompts: their sizes, chosen by what fits and by estimated time."""

from collections.abc import Mapping
from dataclasses import dataclass

from ttc.hardware.laws import load_laws
from ttc.plan.chunks import (
    Sizes,
    choose_buckets,
    choose_chunk,
    chunk_sizes,
    continuing_buckets,
    keys_at_once,
    needed_chunk,
)
from ttc.plan.estimate import Priced, step_time
from ttc.plan.memory import chunk_inputs, step_bytes
from ttc.plan.plan import Choice, KvCachePlan, PhasePlan, WeightPlan
from ttc.plan.prefill import continue_prompt
from ttc.plan.setting import Setting
from ttc.plan.solve import Sizing, can_continue
from ttc.plan.together import Together, choose_programs, uses_of


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptPlan:
    """Chunks of `chunk` tokens, and shorter ones: those that start a prompt, and those after.

    `batched` and `batched_later` are those of several prompts, `together` says when they are used.
    """

    chunk: int
    first: tuple[PhasePlan, ...]
    later: tuple[PhasePlan, ...]
    batched: tuple[PhasePlan, ...]
    batched_later: tuple[PhasePlan, ...]
    together: tuple[Together, ...]
    choices: tuple[Choice, ...]

    @property
    def phases(self) -> tuple[PhasePlan, ...]:
        """All of them."""
        return (*self.first, *self.later, *self.batched, *self.batched_later)


def cut_prompts(
    sizing: Sizing,
    weights: tuple[WeightPlan, ...],
    kv_cache: KvCachePlan,
    *,
    chunk: int | None,
) -> PromptPlan:
    """Plan the steps of prompts. `chunk`: the tokens of a chunk that were asked for, if any."""
    setting = sizing.setting
    spec, batch, context = setting.spec, setting.batch, setting.context
    users, block = sizing.of_batch(batch), setting.paging.block_tokens
    priced = Priced(
        chip=setting.chip,
        weights=weights,
        cache=kv_cache.tensor[0],
        ranks=setting.parallel.tp,
        slots=setting.slots,
        vocab=spec.dims.vocab,
    )

    def seconds(tokens: int, size: int) -> float:
        """Of a prompt: each of its chunks follows the half of the others on average."""
        times, before = -(-tokens // size), max(0, tokens - size) // 2
        step = users.prefill(size, 1)
        if setting.whole_caches and times > 1:  # products of a later chunk read all of the cache
            step = continue_prompt(step, keys_at_once(size), setting)
        return times * step_time(priced, step, users.head, size, before).ms / 1000

    limit = chunk or dict(spec.prefill_chunk_tokens).get(setting.mesh.name.split(":")[0])
    sizes, continuing = _sizes(setting, limit)
    needed = needed_chunk(context, block, alone=not continuing)
    taken, chunk_choice = choose_chunk(
        context,
        sizes,
        least=needed if chunk is None else max(block, sizes[0]),
        free_bytes=lambda size: sizing.limit - sizing.need(batch, context, size),
        seconds=seconds,
        largest=chunk is not None or not continuing,  # what was asked for, or all of a prompt
    )
    buckets, bucket_choice = choose_buckets(taken)
    later = continuing_buckets(buckets, context, block) if continuing else ()
    several, together, batch_choice = _read_together(sizing, priced, buckets, limit)

    def continued(phases: tuple[PhasePlan, ...]) -> tuple[PhasePlan, ...]:
        keys = keys_at_once(taken)
        later_ones = (each for each in phases if each.tokens in later)
        return tuple(continue_prompt(each, keys, setting) for each in later_ones)

    first = tuple(users.prefill(size, 1) for size in buckets)
    batched = tuple(
        users.prefill(size, prompts) for size in buckets for prompts in several.get(size, ())
    )
    return PromptPlan(
        chunk=taken,
        first=first,
        later=continued(first),
        batched=batched,
        batched_later=continued(batched),
        together=together,
        choices=(chunk_choice, bucket_choice, batch_choice),
    )


def _sizes(setting: Setting, limit: int | None) -> tuple[Sizes, bool]:
    """Chunks to choose from, and whether others can follow them.

    A later chunk of a cache without blocks is written where it starts, padding included: chunks
    must end with the context.
    """
    sizes = chunk_sizes(setting.context, limit or setting.context)
    if not setting.whole_caches:
        return sizes, True
    whole = tuple(size for size in sizes if setting.context % size == 0)
    return (whole, True) if can_continue(setting) and whole else (sizes, False)


def _read_together(
    sizing: Sizing, priced: Priced, buckets: Sizes, limit: int | None
) -> tuple[dict[int, Sizes], tuple[Together, ...], Choice]:
    """How many prompts the programs of each bucket read, beside that of one, and when.

    Only powers of two of tokens and of prompts, so that most steps have as many rows as a chunk of
    one prompt has, and share its functions; and no more rows than make matrix units busier, or than
    the `limit` of a chunk.
    """
    setting, users = sizing.setting, sizing.of_batch(sizing.setting.batch)
    if setting.batch == 1 or setting.whole_caches:
        why = "users' caches have no blocks" if setting.whole_caches else "a batch of one"
        choice = Choice(name="prefill_prompts", taken="one by one", alternatives=(("more", why),))
        return {}, (), choice
    room = sizing.room(setting.batch, setting.context)
    busiest = load_laws(setting.chip.arch).gemm[-1][0]
    most = busiest if limit is None else min(limit, busiest)

    def seconds(tokens: int, prompts: int) -> float:
        step = users.prefill(tokens, prompts)
        return step_time(priced, step, users.head, tokens).ms / 1000

    def fits(tokens: int, prompts: int) -> bool:
        inputs, step = chunk_inputs(setting, tokens), users.prefill(tokens, prompts)
        steps = (step, continue_prompt(step, keys_at_once(tokens), setting))
        return all(step_bytes(each, users.head, setting.chip, inputs) <= room for each in steps)

    times: dict[int, dict[int, float]] = {}
    for size in chunk_sizes(buckets[-1], buckets[-1]):
        several: dict[int, float] = {}
        prompts = 2
        while prompts < 2 * setting.batch and prompts * size <= most and fits(size, prompts):
            several[prompts] = seconds(size, prompts)
            prompts *= 2
        times[size] = several
    one = {size: seconds(size, 1) for size in buckets}
    chosen = {size: choose_programs(one[size], times[size], setting.batch) for size in times}
    together = tuple(_uses(one, times, chosen))
    return chosen, together, _choice(one, times, together)


def _uses(
    one: Mapping[int, float], times: Mapping[int, Mapping[int, float]], chosen: Mapping[int, Sizes]
) -> list[Together]:
    """For each bucket, the programs of its size, or of the power of two above it."""
    found: list[Together] = []
    for tokens, alone in one.items():
        padded = min(size for size in times if size >= tokens)
        several = {prompts: times[padded][prompts] for prompts in chosen[padded]}
        found += [
            Together(tokens=tokens, least=use.least, prompts=use.prompts, padded=padded)
            for use in uses_of(alone, several)[1:]
        ]
    return found


def _choice(
    one: Mapping[int, float],
    times: Mapping[int, Mapping[int, float]],
    together: tuple[Together, ...],
) -> Choice:
    """What was taken, and what prompts would take with every number that fits."""
    taken = ", ".join(
        f"{use.prompts} of {use.padded} tokens from {use.least} on"
        for use in together
        if use.tokens == use.padded
    )
    alternatives = tuple(
        (f"{prompts} of {size}", f"{1000 * seconds / prompts:.3g} ms for each prompt")
        for size in times
        for prompts, seconds in {1: one[size], **times[size]}.items()
    )
    return Choice(name="prefill_prompts", taken=taken or "one by one", alternatives=alternatives)
