"""Where ttnn's DRAM allocator puts the values of a step, and how high they reach.

Each buffer goes to the lowest address where it fits, so that holes between longer lived values can
be too small for the next one: the highest address in use is what a chip must have, not the sum of
what is alive. Source: addresses that ttnn 0.81.1 hands out on a mock mesh, with holes of many
sizes; `tests/verify/test_memory.py` runs programs in exactly the memory that is planned for them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ttc.plan.operations import Step, decoder_inputs, decoder_outputs, steps_of
from ttc.plan.placement import TensorPlan
from ttc.plan.plan import DecoderPlan, PlannedOp

type Size = Callable[[TensorPlan], int]
type Block = tuple[int, int]
"""First address and the one after the last."""


@dataclass(slots=True)
class Arena:
    """The memory above what stays, from address 0 on; no end, and the highest address ever used."""

    blocks: dict[str, Block] = field(default_factory=dict[str, Block])
    highest: int = 0

    def hold(self, name: str, size: int) -> None:
        """Find a place for a value; one without bytes takes none."""
        if size == 0:
            return
        assert name not in self.blocks, f"{name} is held already"
        start = 0
        for first, after in sorted(self.blocks.values()):
            if first - start >= size:
                break
            start = after
        self.blocks[name] = (start, start + size)
        self.highest = max(self.highest, start + size)

    def free(self, name: str) -> None:
        self.blocks.pop(name, None)


def run(
    arena: Arena, ops: Sequence[PlannedOp], size: Size, values: Mapping[str, TensorPlan]
) -> None:
    """Hold and free the values of operations as emitted code does: freed after their last reader.

    `values` are those that the operations find; what nothing reads stays.
    """
    known = dict(values)
    steps: list[Step] = []
    for op in ops:
        for step in steps_of(op, known):
            steps.append(step)
            known |= dict(step.writes)
    last = {name: i for i, step in enumerate(steps) for name in step.reads}
    for i, step in enumerate(steps):
        for name, tensor in step.writes:
            arena.hold(name, size(tensor))
        for name in {name for name in step.reads if last[name] == i}:
            arena.free(name)


def run_decoders(
    arena: Arena, decoders: Sequence[DecoderPlan], size: Size, value: str, residual: TensorPlan
) -> str:
    """All layers in turn, each reading what the one before it wrote, first `value`; the last one.

    Where its input lies decides all that a layer does, so that each case is looked at once.
    """
    owner: dict[int, tuple[DecoderPlan, str, str]] = {}
    for decoder in decoders:
        (entering,), (leaving,) = decoder_inputs(decoder.ops), decoder_outputs(decoder.ops)
        owner |= dict.fromkeys(decoder.layers, (decoder, entering, leaving))
    left: dict[tuple[str, Block | None], Block | None] = {}
    for layer in sorted(owner):
        decoder, entering, leaving = owner[layer]
        place = arena.blocks.pop(value, None)
        if (decoder.name, place) not in left:
            if place:
                arena.blocks[entering] = place
            run(arena, decoder.ops, size, {entering: residual})
            left[decoder.name, place] = arena.blocks.pop(leaving, None)
        value = leaving
        if found := left[decoder.name, place]:
            arena.blocks[value] = found
    return value
