"""What is wrong with an entry of a file of meshes, each problem at its place.

    entry, types as its schema says --> problems: of each part, of the parts together, of the layout

Numbers are compared before anything is counted through: an entry that asks for a million chips is
refused as fast as any other.
"""

from collections.abc import Collection, Iterator
from math import prod

from ttc.errors import Problem, did_you_mean
from ttc.hardware.chips import Board, Chip, known_boards, known_chips
from ttc.hardware.cluster import RING_FABRICS, integers, pair, read_boards, read_wires
from ttc.hardware.shapes import counted, machine_shape, shape_of
from ttc.hardware.wiring_check import check_layout, check_links, check_wiring
from ttc.located import Located

_MOST_CHIPS = 256  # the layout of more is not searched


def check_mesh(data: Located, sources: Collection[str]) -> list[Problem]:
    """The problems of one entry; `sources` are the names that its file declares."""
    unknown = [*_unknown_chip(data["chip"]), *_unknown_board(data["boards"]["type"])]
    shapes = [*_check_shapes(data["shapes"])]
    undeclared = [*_undeclared_sources(data, sources)]
    if unknown or shapes:
        return unknown + shapes + undeclared
    count = prod(shape_of(data["shapes"].elements()[0].text))
    chip = known_chips()[data["chip"].text]
    board = known_boards()[data["boards"]["type"].text]
    problems = [
        *undeclared,
        *_check_boards(data["boards"], count, chip, board),
        *_check_coordinates(data, count, board),
        *_check_odd(data["shapes"], count, chip),
        *_check_fabric(data, count),
    ]
    wiring = [*check_wiring(data, count, chip)]
    if wiring:
        return problems + wiring
    wires = read_wires(data["wiring"]) if data.get("wiring") else ()
    links = [*check_links(data, wires)]
    return problems + (links or [*check_layout(data, count, wires)])


def _unknown_chip(chip: Located) -> Iterator[Problem]:
    if chip.text not in known_chips():
        hint = did_you_mean(chip.text, known_chips())
        yield Problem(message=f"there is no chip '{chip.text}'", at=chip.at, help=hint)


def _unknown_board(board: Located) -> Iterator[Problem]:
    if board.text not in known_boards():
        yield Problem(
            message=f"there is no board of type '{board.text}'",
            at=board.at,
            help=did_you_mean(board.text, known_boards()),
        )


def _check_shapes(shapes: Located) -> Iterator[Problem]:
    first, *others = shapes.elements()
    count = prod(shape_of(first.text))
    if count > _MOST_CHIPS:
        yield Problem(
            message=f"a mesh of {count} chips is more than ttc checks",
            at=first.at,
            note=f"the most is {_MOST_CHIPS} chips",
            help="write the shapes of one machine",
        )
        return
    names = [each.text for each in shapes.elements()]
    for shape in others:
        if prod(shape_of(shape.text)) > count:
            yield Problem(
                message=f"the shape {shape.text} has more than the {count} chips of the first",
                at=shape.at,
                note="the first shape has all chips",
            )
        elif machine_shape(shape.text, names) is None:
            yield Problem(
                message=f"{shape.text} is no part of a shape of all chips",
                at=shape.at,
                note="ttnn opens a part as a rectangle of the chips that it has opened",
                help=f"add a shape of {count} chips that has {shape.text} in it",
            )


def _undeclared_sources(data: Located, sources: Collection[str]) -> Iterator[Problem]:
    for part in (data["links"], data.get("wiring")):
        if part and part["source"].text not in sources:
            name = part["source"].text
            yield Problem(
                message=f"there is no source '{name}'",
                at=part["source"].at,
                note="not a name under 'sources:' of this file",
                help=f"{did_you_mean(name, sources)} Or add it to 'sources:'".lstrip(),
            )


def _check_boards(boards: Located, count: int, chip: Chip, board: Board) -> Iterator[Problem]:
    one, at = f"a board of type {board.name}", boards["type"].at
    if board.arch != chip.arch:
        fitting = [each.name for each in known_boards().values() if each.arch == chip.arch]
        yield Problem(
            message=f"{one} carries {board.arch} chips",
            at=at,
            note=f"{chip.name} is a {chip.arch} chip",
            help=f"write one of {', '.join(fitting)}, or another chip",
        )
        return
    listed, size = boards.get("chips"), boards.get("chips_per_board")
    if listed and size:
        yield Problem(
            message="'chips' and 'chips_per_board' exclude each other",
            at=size.key_at,
            note="the chips of each board are listed already",
            help="keep one of them; without either, chips are counted through",
        )
    elif size and size.integer != board.chips:
        yield Problem(
            message=f"{one} has no {size.integer} chips",
            at=size.at,
            note=f"it has {board.chips}",
            help=f"write {board.chips}",
        )
    elif not listed and count % board.chips:
        yield Problem(
            message=f"{count} chips do not fill boards",
            at=at,
            note=f"{one} has {board.chips} chips",
            help="write shapes of all chips of whole boards",
        )
    else:
        wrong = [*_check_listed(listed, count, board)] if listed else []
        yield from wrong or _check_hostcounted(boards, count, board)


