"""The part of a weight that one rank stores."""

import pytest
import torch

from ttc.checkpoint.shards import local_matrix, take_columns
from ttc.plan.parallel import ZEROS, Share, even_share, head_share
from ttc.plan.placement import DRAM, TensorPlan
from ttc.plan.plan import WeightPart, WeightPlan

pytestmark = pytest.mark.emulate


def weight(shape: tuple[int, int], *parts: WeightPart, transpose: bool = True) -> WeightPlan:
    return WeightPlan(
        name="w",
        decoder=None,
        group="wqkv",
        parts=parts,
        table=None,
        transpose=transpose,
        tensor=TensorPlan(shape=(1, 1, *shape), dtype="bf16", placement=DRAM),
    )


def local(plan: WeightPlan, rank: int, **tensors: torch.Tensor) -> torch.Tensor:
    def read(part: WeightPart, rows: slice) -> torch.Tensor:
        assert 0 <= rows.start <= rows.stop <= tensors[part.tensor].shape[0]
        return tensors[part.tensor][rows]

    return local_matrix(plan, rank, read, lambda part: tensors[part.tensor].shape[0])[0, 0]


def test_fused_projections_take_the_heads_of_the_rank() -> None:
    """q of heads 2, - and kv head 1, replicated on both ranks."""
    wq, wk = torch.randn(3 * 4, 6), torch.randn(2 * 4, 6)
    queries = head_share("query heads", "out", ((0, 1), (2, ZEROS)), 4)
    kv = head_share("kv heads", "out", ((1,), (1,)), 4)
    plan = weight(
        (6, 12),
        WeightPart(tensor="wq", shares=(queries,)),
        WeightPart(tensor="wk", shares=(kv,)),
    )
    assert plan.divided
    zeros = torch.zeros(4, 6)
    assert torch.equal(local(plan, 0, wq=wq, wk=wk), torch.cat((wq[:8], wk[4:])).t())
    assert torch.equal(local(plan, 1, wq=wq, wk=wk), torch.cat((wq[8:], zeros, wk[4:])).t())


def test_products_of_the_ranks_sum_to_the_whole_product() -> None:
    """Columns of wo by rank, with a head of zeros: what a row-parallel matmul relies on."""
    wo, x = torch.randn(10, 3 * 4), torch.randn(5, 12)
    layout = ((0, 2), (1, ZEROS))
    plan = weight(
        (8, 10), WeightPart(tensor="wo", shares=(head_share("query heads", "in", layout, 4),))
    )
    garbage = torch.full((5, 4), 7.0)  # what a padded head computes is lost in its zero rows
    inputs = (torch.cat((x[:, 0:4], x[:, 8:12]), 1), torch.cat((x[:, 4:8], garbage), 1))
    total = sum(inputs[rank] @ local(plan, rank, wo=wo) for rank in range(2))
    assert torch.allclose(torch.as_tensor(total), x @ wo.t(), atol=1e-5)


def test_vectors_and_padding_beyond_the_end() -> None:
    bias = torch.arange(5.0)
    plan = weight(
        (1, 4), WeightPart(tensor="b", shares=(even_share("ffn", "out", width=4, ranks=2),))
    )
    assert torch.equal(local(plan, 0, b=bias)[0], bias[:4])
    assert torch.equal(local(plan, 1, b=bias)[0], torch.tensor([4.0, 0, 0, 0]))


def test_a_whole_tensor_is_the_same_on_every_rank() -> None:
    matrix = torch.randn(6, 4)
    plan = weight((4, 6), WeightPart(tensor="m", stop=6))
    assert not plan.divided
    assert torch.equal(local(plan, 0, m=matrix), local(plan, 3, m=matrix))


def test_columns_of_a_rank_without_any() -> None:
    share = Share(name="hidden", dim="in", size=3, starts=((0,), (3,), (6,)))
    assert torch.equal(take_columns(torch.ones(2, 4), share, 2), torch.zeros(2, 3))
