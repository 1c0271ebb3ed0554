"""How KV caches are cut into blocks that users share."""

from dataclasses import dataclass

from ttc.plan.placement import TILE


@dataclass(frozen=True, slots=True, kw_only=True)
class Paging:
    """What a request says about the blocks of the caches.

    block_tokens  tokens of one block, a power of two from 32 on: attention reads keys in chunks of
                  powers of two, which must be whole blocks or parts of one
    max_blocks    blocks that the users of a replica share; None: every user's whole context
    """

    block_tokens: int = TILE
    max_blocks: int | None = None

    @property
    def legal(self) -> bool:
        """Whether blocks are whole tiles and divide attention's chunks, or are divided by them."""
        size = self.block_tokens
        return size >= TILE and size & (size - 1) == 0

    def per_user(self, context: int) -> int:
        """Blocks that a whole context takes."""
        return context // self.block_tokens

    def blocks(self, slots: int, context: int) -> int:
        """Blocks of a cache: those that users share, and the last one, which belongs to nobody.

        Page table entries without a block of the user's own name that one. A prefill writes its
        padding there, and attention, which reads whole chunks, finds numbers there that it masks.
        """
        shared = self.max_blocks or slots * self.per_user(context)
        return shared + 1
