"""Frees every value right after its last use."""

from collections.abc import Iterable, Sequence

from ttc.lower.calls import Call, Free, Layers, Local, Pack, Statement, Unpack, names_in


def free_after_last_use(
    statements: Sequence[Statement], *, owned: Iterable[str], keep: Iterable[str]
) -> tuple[Statement, ...]:
    """Insert a Free after the last statement that reads a value.

    Values that calls define are owned, and so are the parameters named in `owned`; values in
    `keep` are returned and stay. Names bound by Unpack belong to the caller. A call that defines
    a name it reads (a change of shape) continues the life of that value.
    """
    mine = set(owned) | {name for each in statements for name in _defines(each)}
    mine -= set(keep)
    last: dict[str, int] = {}
    for i, statement in enumerate(statements):
        for name in (*_reads(statement), *_defines(statement)):
            if name in mine:
                last[name] = i
    freed: list[Statement] = []
    for i, statement in enumerate(statements):
        freed.append(statement)
        freed += [Free(name=name) for name, at in last.items() if at == i]
    return tuple(freed)


def _defines(statement: Statement) -> tuple[str, ...]:
    match statement:
        case Call(results=results) | Local(results=results):
            return results
        case _:
            return ()


def _reads(statement: Statement) -> tuple[str, ...]:
    match statement:
        case Call(args=args, kwargs=kwargs):
            return names_in((*args, *(value for _, value in kwargs)))
        case Local(args=args) | Layers(args=args):
            return args
        case Pack(parts=parts):
            return names_in(parts)
        case Unpack(source=source):
            return (source,)
        case Free():
            return ()
