"""Whether wired chips can stand in a grid such that neighbours in the grid are wired.

The question is that of a subgraph of a given form, which has no fast answer in general. Meshes are
small and their chips have few wires: necessary conditions refuse most wrong wirings at once, and
a search that places one chip after another finds the others. The search is bounded.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ttc.hardware.cluster import Wire

_MOST_STEPS = 20_000  # under a second; each shipped mesh takes as many steps as it has chips

type _Wired = Mapping[int, frozenset[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class GridForm:
    """`rows` x `cols` places. Neighbours along an axis want a wire of `links` ethernet links.

    `closed` says along which axes (0: rows, 1: columns) the last place is a neighbour of the first,
    which needs more than two places.
    """

    rows: int
    cols: int
    links: tuple[int, int] = (1, 1)
    closed: tuple[bool, bool] = (False, False)

    @property
    def places(self) -> int:
        return self.rows * self.cols

    @property
    def is_closed(self) -> bool:
        """Whether some axis closes into a ring."""
        return (self.closed[0] and self.rows > 2) or (self.closed[1] and self.cols > 2)

    def turned(self) -> "GridForm":
        """The same form with rows and columns exchanged."""
        links, closed = (self.links[1], self.links[0]), (self.closed[1], self.closed[0])
        return GridForm(rows=self.cols, cols=self.rows, links=links, closed=closed)

    def earlier_neighbours(self, place: int) -> Iterator[tuple[int, int]]:
        """(neighbour, axis) for each neighbour that comes before a place, row by row."""
        row, col = divmod(place, self.cols)
        if col > 0:
            yield place - 1, 1
        if row > 0:
            yield place - self.cols, 0
        if self.closed[1] and col == self.cols - 1 > 1:
            yield place - col, 1
        if self.closed[0] and row == self.rows - 1 > 1:
            yield col, 0


def can_stand(form: GridForm, chips: int, wires: Iterable[Wire]) -> bool:
    """Whether some of the chips 0 to `chips` - 1, or all of them, can stand in the form.

    False also where a search of bounded length finds no way.
    """
    if form.cols > form.rows:
        form = form.turned()  # along short rows a wrong start shows early
    axes = tuple(_wired(chips, wires, links) for links in form.links)
    if form.places > chips or (form.places == chips and not _may_span(form, axes)):
        return False
    return _search(form, axes)


def unreached(chips: int, wires: Iterable[Wire]) -> list[int]:
    """The chips to which no wires lead from chip 0."""
    reached = _reach(_wired(chips, wires, 1), 0)
    return [chip for chip in range(chips) if chip not in reached]


def _wired(chips: int, wires: Iterable[Wire], links: int) -> _Wired:
    """The chips to which each chip has a wire of at least so many links."""
    found: dict[int, set[int]] = {chip: set() for chip in range(chips)}
    for wire in wires:
        if wire.links >= links:
            found[wire.a].add(wire.b)
            found[wire.b].add(wire.a)
    return {chip: frozenset(others) for chip, others in found.items()}


def _reach(wired: _Wired, start: int) -> dict[int, int]:
    """Each chip that can be reached, with the number of wires on a shortest way."""
    steps, waiting = {start: 0}, deque([start])
    while waiting:
        chip = waiting.popleft()
        for other in wired[chip]:
            if other not in steps:
                steps[other] = steps[chip] + 1
                waiting.append(other)
    return steps


def _may_span(form: GridForm, axes: tuple[_Wired, ...]) -> bool:
    """What all chips in one form need: to hang together, and as many black places as black chips.

    The places of an open grid are black and white in turn, as are chips whose wires form no odd
    circle; a closed axis of odd length is such a circle.
    """
    used = [axis for axis, length in enumerate((form.rows, form.cols)) if length > 1]
    union = {chip: frozenset[int]().union(*(axes[axis][chip] for axis in used)) for chip in axes[0]}
    steps = _reach(union, 0)
    if len(steps) < form.places:
        return False
    if any(steps[a] % 2 == steps[b] % 2 for a, others in union.items() for b in others):
        return True
    lengths = (form.rows, form.cols)
    if any(form.closed[axis] and lengths[axis] > 2 and lengths[axis] % 2 for axis in (0, 1)):
        return False
    black = sum(step % 2 for step in steps.values())
    return abs(form.places - 2 * black) == form.places % 2


def _search(form: GridForm, axes: tuple[_Wired, ...]) -> bool:
    """Fill the places row by row; go back where a place finds no chip."""
    line = form.cols == 1
    spanning = form.places == len(axes[0])
    placed: list[int] = []
    free = set(axes[0])
    starts = sorted(free, key=lambda chip: len(axes[0][chip]))
    if spanning and line and form.closed[0]:
        starts = starts[:1]  # a ring of all chips can be read from any of them
    waiting: list[Iterator[int]] = [iter(starts)]
    steps: dict[int, int] = {}
    for _ in range(_MOST_STEPS):
        chip = next(waiting[-1], None)
        if chip is None:
            waiting.pop()
            if not waiting:
                return False
            free.add(placed.pop())
            continue
        placed.append(chip)
        free.remove(chip)
        if line and len(placed) == 1:
            steps = _reach(axes[0], chip)
        if len(placed) == form.places:
            return True
        dead = spanning and line and _leaves_dead_end(form.closed[0], axes[0], placed, free)
        waiting.append(iter(()) if dead else iter(_candidates(form, axes, placed, free, steps)))
    return False


def _candidates(
    form: GridForm,
    axes: tuple[_Wired, ...],
    placed: list[int],
    free: set[int],
    steps: Mapping[int, int],
) -> list[int]:
    """The chips that may take the next place, those with the fewest ways on first.

    Of several the one that is the most `steps` from the first chip: a line then keeps to the rim,
    from where it finds back.
    """
    found = set(free)
    for place, axis in form.earlier_neighbours(len(placed)):
        found &= axes[axis][placed[place]]
    return sorted(found, key=lambda chip: (len(axes[0][chip] & free), -steps.get(chip, 0), chip))


def _leaves_dead_end(closed: bool, wired: _Wired, placed: list[int], free: set[int]) -> bool:
    """Whether a line of all chips can no longer be completed: some chip lacks a way in or out."""
    ends = {placed[-1], placed[0]} if closed else {placed[-1]}
    last = 0
    for chip in free:
        ways = len(wired[chip] & (free | ends))
        if closed and len(free) == 1:
            return not ends <= wired[chip]
        if ways == 0 or (closed and ways == 1):
            return True
        last += ways == 1
    if last > 1:
        return True
    open_part = {chip: wired[chip] & free for chip in free}
    return len(_reach(open_part, next(iter(free)))) < len(free)
