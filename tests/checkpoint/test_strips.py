"""What one rank stores of a weight, before it is packed."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ttc.checkpoint import strips
from ttc.checkpoint.index import WeightSource
from ttc.checkpoint.names import Binding, BoundTensor
from ttc.checkpoint.strips import stored_matrix
from ttc.errors import CheckpointError
from ttc.plan.parallel import ZEROS, Share, even_share, head_share
from ttc.plan.placement import DRAM, DType, TensorPlan
from ttc.plan.plan import WeightPart, WeightPlan

pytestmark = pytest.mark.fast

type Array = NDArray[np.float32]


class Tensors(SimpleNamespace):
    """A checkpoint of arrays, which counts the rows that are read."""

    def shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name].shape

    def read(self, name: str, rows: slice | None = None) -> Array:
        taken = self.tensors[name][rows or slice(None)]
        self.rows_read += len(taken)
        return taken


def weight(shape: tuple[int, int], *parts: WeightPart, transpose: bool = True) -> WeightPlan:
    return WeightPlan(
        name="w",
        decoder=None,
        group="wqkv",
        parts=parts,
        table=None,
        transpose=transpose,
        tensor=TensorPlan(shape=(1, 1, *shape), dtype="fp32", placement=DRAM),
    )


def source(heads: int = 0, **tensors: Array) -> WeightSource:
    bound = {
        name: BoundTensor(name=name, shape=values.shape, first=0, rows="halves", heads=heads)
        for name, values in tensors.items()
    }
    checkpoint: Any = Tensors(tensors=tensors, rows_read=0, description="tiny")
    binding = Binding(tensors=bound, ignored=())
    return WeightSource(checkpoint=checkpoint, binding=binding, chip="wormhole_b0")


def rows_of(values: Array) -> WeightSource:
    """A weight `w` whose rows are tensors."""
    tensors = {f"w.{row}": each for row, each in enumerate(values)}
    bound = BoundTensor(name="w.{row}", shape=values.shape, first=0, rows="halves", heads=0)
    checkpoint: Any = Tensors(tensors=tensors, rows_read=0, description="tiny")
    binding = Binding(tensors={"w": bound}, ignored=())
    return WeightSource(checkpoint=checkpoint, binding=binding, chip="wormhole_b0")


def random(*shape: int) -> Array:
    return np.random.default_rng(len(shape)).standard_normal(shape, dtype=np.float32)


def test_fused_projections_take_the_heads_of_the_rank() -> None:
    """q of heads 2, - and kv head 1, replicated on both ranks."""
    wq, wk = random(3 * 4, 6), random(2 * 4, 6)
    queries = head_share("query heads", "out", ((0, 1), (2, ZEROS)), 4)
    kv = head_share("kv heads", "out", ((1,), (1,)), 4)
    plan = weight(
        (6, 12),
        WeightPart(tensor="wq", shares=(queries,)),
        WeightPart(tensor="wk", shares=(kv,)),
    )
    of = source(wq=wq, wk=wk)
    zeros = np.zeros((4, 6), np.float32)
    assert np.array_equal(stored_matrix(plan, of, 0), np.concatenate((wq[:8], wk[4:])).T)
    assert np.array_equal(stored_matrix(plan, of, 1), np.concatenate((wq[8:], zeros, wk[4:])).T)


def test_products_of_the_ranks_sum_to_the_whole_product() -> None:
    """Columns of wo by rank, with a head of zeros: what a row-parallel matmul relies on."""
    wo, x = random(10, 3 * 4), random(5, 12)
    layout = ((0, 2), (1, ZEROS))
    share = head_share("query heads", "in", layout, 4)
    plan, of = weight((8, 10), WeightPart(tensor="wo", shares=(share,))), source(wo=wo)
    garbage = np.full((5, 4), 7.0)  # what a padded head computes is lost in its zero rows
    inputs = (np.hstack((x[:, 0:4], x[:, 8:12])), np.hstack((x[:, 4:8], garbage)))
    total = sum(inputs[rank] @ stored_matrix(plan, of, rank) for rank in range(2))
    assert np.allclose(total, x @ wo.T, atol=1e-5)


def test_vectors_and_padding_beyond_the_end() -> None:
    bias = np.arange(5, dtype=np.float32)
    share = even_share("ffn", "out", width=4, ranks=2)
    plan, of = weight((1, 4), WeightPart(tensor="b", shares=(share,))), source(b=bias)
    assert stored_matrix(plan, of, 0).tolist() == [[0, 1, 2, 3]]
    assert stored_matrix(plan, of, 1).tolist() == [[4, 0, 0, 0]]


def test_columns_of_a_rank_without_any() -> None:
    share = Share(name="hidden", dim="in", size=3, starts=((0,), (3,), (6,)), taken=3)
    plan = weight((3, 2), WeightPart(tensor="m", shares=(share,)))
    assert not stored_matrix(plan, source(m=np.ones((2, 4), np.float32)), 2).any()


def test_heads_turn_into_pairs() -> None:
    wq = random(2 * 8, 3)
    plan = weight((3, 16), WeightPart(tensor="wq", rows="pairs", heads=2))
    stored = stored_matrix(plan, source(heads=2, wq=wq), 0)
    for head in (0, 8):
        for i in range(4):
            assert np.array_equal(stored[:, head + 2 * i], wq[head + i])
            assert np.array_equal(stored[:, head + 2 * i + 1], wq[head + i + 4])


def test_padding_is_zero() -> None:
    matrix = random(6, 4)
    stored = stored_matrix(
        weight((8, 8), WeightPart(tensor="m"), transpose=False), source(m=matrix)
    )
    assert np.array_equal(stored[:6, :4], matrix)
    assert np.count_nonzero(stored) == matrix.size


def test_a_vector_fills_its_shape_in_order() -> None:
    vector = np.arange(64, dtype=np.float32)
    plan = weight((2, 32), WeightPart(tensor="v"), transpose=False)
    assert np.array_equal(stored_matrix(plan, source(v=vector)).ravel(), vector)


def test_a_matrix_too_large_is_our_mistake() -> None:
    with pytest.raises(AssertionError, match="too large"):
        stored_matrix(
            weight((4, 4), WeightPart(tensor="m"), transpose=False), source(m=random(6, 4))
        )


def test_blocks_cover_a_matrix_and_read_each_row_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "BLOCK_BYTES", 1)
    matrix = random(1000, 3)
    of = source(m=matrix)
    plan = weight((3, 1000), WeightPart(tensor="m"))
    blocks = list(strips.LocalMatrix(plan, of, 0).blocks())
    assert [first for first, _ in blocks] == [0, 256, 512, 768]
    assert np.array_equal(np.concatenate([block for _, block in blocks]), matrix)
    checkpoint: Any = of.checkpoint
    assert checkpoint.rows_read == 1000


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("value", "counts"),
    [
        (np.nan, "2 NaN and 0 infinite"),
        (-np.nan, "2 NaN and 0 infinite"),
        (np.inf, "0 NaN and 2 infinite"),
        (-np.inf, "0 NaN and 2 infinite"),
    ],
)
def test_a_weight_that_is_no_number(dtype: DType, value: float, counts: str) -> None:
    """The tensor is named, all of it is counted, and nothing is stored."""
    wo = random(10, 12)
    wo[4, 7] = wo[9, 0] = value
    plan = weight((12, 10), WeightPart(tensor="wo"))
    plan = replace(plan, tensor=replace(plan.tensor, dtype=dtype))
    of = source(wo=wo)
    with pytest.raises(CheckpointError, match="'wo' of tiny holds values that are no") as caught:
        stored_matrix(plan, of)
    note = caught.value.problems[0].note
    assert note == f"{counts} (or too large for bf16) of 120, the first at [4, 7]"


def test_a_value_that_bf16_does_not_have() -> None:
    wide = random(1, 12)[0]
    wide[3] = np.finfo(np.float32).max
    plan = weight((1, 12), WeightPart(tensor="norm"), transpose=False)
    assert stored_matrix(plan, source(norm=wide))[0, 3] == wide[3]
    plan = replace(plan, tensor=replace(plan.tensor, dtype="bf16"))
    with pytest.raises(CheckpointError, match=r"0 NaN and 1 infinite .* the first at \[3\]"):
        stored_matrix(plan, source(norm=wide))


@pytest.mark.parametrize("apart", [False, True])
def test_rows_of_heads_as_a_vector(apart: bool) -> None:
    """In rotary order, with copies and zeros as the layout of heads has them; padded halves."""
    values = random(3, 8)
    origin = rows_of(values) if apart else source(w=values)
    share = head_share("heads", "out", ((2, ZEROS), (0, 0)), 8, padded=12, pieces=2)
    part = WeightPart(tensor="w", flat=True, scale=2.0, shares=(share,))
    plan = weight((2, 12), part, transpose=False)
    for rank, heads in enumerate(([values[2], 0 * values[0]], [values[0], values[0]])):
        expected = [np.pad(2 * head.reshape(2, 4), ((0, 0), (0, 2))).ravel() for head in heads]
        assert np.array_equal(stored_matrix(plan, origin, rank), np.stack(expected))


def test_a_row_that_is_a_tensor_is_named() -> None:
    values = random(3, 8)
    values[1, 5] = np.nan
    plan = weight((3, 8), WeightPart(tensor="w", flat=True), transpose=False)
    with pytest.raises(CheckpointError, match=r"'w\.1' of tiny") as raised:
        stored_matrix(plan, rows_of(values))
    assert "1 NaN and 0 infinite" in str(raised.value)


@pytest.mark.parametrize("rows", [slice(0, 12), slice(3, 9), slice(8, 12)])
def test_heads_without_their_mean(rows: slice) -> None:
    """Whole heads are read for it, whatever of them is stored."""
    values = random(12, 5)
    heads = values.reshape(3, 4, 5).astype(np.float64)
    expected = (heads - heads.mean(1, keepdims=True)).reshape(12, 5)[rows]
    part = WeightPart(tensor="w", centred=4, start=rows.start, stop=rows.stop)
    stored = stored_matrix(weight((len(expected), 5), part, transpose=False), source(w=values))
    assert np.allclose(stored, expected, atol=1e-6)


def test_a_vector_of_heads_without_their_mean() -> None:
    values = random(12)
    expected = values.reshape(3, 4) - values.reshape(3, 4).mean(1, keepdims=True)
    part = WeightPart(tensor="w", centred=4, stop=12)
    stored = stored_matrix(weight((1, 12), part, transpose=False), source(w=values))
    assert np.allclose(stored[0], expected.ravel(), atol=1e-6)
