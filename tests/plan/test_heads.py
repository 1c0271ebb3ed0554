"""Heads over ranks: every query head once, next to its kv head."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttc.plan.heads import HeadBytes, choose_heads, head_layout
from ttc.plan.parallel import ZEROS, HeadLayout

pytestmark = pytest.mark.fast

# A query head has two matrices of 1 MB, a kv head two and a cache.
COST = HeadBytes(query=2_000_000, kv=2_500_000)


@given(
    kv_heads=st.integers(1, 32),
    group=st.integers(1, 16),
    ranks=st.sampled_from([1, 2, 4, 8, 32]),
    data=st.data(),
)
def test_every_query_is_computed_once_beside_its_kv_head(
    kv_heads: int, group: int, ranks: int, data: st.DataObject
) -> None:
    per_kv = data.draw(st.integers(1, group))
    layout = head_layout(kv_heads * group, kv_heads, ranks, per_kv)
    assert len(layout.queries) == len(layout.kv) == ranks
    computed: list[int] = []
    for queries, kv in zip(layout.queries, layout.kv, strict=True):
        assert len(queries) == layout.heads == len(kv) * per_kv
        for place, query in enumerate(queries):
            if query != ZEROS:
                assert kv[place // per_kv] == query // group
                computed.append(query)
    assert sorted(computed) == list(range(kv_heads * group))


@pytest.mark.parametrize(
    ("heads", "kv_heads", "ranks", "local"),
    [
        (32, 8, 8, (4, 1)),
        (64, 8, 8, (8, 1)),
        (9, 3, 2, (6, 2)),
        (9, 3, 4, (3, 1)),
        (9, 3, 8, (2, 1)),
        (28, 4, 8, (4, 1)),
        (40, 10, 8, (6, 3)),
        (1, 1, 8, (1, 1)),
        (9, 3, 1, (9, 3)),
    ],
)
def test_the_cheapest_pair_of_padding_and_replication(
    heads: int, kv_heads: int, ranks: int, local: tuple[int, int]
) -> None:
    layout, choice = choose_heads(heads, kv_heads, ranks, COST)
    assert (layout.heads, layout.kv_heads) == local
    assert len(choice.alternatives) == heads // kv_heads
    assert f"{local[0]} query and {local[1]} kv heads" in dict(choice.alternatives)[choice.taken]


def test_a_long_cache_outweighs_padded_queries() -> None:
    """40 queries over 10 kv heads on 8 ranks: 3 copies of kv heads, or 2 and more queries."""
    layout, _ = choose_heads(40, 10, 8, HeadBytes(query=2_000_000, kv=20_000_000))
    assert (layout.heads, layout.kv_heads) == (8, 2)


def test_one_chip_has_the_heads_of_the_model() -> None:
    assert head_layout(4, 2, 1, 2) == HeadLayout(queries=((0, 1, 2, 3),), kv=((0, 1),))
