"""Teacher forcing: the true token at every step, whatever the program prefers."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ttc.accuracy.reference import Reference
from ttc.accuracy.scores import Scorer, Scores
from ttc.errors import Problem, UsageError
from ttc.runtime.session import Session

TEXTS = Path(__file__).parent / "texts"
TEXT = TEXTS / "workshop.txt"
"""The text that is scored when none is named; written for ttc, 10 short pieces."""

HELD_BACK = TEXTS / "crossing.txt"
"""Another one of the same kind, for what was chosen with the help of the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """How many tokens of a text are read by prefill, and how many steps follow."""

    prefill: int
    steps: int

    @property
    def tokens(self) -> int:
        """Tokens of the text that are needed: the last is only predicted."""
        return self.prefill + self.steps + 1

    def __str__(self) -> str:
        return f"{self.prefill}+{self.steps}"


def read_split(written: str) -> Split:
    """512+511 -> Split. Raises UsageError for anything else."""
    prefill, _, steps = written.partition("+")
    if not (prefill.isdecimal() and steps.isdecimal() and int(prefill)):
        raise UsageError(
            Problem(
                message=f"'{written}' is no number of tokens",
                help="write PREFILL+STEPS, such as 512+511",
            )
        )
    return Split(prefill=int(prefill), steps=int(steps))


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Tokens that a program has room for: in its caches, and in a cache block."""

    context: int
    block: int


def check_length(room: Room, split: Split, available: int, what: str = "text") -> None:
    """Raise UsageError where the text or the program is too short for the split.

    what  the kind of file that holds the text
    """
    if available < split.tokens:
        longest = max(0, available - split.prefill - 1)
        raise UsageError(
            Problem(
                message=f"the {what} has {available} tokens, {split} needs {split.tokens}",
                help=f"ask for --tokens {split.prefill}+{longest}"
                if longest
                else f"name a longer {what}, or ask for fewer tokens",
            )
        )
    wanted = -(-split.tokens // room.block) * room.block
    if split.tokens - 1 > room.context:
        raise UsageError(
            Problem(
                message=f"the program has a context of {room.context} tokens, {split} is more",
                help=f"compile with --context {wanted}, or ask for fewer --tokens",
            )
        )


def force(
    session: Session,
    reference: Reference,
    split: Split,
    on_token: Callable[[int], None] = lambda done: None,
) -> Scores:
    """Read the reference's text as user 0; `on_token` is told how many tokens are done.

    Raises UsageError for a reference that is too short, or names tokens that the model lacks.
    """
    program = session.program
    room = Room(context=session.room, block=program.KV_BLOCK)
    check_length(room, split, len(reference.token_ids), what="reference")
    _check_vocabulary(reference, program.VOCAB)
    scorer = Scorer(reference=reference, prefill=split.prefill)
    scorer.add(session.prefill_all(reference.token_ids[: split.prefill]))
    on_token(split.prefill)
    for done, token in enumerate(reference.token_ids[split.prefill : split.tokens - 1], 1):
        scorer.add(session.decode([token]))
        on_token(split.prefill + done)
    return scorer.scores()


def _check_vocabulary(reference: Reference, vocab: int) -> None:
    """Raise UsageError for token ids that the program has no logits of."""
    named = (*reference.token_ids, int(reference.top_ids.min()), int(reference.top_ids.max()))
    wrong = next((token for token in (max(named), min(named)) if not 0 <= token < vocab), None)
    if wrong is not None:
        raise UsageError(
            Problem(
                message=f"the reference names token {wrong}, the model has {vocab}",
                note="it was made for a model with another tokenizer",
                help="make one for this model with --make-reference",
            )
        )
