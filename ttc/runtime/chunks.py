"""In which pieces prompts are read, and which pieces of several prompts are read at once."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ttc.runtime.program import Program


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Tokens [first, end) of a prompt, padded to the size of a program."""

    first: int
    end: int
    bucket: int

    @property
    def tokens(self) -> int:
        return self.end - self.first


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Chunks of different users that one program reads; all start at the same position.

    prompts, tokens  the size of the program: it has rows for so many tokens of so many prompts
    """

    users: tuple[int, ...]
    chunks: tuple[Chunk, ...]
    prompts: int
    tokens: int

    @property
    def first(self) -> int:
        """Where the chunks start in their prompts."""
        return self.chunks[0].first

    def one_by_one(self) -> "Iterator[Batch]":
        """The same chunks, each by a program of one prompt."""
        return map(alone, self.users, self.chunks)


def chunks_of(program: Program, tokens: int, held: int) -> Iterator[Chunk]:
    """The chunks of a prompt of which the cache holds the first `held` tokens.

    All but the last have the size of the largest program, and start where programs can: what is
    held but lies behind such a place is computed again, which changes nothing.
    """
    largest = max(program.PREFILL)
    first = held // program.CHUNK_START * program.CHUNK_START
    while first < tokens:
        end = min(first + largest, tokens)
        sizes = program.PREFILL_CHUNK if first else program.PREFILL
        bucket = min(size for size in sizes if size >= end - first)
        yield Chunk(first=first, end=end, bucket=bucket)
        first = end


def batches_of(
    program: Program, prompts: Mapping[int, Sequence[Chunk]], kinds: Mapping[int, Hashable]
) -> Iterator[Batch]:
    """All chunks of some users' prompts, in the order of the users.

    Prompts of one kind of which one chunk is left, and which go on from the same position, are read
    together where the plan says that it saves time; they take the place of the first of them. One
    of several chunks is read to its end: the time that the last one could share is little, and the
    others would wait for it.
    """
    together: dict[tuple[int, Hashable] | int, list[tuple[int, Chunk]]] = {}
    for user, chunks in prompts.items():
        key = user if len(chunks) > 1 else (chunks[0].first, kinds[user])
        together.setdefault(key, []).extend((user, chunk) for chunk in chunks)
    for key, waiting in together.items():
        if isinstance(key, int):
            yield from (alone(user, chunk) for user, chunk in waiting)
        else:
            yield from _shared(program, waiting)


def _shared(program: Program, waiting: list[tuple[int, Chunk]]) -> Iterator[Batch]:
    """Chunks that start alike: the longest first, and rows that would be padding are given to
    shorter ones."""
    waiting = sorted(waiting, key=lambda each: -each[1].tokens)
    while waiting:
        count, tokens = _size(program, [chunk for _, chunk in waiting])
        if count == 1:
            yield alone(*waiting[0])
        else:
            users, chunks = zip(*waiting[:count], strict=True)
            yield Batch(users=users, chunks=chunks, prompts=count, tokens=tokens)
        waiting = waiting[count:]


def alone(user: int, chunk: Chunk) -> Batch:
    """A chunk that a program of one prompt reads."""
    return Batch(users=(user,), chunks=(chunk,), prompts=1, tokens=chunk.bucket)


def _size(program: Program, waiting: Sequence[Chunk]) -> tuple[int, int]:
    """The program for the first of some chunks that start alike, and those of similar length."""
    first = waiting[0]
    similar = sum(2 * chunk.bucket > first.bucket for chunk in waiting)
    programs = program.PREFILL_CHUNK_PROMPTS if first.first else program.PREFILL_PROMPTS
    uses = {
        least: size
        for (tokens, least), size in program.TOGETHER.items()
        if tokens == first.bucket and least <= similar and size in programs
    }
    return uses[max(uses)] if uses else (1, first.bucket)
