"""The choice of the next token on the device: the most likely tokens, and a draw among them."""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, log2
from typing import Literal

from ttc.hardware.chips import Chip
from ttc.plan.exchange import Collective
from ttc.plan.placement import DRAM, L1, TILE, TILE_BYTES, DType, Placement, TensorPlan

CANDIDATES = TILE
"""Tokens that a draw is among: what the last operation, `ttnn.sampling`, takes, is one tile."""

# ttnn's top-k runs on several cores where the width is a power of two in this range (its own
# documentation, ttnn 0.81.1); else on one core, which takes 22 ms for 76,000 columns (measured by
# tt-transformers), four times what the host takes.
NARROWEST, WIDEST = 1024, 32768

# Below every logit.
LOWEST = -1.0e9

# Buffers of that top-k on its fullest core, which gathers what the others found: for any width, for
# each core that looks, and for each column that such a core has; of 16-bit values, and of 32-bit
# ones (mock N150, TG, P100 and P150, ttnn 0.81.1, for all widths in that range).
TOPK_BYTES = {"bf16": (36864, 8192, 128), "fp32": (57344, 16384, 256)}

# The draw: scaled, masked, probabilities, their running sums (three operations), what comes before
# each, what top_p keeps (two), its sum, where the draw falls, what lies before that, the last of
# them (two), ids as rows, and the id.
DRAW_OPERATIONS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class VocabRange:
    """Columns [first, first + columns) of the logits, padded to `width` for a top-k."""

    first: int
    columns: int
    width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingPlace:
    """Which settings are carried out where, and why there."""

    settings: tuple[str, ...]
    where: Literal["device", "host"]
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingPlan:
    """How a device draws a token: the `top_k` most likely at most, by the ranges of its logits.

    columns  that are tokens, of the `held` ones of a rank, or of all ranks if they are gathered
    whole    the columns of all ranks are gathered first; else each rank looks through its own, and
             `gathers` brings values and ids of the most likely of each together
    cut      whether ranges are cut out of the logits
    narrow   whether logits and the columns that a top-k finds have 16 bits, and are widened
    offsets  the first id of each block of candidates, in the order in which they come together
    inputs   what the emitted function is given beside logits and tokens, by name
    buffer_bytes  what the widest top-k keeps in L1 on its fullest core
    """

    top_k: int
    columns: int
    held: int
    whole: bool
    cut: bool
    narrow: bool
    ranges: tuple[VocabRange, ...]
    gathers: tuple[Collective, ...]
    offsets: tuple[int, ...]
    inputs: tuple[tuple[str, TensorPlan], ...]
    buffer_bytes: int
    places: tuple[SettingPlace, ...]

    @property
    def merges(self) -> bool:
        """Whether candidates of several blocks come together and are looked through once more."""
        return len(self.offsets) > 1

    @property
    def operations(self) -> int:
        """Device operations of one draw, without a gather of whole logits."""
        each = sum(self._range_operations(part) for part in self.ranges)
        joined = 2 if len(self.ranges) > 1 else 0
        exchanged = sum(gather.operations for gather in self.gathers)
        return each + joined + exchanged + (3 if self.merges else 0) + self.narrow + DRAW_OPERATIONS

    @property
    def logprob_operations(self) -> int:
        """Device operations of the sums for log-probabilities, without a gather of whole logits.

        What is not whole tiles is filled up for each of the two reductions.
        """
        return self.trimmed + self.narrow + 3 + 2 * self.odd

    @property
    def trimmed(self) -> bool:
        """Whether columns of padding are cut off."""
        return self.columns != self.held

    @property
    def odd(self) -> bool:
        """Whether the tokens fill no whole tiles."""
        return self.columns % TILE > 0

    def _range_operations(self, part: VocabRange) -> int:
        """Cut out, padded (what is not whole tiles takes one more), looked through, ids widened."""
        padded = part.width > part.columns
        odd = padded and part.columns % TILE > 0
        return self.cut + padded + odd + 1 + self.narrow


