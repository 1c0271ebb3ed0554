"""One program on the chips of one replica: weights, KV caches, and where each of its users is."""

# pyright: reportUnknownMemberType=false
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from ttc.errors import ArtefactError, Problem
from ttc.runtime.backends import Backend
from ttc.runtime.blocks import BlockPool, Holding
from ttc.runtime.chunks import Chunk, chunks_of
from ttc.runtime.program import Program, Tensor
from ttc.runtime.prompt_tables import PromptTables
from ttc.runtime.trace import Traced

TILE_ROWS = 32
"""Rows of a tile: the head computes the logits of this many tokens at once."""

IDLE = -1
"""Position of a user slot nobody uses; the program skips it."""

type Logits = NDArray[np.float32]
"""[users, vocab], or [tokens, vocab] of one user."""


def weight_names(program: Program) -> tuple[str, ...]:
    """The names of the weights of a program, in the order in which they are loaded."""
    decoders = enumerate(program.DECODER_WEIGHTS)
    return (
        *program.MODEL_WEIGHTS,
        *(f"decoders.{layer}.{name}" for layer, names in decoders for name in names),
    )


def load_weights(program: Program, path_of: Callable[[str], Path], backend: Backend) -> Any:
    """What a program takes beside its inputs: a weight per attribute, `decoders` with one object
    each, the device, and the semaphores and buffers of collectives; `prompt_tables` for the host.

    path_of   the file of a weight, by its name
    """

    def one(name: str) -> Tensor:
        path = path_of(name)
        try:
            return backend.load(path)
        except Exception as error:  # whatever the backend makes of a file that is not one of ours
            raise ArtefactError(
                Problem(
                    message=f"{path} cannot be read as a tensor",
                    details=(str(error),),
                    help="the file is damaged; run ttc compile again",
                )
            ) from error

    def load(prefix: str, names: Sequence[str]) -> SimpleNamespace:
        return SimpleNamespace(**{name: one(f"{prefix}{name}") for name in names})

    weights = load("", tuple(program.MODEL_WEIGHTS))
    weights.decoders = [
        load(f"decoders.{layer}.", tuple(names))
        for layer, names in enumerate(program.DECODER_WEIGHTS)
    ]
    weights.device = backend.device
    weights.prompt_tables = PromptTables(program)
    weights.semaphores = backend.semaphores(program.SEMAPHORES)
    for name, facts in program.BUFFERS.items():
        setattr(weights, name, backend.allocate(facts))
    return weights


