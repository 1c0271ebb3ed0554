"""Which rotary operations take a head of a given width."""

from collections.abc import Mapping

from ttc.errors import PlanError, Problem
from ttc.plan.placement import TILE
from ttc.plan.setting import Setting
from ttc.plan.tables import RopeForm

# ttnn 0.81.1: "If head_dim is > 128, fp32_dest_acc_en must be False" (rotary_embedding_llama).
PAIRS_IN_FP32 = 128


def rotation_refused(setting: Setting, form: RopeForm) -> str:
    """Why ttnn does not rotate heads of this width in a form; "" where it does."""
    width = setting.dims.head_dim
    if form == "halves":  # "must be either 32 (single tile) or divisible by 64"
        legal = width == TILE or width % (2 * TILE) == 0
        return "" if legal else f"the halves of {width} elements are no whole tiles"
    in_fp32 = any(
        precision.fidelity("rope", phase).fp32_dest_acc
        for precision in setting.decoders
        for phase in ("decode", "prefill")
    )
    if in_fp32 and width > PAIRS_IN_FP32:
        return f"sums in fp32 have no room for more than {PAIRS_IN_FP32} elements"
    return ""


def no_rotation(setting: Setting, refused: Mapping[RopeForm, str]) -> PlanError:
    """The error where no form is legal."""
    width = setting.dims.head_dim
    return PlanError(
        Problem(
            message=f"heads of {width} elements cannot be rotated",
            at=setting.spec.source_of("dims.head_dim"),
            details=tuple(f"{form}: {why}" for form, why in refused.items()),
            help="a profile whose 'rope' adds in 16 bits, such as hifi2fp16, allows pairs",
        )
    )
