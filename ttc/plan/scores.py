"""Attention made of products, for scores that no attention of ttnn computes: capped ones.

The queries of a kv head are rows of one matrix, so that grouped queries need no copies of k and v.
Scores of all tokens are written to DRAM; a decode step computes them for the whole context.
"""

from dataclasses import dataclass, fields, replace

from ttc.hardware.chips import Chip
from ttc.plan.matmul import plan_multicast
from ttc.plan.placement import DRAM, DType, TensorPlan
from ttc.plan.programs import MulticastMatmul
from ttc.plan.tables import mask_name
from ttc.spec.model import Dims
from ttc.spec.precision import Fidelity


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """softmax(cap * tanh(q k^T * scale / cap) + mask) v, one operation after the other.

    queries  [.., kv_heads, rows, head_dim]: `rows` are all queries of a kv head; and their results
    scores   [.., kv_heads, rows, keys]
    regroup  a decode step moves queries and results from user to kv head and back: with one kv
             head they lie alike
    by_head  the same scores as [.., heads, tokens, keys], to which `mask` is added
    users    of the cache
    cached   a chunk that continues a prompt: keys of its user, or values, taken out of the cache,
             where the cache is not all the user's
    products programs of a prompt's two products; what ttnn takes for itself can be more than L1
             has, and a decode step leaves it to ttnn: one row of tiles is little
    """

    cap: float
    mask: str
    queries: TensorPlan
    scores: TensorPlan
    regroup: bool
    by_head: tuple[int, int, int, int]
    users: int
    cached: TensorPlan | None = None
    products: tuple[MulticastMatmul, MulticastMatmul] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreNames:
    """What the values within one attention are called: queries of all users, then by kv head;
    keys and values of one; scores, capped, masked, as weights; results by kv head, and by user
    again.
    """

    gathered: str
    queries: str
    keys: str
    values: str
    scores: str
    capped: str
    masked: str
    weights: str
    results: str
    by_user: str


def score_names(attention: str) -> ScoreNames:
    """The names in the attention whose result is called `attention`."""
    each = (field.name for field in fields(ScoreNames))
    return ScoreNames(**{name: f"{attention}_{name}" for name in each})


def decode_scores(cap: float, window: int, dims: Dims, *, users: int, context: int) -> Scores:
    """One query of each user against all keys of its cache."""
    group = dims.heads // dims.kv_heads
    queries = _in_dram((users, dims.kv_heads, group, dims.head_dim))
    scores = _in_dram((users, dims.kv_heads, group, context))
    return Scores(
        cap=cap,
        mask=mask_name(window),
        queries=queries,
        scores=scores,
        regroup=dims.kv_heads > 1,
        by_head=scores.shape,
        users=users,
    )


def prefill_scores(cap: float, window: int, dims: Dims, *, users: int, tokens: int) -> Scores:
    """All queries of a prompt against all its keys."""
    rows = dims.heads // dims.kv_heads * tokens
    queries = _in_dram((1, dims.kv_heads, rows, dims.head_dim))
    return Scores(
        cap=cap,
        mask=mask_name(window),
        queries=queries,
        scores=_in_dram((1, dims.kv_heads, rows, tokens)),
        regroup=False,
        by_head=(1, dims.heads, tokens, tokens),
        users=users,
    )


def continued_scores(scores: Scores, *, context: int, kv_dtype: DType) -> Scores:
    """The queries of a chunk against all keys that the cache has room for."""
    _, kv_heads, rows, head_dim = scores.queries.shape
    taken = replace(_in_dram((1, kv_heads, context, head_dim)), dtype=kv_dtype)
    return replace(
        scores,
        scores=_in_dram((1, kv_heads, rows, context)),
        by_head=(*scores.by_head[:3], context),
        cached=taken if scores.users > 1 else None,
    )


def with_products(
    scores: Scores, *, kv_dtype: DType, compute: Fidelity, chip: Chip, kept_bytes: int
) -> tuple[Scores, int]:
    """Programs for the products of a prompt's queries with its keys, and of its weights with its
    values; and the bytes of L1 that the larger takes.
    """
    _, kv_heads, rows, keys = scores.scores.shape
    head_dim = scores.queries.shape[3]

    def product(depth: int, columns: int) -> tuple[MulticastMatmul, int]:
        program, size = plan_multicast(
            tokens=rows,
            rows=depth,
            columns=columns,
            x_dtype=scores.queries.dtype,
            weight_dtype=kv_dtype,
            out=scores.scores.dtype,
            compute=compute,
            chip=chip,
            kept_bytes=kept_bytes,
        )
        return replace(program, fuse_batch=kv_heads == 1), size

    (first, first_bytes), (second, second_bytes) = product(head_dim, keys), product(keys, head_dim)
    return replace(scores, products=(first, second)), max(first_bytes, second_bytes)


def _in_dram(shape: tuple[int, int, int, int]) -> TensorPlan:
    return TensorPlan(shape=shape, dtype="bf16", placement=DRAM)
