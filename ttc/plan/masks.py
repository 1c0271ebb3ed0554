"""Which keys the queries of a step see, gathered once and added to the scores of all decoders."""

from ttc.plan.placement import DRAM, TensorPlan
from ttc.plan.setting import Setting
from ttc.plan.tables import PlannedMask, mask_name


def plan_decode_masks(setting: Setting, positions: int) -> tuple[PlannedMask, ...]:
    """One for each window; a step is given so many `positions`, those of its users first."""
    users, context = setting.slots, setting.context
    return tuple(
        PlannedMask(
            name=mask_name(window),
            window=window,
            decode=True,
            positions=positions,
            gathered=_rows((1, 1, users, context)),
            out=_rows((users, 1, 1, context)),
        )
        for window in setting.masks
    )


def plan_prefill_masks(setting: Setting, tokens: int) -> tuple[PlannedMask, ...]:
    """One for each window: rows of the whole context, cut to the tokens of the prompt."""
    return tuple(
        PlannedMask(
            name=mask_name(window),
            window=window,
            decode=False,
            positions=tokens,
            gathered=_rows((1, 1, tokens, setting.context)),
            out=_rows((1, 1, tokens, tokens)),
        )
        for window in setting.masks
    )


def _rows(shape: tuple[int, int, int, int]) -> TensorPlan:
    return TensorPlan(shape=shape, dtype="bf16", placement=DRAM)
