"""The blocks of a replica's KV caches: who holds which, and what is in those that nobody holds."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from struct import pack

type Key = bytes
"""Of a block: a digest of its tokens, of all before them, and of the lengths that are alike."""


def all_alike(tokens: int) -> tuple[int, ...]:
    """Of sequences that are read in the same way, however long they are."""
    del tokens
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockUse:
    """How many blocks there are, in three parts that add up to `total`.

    held    by users; a block that several users share counts once
    cached  by nobody, with tokens that a prompt may still find; handed out again when needed
    free    by nobody, with nothing that could be found
    """

    total: int
    held: int
    cached: int
    free: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """The blocks of one user, in the order of the tokens.

    cached_tokens  how many tokens the first blocks hold already; a multiple of the block
    """

    blocks: tuple[int, ...]
    cached_tokens: int


class BlockPool:
    """Hands out blocks for all tokens that a user may reach, or none at all.

    A user's blocks are taken when the user comes, not as the user grows. So a user that was let
    in never runs out of blocks, whoever comes later, and page tables change only when users do:
    a decode step needs no word from the host.

    Full blocks of a prompt are found again by their content. They are shared while anyone holds
    them, counted by holder; afterwards they stay until blocks are short, and the block that was
    not used for the longest time is overwritten first.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        *,
        block_tokens: int,
        reuse: bool = True,
        alike: Callable[[int], tuple[int, ...]] = all_alike,
    ) -> None:
        """`blocks` in the order in which they are handed out. reuse=False finds nothing again.

        alike  numbers that are equal for prompts of two lengths only if the same tokens leave the
               same in a cache
        """
        assert len(set(blocks)) == len(blocks) > 0, "a pool has different blocks, one at least"
        self.block_tokens = block_tokens
        self.reuse = reuse
        self._alike = alike
        self._free = list(reversed(blocks))
        self._cached: OrderedDict[int, None] = OrderedDict()  # longest unused first
        self._holders: dict[int, int] = {}
        self._block_of: dict[Key, int] = {}
        self._key_of: dict[int, Key] = {}

    @property
    def use(self) -> BlockUse:
        held, cached, free = len(self._holders), len(self._cached), len(self._free)
        return BlockUse(total=held + cached + free, held=held, cached=cached, free=free)

    def blocks_for(self, tokens: int) -> int:
        """How many blocks so many tokens need."""
        return -(-tokens // self.block_tokens)

    def cached_tokens(self, prompt: Sequence[int]) -> int:
        """How many first tokens of a prompt blocks hold already. Its last token is never one."""
        return len(self._found(prompt)) * self.block_tokens

    def take(self, prompt: Sequence[int], tokens: int) -> Holding | None:
        """Blocks for a prompt and what follows, `tokens` in all; None if too few are left.

        The caller fills those that hold no tokens yet, then says so with `publish`.
        """
        assert 0 < len(prompt) <= tokens, "blocks are for a prompt and what follows"
        found = self._found(prompt)
        fresh = self.blocks_for(tokens) - len(found)
        evictable = len(self._cached) - sum(block in self._cached for block in found)
        if fresh > len(self._free) + evictable:
            return None
        for block in found:
            self._cached.pop(block, None)
            self._holders[block] = self._holders.get(block, 0) + 1
        blocks = (*found, *(self._fresh() for _ in range(fresh)))
        return Holding(blocks=blocks, cached_tokens=len(found) * self.block_tokens)

    def publish(self, holding: Holding, prompt: Sequence[int]) -> None:
        """The prompt's tokens are in the holding's blocks now: other prompts may find them."""
        if not self.reuse:
            return
        for key, block in zip(self._keys(prompt, len(prompt)), holding.blocks, strict=False):
            if key not in self._block_of and block not in self._key_of:
                self._block_of[key], self._key_of[block] = block, key

    def give_back(self, holding: Holding) -> None:
        """The user is gone. The end of a sequence is forgotten before its beginning."""
        for block in reversed(holding.blocks):
            self._holders[block] -= 1
            if self._holders[block]:
                continue
            del self._holders[block]
            if block in self._key_of:
                self._cached[block] = None
            else:
                self._free.append(block)

    def forget(self) -> None:
        """Nothing that was written so far is found any more; who holds blocks keeps them."""
        self._free.extend(reversed(self._cached))
        self._cached.clear()
        self._block_of.clear()
        self._key_of.clear()

    def _fresh(self) -> int:
        if self._free:
            block = self._free.pop()
        else:
            block, _ = self._cached.popitem(last=False)
            del self._block_of[self._key_of.pop(block)]
        self._holders[block] = 1
        return block

    def _found(self, prompt: Sequence[int]) -> list[int]:
        """The blocks that hold the beginning of a prompt, all but its last token at most."""
        found: list[int] = []
        for key in self._keys(prompt, len(prompt) - 1):
            if key not in self._block_of:
                break
            found.append(self._block_of[key])
        return found

    def _keys(self, prompt: Sequence[int], count: int) -> Iterator[Key]:
        """One for each full block of the first `count` tokens of a prompt."""
        alike, size = self._alike(len(prompt)), self.block_tokens
        key = pack(f"<{len(alike)}q", *alike)
        for first in range(0, count - size + 1 if self.reuse else 0, size):
            part = pack(f"<{size}q", *prompt[first : first + size])
            key = blake2b(key + part, digest_size=16).digest()
            yield key
