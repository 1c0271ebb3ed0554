"""In which pieces prompts are read, and which pieces of several prompts are read at once."""

from collections.abc import Iterator, Mapping, Sequence
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
        for user, chunk in zip(self.users, self.chunks, strict=True):
            yield Batch(users=(user,), chunks=(chunk,), prompts=1, tokens=chunk.bucket)


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


def batches_of(program: Program, chunks: Mapping[int, Sequence[Chunk]]) -> Iterator[Batch]:
    """All chunks of some users' prompts, in an order in which they can be read.

    Chunks that start alike are read together where the plan says that it saves time: the longest
    first, with rows that would be padding given to shorter ones.
    """
    by_start: dict[int, list[tuple[int, Chunk]]] = {}
    for user, each in chunks.items():
        for chunk in each:
            by_start.setdefault(chunk.first, []).append((user, chunk))
    for _, waiting in sorted(by_start.items()):
        waiting.sort(key=lambda one: -one[1].tokens)
        while waiting:
            prompts, tokens = _size(program, [chunk for _, chunk in waiting])
            users, taken = zip(*waiting[:prompts], strict=True)
            yield Batch(users=users, chunks=taken, prompts=prompts, tokens=tokens)
            del waiting[:prompts]


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
