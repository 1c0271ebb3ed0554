"""In which pieces a prompt is read."""

from collections.abc import Iterator
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
