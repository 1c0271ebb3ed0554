"""The users of a running program, spread over its replicas."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ttc.errors import Problem, UsageError
from ttc.runtime.backends import Backend
from ttc.runtime.program import Program
from ttc.runtime.replica import Logits, Replica, load_weights


def open_session(program: Program, weights: Path, backend: Backend) -> "Session":
    """A session on all replicas that the mesh of the backend has room for.

    `weights` is the folder of the weight files. Replicas of one device share them.
    """
    loaded: dict[int, Replica] = {}
    replicas: list[Replica] = []
    for part in backend.replicas(program.MESH_SHAPE):
        known = loaded.get(id(part.device))
        shared = known.weights if known else load_weights(program, weights, part)
        replicas.append(Replica(program=program, backend=part, weights=shared))
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
    def lengths(self) -> list[int]:
        """Tokens of each user in the KV caches; 0 is a free slot."""
        return [
            replica.lengths[slot] for slot in range(self.program.BATCH) for replica in self.replicas
        ]

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Logits:
        """Read one prompt per user, from user 0 on; the logits [users, vocab] of what comes next.

        Users without a prompt become idle. What users had read before is forgotten.
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
        self._clear()
        return np.concatenate(
            [self._prefill(user, prompt, last=True) for user, prompt in enumerate(prompts)]
        )

    def prefill_all(self, prompt: Sequence[int]) -> Logits:
        """Read a prompt as user 0; the logits [tokens, vocab] after each of its tokens."""
        self.check_prompt(prompt)
        self._clear()
        return self._prefill(0, prompt, last=False)

    def decode(self, tokens: Sequence[int]) -> Logits:
        """Append a token per user; the logits [users, vocab] of what comes next.

        `tokens` has one entry for each user of the last prefill; idle ones are not read.
        """
        busy = self._with_room()
        self.write(tokens)
        queued = [(place, self.replicas[place].decode()) for place in busy]
        values = np.zeros((len(tokens), self.program.VOCAB), np.float32)
        for place, logits in queued:
            rows = self._share(tokens, place)
            values[place :: len(self.replicas)] = self.replicas[place].take(logits, len(rows))
        return values

    def write(self, tokens: Sequence[int]) -> None:
        """Bring the next token of each user and its position to the devices, before `step`."""
        for place, replica in enumerate(self.replicas):
            if replica.busy:
                replica.write(self._share(tokens, place))

    def step(self) -> list[int]:
        """One greedy step that writes nothing from the host: [batch] next tokens, only read.

        The devices hold the tokens to append: those of `write`, then those of the step before.
        """
        busy = self._with_room()
        for place in busy:
            self.replicas[place].step()
        tokens = [0] * self.batch
        for place in busy:
            tokens[place :: len(self.replicas)] = self.replicas[place].tokens()
        return tokens

    def release(self, user: int) -> None:
        """Make a user's slot idle. Takes effect with the next `write`."""
        replica, slot = self._place(user)
        replica.release(slot)

    def is_full(self, user: int) -> bool:
        """Whether a user's context has no room for another token."""
        replica, slot = self._place(user)
        return replica.is_full(slot)

    def check_prompt(self, prompt: Sequence[int]) -> None:
        """Raise UsageError for a prompt that is empty, too long, or not made of the vocabulary."""
        limit = max(self.program.PREFILL)
        if not prompt:
            raise UsageError(
                Problem(message="the prompt has no tokens", help="a prompt needs one at least")
            )
        if len(prompt) > limit:
            raise UsageError(
                Problem(
                    message=f"the prompt has {len(prompt)} tokens, the largest prefill bucket "
                    f"{limit}",
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

    def _share(self, tokens: Sequence[int], place: int) -> Sequence[int]:
        """The tokens for the slots of one replica."""
        return tokens[place :: len(self.replicas)]

    def _clear(self) -> None:
        for replica in self.replicas:
            replica.clear()

    def _prefill(self, user: int, prompt: Sequence[int], *, last: bool) -> Logits:
        replica, slot = self._place(user)
        return replica.prefill(slot, prompt, last=last)

    def _with_room(self) -> list[int]:
        """The replicas that have users; all users must have room for one more token."""
        busy = [place for place, replica in enumerate(self.replicas) if replica.busy]
        if not busy:
            raise UsageError(Problem(message="no user has read a prompt", help="prefill first"))
        for user in filter(self.is_full, range(self.batch)):
            raise UsageError(
                Problem(
                    message=f"the context of user {user} is full: {self.program.CONTEXT} tokens",
                    help="start again with prefill, or compile with a larger --context",
                )
            )
        return busy