def plan_sampling(
    logits: TensorPlan,
    vocab: int,
    ranks: int,
    *,
    gather: Callable[[TensorPlan, Placement], Collective],
    chip: Chip,
    free_bytes: int,
) -> SamplingPlan:
    """The plan for logits [1, 1, 32, columns of a rank]; `gather` brings a width together.

    Ranks look through their own columns where none of them holds padding. Ranges are as wide as
    their top-k fits in `free_bytes` of L1.
    """
    widest = WIDEST
    while widest > NARROWEST and topk_bytes(widest, logits.dtype, chip) > free_bytes:
        widest //= 2
    columns = logits.shape[3]
    whole = ranks > 1 and columns * ranks != vocab
    wanted = columns if ranks > 1 and not whole else vocab
    ranges = vocab_ranges(wanted, widest)
    parts = 1 if whole else ranks
    gathers: tuple[Collective, ...] = ()
    if parts > 1:
        block = (1, 1, TILE, CANDIDATES * len(ranges))
        dtypes: tuple[DType, ...] = (logits.dtype, "uint32")
        found = [TensorPlan(shape=block, dtype=dtype, placement=L1) for dtype in dtypes]
        gathers = tuple(gather(each, L1) for each in found)
    offsets = tuple(rank * columns + part.first for rank in range(parts) for part in ranges)
    held = columns * ranks if whole else columns
    return SamplingPlan(
        top_k=CANDIDATES,
        columns=wanted,
        held=held,
        whole=whole,
        cut=len(ranges) > 1 or wanted != held,
        narrow=logits.dtype != "fp32",
        ranges=ranges,
        gathers=gathers,
        offsets=offsets,
        inputs=_inputs(len(offsets)),
        buffer_bytes=topk_bytes(max(part.width for part in ranges), logits.dtype, chip),
        places=_PLACES,
    )


def topk_bytes(width: int, dtype: DType, chip: Chip) -> int:
    """What a top-k over so many columns takes of L1, on its fullest core.

    ttnn takes a square of cores at most, a power of two on each side and narrower than the grid,
    and no more than of which each has four times as many tiles as there are cores.
    """
    side = 1 << ((chip.grid.x - 1).bit_length() - 1)
    wanted = 1 << ceil(log2(width / 16) / 2)
    cores = min(side * side, wanted)
    fixed, core, column = TOPK_BYTES["fp32" if dtype == "fp32" else "bf16"]
    found = TILE_BYTES[dtype] + TILE_BYTES["uint32"]
    return fixed + core * cores + column * width // cores + found


def vocab_ranges(columns: int, widest: int = WIDEST) -> tuple[VocabRange, ...]:
    """As few ranges as cover the columns, each of a width that several cores look through."""
    ranges: list[VocabRange] = []
    for first in range(0, columns, widest):
        part = min(widest, columns - first)
        width = max(NARROWEST, 1 << (part - 1).bit_length())
        ranges.append(VocabRange(first=first, columns=part, width=width))
    return tuple(ranges)


def _inputs(blocks: int) -> tuple[tuple[str, TensorPlan], ...]:
    """One tile with a row for each user, but for what is the same for all users."""

    def tile(dtype: DType, columns: int = CANDIDATES) -> TensorPlan:
        return TensorPlan(shape=(1, 1, TILE, columns), dtype=dtype, placement=DRAM)

    def row(dtype: DType) -> TensorPlan:
        shape = (1, 1, 1, TILE)
        return TensorPlan(shape=shape, dtype=dtype, placement=DRAM, layout="row_major")

    offsets = (("offsets", tile("uint32", CANDIDATES * blocks)),) if blocks > 1 else ()
    return (
        ("scale", tile("fp32")),
        ("mask", tile("fp32")),
        ("places", tile("fp32")),
        ("top_p", tile("fp32")),
        ("draws", tile("fp32")),
        ("best", row("uint32")),
        ("ones", row("bf16")),
        *offsets,
    )


_PLACES = (
    SettingPlace(
        settings=("temperature", "top_k", "top_p", "seed"),
        where="device",
        why=f"a draw among the {CANDIDATES} most likely tokens is a draw among the top_k, where "
        f"top_k is 1 to {CANDIDATES} or the temperature is 0; the host sends a number from 0 to 1 "
        "with each step, so that a seed gives the same text on device and host",
    ),
    SettingPlace(
        settings=("top_k",),
        where="host",
        why=f"where it is 0 (all tokens) or above {CANDIDATES}: ttnn.sampling picks among "
        f"{CANDIDATES} at most, and others would never be drawn",
    ),
    SettingPlace(
        settings=("repetition_penalty", "presence_penalty", "frequency_penalty"),
        where="host",
        why="they change the logits of tokens that were there before: a device would keep two "
        "counts for each user and token of the vocabulary, and pass over all logits a dozen times "
        "in float32, half a gigabyte in a step for 32 users of 128,256 tokens",
    ),
    SettingPlace(
        settings=("logprobs",),
        where="device",
        why="where the device draws: it adds up the whole vocabulary, and the host reads two "
        "numbers for each user and rank, and the most likely tokens with their logits",
    ),
)
