"""How much each item of a search loses in each form, measured with the emulator.

The loss is the KL divergence from the finest program, in nats per position. An item's coarsest
form is measured alone. A form in between is measured for all blocks of a group at once and shared
out in proportion, since a single block's loss would drown in rounding; and the coarsest losses are
scaled so that they add up to what the whole group loses.
"""

from collections.abc import Sequence

from ttc.accuracy.reference import Reference
from ttc.accuracy.teacher import Split
from ttc.search.bench import Bench
from ttc.search.space import Choice, Item, Table, profile_text


def measure_losses(bench: Bench, items: Sequence[Item], token_ids: Sequence[int]) -> Table:
    """Losses on a text that is read by prefill; 0 for the finest form."""
    finest = profile_text("finest", items, (0,) * len(items))
    reference = bench.program_reference(finest, token_ids)
    split = Split(prefill=len(token_ids) - 1, steps=0)
    jobs = _jobs(items)
    measured: dict[Choice, float] = {}
    for done, choice in enumerate(jobs):
        bench.progress("measuring sensitivities", done, len(jobs))
        measured[choice] = _loss(bench, items, choice, reference, split)
    return _share_out(items, measured)


def _loss(
    bench: Bench, items: Sequence[Item], choice: Choice, reference: Reference, split: Split
) -> float:
    text = profile_text("variant", items, choice)
    return max(0.0, bench.measure(text, reference, split).kl)


def _jobs(items: Sequence[Item]) -> list[Choice]:
    """Each item in its coarsest form alone; each group whole, in each form."""
    alone = [_with(items, [number], -1) for number in range(len(items))]
    whole = [
        _with(items, members, form)
        for members in _groups(items)
        for form in range(1, len(items[members[0]].forms))
    ]
    return list(dict.fromkeys([*whole, *alone]))


def _groups(items: Sequence[Item]) -> list[list[int]]:
    """The numbers of the items of each group."""
    groups: dict[str, list[int]] = {}
    for number, item in enumerate(items):
        groups.setdefault(item.group, []).append(number)
    return list(groups.values())


def _with(items: Sequence[Item], members: Sequence[int], form: int) -> Choice:
    return tuple(
        (form % len(item.forms)) if number in members else 0 for number, item in enumerate(items)
    )


def _share_out(items: Sequence[Item], measured: dict[Choice, float]) -> Table:
    losses: list[tuple[float, ...]] = [()] * len(items)
    for members in _groups(items):
        alone = [measured[_with(items, [number], -1)] for number in members]
        forms = range(1, len(items[members[0]].forms))
        whole = [measured[_with(items, members, form)] for form in forms]
        for number, loss in zip(members, alone, strict=True):
            part = loss / sum(alone) if sum(alone) else 1 / len(members)
            losses[number] = (0.0, *(each * part for each in whole))
    return tuple(losses)
