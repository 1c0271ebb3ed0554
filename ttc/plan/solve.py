"""What would still fit: the largest context, batch and prefill, solved with the same memory plan.

Nothing is estimated: a candidate is planned as a request would be, each batch and each prefill
bucket once, and its bytes are those that the request would be refused or accepted by.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

from ttc.plan.memory import (
    Stored,
    dram_bytes,
    input_bytes,
    kv_bytes,
    step_bytes,
    trace_region_bytes,
)
from ttc.plan.placement import TILE
from ttc.plan.plan import Choice, HeadPlan, KvCachePlan, Largest, PhasePlan, WeightPlan
from ttc.plan.setting import Setting, user_slots

MAX_BATCH = TILE  # one tile row holds the users of a decode step

# The smallest prefill: fewer rows would leave most rows of cores idle.
SMALLEST_BUCKET_TOKENS = 128

# Prompts of this length must fit whatever the context: a prefill of 2048 tokens is bound by
# arithmetic already, so that shorter ones would only read the weights more often.
NEEDED_BUCKET_TOKENS = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """What is planned alike for every context of one number of users."""

    setting: Setting
    decode: PhasePlan
    head: HeadPlan
    prefill: Callable[[int], PhasePlan]  # by tokens of the bucket
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

    def need(self, batch: int, context: int, bucket: int) -> int:
        """Bytes for `batch` users of `context` tokens, the largest prefill being of `bucket`."""
        planned = self.of_batch(batch)
        kv = kv_bytes(planned.kv_cache(self._at(batch, context)), self.setting.chip)
        return self._beside_kv(batch, context, bucket) + kv

    def fits(self, batch: int, context: int) -> bool:
        """Whether a request fits with the smallest prefill that it must have."""
        return self.need(batch, context, needed_bucket(context)) <= self.limit

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
        return block * _last(lambda n: self.fits(batch, n * block), limit)

    def largest_bucket(self) -> int:
        """Tokens of the longest prefill that fits beside the planned users, at most a context."""
        batch, context = self.setting.batch, self.setting.context
        fitting = [
            bucket
            for bucket in buckets(context, context)
            if self.need(batch, context, bucket) <= self.limit
        ]
        return max(fitting, default=0)

    def largest_blocks(self) -> int:
        """Blocks of a cache that the planned users share."""
        setting, paging = self.setting, self.setting.paging
        if setting.whole_caches:
            return setting.slots * self.largest_context(setting.batch) // paging.block_tokens
        planned = self.of_batch(setting.batch)
        free = self.limit - self._beside_kv(
            setting.batch, setting.context, needed_bucket(setting.context)
        )

        def fits(blocks: int) -> bool:
            shared = replace(setting, paging=replace(paging, max_blocks=blocks))
            return kv_bytes(planned.kv_cache(shared), setting.chip) <= free

        return _last(fits, max(0, free) // (paging.block_tokens * setting.dims.layers))

    def _beside_kv(self, batch: int, context: int, bucket: int) -> int:
        chip, planned = self.setting.chip, self.of_batch(batch)
        at = self._at(batch, context)
        return (
            self._weights
            + sum(dram_bytes(table.tensor, chip) for table in planned.tables(at))
            + input_bytes(at, planned.decode)
            + max(self._step(batch, 0), self._step(batch, bucket))
            + trace_region_bytes(planned.decode, planned.head, chip)
        )

    def _at(self, batch: int, context: int) -> Setting:
        return replace(self.of_batch(batch).setting, context=context)

    def _planned(self, batch: int) -> BatchPlan:
        slots = user_slots(batch, self.setting.chip)
        return self._plan_batch(replace(self.setting, batch=batch, slots=slots))

    def _step_bytes(self, batch: int, bucket: int) -> int:
        planned = self.of_batch(batch)
        phase = planned.prefill(bucket) if bucket else planned.decode
        return step_bytes(phase, planned.head, self.setting.chip)


def choose_buckets(sizing: Sizing, limit: int) -> tuple[tuple[int, ...], Choice]:
    """Lengths of prefills: as many as fit beside the users, none longer than `limit` tokens."""
    batch, context = sizing.setting.batch, sizing.setting.context
    wanted, needed = buckets(context, limit), needed_bucket(context)
    sizes = {bucket: sizing.need(batch, context, bucket) for bucket in wanted}
    taken = tuple(each for each in wanted if each <= needed or sizes[each] <= sizing.limit)
    alternatives = tuple(
        (str(bucket), f"{size} bytes of DRAM on a chip, {_margin(sizing.limit - size)}")
        for bucket, size in sizes.items()
    )
    return taken, Choice(name="largest_prefill", taken=str(taken[-1]), alternatives=alternatives)


def _margin(free: int) -> str:
    return f"{free} free" if free >= 0 else f"{-free} too many"


def buckets(context: int, limit: int) -> tuple[int, ...]:
    """Prompt lengths a prefill is emitted for: powers of two, the largest holding the context.

    A context shorter than the smallest is one itself: more tokens would not fit its cache.
    """
    found = [min(SMALLEST_BUCKET_TOKENS, context)]
    while found[-1] < min(context, limit):
        found.append(2 * found[-1])
    fitting = [tokens for tokens in found if tokens <= min(context, limit)]
    return tuple(fitting or found[:1])


def needed_bucket(context: int) -> int:
    """The longest prefill that a context must have room for."""
    return buckets(context, NEEDED_BUCKET_TOKENS)[-1]


def _last(fits: Callable[[int], bool], limit: int) -> int:
    """The largest number from 1 to `limit` that fits, 0 if none; all below one that fits do."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
