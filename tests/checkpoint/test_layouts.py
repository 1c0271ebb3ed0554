from dataclasses import replace

import numpy as np
import pytest

from ttc.checkpoint.layouts import mask_table, rope_table, row_order, transformation_matrix
from ttc.plan.tables import MaskTable, RopeTable
from ttc.spec.rope import Dynamic, NoScaling, Yarn

pytestmark = pytest.mark.fast

HEADS, HEAD_DIM, ROWS = 3, 8, 16
ROPE = NoScaling(theta=10000.0)


def table(kind: str, order: str, rows: int = ROWS) -> RopeTable:
    return RopeTable(
        kind=kind,  # type: ignore[arg-type]
        rope=ROPE,
        head_dim=HEAD_DIM,
        rotary_dim=HEAD_DIM,
        rows=rows,
        order=order,  # type: ignore[arg-type]
    )


def test_rows_of_decode_steps_are_those_of_the_length_up_to_them() -> None:
    rope = Dynamic(theta=100.0, factor=2.0, original_context_tokens=10)
    steps = rope_table(replace(table("sin", "halves"), rope=rope, by_step=True))
    of_prompts = replace(table("sin", "halves"), rope=rope)
    for position in range(ROWS):
        prompt = rope_table(of_prompts, tokens=position + 1)
        assert steps[position].tolist() == prompt[position].tolist()
    whole = rope_table(of_prompts)
    assert whole.tolist() == rope_table(of_prompts, tokens=ROWS).tolist()
    assert np.abs(whole - steps)[5].max() > 1e-3


def test_rows_by_their_definition() -> None:
    pairs = row_order(HEADS * HEAD_DIM, HEADS, "halves", "pairs")
    for head in range(HEADS):
        for i in range(HEAD_DIM // 2):
            row = head * HEAD_DIM
            assert pairs[row + 2 * i] == row + i
            assert pairs[row + 2 * i + 1] == row + i + HEAD_DIM // 2


def test_rows_there_and_back() -> None:
    pairs = row_order(HEADS * HEAD_DIM, HEADS, "halves", "pairs")
    halves = row_order(HEADS * HEAD_DIM, HEADS, "pairs", "halves")
    assert pairs[halves].tolist() == list(range(HEADS * HEAD_DIM))
    assert pairs.tolist() != halves.tolist()


def test_rows_that_do_not_turn() -> None:
    assert row_order(4, 0, "halves", "pairs").tolist() == [0, 1, 2, 3]
    assert row_order(4, 2, "pairs", "pairs").tolist() == [0, 1, 2, 3]


def test_a_wrong_head_count_is_our_mistake() -> None:
    with pytest.raises(AssertionError, match="rows are not 5 heads"):
        row_order(24, 5, "halves", "pairs")


def test_tables_turn_heads_as_the_definition_does() -> None:
    """A pair (a, b) at position p becomes (a, b) turned by p * frequency, as complex numbers."""
    x = np.random.default_rng(0).standard_normal((ROWS, HEAD_DIM))
    frequencies = np.array([10000.0 ** (-2 * i / HEAD_DIM) for i in range(HEAD_DIM // 2)])
    turned = (x[:, :4] + 1j * x[:, 4:]) * np.exp(1j * np.arange(ROWS)[:, None] * frequencies)
    expected = np.hstack((turned.real, turned.imag))

    cos, sin = (rope_table(table(kind, "halves")) for kind in ("cos", "sin"))
    swapped = np.hstack((-x[:, 4:], x[:, :4]))
    assert np.allclose(x * cos + swapped * sin, expected, atol=1e-6)

    cos, sin = (rope_table(table(kind, "pairs")) for kind in ("cos", "sin"))
    paired = x[:, row_order(HEAD_DIM, 1, "halves", "pairs")]
    swapped = paired @ transformation_matrix()[:HEAD_DIM, :HEAD_DIM]
    result = (paired * cos + swapped * sin)[:, row_order(HEAD_DIM, 1, "pairs", "halves")]
    assert np.allclose(result, expected, atol=1e-6)


def test_the_rest_of_a_head_stays() -> None:
    """The first 4 of 8 elements turn as halves; both forms give that, in their own row orders."""
    x = np.random.default_rng(0).standard_normal((ROWS, HEAD_DIM))
    frequencies = np.array([1.0, 10000.0**-0.5])
    turned = (x[:, :2] + 1j * x[:, 2:4]) * np.exp(1j * np.arange(ROWS)[:, None] * frequencies)
    expected = np.hstack((turned.real, turned.imag, x[:, 4:]))
    for form in ("halves", "pairs"):
        order = row_order(HEAD_DIM, 1, "halves", form, 4)
        tables = (replace(table(kind, form), rotary_dim=4) for kind in ("cos", "sin"))
        cos, sin = (rope_table(each) for each in tables)
        placed = x[:, order]
        if form == "pairs":
            swapped = placed @ transformation_matrix()[:HEAD_DIM, :HEAD_DIM]
        else:
            swapped = np.hstack((-placed[:, 4:], placed[:, :4]))
        assert np.allclose(placed * cos + swapped * sin, expected[:, order], atol=1e-6)
    assert row_order(HEAD_DIM, 1, "halves", "pairs", 4).tolist() == [0, 2, 1, 3, 4, 5, 6, 7]
    assert row_order(HEAD_DIM, 1, "halves", "halves", 4).tolist() == [0, 1, 4, 5, 2, 3, 6, 7]


def test_angles_of_far_positions() -> None:
    cos = rope_table(table("cos", "halves", 131072))
    assert cos.dtype == np.float32
    assert cos[-1, 0] == np.float32(np.cos(np.float64(131071.0)))


def test_transformation_tiles_repeat() -> None:
    tiles = rope_table(table("transformation", "pairs", rows=96))
    for i in range(3):
        assert np.array_equal(tiles[32 * i : 32 * i + 32], transformation_matrix())
    assert np.array_equal(transformation_matrix() @ transformation_matrix(), -np.eye(32))


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
    assert np.allclose(rope_table(scaled), 1.25 * rope_table(unscaled))
    assert rope_table(scaled)[0, 0] == 1.25


@pytest.mark.parametrize("window", [0, 1, 3])
def test_masks_show_keys_up_to_the_position(window: int) -> None:
    mask = mask_table(MaskTable(window=window, rows=6))
    for position in range(6):
        first = max(0, position - window + 1) if window else 0
        seen = [key for key in range(6) if mask[position, key] == 0]
        assert seen == list(range(first, position + 1))
    assert mask.min() == np.float32(-1.0e9)
