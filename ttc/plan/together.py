"""How many prompts one prefill reads: the fewest programs of several prompts that save most time.

Weights are read once for all prompts of a program, and matrix units are busier with more rows, so
that several short prompts take little longer than one. A program of many prompts is worth its
padding from some number of waiting prompts on; below that a smaller one is, or one by one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations

# More programs are emitted where prompts would otherwise take more than this times what they take
# with every program that fits.
TOLERATED_SLOWDOWN = 1.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """Where at least `least` prompts of one bucket of `tokens` wait, `prompts` are read at once,
    each padded to `padded` tokens: the programs of that size."""

    tokens: int
    least: int
    prompts: int
    padded: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """A program of `prompts` prompts that takes `seconds`, and how many wait at least for it."""

    least: int
    prompts: int
    seconds: float


def choose_programs(one: float, several: Mapping[int, float], waiting: int) -> tuple[int, ...]:
    """Of how many prompts the programs beside that of one are: the fewest that are fast enough.

    one      seconds of the program of one prompt
    several  seconds of those of more that would fit, by the number of prompts
    waiting  as many as may wait at once; each number up to that counts alike
    """
    ways: list[tuple[float, tuple[int, ...]]] = []
    for count in range(len(several) + 1):
        for chosen in combinations(sorted(several), count):
            uses = uses_of(one, {prompts: several[prompts] for prompts in chosen})
            ways.append((share_of_one_by_one(uses, waiting), chosen))
    limit = TOLERATED_SLOWDOWN * min(share for share, _ in ways)
    return min((len(way), share, way) for share, way in ways if share <= limit)[2]


def uses_of(one: float, several: Mapping[int, float]) -> tuple[Use, ...]:
    """From how many waiting prompts on each program saves time over those of fewer prompts; one
    that never does is left out."""
    uses = [Use(least=1, prompts=1, seconds=one)]
    for prompts, seconds in sorted(several.items()):
        counts = range(uses[-1].least + 1, prompts + 1)
        least = next((count for count in counts if seconds < time_of(uses, count)), None)
        if least is not None:
            uses.append(Use(least=least, prompts=prompts, seconds=seconds))
    return tuple(uses)


def time_of(uses: Iterable[Use], waiting: int) -> float:
    """Seconds for so many prompts, each time with the program that reads most of them."""
    by_size, seconds = sorted(uses, key=lambda use: -use.least), 0.0
    while waiting > 0:
        use = next(use for use in by_size if use.least <= waiting)
        seconds += use.seconds
        waiting -= use.prompts
    return seconds


def share_of_one_by_one(uses: tuple[Use, ...], waiting: int) -> float:
    """The time of 1 to `waiting` prompts by that of one after the other, on average."""
    counts = range(1, waiting + 1)
    return sum(time_of(uses, count) / (count * uses[0].seconds) for count in counts) / waiting
