# pyright: reportUnknownMemberType=false
"""The sums of a reduce-scatter: in which order devices add, and what is rounded on the way.

Source: the kernels that ttnn 0.81.1 ships for reduce_scatter_minimal_async (ring_*, line_*),
reduce_scatter_minimal_direct, all_reduce_async and moreh_sum, and the dispatch in
ccl/reduce_scatter. All add on the matrix unit, with a 16-bit Dst unless values are FLOAT32 or a
call asks for more, and a partial sum that travels is packed in the element type of the tensor at
every hop.

Functions take x [devices, slices, ...], the values of each device along one axis of the mesh cut
into a slice per device, and give the sums [slices, ...]: slice i is what device i ends up with.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import torch

from ttc.emulate import fpu
from ttc.emulate.dtypes import DataType, pack_on_device

type Sum = Callable[[torch.Tensor, "Addition"], torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Addition:
    """What one kernel does with values of an element type; exact if nothing is rounded."""

    dtype: DataType
    rounding: bool
    wide_dst: bool = False

    def in_dst(self, *terms: torch.Tensor) -> torch.Tensor:
        if self.rounding and self.dtype is not DataType.FLOAT32:
            return fpu.add(*terms, wide_dst=self.wide_dst)
        return reduce(torch.add, terms)

    def packed(self, values: torch.Tensor) -> torch.Tensor:
        if not self.rounding:
            return values
        return pack_on_device(values, self.dtype, wide_dst=self.wide_dst)

    def __call__(self, *terms: torch.Tensor) -> torch.Tensor:
        return self.packed(self.in_dst(*terms))


def direct(x: torch.Tensor, add: Addition) -> torch.Tensor:
    """Every device sends its part to the owner, which adds them in Dst and packs once.

    The owner's own part comes first, then the others by position.
    """
    count = len(x)
    owners = torch.arange(count, device=x.device)
    senders = [[owner, *(i for i in range(count) if i != owner)] for owner in range(count)]
    sender = torch.tensor(senders, device=x.device)
    return in_pairs([x[sender[:, place], owners] for place in range(count)], add)


def in_pairs(parts: Sequence[torch.Tensor], add: Addition) -> torch.Tensor:
    """The sum of values in Dst, two at once; the first alone if their number is odd."""
    alone = len(parts) % 2
    total = parts[0] if alone else add.in_dst(parts[0], parts[1])
    for place in range(1 if alone else 2, len(parts), 2):
        total = add.in_dst(parts[place], parts[place + 1], total)
    return add.packed(total)


def ring(x: torch.Tensor, add: Addition) -> torch.Tensor:
    """Two chains reach the owner, half of the ring from each side; it adds both to its own part.

    One chain starts opposite of the owner and the other one device nearer. The kernel swaps the
    sides for every other chunk of tiles; here all chunks go as the first does.
    """
    count = len(x)
    owners = torch.arange(count, device=x.device)

    def part(distance: int) -> torch.Tensor:
        return x[(owners + distance) % count, owners]

    behind, ahead = count // 2, count - 1 - count // 2
    total = part(-behind)
    for distance in range(behind - 1, 0, -1):
        total = add(part(-distance), total)
    if not ahead:
        return add(total, part(0))
    other = part(ahead)
    for distance in range(ahead - 1, 0, -1):
        other = add(part(distance), other)
    return add(total, part(0), other)


def line(x: torch.Tensor, add: Addition) -> torch.Tensor:
    """A chain from each end reaches the owner, which adds the one from the front first."""
    count = len(x)
    owners = torch.arange(count, device=x.device)
    own = x[owners, owners]
    total = own.clone()
    total[1:] = add(own[1:], _arrivals(x, add))
    from_back = _arrivals(x.flip(0, 1), add).flip(0)
    total[:-1] = add(total[:-1], from_back)
    return total


def _arrivals(x: torch.Tensor, add: Addition) -> torch.Tensor:
    """For every owner but the first the sum of what stands before it, carried along the line."""
    travelling = x[0, 1:]  # for the owners after this device
    arrived = [travelling[:1]]
    for device in range(1, len(x) - 1):
        travelling = add(x[device, device + 1 :], travelling[1:])
        arrived.append(travelling[:1])
    return torch.cat(arrived)


def broadcast(x: torch.Tensor, add: Addition) -> torch.Tensor:
    """Every device gets all parts and adds them in Dst, by position (moreh_sum)."""
    total = add.in_dst(x[0], torch.zeros_like(x[0]))
    for part in x[1:]:
        total = add.in_dst(part, total)
    return add.packed(total)
