from dataclasses import replace

import pytest
import torch

from ttc.checkpoint.layouts import assemble, reorder_rows, rope_table, transformation_matrix
from ttc.plan.plan import RopeTable
from ttc.spec.rope import NoScaling, Yarn

pytestmark = pytest.mark.emulate

HEADS, HEAD_DIM, HIDDEN, ROWS = 3, 8, 5, 16
ROPE = NoScaling(theta=10000.0)


def table(kind: str, order: str, rows: int = ROWS) -> RopeTable:
    return RopeTable(kind=kind, rope=ROPE, head_dim=HEAD_DIM, rows=rows, order=order)  # type: ignore[arg-type]


def test_rows_by_their_definition() -> None:
    halves = torch.randn(HEADS * HEAD_DIM, HIDDEN)
    pairs = reorder_rows(halves, HEADS, "halves", "pairs")
    for head in range(HEADS):
        for i in range(HEAD_DIM // 2):
            row = head * HEAD_DIM
            assert pairs[row + 2 * i].equal(halves[row + i])
            assert pairs[row + 2 * i + 1].equal(halves[row + i + HEAD_DIM // 2])


def test_rows_there_and_back() -> None:
    matrix = torch.randn(HEADS * HEAD_DIM, HIDDEN)
    pairs = reorder_rows(matrix, HEADS, "halves", "pairs")
    assert reorder_rows(pairs, HEADS, "pairs", "halves").equal(matrix)
    assert not pairs.equal(matrix)


def test_rows_of_a_bias() -> None:
    bias = torch.arange(HEAD_DIM)
    assert reorder_rows(bias, 1, "halves", "pairs").tolist() == [0, 4, 1, 5, 2, 6, 3, 7]


def test_rows_that_do_not_turn() -> None:
    matrix = torch.randn(4, 4)
    assert reorder_rows(matrix, 0, "halves", "pairs") is matrix
    assert reorder_rows(matrix, 2, "pairs", "pairs") is matrix


def test_a_wrong_head_count_is_our_mistake() -> None:
    with pytest.raises(AssertionError, match="rows are not 5 heads"):
        reorder_rows(torch.zeros(24, 2), 5, "halves", "pairs")


def test_parts_are_joined_and_transposed() -> None:
    a, b = torch.randn(6, 4), torch.randn(2, 4)
    joined = assemble([a, b], transpose=True, shape=(1, 1, 4, 8))
    assert joined.shape == (1, 1, 4, 8)
    assert joined[0, 0, :, :6].equal(a.t())
    assert joined[0, 0, :, 6:].equal(b.t())
    assert joined.is_contiguous()


def test_padding_is_zero() -> None:
    matrix = torch.randn(6, 4, dtype=torch.bfloat16)
    padded = assemble([matrix], transpose=False, shape=(1, 1, 8, 8))
    assert padded.dtype == torch.bfloat16
    assert padded[0, 0, :6, :4].equal(matrix)
    assert padded.count_nonzero() == matrix.count_nonzero()


def test_a_vector_fills_its_shape_in_order() -> None:
    vector = torch.arange(64)
    assert assemble([vector], transpose=False, shape=(1, 1, 2, 32)).flatten().equal(vector)
    padded = assemble([vector], transpose=False, shape=(1, 1, 1, 96)).flatten()
    assert padded[:64].equal(vector)
    assert padded[64:].count_nonzero() == 0


def test_a_matrix_too_large_is_our_mistake() -> None:
    with pytest.raises(AssertionError, match="exceeds"):
        assemble([torch.zeros(6, 4)], transpose=False, shape=(1, 1, 4, 4))


def test_tables_turn_heads_as_the_definition_does() -> None:
    """A pair (a, b) at position p becomes (a, b) turned by p * frequency, as complex numbers."""
    x = torch.randn(ROWS, HEAD_DIM)
    frequencies = torch.tensor([10000.0 ** (-2 * i / HEAD_DIM) for i in range(HEAD_DIM // 2)])
    angles = torch.arange(ROWS)[:, None] * frequencies
    turned = torch.complex(x[:, :4], x[:, 4:]) * torch.polar(torch.ones_like(angles), angles)
    expected = torch.cat((turned.real, turned.imag), dim=1)

    shape = (1, 1, ROWS, HEAD_DIM)
    cos, sin = (rope_table(table(kind, "halves"), shape)[0, 0] for kind in ("cos", "sin"))
    swapped = torch.cat((-x[:, 4:], x[:, :4]), dim=1)
    assert torch.allclose(x * cos + swapped * sin, expected, atol=1e-6)

    cos, sin = (rope_table(table(kind, "pairs"), shape)[0, 0] for kind in ("cos", "sin"))
    paired = reorder_rows(x.t(), 1, "halves", "pairs").t()
    swapped = paired @ transformation_matrix()[:HEAD_DIM, :HEAD_DIM]
    result = paired * cos + swapped * sin
    assert torch.allclose(reorder_rows(result.t(), 1, "pairs", "halves").t(), expected, atol=1e-6)


def test_angles_of_far_positions() -> None:
    cos = rope_table(table("cos", "halves", 131072), (1, 1, 131072, HEAD_DIM))
    assert cos.dtype == torch.float32
    exact = torch.cos(torch.tensor(131071.0, dtype=torch.float64)).float()
    assert cos[0, 0, -1, 0] == exact


def test_transformation_tiles_repeat() -> None:
    tiles = rope_table(table("transformation", "pairs", rows=96), (1, 1, 96, 32))[0, 0]
    for i in range(3):
        assert tiles[32 * i : 32 * i + 32].equal(transformation_matrix())
    assert (transformation_matrix() @ transformation_matrix()).equal(-torch.eye(32))


def test_yarn_multiplies_cos_and_sin() -> None:
    rope = Yarn(
        theta=10000.0,
        factor=4.0,
        original_context_tokens=ROWS,
        attention_factor=1.25,
        beta_fast=32.0,
        beta_slow=1.0,
        truncate=True,
    )
    scaled = replace(table("cos", "halves"), rope=rope)
    unscaled = replace(scaled, rope=replace(rope, attention_factor=1.0))
    shape = (1, 1, ROWS, HEAD_DIM)
    assert torch.allclose(rope_table(scaled, shape), 1.25 * rope_table(unscaled, shape))
    assert rope_table(scaled, shape)[0, 0, 0, 0] == 1.25
