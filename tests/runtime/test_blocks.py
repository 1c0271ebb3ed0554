"""The block pool: nothing is handed out twice, lost, or found with other tokens in it."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttc.runtime.blocks import BlockPool, BlockUse, Holding

pytestmark = pytest.mark.fast

SIZE = 4


def pool(blocks: int = 8, *, reuse: bool = True) -> BlockPool:
    return BlockPool(range(blocks), block_tokens=SIZE, reuse=reuse)


def taken(each: BlockPool, prompt: list[int], tokens: int = 0) -> Holding:
    holding = each.take(prompt, max(tokens, len(prompt)))
    assert holding is not None
    each.publish(holding, prompt)
    return holding


def test_blocks_for_a_prompt_and_what_follows() -> None:
    each = pool()
    assert taken(each, [1, 2, 3], 9) == Holding(blocks=(0, 1, 2), cached_tokens=0)
    assert taken(each, [5], 4) == Holding(blocks=(3,), cached_tokens=0)
    assert each.use == BlockUse(total=8, held=4, cached=0, free=4)


def test_blocks_come_in_the_order_that_was_given() -> None:
    each = BlockPool([7, 2, 9], block_tokens=SIZE)
    assert taken(each, [1] * 12).blocks == (7, 2, 9)


def test_too_few_blocks_are_none_and_change_nothing() -> None:
    each = pool(3)
    taken(each, [1] * 5)
    before = each.use
    assert each.take([2] * 5, 5) is None
    assert each.use == before
    assert taken(each, [2] * 4).blocks == (2,)


def test_a_prompt_finds_the_full_blocks_of_another() -> None:
    each = pool()
    first = taken(each, [*range(10)])
    second = taken(each, [*range(9), 77])
    assert second.blocks[:2] == first.blocks[:2]
    assert second.cached_tokens == 8
    assert second.blocks[2] != first.blocks[2]
    assert each.use.held == 4


def test_the_last_token_is_always_read_again() -> None:
    each = pool()
    taken(each, [*range(8)])
    assert each.cached_tokens([*range(8)]) == 4
    assert each.cached_tokens([*range(9)]) == 8


def test_equal_blocks_after_other_tokens_are_not_the_same() -> None:
    each = pool()
    taken(each, [1, 1, 1, 1, 2, 2, 2, 2])
    assert each.cached_tokens([3, 1, 1, 1, 2, 2, 2, 2, 5]) == 0
    assert each.cached_tokens([2, 2, 2, 2, 5]) == 0


def test_prompts_of_lengths_that_are_not_alike_share_nothing() -> None:
    each = BlockPool(range(20), block_tokens=SIZE, alike=lambda tokens: (tokens > 9,))
    taken(each, [1] * 9)
    assert each.cached_tokens([1] * 9) == 8
    assert each.cached_tokens([1] * 10) == 0
    taken(each, [1] * 10)
    assert each.cached_tokens([1] * 15) == 8


def test_nothing_is_found_before_it_was_written() -> None:
    each = pool()
    holding = each.take([1] * 8, 8)
    assert holding is not None
    assert each.cached_tokens([1] * 9) == 0
    each.publish(holding, [1] * 8)
    assert each.cached_tokens([1] * 9) == 8


def test_what_was_given_back_is_found_until_blocks_are_short() -> None:
    each = pool(4)
    each.give_back(taken(each, [1] * 9, 12))
    assert each.use == BlockUse(total=4, held=0, cached=2, free=2)
    assert each.cached_tokens([1] * 9) == 8
    each.give_back(taken(each, [2] * 9, 12))
    assert each.cached_tokens([1] * 9) == 4, "the end is overwritten first"
    assert each.cached_tokens([2] * 9) == 8


def test_the_longest_unused_goes_first() -> None:
    each = pool(4)
    each.give_back(taken(each, [1] * 4))
    each.give_back(taken(each, [2] * 4))
    each.give_back(taken(each, [1] * 4 + [7]))
    taken(each, [3] * 12)
    assert each.cached_tokens([1] * 5) == 4
    assert each.cached_tokens([2] * 5) == 0


def test_blocks_that_are_found_do_not_count_as_left() -> None:
    each = pool(2)
    each.give_back(taken(each, [1] * 4 + [2] * 4))
    assert each.take([1] * 4 + [2] * 4 + [3], 12) is None
    assert each.use == BlockUse(total=2, held=0, cached=2, free=0)


def test_without_reuse_nothing_is_found() -> None:
    each = pool(reuse=False)
    each.give_back(taken(each, [1] * 9))
    assert each.cached_tokens([1] * 9) == 0
    assert each.use == BlockUse(total=8, held=0, cached=0, free=8)


def test_forgotten_blocks_are_free_when_their_holders_leave() -> None:
    each = pool()
    holding = taken(each, [1] * 9)
    each.give_back(taken(each, [2] * 9))
    each.forget()
    assert each.use == BlockUse(total=8, held=3, cached=0, free=5)
    each.give_back(holding)
    assert each.use == BlockUse(total=8, held=0, cached=0, free=8)


@dataclass
class Memory:
    """What caches of a real program would hold: the tokens that led to each block's content."""

    each: BlockPool
    content: dict[int, tuple[int, ...]] = field(default_factory=dict[int, tuple[int, ...]])
    users: list[tuple[Holding, list[int]]] = field(default_factory=list[tuple[Holding, list[int]]])

    def join(self, prompt: list[int], more: int) -> None:
        use = self.each.use
        holding = self.each.take(prompt, len(prompt) + more)
        if holding is None:
            found = self.each.cached_tokens(prompt) // SIZE
            wanted = self.each.blocks_for(len(prompt) + more) - found
            assert wanted > use.free + use.cached - found, "refused only if too few are left"
            assert self.each.use == use
            return
        first = holding.cached_tokens // SIZE
        mine = set(holding.blocks[first:])
        assert not any(mine & set(other.blocks) for other, _ in self.users), "no block is shared"
        for index, block in enumerate(holding.blocks):
            tokens = tuple(prompt[: (index + 1) * SIZE])
            if index < first:
                assert self.content[block] == tokens, "what is found is what was asked for"
            else:
                self.content[block] = tokens
        self.each.publish(holding, prompt)
        self.users.append((holding, prompt))

    def check(self) -> None:
        use = self.each.use
        held = {block for holding, _ in self.users for block in holding.blocks}
        assert use.held == len(held)
        assert use.total == 12 == use.held + use.cached + use.free
        for holding, prompt in self.users:
            for index in range(len(prompt) // SIZE):
                wanted = tuple(prompt[: (index + 1) * SIZE])
                assert self.content[holding.blocks[index]] == wanted, "nobody wrote over it"


@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.lists(st.integers(0, 1), min_size=1, max_size=20), st.integers(0, 12)),
            st.integers(0, 10),
        ),
        max_size=60,
    )
)
def test_users_come_and_go(steps: list[tuple[list[int], int] | int]) -> None:
    memory = Memory(BlockPool(range(12), block_tokens=SIZE))
    for step in steps:
        if isinstance(step, tuple):
            memory.join(*step)
        elif memory.users:
            holding, _ = memory.users.pop(step % len(memory.users))
            memory.each.give_back(holding)
        memory.check()
    for holding, _ in memory.users:
        memory.each.give_back(holding)
    assert memory.each.use.held == 0
