"""One program on the chips of one replica: weights, KV caches, and where each of its users is."""

# pyright: reportUnknownMemberType=false
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from ttc.errors import ArtefactError, Problem
from ttc.runtime.backends import Backend
from ttc.runtime.blocks import BlockPool, Holding
from ttc.runtime.chunks import Batch, Chunk, alone, batches_of, chunks_of
from ttc.runtime.draws import DrawInputs
from ttc.runtime.program import Program, Tensor
from ttc.runtime.prompt_tables import PromptTables
from ttc.runtime.sampling import Draw
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
    _unread: dict[int, Sequence[int]] = field(init=False, default_factory=dict[int, Sequence[int]])
    _rows: torch.Tensor = field(init=False)
    _stale: bool = field(init=False, default=True)
    _page_table: Tensor = field(init=False)
    _caches: list[tuple[Tensor, Tensor]] = field(init=False)
    _tokens: Tensor = field(init=False)
    _positions: Tensor = field(init=False)
    _rope_positions: Tensor = field(init=False)
    _draws: DrawInputs = field(init=False)
    _decode: Traced[Tensor] = field(init=False)
    _choose: Traced[None] = field(init=False)
    _draw: Traced[tuple[Tensor, Tensor]] = field(init=False)
    _spread: Traced[tuple[Tensor, Tensor]] = field(init=False)
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
        self._tokens = put(torch.zeros(1, 1, 1, TILE_ROWS, dtype=torch.int32), "uint32")
        self._positions = put(self._host_positions(), "int32")
        self._rope_positions = put(self._host_rope_positions(), "uint32")
        self._draws = DrawInputs(program, self.backend)
        self._decode = Traced(backend=self.backend, work=self._decode_work)
        self._choose = Traced(backend=self.backend, work=self._choice_work)
        self._draw = Traced(backend=self.backend, work=self._draw_work)
        self._spread = Traced(backend=self.backend, work=lambda: program.logprobs(self._logits))

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

    def admit(self, user: int, prompt: Sequence[int], tokens: int) -> bool:
        """Give a free slot to a user whose prompt `read` will read, with room for `tokens` tokens
        in all; False, and nothing changes, if too few blocks are left.
        """
        assert user not in self._holdings, "the slot is free"
        assert 0 < len(prompt) <= self.program.CONTEXT, "a prompt ends in its context"
        holding = self.pool.take(prompt, tokens)
        if holding is None:
            return False
        self._holdings[user] = holding
        self._stale = True
        self._rows[user] = self.program.KV_BLOCKS - 1
        self._rows[user, : len(holding.blocks)] = torch.tensor(holding.blocks, dtype=torch.int32)
        self._unread[user] = prompt
        return True

    def repeats(self, prompt: Sequence[int]) -> bool:
        """Whether a prompt begins like one that is not read yet, so that waiting saves work."""
        found = self.pool.cached_tokens(prompt) // self.program.CHUNK_START
        alike = self.weights.prompt_tables.alike
        return self.prefix_reuse and any(
            self._common(prompt, other) // self.program.CHUNK_START > found
            for other in self._unread.values()
            if alike(len(prompt)) == alike(len(other))
        )

    def _common(self, prompt: Sequence[int], other: Sequence[int]) -> int:
        """Tokens of the blocks with which two prompts begin, all but the last token at most."""
        pairs = zip(prompt[:-1], other, strict=False)
        equal = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        return equal // self.program.KV_BLOCK * self.program.KV_BLOCK

    def batches(self) -> list[Batch]:
        """What is left to be read of the prompts of all users, in order."""
        chunks = {
            user: list(chunks_of(self.program, len(prompt), self._holdings[user].cached_tokens))
            for user, prompt in self._unread.items()
        }
        alike = self.weights.prompt_tables.alike
        kinds = {user: alike(len(prompt)) for user, prompt in self._unread.items()}
        return list(batches_of(self.program, chunks, kinds))

    def read(self, batch: Batch) -> dict[int, Logits]:
        """Read what `batches` has next; the logits [vocab] of users whose prompts end in it."""
        prompts = [self._unread[user] for user in batch.users]
        ends = {
            row: user
            for row, user in enumerate(batch.users)
            if batch.chunks[row].end == len(prompts[row])
        }
        x = self._run(batch, prompts, [self._holdings[user].cached_tokens for user in batch.users])
        if not ends:
            logits = np.empty((len(prompts), 0), np.float32)
        elif batch.prompts > 1:
            logits = self._last_of_each(x, batch)
        else:
            logits = self._tokens_of(x, batch.chunks[0], batch.chunks[0].end - 1)
        self.backend.free(x)
        for user in ends.values():
            prompt = self._unread.pop(user)
            self.lengths[user] = len(prompt)
            self.pool.publish(self._holdings[user], prompt)
        return {user: logits[row] for row, user in ends.items()}

    def join(self, user: int, prompt: Sequence[int], tokens: int) -> Logits | None:
        """Give a free slot to a user and read a prompt alone, with room for `tokens` tokens in all;
        the logits [tokens, vocab] after each of its tokens.

        What other prompts left is computed again for that, and not written. None, and nothing
        changes, if too few blocks are left.
        """
        if not self.admit(user, prompt, tokens):
            return None
        held, read = self._holdings[user].cached_tokens, list[Logits]()
        try:
            for chunk in chunks_of(self.program, len(prompt), 0):
                x = self._run(alone(user, chunk), [prompt], [held])
                read.append(self._tokens_of(x, chunk, chunk.first))
                self.backend.free(x)
        except BaseException:
            self.release(user)
            raise
        del self._unread[user]
        self.lengths[user] = len(prompt)
        self.pool.publish(self._holdings[user], prompt)
        return np.concatenate(read)

    def _run(self, batch: Batch, prompts: Sequence[Sequence[int]], held: Sequence[int]) -> Tensor:
        """Run one program; the residual stream of all its rows.

        held  tokens of each prompt whose blocks are not written
        """
        program, put, size = self.program, self.backend.put, batch.tokens
        self.weights.prompt_tables.write(len(prompts[0]), self.weights, self.backend)
        padded = torch.zeros(batch.prompts, size, dtype=torch.int32)
        for row, (prompt, chunk) in enumerate(zip(prompts, batch.chunks, strict=True)):
            padded[row, : chunk.tokens] = torch.tensor(prompt[chunk.first : chunk.end])
        positions = torch.arange(batch.first, batch.first + size, dtype=torch.int32)
        inputs = [
            put(padded.reshape(1, -1), "uint32"),
            put(positions.clamp(max=program.CONTEXT - 1)[None], "uint32"),
            put(self._written_blocks(batch, held), "int32"),
        ]
        live = (chunk.tokens for chunk in batch.chunks)
        self.backend.mark_live(inputs[0], *live, parts=batch.prompts)
        user: tuple[int, ...] = ()
        if batch.prompts > 1:
            inputs.append(put(torch.arange(batch.prompts, dtype=torch.int32), "int32"))
        else:
            self.backend.mark_live(inputs[1], batch.chunks[0].tokens)
            user = (*batch.users, batch.first) if batch.first else batch.users
        if batch.first:
            inputs += [
                put(torch.tensor([batch.first], dtype=torch.int32), "int32"),
                put(self._read_blocks(batch), "int32"),
            ]
        x = self._program_of(batch)(*inputs, *user, self._caches, self.weights)
        for tensor in inputs:
            self.backend.free(tensor)
        return x

    def _program_of(self, batch: Batch) -> Callable[..., Tensor]:
        program = self.program
        if batch.prompts > 1:
            several = program.PREFILL_CHUNK_PROMPTS if batch.first else program.PREFILL_PROMPTS
            return several[batch.prompts, batch.tokens]
        return (program.PREFILL_CHUNK if batch.first else program.PREFILL)[batch.tokens]

    def _tokens_of(self, x: Tensor, chunk: Chunk, wanted: int) -> Logits:
        """Logits [tokens, vocab] of a chunk's tokens from position `wanted` on."""
        first = (wanted - chunk.first) // TILE_ROWS * TILE_ROWS
        tiles = [
            self._head(self.program.head_prefill(x, row, self.weights), chunk.tokens - row)
            for row in range(first, chunk.tokens, TILE_ROWS)
        ]
        return np.concatenate(tiles)[wanted - chunk.first - first :]

    def _last_of_each(self, x: Tensor, batch: Batch) -> Logits:
        """Logits [users, vocab] of the last token of each chunk."""
        rows = torch.zeros(1, TILE_ROWS, dtype=torch.int32)
        ends = [row * batch.tokens + chunk.tokens - 1 for row, chunk in enumerate(batch.chunks)]
        rows[0, : len(ends)] = torch.tensor(ends)
        last = self.backend.put(rows, "uint32")
        logits = self._head(self.program.head_prompts(x, last, self.weights), len(ends))
        self.backend.free(last)
        return logits

    def _written_blocks(self, batch: Batch, held: Sequence[int]) -> torch.Tensor:
        """int32 [prompts, tokens / block]: where chunks go; -1 for what is held, or is padding."""
        block = self.program.KV_BLOCK
        blocks = torch.full((batch.prompts, -(-batch.tokens // block)), -1, dtype=torch.int32)
        first = batch.first // block
        for row, (user, chunk) in enumerate(zip(batch.users, batch.chunks, strict=True)):
            begin, end = max(first, held[row] // block), -(-chunk.end // block)
            blocks[row, begin - first : end - first] = self._rows[user, begin:end]
        return blocks

    def _read_blocks(self, batch: Batch) -> torch.Tensor:
        """int32 [prompts, PAGES]: the users' page tables.

        The end, which nothing reads, and rows without a user name the block of nobody.
        """
        pages = torch.full(
            (batch.prompts, self.program.PAGES), self.program.KV_BLOCKS - 1, dtype=torch.int32
        )
        for row, user in enumerate(batch.users):
            pages[row, : self._rows.shape[1]] = self._rows[user]
        return pages

    def write(self, tokens: Sequence[int]) -> None:
        """Bring the next token of each user and its position to the device, before a step."""
        full = [*tokens, *[0] * (TILE_ROWS - len(tokens))]
        write = self.backend.write
        if self._stale:
            write(self._rows, self._page_table, "int32")
        write(torch.tensor([[[full]]], dtype=torch.int32), self._tokens, "uint32")
        write(self._host_positions(), self._positions, "int32")
        write(self._host_rope_positions(), self._rope_positions, "uint32")
        self._stale = False

    def write_draws(self, draws: Sequence[Draw | None]) -> None:
        """Bring the settings of each user to the device, before a step that draws."""
        self._draws.write(draws)

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
        self._give_up(self._decode, logits)
        return values

    def step(self) -> None:
        """Append the tokens that the device holds and leave the likeliest next ones there."""
        logits = self.decode()
        self._choose()
        self._give_up(self._decode, logits)

    def draw(self, numbers: Sequence[float], *, logprobs: bool = False) -> list[float]:
        """Append the tokens that the device holds and leave those there that the users draw.

        numbers  from 0 to below 1, for each user
        logprobs  whether log-probabilities [batch] of the new tokens are wanted; () else
        """
        self._draws.write_numbers(numbers)
        logits = self.decode()
        drawn = self._draw()
        found: list[float] = []
        if logprobs:
            sums = self._spread()
            found = self.logprobs(self.tokens(), drawn, sums)
            self._give_up(self._spread, *sums)
        self._give_up(self._draw, *drawn)
        self._give_up(self._decode, logits)
        return found

    def logprobs(
        self, tokens: Sequence[int], drawn: tuple[Tensor, Tensor], sums: tuple[Tensor, Tensor]
    ) -> list[float]:
        """Log-probabilities of a token of each user, 0.0 for nobody.

        drawn  what the program's `sample` returned, which has the tokens
        sums   what its `logprobs` returned, of each rank
        """
        shards = self.program.LOGPROB_SHARDS
        values, ids = (self.backend.read(each)[0, 0].double() for each in drawn)
        largest, total = (self.backend.read(each, parts=shards)[0, 0].double() for each in sums)
        logprobs = [0.0] * self.program.BATCH
        for user in (user for user, length in enumerate(self.lengths) if length):
            place = (ids[user] == tokens[user]).nonzero()[0, 0]
            every = torch.logsumexp(largest[user] + total[user].log(), 0)
            logprobs[user] = float(values[user, place] - every)
        return logprobs

    def tokens(self) -> list[int]:
        """[batch] tokens that the device holds for the next step."""
        tokens = self.backend.read(self._tokens).flatten()[: self.program.BATCH]
        return [int(token) for token in tokens]

    def release(self, user: int) -> None:
        """Make a user's slot idle and give its blocks back, before the next `write`."""
        if user in self._holdings:
            self.pool.give_back(self._holdings.pop(user))
            self._unread.pop(user, None)
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

    def _choice_work(self) -> None:
        self.program.greedy(self._logits, self._tokens)
        self.program.advance(self._positions, self._rope_positions)

    def _draw_work(self) -> tuple[Tensor, Tensor]:
        drawn = self.program.sample(self._logits, self._tokens, self._draws.how)
        self.program.advance(self._positions, self._rope_positions)
        return drawn

    def _give_up(self, work: Traced[Any], *results: Tensor) -> None:
        """Free what a step returned, unless the next replay writes it again."""
        if not work.keeps_result:
            for result in results:
                self.backend.free(result)

    def _head(self, logits: Tensor, rows: int) -> Logits:
        """The first rows of what a head returned, which nobody needs after it."""
        values = self._rows_of(logits, min(rows, TILE_ROWS))
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
