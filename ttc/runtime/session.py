"""The users of a running program, spread over its replicas."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ttc.errors import Problem, UsageError
from ttc.runtime.artefact import Artefact
from ttc.runtime.backends import Backend
from ttc.runtime.blocks import BlockUse
from ttc.runtime.chunks import Batch
from ttc.runtime.program import Program
from ttc.runtime.replica import Logits, Replica, load_weights, weight_names
from ttc.runtime.sampling import Draw
from ttc.runtime.weight_files import checked_files


def open_session(
    program: Program,
    artefact: Artefact,
    backend: Backend,
    *,
    max_blocks: int | None = None,
    prefix_reuse: bool = True,
) -> "Session":
    """A session on all replicas that the mesh of the backend has room for.

    `artefact` has the weights, of which every byte is compared with its checksum; replicas of one
    device share them. `max_blocks` and `prefix_reuse` are those of `Serving`. UsageError for more
    blocks than the caches have, ArtefactError for a weight that was changed.
    """
    shared = program.KV_BLOCKS - 1
    if max_blocks is not None and not 1 <= max_blocks <= shared:
        raise UsageError(
            Problem(
                message=f"{max_blocks} cache blocks are not possible: the program has {shared}",
                help=f"give 1 to {shared}, or compile with --max-blocks {max_blocks}"
                if max_blocks > 0
                else f"give 1 to {shared}",
            )
        )
    blocks = range(max_blocks or shared)
    loaded: dict[int, Replica] = {}
    replicas: list[Replica] = []
    weights = artefact.manifest.weights or {}
    with checked_files(artefact.folder, weights, weight_names(program)) as path_of:
        for part in backend.replicas(program.MESH_SHAPE):
            known = loaded.get(id(part.device))
            found = known.weights if known else load_weights(program, path_of, part)
            replicas.append(
                Replica(
                    program=program,
                    backend=part,
                    weights=found,
                    blocks=blocks,
                    prefix_reuse=prefix_reuse,
                )
            )
            loaded.setdefault(id(part.device), replicas[-1])
    return Session(program=program, replicas=tuple(replicas))


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Users counted from 0: user u has slot u // n of replica u % n.

    Few users are thus spread evenly, and a replica without users does nothing.
    """

    program: Program
    replicas: tuple[Replica, ...]

    @property
    def batch(self) -> int:
        """How many users there can be."""
        return self.program.BATCH * len(self.replicas)

    @property
    def busy(self) -> bool:
        """Whether there is any user."""
        return any(replica.busy for replica in self.replicas)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each user in the KV caches; 0 is a free slot."""
        return [
            replica.lengths[slot] for slot in range(self.program.BATCH) for replica in self.replicas
        ]

    @property
    def block_use(self) -> BlockUse:
        """The blocks of the KV caches of all replicas."""
        each = [replica.pool.use for replica in self.replicas]
        return BlockUse(
            total=sum(use.total for use in each),
            held=sum(use.held for use in each),
            cached=sum(use.cached for use in each),
            free=sum(use.free for use in each),
        )

    @property
    def room(self) -> int:
        """Tokens that one user can have at most: a context, or all blocks of a replica."""
        blocks = self.replicas[0].pool.use.total
        return min(self.program.CONTEXT, blocks * self.program.KV_BLOCK)

    def admit(self, prompt: Sequence[int], tokens: int) -> int | None:
        """Let a user in beside those that are there, whose prompt is to be read: its number.

        The user has room for `tokens` tokens, prompt and answer, which nobody can take away. None,
        and nothing changes, if no replica has a slot and blocks for that now, or if the prompt
        begins like one that is still to be read, whose beginning it will share then. The replica
        that has read most of the prompt before is preferred, then the one with the fewest users.
        UsageError for a prompt that no replica could read.
        """
        self.check_prompt(prompt)
        if any(replica.repeats(prompt) for replica in self.replicas):
            return None
        for place in self._preferred(prompt):
            replica = self.replicas[place]
            slot = replica.free_slot
            assert slot is not None, "only replicas with a free slot are preferred"
            if replica.admit(slot, prompt, tokens):
                return slot * len(self.replicas) + place
        return None

    def batches(self) -> list[tuple[int, Batch]]:
        """What is left to be read of the prompts of all users, in order, and by which replica."""
        return [
            (place, batch)
            for place, replica in enumerate(self.replicas)
            for batch in replica.batches()
        ]

    def users_of(self, place: int, batch: Batch) -> tuple[int, ...]:
        """The users whose prompts a batch of a replica reads."""
        return tuple(slot * len(self.replicas) + place for slot in batch.users)

    def read(self, place: int, batch: Batch) -> dict[int, Logits]:
        """Read what `batches` has next; the logits [vocab] of users whose prompts end in it."""
        read = self.replicas[place].read(batch)
        return {slot * len(self.replicas) + place: logits for slot, logits in read.items()}

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Logits:
        """Read one prompt per user, from user 0 on; the logits [users, vocab] of what comes next.

        Users without a prompt become idle. What users had read before is forgotten. Each user
        gets room for a whole context, or a fair part of what the caches hold.
        """
        if not 0 < len(prompts) <= self.batch:
            each = -(-len(prompts) // len(self.replicas))
            raise UsageError(
                Problem(
                    message=f"{len(prompts)} prompts for a program of batch {self.batch}",
                    help=f"give 1 to {self.batch}, or compile with --batch {each}",
                )
            )
        for prompt in prompts:
            self.check_prompt(prompt)
        rooms = self._rooms(prompts)
        self._clear()
        logits: dict[int, Logits] = {}
        try:
            for user, (prompt, room) in enumerate(zip(prompts, rooms, strict=True)):
                replica, slot = self._place(user)
                if replica.repeats(prompt):
                    logits |= self._read_all()
                admitted = replica.admit(slot, prompt, room)
                assert admitted, "the rooms of all users fit"
            logits |= self._read_all()
        except BaseException:
            self._clear()
            raise
        return np.stack([logits[user] for user in range(len(prompts))])

    def prefill_all(self, prompt: Sequence[int]) -> Logits:
        """Read a prompt as user 0; the logits [tokens, vocab] after each of its tokens."""
        self.check_prompt(prompt)
        self._clear()
        logits = self.replicas[0].join(0, prompt, self.room)
        assert logits is not None, "there is room where nobody is"
        return logits

    def decode(self, tokens: Sequence[int]) -> Logits:
        """Append a token per user; the logits [users, vocab] of what comes next.

        `tokens` has one entry for each user up to the last; idle ones are not read.
        """
        self._check_tokens(len(tokens))
        busy = self._with_room()
        self.write(tokens)
        queued = [(place, self.replicas[place].decode()) for place in busy]
        values = np.zeros((len(tokens), self.program.VOCAB), np.float32)
        for place, logits in queued:
            rows = self._share(tokens, place)
            values[place :: len(self.replicas)] = self.replicas[place].take(logits, len(rows))
        return values

    def write(self, tokens: Sequence[int], draws: Sequence[Draw | None] = ()) -> None:
        """Bring the next token of each user and its position to the devices, before `step`.

        And how each user draws, if any does.
        """
        for place, replica in enumerate(self.replicas):
            if replica.busy:
                replica.write(self._share(tokens, place))
                if draws:
                    replica.write_draws(self._share(draws, place))

    def step(self) -> list[int]:
        """One greedy step that writes nothing from the host: [batch] next tokens, only read.

        The devices hold the tokens to append: those of `write`, then those of the step before.
        """
        busy = self._with_room()
        for place in busy:
            self.replicas[place].step()
        return self._tokens(busy)

    def draw(
        self, numbers: Sequence[float], *, logprobs: bool = False
    ) -> tuple[list[int], list[float]]:
        """A step whose tokens each user draws as `write` said: [batch] next tokens.

        And, if they are wanted, their log-probabilities, see `sampling.logprob`; zeros else.

        numbers  for each user one from 0 to below 1, the only thing that the host writes
        """
        busy, found = self._with_room(), [0.0] * self.batch
        for place in busy:
            mine = self._share(numbers, place)
            drawn = self.replicas[place].draw(mine, logprobs=logprobs)
            if logprobs:
                found[place :: len(self.replicas)] = drawn
        return self._tokens(busy), found

    def _check_tokens(self, count: int) -> None:
        """Raise UsageError where not every user, and nobody else, gets a token."""
        users = max((user + 1 for user, length in enumerate(self.lengths) if length), default=0)
        what = f"{count} token{'s' * (count != 1)}"
        if count > self.batch:
            raise UsageError(Problem(message=f"{what} for a program of batch {self.batch}"))
        if count < users:
            raise UsageError(
                Problem(message=f"{what} for {users} users", help="give one for each of them")
            )

    def _tokens(self, busy: Sequence[int]) -> list[int]:
        """What the devices of these replicas hold for the next step."""
        tokens = [0] * self.batch
        for place in busy:
            tokens[place :: len(self.replicas)] = self.replicas[place].tokens()
        return tokens

    def release(self, user: int) -> None:
        """Make a user's slot idle. Takes effect with the next `write`."""
        replica, slot = self._place(user)
        replica.release(slot)

    def release_all(self) -> None:
        """Make all slots idle. What they have read can still be found."""
        for user in range(self.batch):
            self.release(user)

    def cached_tokens(self, user: int) -> int:
        """How many tokens of a user's prompt the caches held before it was read."""
        replica, slot = self._place(user)
        return replica.cached_tokens(slot)

    def is_full(self, user: int) -> bool:
        """Whether a user has no room for another token."""
        replica, slot = self._place(user)
        return replica.is_full(slot)

    def check_prompt(self, prompt: Sequence[int]) -> None:
        """Raise UsageError for a prompt that is empty, too long, or not made of the vocabulary."""
        program = self.program
        limit = program.CONTEXT
        if not program.PREFILL_CHUNK:
            limit = min(limit, max(program.PREFILL))
        if not prompt:
            raise UsageError(
                Problem(message="the prompt has no tokens", help="a prompt needs one at least")
            )
        if len(prompt) > limit:
            raise UsageError(
                Problem(
                    message=f"the prompt has {len(prompt)} tokens, at most {limit} can be read",
                    help=f"shorten it by {len(prompt) - limit} tokens, or compile with a larger "
                    "--context if the model has one",
                )
            )
        outside = [token for token in prompt if not 0 <= token < self.program.VOCAB]
        if outside:
            raise UsageError(
                Problem(
                    message=f"token {outside[0]} is not in the vocabulary of {self.program.VOCAB}",
                    help=f"token ids are 0 to {self.program.VOCAB - 1}",
                )
            )

    def _place(self, user: int) -> tuple[Replica, int]:
        slot, place = divmod(user, len(self.replicas))
        return self.replicas[place], slot

    def _share[Each](self, of_users: Sequence[Each], place: int) -> Sequence[Each]:
        """What is for the slots of one replica."""
        return of_users[place :: len(self.replicas)]

    def _preferred(self, prompt: Sequence[int]) -> list[int]:
        """Replicas that have a slot, the best for a prompt first."""

        def cost(place: int) -> tuple[int, int, int]:
            replica = self.replicas[place]
            users = sum(length > 0 for length in replica.lengths)
            return -replica.pool.cached_tokens(prompt), users, place

        with_slot = (
            place for place, replica in enumerate(self.replicas) if replica.free_slot is not None
        )
        return sorted(with_slot, key=cost)

    def _rooms(self, prompts: Sequence[Sequence[int]]) -> list[int]:
        """Tokens of each user: a whole context, or a fair part of the caches beside the prompts."""
        block, count = self.program.KV_BLOCK, len(self.replicas)
        rooms = [0] * len(prompts)
        for place, replica in enumerate(self.replicas):
            mine = [replica.pool.blocks_for(len(prompt)) for prompt in prompts[place::count]]
            total, context = replica.pool.use.total, self.program.CONTEXT // block
            if sum(mine) > total:
                raise UsageError(
                    Problem(
                        message=f"{len(mine)} prompts need {sum(mine)} cache blocks, there are "
                        f"{total}",
                        help=f"give fewer, or compile with --max-blocks {sum(mine)} or more",
                    )
                )
            spare = (total - sum(mine)) // max(1, len(mine))
            fair = len(mine) * context > total
            rooms[place::count] = [
                block * (min(context, needed + spare) if fair else context) for needed in mine
            ]
        return rooms

    def _clear(self) -> None:
        for replica in self.replicas:
            replica.clear()

    def _read_all(self) -> dict[int, Logits]:
        """Read what is left of all prompts."""
        logits: dict[int, Logits] = {}
        for place, batch in self.batches():
            logits |= self.read(place, batch)
        return logits

    def _with_room(self) -> list[int]:
        """The replicas that have users; all users must have room for one more token."""
        busy = [place for place, replica in enumerate(self.replicas) if replica.busy]
        if not busy:
            raise UsageError(Problem(message="no user has read a prompt", help="prefill first"))
        for user in filter(self.is_full, range(self.batch)):
            replica, slot = self._place(user)
            raise UsageError(
                Problem(
                    message=f"the context of user {user} is full: {replica.room(slot)} tokens",
                    help="start again with prefill, or compile with a larger --context",
                )
            )
        return busy
