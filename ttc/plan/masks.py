"""Which keys the queries of a step see, gathered once and added to the scores of all decoders."""

from ttc.plan.placement import DRAM, TensorPlan
from ttc.plan.setting import Setting
from ttc.plan.tables import PlannedMask, mask_name

type Rows = tuple[int, int, int, int]


def plan_decode_masks(setting: Setting, positions: int) -> tuple[PlannedMask, ...]:
    """One for each window; a step is given so many `positions`, those of its users first."""
    users, context = setting.slots, setting.context
    return _masks(setting, positions, (1, 1, users, context), (users, 1, 1, context), decode=True)


def plan_prefill_masks(setting: Setting, tokens: int) -> tuple[PlannedMask, ...]:
    """One for each window: rows of the whole context, cut to the tokens of the prompt."""
    whole, own = (1, 1, tokens, setting.context), (1, 1, tokens, tokens)
    return _masks(setting, tokens, whole, own, decode=False)


def _masks(
    setting: Setting, positions: int, gathered: Rows, out: Rows, *, decode: bool
) -> tuple[PlannedMask, ...]:
    return tuple(
        PlannedMask(
            name=mask_name(window),
            window=window,
            decode=decode,
            positions=positions,
            gathered=TensorPlan(shape=gathered, dtype="bf16", placement=DRAM),
            out=TensorPlan(shape=out, dtype="bf16", placement=DRAM),
        )
        for window in setting.masks
    )
