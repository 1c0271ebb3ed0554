"""Which rotary operations take a head of a given width."""

from ttc.plan.placement import TILE
from ttc.plan.setting import WIDE_HEAD, Setting
from ttc.plan.tables import RopeForm


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
    if in_fp32 and width > WIDE_HEAD:
        return f"sums in fp32 have no room for more than {WIDE_HEAD} elements"
    return ""
