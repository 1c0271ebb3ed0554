"""What would still fit: the largest context, batch and prefill, solved with the same memory plan.

Nothing is estimated: a candidate is planned as a request would be, each batch and each chunk of
a prompt once, and its bytes are those that the request would be refused or accepted by.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from math import lcm

from ttc.plan.capacity import Largest
from ttc.plan.chunks import NEEDED_CHUNK_TOKENS, chunk_sizes, keys_at_once, needed_chunk
from ttc.plan.memory import (
    ChunkInputs,
    Stored,
    chunk_inputs,
    dram_bytes,
    input_bytes,
    kv_bytes,
    step_bytes,
    trace_region_bytes,
)
from ttc.plan.placement import TILE
from ttc.plan.plan import HeadPlan, KvCachePlan, PhasePlan, WeightPlan
from ttc.plan.prefill import continue_prompt
from ttc.plan.setting import Setting, user_slots

MAX_BATCH = TILE  # one tile row holds the users of a decode step


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """What is planned alike for every context of one number of users."""

    setting: Setting
    decode: PhasePlan
    head: HeadPlan
    prefill: Callable[[int, int], PhasePlan]  # by tokens, and by how many prompts have them
    kv_cache: Callable[[Setting], KvCachePlan]
    tables: Callable[[Setting], list[WeightPlan]]  # those whose rows are positions


class Sizing:
    """Bytes of a chip's DRAM by request. `plan_batch` plans what a number of users needs."""

    def __init__(
        self, setting: Setting, stored: Stored, plan_batch: Callable[[Setting], BatchPlan]
    ) -> None:
        self.setting = setting
        self.limit = setting.chip.dram_bytes
        self._weights = sum(stored.by_group.values())
        self._plan_batch = plan_batch
        self.of_batch = cache(self._planned)
        self._step = cache(self._step_bytes)

    def need(self, batch: int, context: int, chunk: int) -> int:
        """Bytes for `batch` users of `context` tokens, whose prompts are read in chunks."""
        at = self._at(batch, context)
        step = self._step(batch, chunk, chunk_inputs(at, chunk), at.context)
        return self._staying(batch, context) + step

    def room(self, batch: int, context: int) -> int:
        """Bytes that a step may take beside all that stays."""
        return self.limit - self._staying(batch, context)

    def fits(self, batch: int, context: int) -> bool:
        """Whether a request fits with the smallest chunk that it must have."""
        return self.need(batch, context, self._needed(context)) <= self.limit

    def largest(self) -> Largest:
        """What would fit, one thing changed at a time."""
        batch, context = self.setting.batch, self.setting.context
        return Largest(
            context=self.largest_context(batch),
            batch=_last(lambda users: self.fits(users, context), MAX_BATCH),
            prefill_bucket=self.largest_bucket(),
            max_tokens_all_users=self.largest_blocks() * self.setting.paging.block_tokens,
        )

    def largest_context(self, batch: int) -> int:
        """Tokens of each of `batch` users, whole blocks; 0 if not one block fits."""
        paging = self.setting.paging
        limit = paging.per_user(self.setting.spec.max_context_tokens)
        if paging.max_blocks is not None:
            limit = min(limit, paging.max_blocks)
        block = paging.block_tokens
        if not self.setting.whole_caches:
            return block * _last(lambda n: self.fits(batch, n * block), limit)
        # Prompts that are read in chunks need less, so that more context may fit than the next
        # smaller ones have.
        steps = lcm(block, NEEDED_CHUNK_TOKENS) // block
        chunked = steps * _last(lambda n: self.fits(batch, n * steps * block), limit // steps)
        beyond = range(min(limit, chunked + steps - 1), chunked, -1)
        return block * next((n for n in beyond if self.fits(batch, n * block)), chunked)

    def largest_bucket(self) -> int:
        """Tokens of the longest chunk that fits beside the planned users, at most a context."""
        batch, context = self.setting.batch, self.setting.context
        fitting = [
            chunk
            for chunk in chunk_sizes(context, context)
            if self.need(batch, context, chunk) <= self.limit
        ]
        return max(fitting, default=0)

    def largest_blocks(self) -> int:
        """Blocks of a cache that the planned users share."""
        setting, paging = self.setting, self.setting.paging
        if setting.whole_caches:
            return setting.slots * self.largest_context(setting.batch) // paging.block_tokens
        planned = self.of_batch(setting.batch)
        chunk = self._needed(setting.context)
        step = self._step(setting.batch, chunk, chunk_inputs(setting, chunk), setting.context)
        free = self.limit - self._beside_kv(setting.batch, setting.context) - step

        def fits(blocks: int) -> bool:
            shared = replace(setting, paging=replace(paging, max_blocks=blocks))
            return kv_bytes(planned.kv_cache(shared), setting.chip) <= free

        return _last(fits, max(0, free) // (paging.block_tokens * setting.dims.layers))

    def _staying(self, batch: int, context: int) -> int:
        """Bytes that are in use between steps, and the trace region."""
        planned = self.of_batch(batch)
        kv = kv_bytes(planned.kv_cache(self._at(batch, context)), self.setting.chip)
        return self._beside_kv(batch, context) + kv

    def _beside_kv(self, batch: int, context: int) -> int:
        chip, planned = self.setting.chip, self.of_batch(batch)
        at = self._at(batch, context)
        return (
            self._weights
            + sum(dram_bytes(table.tensor, chip) for table in planned.tables(at))
            + input_bytes(at, planned.decode, planned.head)
            + trace_region_bytes(planned.decode, planned.head, chip)
        )

    def _at(self, batch: int, context: int) -> Setting:
        return replace(self.of_batch(batch).setting, context=context)

    def _planned(self, batch: int) -> BatchPlan:
        slots = user_slots(batch, self.setting.chip)
        return self._plan_batch(replace(self.setting, batch=batch, slots=slots))

    def _step_bytes(self, batch: int, chunk: int, inputs: ChunkInputs, context: int) -> int:
        """The most that a decode step takes, or a chunk that starts or continues a prompt.

        Only products of whole caches depend on the context.
        """
        setting = self._at(batch, context)
        planned = self._plan_batch(setting) if setting.whole_caches else self.of_batch(batch)
        first = planned.prefill(chunk, 1)
        phases = [planned.decode, first]
        if can_continue(setting):
            phases.append(continue_prompt(first, keys_at_once(chunk), setting))
        return max(step_bytes(each, planned.head, self.setting.chip, inputs) for each in phases)

    def _needed(self, context: int) -> int:
        setting = replace(self.setting, context=context)
        return needed_chunk(context, setting.paging.block_tokens, alone=not can_continue(setting))


def can_continue(setting: Setting) -> bool:
    """Whether a prompt can be read in chunks: those of caches without blocks fill the context."""
    return not setting.whole_caches or setting.context % NEEDED_CHUNK_TOKENS == 0


def _last(fits: Callable[[int], bool], limit: int) -> int:
    """The largest number from 1 to `limit` that fits, 0 if none; all below one that fits do."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
