"""What is wrong with the wires of an entry of a file of meshes, each problem at its place."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from math import prod

from ttc.errors import Problem
from ttc.hardware.chips import Chip
from ttc.hardware.cluster import Wire, pair, read_wires
from ttc.hardware.layout import GridForm, can_stand, unreached
from ttc.hardware.shapes import counted, shape_of
from ttc.located import Located


def check_wiring(data: Located, count: int, chip: Chip) -> Iterator[Problem]:
    """Wires that are missing, wires that cannot be, and chips that no wire leads to."""
    wiring = data.get("wiring")
    if wiring is None:
        if count > 1:
            yield Problem(
                message=f"the wires between the {count} chips are missing",
                at=data.key_at,
                note="a mesh of more than one chip needs 'wiring'",
                help="add 'wiring: {pairs: [[0, 1, LINKS], ...], source: NAME}'",
            )
        return
    form = [*_check_form(wiring, count)]
    if form:
        yield from form
        return
    pairs = wiring.get("pairs")
    wrong = [*_check_pairs(pairs, count)] if pairs else []
    if wrong:
        yield from wrong
        return
    wires = read_wires(wiring)
    ends = Counter[int]()
    for wire in wires:
        ends.update({wire.a: wire.links, wire.b: wire.links})
    full, most = max(ends.items(), key=lambda end: end[1], default=(0, 0))
    place = pairs or wiring["grid"]
    if most > chip.links:
        yield Problem(
            message=f"{most} links end at chip {full}",
            at=place.at,
            note=f"a {chip.name} has {chip.links}",
            help="write fewer links, or a chip that has more",
        )
    elif alone := unreached(count, wires):
        yield Problem(
            message=f"no wires lead from chip 0 to chip {alone[0]}",
            at=place.at,
            note=f"the chips are 0 to {count - 1}",
            help="add the missing wires, or write smaller shapes",
        )


def _check_form(wiring: Located, count: int) -> Iterator[Problem]:
    """The fields of a wiring: either pairs, or a grid with its links."""
    pairs, grid = wiring.get("pairs"), wiring.get("grid")
    if grid is None and pairs is None:
        yield Problem(
            message="the field 'pairs' or 'grid' is missing",
            at=wiring.key_at,
            note="wiring says which chips are wired",
            help="add 'pairs: [[0, 1, LINKS], ...]', or 'grid: [ROWS, COLUMNS]' and 'links'",
        )
    elif grid and pairs:
        yield Problem(
            message="'pairs' and 'grid' exclude each other",
            at=grid.key_at,
            note="the pairs name every wire",
            help="keep one of them",
        )
    elif pairs:
        for name in ("links", "wrap"):
            if extra := wiring.get(name):
                yield Problem(
                    message=f"'{name}' belongs to a grid",
                    at=extra.key_at,
                    note="the pairs name every wire and its links",
                    help="remove it",
                )
    elif grid:
        if wiring.get("links") is None:
            yield Problem(
                message="the field 'links' is missing",
                at=wiring.key_at,
                note="a grid needs the links between neighbours",
                help="add 'links:' with a whole number",
            )
        rows, cols = pair(grid)
        if rows * cols != count:
            yield Problem(
                message=f"a grid of {rows} x {cols} has {counted(rows * cols)}",
                at=grid.at,
                note=f"the first shape has {count}",
                help="write the grid of all chips",
            )


def _check_pairs(pairs: Located, count: int) -> Iterator[Problem]:
    seen: dict[frozenset[int], Located] = {}
    for wire in pairs.elements():
        a, b, links = wire.elements()
        missing = [end for end in (a, b) if end.integer >= count]
        for end in missing:
            yield Problem(
                message=f"a wire goes to chip {end.integer}",
                at=end.at,
                note=f"the chips are 0 to {count - 1}" if count > 1 else "the only chip is 0",
            )
        if missing:
            continue
        if a.integer == b.integer:
            yield Problem(
                message=f"a wire goes from chip {a.integer} to itself",
                at=wire.at,
                help="remove it",
            )
            continue
        if links.integer == 0:
            yield Problem(
                message="a wire of 0 links is none",
                at=links.at,
                help="write how many links there are, or remove the wire",
            )
        first = seen.setdefault(frozenset((a.integer, b.integer)), wire)
        if first is not wire:
            yield Problem(
                message=f"chips {a.integer} and {b.integer} are wired already",
                at=wire.at,
                details=(f"the first wire is at {first.at}",),
                help="write one wire with all links",
            )


def check_links(data: Located, wires: tuple[Wire, ...]) -> Iterator[Problem]:
    """Links that a collective wants and the wires do not have, or that it cannot do without."""
    most = max((wire.links for wire in wires), default=0)
    shapes = [each.text for each in data["shapes"].elements()]
    for axis in (0, 1):
        links = data["links"][f"axis{axis}"]
        if links.integer > most:
            yield Problem(
                message=f"{links.integer} links between neighbours do not exist",
                at=links.at,
                note=f"the wiring has {most} at most" if most else "it is a single chip",
                help=f"write {most}",
            )
        longer = [each for each in shapes if shape_of(each)[axis] > 1]
        if longer and links.integer == 0:
            yield Problem(
                message=f"neighbours along axis {axis} have no links",
                at=links.at,
                note=f"{longer[0]} has {shape_of(longer[0])[axis]} chips there",
                help=f"write 1 to {most}" if most > 1 else "write 1",
            )


def check_layout(data: Located, count: int, wires: tuple[Wire, ...]) -> Iterator[Problem]:
    """Shapes in which neighbours are not wired, and rings that nothing closes."""
    links = (data["links"]["axis0"].integer, data["links"]["axis1"].integer)
    shapes = [each for each in data["shapes"].elements() if prod(shape_of(each.text)) > 1]
    open_forms = {each.text: _form(each.text, links) for each in shapes}
    refused = [
        problem
        for each in shapes
        if not can_stand(open_forms[each.text], count, wires)
        for problem in _not_laid_out(data, each, count, wires)
    ]
    yield from refused
    if data["topology"].text == "ring" and not refused:
        yield from _check_ring(data, count, wires, [*open_forms.values()])


def _form(
    shape: str, links: tuple[int, int] = (1, 1), closed: tuple[bool, bool] = (False, False)
) -> GridForm:
    rows, cols = shape_of(shape)
    return GridForm(rows=rows, cols=cols, links=links, closed=closed)


def _not_laid_out(
    data: Located, shape: Located, count: int, wires: tuple[Wire, ...]
) -> Iterator[Problem]:
    if can_stand(_form(shape.text), count, wires):
        links = data["links"]
        yield Problem(
            message=f"not all neighbours in {shape.text} have so many links",
            at=links.at,
            note="'links' says what each two neighbours along an axis have at least",
            help="write the links of the thinnest wires, "
            f"{min(wire.links for wire in wires)} at most",
        )
        return
    yield Problem(
        message=f"no way was found to lay out the chips as {shape.text}",
        at=shape.at,
        note="neighbours along both axes must be wired",
        help="add the missing wires, or remove the shape",
    )


def _check_ring(
    data: Located, count: int, wires: tuple[Wire, ...], forms: list[GridForm]
) -> Iterator[Problem]:
    """A shape of all chips in one row must close; where there is none, an axis of a grid must."""

    def closes(form: GridForm, *closed: tuple[bool, bool]) -> bool:
        tried = [replace(form, closed=each) for each in closed]
        return any(each.is_closed and can_stand(each, count, wires) for each in tried)

    whole = [form for form in forms if form.places == count]
    rows = [form for form in whole if min(form.rows, form.cols) == 1]
    both, either = ((True, True),), ((True, True), (True, False), (False, True))
    wrong = [form for form in rows if not closes(form, *both)]
    if not rows and not any(closes(form, *either) for form in whole):
        wrong = whole[:1]
    if whole and data["fabric"].text == "FABRIC_2D_TORUS_XY" and not closes(whole[0], *both):
        wrong = whole[:1]
    for form in wrong:
        yield Problem(
            message="the wires do not close into a ring",
            at=data["topology"].at,
            note=f"as {form.rows}x{form.cols} some end is left open",
            details=_ends(count, wires),
            help="write 'topology: linear' with 'fabric: FABRIC_1D', or add the missing wires",
        )


def _ends(count: int, wires: tuple[Wire, ...]) -> tuple[str, ...]:
    """Why a ring cannot close, where a single chip shows it."""
    ends = Counter(end for wire in wires for end in (wire.a, wire.b))
    lonely = min(range(count), key=lambda chip: ends[chip])
    if ends[lonely] >= 2:
        return ()
    others = "1 other chip" if ends[lonely] == 1 else f"{ends[lonely]} other chips"
    return (f"chip {lonely} has wires to {others}, a ring needs 2",)