@dataclass(slots=True, kw_only=True)
class Replica:
    """The state of a program on its chips. Mutable: it owns the device memory it allocates.

    Calls are only queued on the device; what reads values waits for them. Users are counted from
    0 within the replica.

    blocks        the blocks of the caches that are handed out, in this order; None is all of them,
                  first to last; the last one of the caches belongs to nobody
    prefix_reuse  whether blocks that an earlier prompt filled are found again
    lengths       tokens of each user in the KV cache; 0 is a free slot
    pool          who has which blocks
    """

    program: Program
    backend: Backend
    weights: Any
    blocks: Sequence[int] | None = None
    prefix_reuse: bool = True
    lengths: list[int] = field(init=False)
    pool: BlockPool = field(init=False)
    _holdings: dict[int, Holding] = field(init=False, default_factory=dict[int, Holding])
    _rows: torch.Tensor = field(init=False)
    _stale: bool = field(init=False, default=True)
    _page_table: Tensor = field(init=False)
    _caches: list[tuple[Tensor, Tensor]] = field(init=False)
    _tokens: Tensor = field(init=False)
    _positions: Tensor = field(init=False)
    _rope_positions: Tensor = field(init=False)
    _decode: Traced[Tensor] = field(init=False)
    _feed_back: Traced[None] = field(init=False)
    _logits: Tensor = field(init=False)

    def __post_init__(self) -> None:
        program, put, zeros = self.program, self.backend.put, self.backend.zeros
        self.lengths = [0] * program.BATCH
        nobody = program.KV_BLOCKS - 1
        blocks = range(nobody) if self.blocks is None else self.blocks
        assert set(blocks) <= set(range(nobody)), "a block that is handed out is not the last one"
        self.pool = BlockPool(
            blocks,
            block_tokens=program.KV_BLOCK,
            reuse=self.prefix_reuse,
            alike=self.weights.prompt_tables.alike,
        )
        per_user = program.CONTEXT // program.KV_BLOCK
        self._rows = torch.full((program.BATCH, per_user), nobody, dtype=torch.int32)
        self._page_table = put(self._rows, "int32")
        self._caches = [(zeros(k), zeros(v)) for k, v in program.CACHES]
        self._tokens = put(torch.zeros(1, TILE_ROWS, dtype=torch.int32), "uint32")
        self._positions = put(self._host_positions(), "int32")
        self._rope_positions = put(self._host_rope_positions(), "uint32")
        self._decode = Traced(backend=self.backend, work=self._decode_work)
        self._feed_back = Traced(backend=self.backend, work=self._feedback_work)

    @property
    def busy(self) -> bool:
        """Whether any slot has a user."""
        return any(self.lengths)

    @property
    def free_slot(self) -> int | None:
        """The first slot that nobody has."""
        slots = range(self.program.BATCH)
        return next((slot for slot in slots if slot not in self._holdings), None)

    def clear(self) -> None:
        """Forget all users and what they read."""
        for user in list(self._holdings):
            self.release(user)
        self.pool.forget()

    def join(
        self, user: int, prompt: Sequence[int], tokens: int, *, last: bool = True
    ) -> Logits | None:
        """Give a free slot to a user and read a prompt, with room for `tokens` tokens in all.

        Logits as `prefill` has them; None, and nothing changes, if too few blocks are left.
        """
        assert user not in self._holdings, "the slot is free"
        holding = self.pool.take(prompt, tokens)
        if holding is None:
            return None
        self._holdings[user] = holding
        self._stale = True
        self._rows[user] = self.program.KV_BLOCKS - 1
        self._rows[user, : len(holding.blocks)] = torch.tensor(holding.blocks, dtype=torch.int32)
        try:
            self.backend.write(self._rows, self._page_table, "int32")
            logits = self.prefill(user, prompt, start=holding.cached_tokens, last=last)
        except BaseException:
            self.release(user)
            raise
        self.pool.publish(holding, prompt)
        return logits

    def prefill(self, user: int, prompt: Sequence[int], *, start: int = 0, last: bool) -> Logits:
        """Read a prompt; logits [1, vocab] after its last token, or [tokens, vocab] after each.

        start  tokens of the prompt that the user's blocks hold already: a multiple of the block,
               less than the prompt. They are read again only where their logits are asked for,
               and never written
        """
        assert 0 <= start < len(prompt) <= self.program.CONTEXT, "a prompt ends in its context"
        assert start % self.program.KV_BLOCK == 0, "what is held are whole blocks"
        read: list[Logits] = []
        self.weights.prompt_tables.write(len(prompt), self.weights, self.backend)
        for chunk in chunks_of(self.program, len(prompt), start if last else 0):
            wanted = len(prompt) - 1 if last else chunk.first
            read += self._read_chunk(user, prompt, chunk, start, wanted)
        self.lengths[user] = len(prompt)
        return np.concatenate(read)

    def _read_chunk(
        self, user: int, prompt: Sequence[int], chunk: Chunk, held: int, wanted: int
    ) -> list[Logits]:
        """Run one chunk; the logits of its tokens from position `wanted` on.

        Blocks before position `held` are not written.
        """
        program, put = self.program, self.backend.put
        padded = torch.zeros(1, chunk.bucket, dtype=torch.int32)
        padded[0, : chunk.tokens] = torch.tensor(prompt[chunk.first : chunk.end])
        positions = torch.arange(chunk.first, chunk.first + chunk.bucket, dtype=torch.int32)
        inputs = [
            put(padded, "uint32"),
            put(positions.clamp(max=program.CONTEXT - 1)[None], "uint32"),
            put(self._written_blocks(user, chunk, held), "int32"),
        ]
        for tensor in inputs[:2]:
            self.backend.mark_live(tensor, chunk.tokens)
        if chunk.first:
            inputs += [
                put(torch.tensor([chunk.first], dtype=torch.int32), "int32"),
                put(self._read_blocks(user), "int32"),
            ]
            run = program.PREFILL_CHUNK[chunk.bucket]
            x = run(*inputs, self._caches, self.weights)
        else:
            x = program.PREFILL[chunk.bucket](*inputs, user, self._caches, self.weights)
        for tensor in inputs:
            self.backend.free(tensor)
        first = (wanted - chunk.first) // TILE_ROWS * TILE_ROWS
        tiles = [
            self._head(x, row, min(TILE_ROWS, chunk.tokens - row))
            for row in range(first, chunk.tokens, TILE_ROWS)
        ]
        self.backend.free(x)
        return [np.concatenate(tiles)[wanted - chunk.first - first :]] if tiles else []

    def _written_blocks(self, user: int, chunk: Chunk, held: int) -> torch.Tensor:
        """int32 [1, bucket / block]: where a chunk goes; -1 for what is held, or is padding."""
        block = self.program.KV_BLOCK
        first, end = chunk.first // block, -(-chunk.end // block)
        begin = max(first, held // block)
        blocks = torch.full((1, -(-chunk.bucket // block)), -1, dtype=torch.int32)
        blocks[0, begin - first : end - first] = self._rows[user, begin:end]
        return blocks

    def _read_blocks(self, user: int) -> torch.Tensor:
        """int32 [1, PAGES]: the user's page table; the end, which nothing reads, is anyone's."""
        pages = torch.zeros(1, self.program.PAGES, dtype=torch.int32)
        pages[0, : self._rows.shape[1]] = self._rows[user]
        return pages

    def write(self, tokens: Sequence[int]) -> None:
        """Bring the next token of each user and its position to the device, before a step."""
        full = [*tokens, *[0] * (TILE_ROWS - len(tokens))]
        write = self.backend.write
        write(torch.tensor([full], dtype=torch.int32), self._tokens, "uint32")
        write(self._host_positions(), self._positions, "int32")
        write(self._host_rope_positions(), self._rope_positions, "uint32")
        self._stale = False

    def decode(self) -> Tensor:
        """Append the token of each user that the device holds; the logits, which `take` reads."""
        assert not self._stale, "who is there has changed: `write` comes first"
        users = max(user for user, length in enumerate(self.lengths) if length) + 1
        self.backend.mark_live(self._tokens, users)
        self._logits = self._decode()
        self.lengths = [length + 1 if length else 0 for length in self.lengths]
        return self._logits

    def take(self, logits: Tensor, rows: int) -> Logits:
        """The first rows of logits [1, 1, 32, vocab] of `decode`, which nobody needs after it."""
        values = self._rows_of(logits, rows)
        self._give_up(logits)
        return values

    def step(self) -> None:
        """Append the tokens that the device holds and leave the likeliest next ones there."""
        logits = self.decode()
        self._feed_back()
        self._give_up(logits)

    def tokens(self) -> list[int]:
        """[batch] tokens that the device holds for the next step."""
        tokens = self.backend.read(self._tokens).flatten()[: self.program.BATCH]
        return [int(token) for token in tokens]

    def release(self, user: int) -> None:
        """Make a user's slot idle and give its blocks back, before the next `write`."""
        if user in self._holdings:
            self.pool.give_back(self._holdings.pop(user))
            self._stale = True
        self.lengths[user] = 0

    def room(self, user: int) -> int:
        """How many tokens a user's blocks hold; 0 for nobody."""
        holding = self._holdings.get(user)
        return len(holding.blocks) * self.program.KV_BLOCK if holding else 0

    def cached_tokens(self, user: int) -> int:
        """How many tokens of a user's prompt its blocks held before it was read."""
        return self._holdings[user].cached_tokens

    def is_full(self, user: int) -> bool:
        """Whether a user has no room for another token."""
        return user in self._holdings and self.lengths[user] >= self.room(user)

    def _decode_work(self) -> Tensor:
        return self.program.decode(
            self._tokens,
            self._positions,
            self._rope_positions,
            self._page_table,
            self._caches,
            self.weights,
        )

    def _feedback_work(self) -> None:
        self.program.greedy(self._logits, self._tokens)
        self.program.advance(self._positions, self._rope_positions)

    def _give_up(self, logits: Tensor) -> None:
        """Free what a step returned, unless the next replay writes it again."""
        if not self._decode.keeps_result:
            self.backend.free(logits)

    def _head(self, x: Tensor, row: int, rows: int) -> Logits:
        logits = self.program.head_prefill(x, row, self.weights)
        values = self._rows_of(logits, rows)
        self.backend.free(logits)
        return values

    def _rows_of(self, logits: Tensor, rows: int) -> Logits:
        read = self.backend.read(logits, parts=self.program.VOCAB_SHARDS)
        values = read.reshape(TILE_ROWS, -1)[:rows, : self.program.VOCAB]
        return cast(Logits, values.float().numpy())

    def _host_positions(self) -> torch.Tensor:
        """int32 [batch]: where each user's next token goes."""
        return torch.tensor([length or IDLE for length in self.lengths], dtype=torch.int32)

    def _host_rope_positions(self) -> torch.Tensor:
        """[1, ROPE_POSITIONS]: the users' positions, repeated; an idle user rotates by 0."""
        wanted = self.program.ROPE_POSITIONS
        repeated = [self.lengths[entry % self.program.BATCH] for entry in range(wanted)]
        return torch.tensor([repeated], dtype=torch.int32)
