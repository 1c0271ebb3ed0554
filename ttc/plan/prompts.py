"""The steps that read prompts: their sizes, chosen by what fits and by estimated time."""

from dataclasses import dataclass

from ttc.plan.chunks import (
    choose_buckets,
    choose_chunk,
    chunk_sizes,
    continuing_buckets,
    keys_at_once,
)
from ttc.plan.estimate import Priced, step_time
from ttc.plan.plan import Choice, KvCachePlan, PhasePlan, WeightPlan
from ttc.plan.prefill import continue_prompt
from ttc.plan.solve import Sizing


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptPlan:
    """Chunks of `chunk` tokens, and shorter ones: those that start a prompt, and those after."""

    chunk: int
    first: tuple[PhasePlan, ...]
    later: tuple[PhasePlan, ...]
    choices: tuple[Choice, Choice]


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
        return times * step_time(priced, users.prefill(size), users.head, size, before).ms / 1000

    limit = chunk or dict(spec.prefill_chunk_tokens).get(setting.mesh.name.split(":")[0])
    taken, chunk_choice = choose_chunk(
        context,
        block,
        chunk_sizes(context, limit or context),
        free_bytes=lambda size: sizing.limit - sizing.need(batch, context, size),
        seconds=seconds,
        fixed=chunk is not None or setting.whole_caches,  # one chunk is all then: the largest
    )
    buckets, bucket_choice = choose_buckets(taken)
    first = tuple(map(users.prefill, buckets))
    later = () if setting.whole_caches else continuing_buckets(buckets, context, block)
    return PromptPlan(
        chunk=taken,
        first=first,
        later=tuple(
            continue_prompt(each, keys_at_once(taken)) for each in first if each.tokens in later
        ),
        choices=(chunk_choice, bucket_choice),
    )
