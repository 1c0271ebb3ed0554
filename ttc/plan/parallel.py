"""Tensor parallelism: which chips work on one user, and what each of them holds.

A program is written for one replica: a row of `tp` chips that share every matrix. All shapes of a
plan are those on one chip; `rank` counts the chips of a replica.
"""

from dataclasses import dataclass
from typing import Literal

ZEROS = -1
"""In place of a head or of a first element: this part of the matrix is zeros."""

Residual = Literal["replicated", "fractured"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadLayout:
    """The heads of every rank: `queries[rank]` are computed and `kv[rank]` are stored there.

    Numbers are those of the model, ZEROS a head of zeros. All ranks have equally many, and the
    query at place i of a rank reads the kv head at place i // (queries per kv head) of that rank.
    """

    queries: tuple[tuple[int, ...], ...]
    kv: tuple[tuple[int, ...], ...]

    @property
    def heads(self) -> int:
        """Query heads of one rank."""
        return len(self.queries[0])

    @property
    def kv_heads(self) -> int:
        """Key and value heads of one rank."""
        return len(self.kv[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What part of one dim of a checkpoint matrix [out, in] each rank holds.

    `starts[rank]` are the first elements of its blocks of `size` elements, in order. A block
    ends in zeros where it takes fewer elements than it has. One that starts at ZEROS is all zeros,
    and so is what lies beyond the end of the matrix. `name` says by what the dim is divided.
    """

    name: str
    dim: Literal["out", "in"]
    size: int
    starts: tuple[tuple[int, ...], ...]
    taken: int

    @property
    def width(self) -> int:
        """Elements of the dim on one rank."""
        return self.size * len(self.starts[0])

    def runs(self, rank: int, end: int) -> tuple[tuple[int, int, int], ...]:
        """(start, stop, zeros): elements to take and zeros to add after them, for one rank.

        `end` is the size of the dim in the checkpoint. Neighbours are joined.
        """
        runs: list[tuple[int, int, int]] = []
        for first in self.starts[rank]:
            start = end if first == ZEROS else min(first, end)
            stop = min(start + self.taken, end)
            zeros = self.size - (stop - start)
            if runs and start == stop:
                runs[-1] = (*runs[-1][:2], runs[-1][2] + zeros)
            elif runs and runs[-1][1:] == (start, 0):
                runs[-1] = (runs[-1][0], stop, zeros)
            else:
                runs.append((start, stop, zeros))
        return tuple(runs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallel:
    """How a mesh is used: `dp` replicas of `tp` chips each.

    A replica is `replica_shape` (rows, columns) of the mesh; its collectives run along
    `cluster_axis` over `links` ethernet links. The residual stream is whole on every rank, or
    each rank holds its part of the width; decode and prefill differ in what is cheaper.
    """

    tp: int
    dp: int
    replica_shape: tuple[int, int]
    cluster_axis: int
    topology: Literal["none", "line", "ring"]
    links: int
    decode_residual: Residual
    prefill_residual: Residual
    heads: HeadLayout


def even_share(
    name: str, dim: Literal["out", "in"], *, width: int, ranks: int, start: int = 0, stride: int = 0
) -> Share:
    """Rank r holds `width` elements from `start` + r * `stride` on; `stride` is `width` if 0."""
    step = stride or width
    starts = tuple((start + rank * step,) for rank in range(ranks))
    return Share(name=name, dim=dim, size=width, starts=starts, taken=width)


def head_share(
    name: str,
    dim: Literal["out", "in"],
    heads: tuple[tuple[int, ...], ...],
    head_dim: int,
    *,
    padded: int = 0,
    pieces: int = 1,
) -> Share:
    """The rows or columns of the heads of each rank.

    A head that is stored wider than it is, `padded` elements, ends in zeros: so does each of its
    `pieces`, as two halves that turn together must stay half of the stored width apart.
    """
    taken = head_dim // pieces

    def blocks(head: int) -> tuple[int, ...]:
        first = head * head_dim
        return tuple(ZEROS if head == ZEROS else first + i * taken for i in range(pieces))

    starts = tuple(tuple(start for head in held for start in blocks(head)) for held in heads)
    size = (padded or head_dim) // pieces
    return Share(name=name, dim=dim, size=size, starts=starts, taken=taken)
