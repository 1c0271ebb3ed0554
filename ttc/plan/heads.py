"""Which heads each rank of a replica computes and stores: any counts on any number of chips."""

from dataclasses import dataclass
from math import ceil

from ttc.plan.parallel import ZEROS, HeadLayout
from ttc.plan.plan import Choice


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadBytes:
    """What one head of a decoder makes a rank read in a decode step, in bytes.

    A query head has rows of wq and columns of wo, a kv head rows of wk and wv, and the cache of
    all users at full context.
    """

    query: int
    kv: int


def choose_heads(
    heads: int, kv_heads: int, ranks: int, cost: HeadBytes
) -> tuple[HeadLayout, Choice]:
    """The layout for which a rank reads least, and what the others would read.

    A kv head has heads / kv_heads queries. They may be cut into pieces of `per_kv` queries, each
    with a copy of the kv head, so that the pieces divide over the ranks; the last piece of a head
    and the last rank are filled with heads of zeros.
    """
    group = heads // kv_heads
    costs: dict[int, int] = {}
    texts: dict[int, str] = {}
    for per_kv in range(group, 0, -1):
        held = ceil(kv_heads * ceil(group / per_kv) / ranks)
        costs[per_kv] = held * (per_kv * cost.query + cost.kv)
        texts[per_kv] = (
            f"{held * per_kv} query and {held} kv heads on each of {ranks} ranks for {heads} and "
            f"{kv_heads}, {costs[per_kv]} bytes a step and decoder"
        )
    taken = min(costs, key=lambda per_kv: costs[per_kv])
    choice = Choice(
        name="queries per kv head",
        taken=str(taken),
        alternatives=tuple((str(per_kv), text) for per_kv, text in texts.items()),
    )
    return head_layout(heads, kv_heads, ranks, taken), choice


def head_layout(heads: int, kv_heads: int, ranks: int, per_kv: int) -> HeadLayout:
    """The layout with `per_kv` queries to each stored kv head."""
    group = heads // kv_heads
    pieces: list[tuple[int, tuple[int, ...]]] = []
    for kv in range(kv_heads):
        queries = range(kv * group, (kv + 1) * group)
        for start in range(0, group, per_kv):
            piece = tuple(queries[start : start + per_kv])
            pieces.append((kv, piece + (ZEROS,) * (per_kv - len(piece))))
    held = ceil(len(pieces) / ranks)
    pieces += [(ZEROS, (ZEROS,) * per_kv)] * (held * ranks - len(pieces))
    of_rank = [pieces[rank * held : (rank + 1) * held] for rank in range(ranks)]
    return HeadLayout(
        queries=tuple(tuple(q for _, piece in held for q in piece) for held in of_rank),
        kv=tuple(tuple(kv for kv, _ in held) for held in of_rank),
    )