def _check_listed(listed: Located, count: int, board: Board) -> Iterator[Problem]:
    places: dict[int, Located] = {}
    for each in listed.elements():
        if len(each.elements()) != board.chips:
            yield Problem(
                message=f"a board of type {board.name} has {counted(board.chips)}",
                at=each.at,
                note=f"got {len(each.elements())}",
            )
        yield from _check_numbers(each, count, places, "stands on a board already")
    if missing := [chip for chip in range(count) if chip not in places]:
        yield Problem(
            message=f"chip {missing[0]} stands on no board",
            at=listed.key_at,
            note=f"the chips are 0 to {count - 1}",
            help="list every chip once",
        )


def _check_numbers(
    numbers: Located, count: int, places: dict[int, Located], already: str
) -> Iterator[Problem]:
    """Chips that are not there or were named before; `places` has those named, and is added to."""
    for each in numbers.elements():
        if each.integer >= count:
            yield _no_chip(each, count)
        elif each.integer in places:
            yield Problem(
                message=f"chip {each.integer} {already}",
                at=each.at,
                details=(f"named first at {places[each.integer].at}",),
                help="name every chip once",
            )
        else:
            places[each.integer] = each


def _no_chip(number: Located, count: int) -> Problem:
    return Problem(
        message=f"there is no chip {number.integer}",
        at=number.at,
        note=f"the chips are 0 to {count - 1}" if count > 1 else "the only chip is 0",
    )


def _check_hostcounted(boards: Located, count: int, board: Board) -> Iterator[Problem]:
    hosts = boards.get("host_chips")
    if hosts is None:
        return
    problems = [*_check_numbers(hosts, count, {}, "is named already")]
    yield from problems
    named = set(integers(hosts))
    for chips in read_boards(boards, count, board):
        found = len(named & set(chips))
        if not problems and found != board.host_chips:
            yield Problem(
                message=f"the board of chip {chips[0]} has {counted(found)} with a PCIe link",
                at=hosts.at,
                note=f"a board of type {board.name} has {counted(board.host_chips)}",
                help="leave 'host_chips' out to take the first of each board",
            )
            return


def _check_odd(shapes: Located, count: int, chip: Chip) -> Iterator[Problem]:
    for shape in shapes.elements():
        rows, cols = shape_of(shape.text)
        if rows * cols == count > 1 and rows * cols % 2 and not chip.odd_grids:
            yield Problem(
                message=f"ttnn opens no machine of {rows} x {cols} {chip.arch} chips",
                at=shape.at,
                note="rows or columns must be even",
                help="leave a chip out, or make each a mesh of its own",
            )


def _check_coordinates(data: Located, count: int, board: Board) -> Iterator[Problem]:
    coordinates = data.get("coordinates")
    if coordinates is None:
        if board.host_chips < board.chips:
            yield Problem(
                message="the field 'coordinates' is missing",
                at=data.key_at,
                note=f"ttnn wants them for chips without a PCIe link, as on a {board.name}",
                help="add 'coordinates:' with one [x, y] for each chip, where it stands",
            )
        return
    items = coordinates.elements()
    if len(items) != count:
        yield Problem(
            message=f"there are {len(items)} coordinates of {counted(count)}",
            at=coordinates.at,
            help=f"write {count}, one (x, y) for each chip",
        )
    places: dict[tuple[int, int], Located] = {}
    for each in items:
        first = places.setdefault(pair(each), each)
        if first is not each:
            yield Problem(
                message="two chips have the same coordinates",
                at=each.at,
                details=(f"given first at {first.at}",),
            )


def _check_fabric(data: Located, count: int) -> Iterator[Problem]:
    fabric, topology = data["fabric"], data["topology"]
    for name, usual in (("fabric", "FABRIC_1D"), ("topology", "linear")):
        field = data[name]
        if count > 1 and field.text == "none":
            yield Problem(
                message=f"{count} chips need a {name}",
                at=field.at,
                note="'none' is for a single chip",
                help=f"write {usual}",
            )
        if count == 1 and field.text != "none":
            yield Problem(
                message="a single chip has no neighbours",
                at=field.at,
                note=f"got '{field.text}'",
                help="write none",
            )
    ring = fabric.text in RING_FABRICS
    if count > 1 and "none" not in (fabric.text, topology.text):
        if topology.text == "ring" and not ring:
            yield Problem(
                message=f"{fabric.text} does not pass messages round a ring",
                at=fabric.at,
                note="the topology is a ring",
                help=f"write one of {', '.join(RING_FABRICS)}, or 'topology: linear'",
            )
        elif topology.text != "ring" and ring:
            yield Problem(
                message=f"{fabric.text} needs a ring",
                at=fabric.at,
                note=f"the topology is {topology.text}",
                help=f"write {fabric.text.removesuffix('_RING').removesuffix('_TORUS_XY')}, "
                "or 'topology: ring'",
            )
