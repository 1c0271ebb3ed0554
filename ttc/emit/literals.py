"""Expressions and statements as Python text, broken to 100 columns as ruff format does."""

from collections.abc import Sequence

from ttc.lower.calls import (
    Call,
    Expression,
    Free,
    Invoke,
    Items,
    Layers,
    Local,
    Name,
    Pack,
    Ref,
    Statement,
    Sum,
    Unpack,
)

WIDTH = 100
INDENT = "    "


def expression(value: Expression) -> str:
    """One expression on one line."""
    match value:
        case Ref(name=name):
            return name
        case Name(name=name):
            return f"ttnn.{name}"
        case Sum(name=name, number=number):
            return f"{name} + {number}"
        case Items(items=items):
            return f"[{', '.join(expression(item) for item in items)}]"
        case Invoke(args=args, kwargs=kwargs):
            return f"{_callee(value)}({', '.join(_arguments(args, kwargs))})"
        case tuple():
            inner = ", ".join(expression(item) for item in value)
            return f"({inner},)" if len(value) == 1 else f"({inner})"
        case str():
            return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        case bool() | int() | float():
            return repr(value)


def assignment(name: str, value: Expression) -> list[str]:
    """`name = value`, broken over lines where it is too long."""
    return broken(f"{name} = ", value, "")


def broken(prefix: str, value: Expression, suffix: str, depth: int = 0) -> list[str]:
    """`prefix value suffix` at an indentation of `depth`, as few lines as fit.

    A call or tuple that does not fit puts all its parts on one indented line, or each on its own.
    """
    pad = INDENT * depth
    line = f"{pad}{prefix}{expression(value)}{suffix}"
    if len(line) <= WIDTH:
        return [line]
    opening, parts, closing = _parts(value)
    if not parts:
        return [line]
    together = f"{pad}{INDENT}" + ", ".join(text + expression(part) for text, part in parts)
    head, tail = f"{pad}{prefix}{opening}", f"{pad}{closing}{suffix}"
    if len(together) <= WIDTH and not isinstance(value, tuple):
        return [head, together, tail]
    lines = [head]
    for text, part in parts:
        lines += broken(text, part, ",", depth + 1)
    return [*lines, tail]


def statement(value: Statement) -> list[str]:
    """One statement of a function body, without its indentation."""
    match value:
        case Call():
            return _call(value)
        case Free(name=name):
            return [f"ttnn.deallocate({name})"]
        case Unpack(names=names, source=source):
            return [f"{', '.join(names)} = {source}"]
        case Pack(name=name, parts=parts):
            return [f"{name} = ({', '.join(part.name for part in parts)})"]
        case Local(function=function, args=args, results=results):
            return [f"{', '.join(results)} = {function}({', '.join(args)})"]
        case Layers(table=table, value=name, args=args):
            return [
                f"for run, cache, layer in zip({table}, caches, w.decoders, strict=True):",
                f"{INDENT}{name} = run({', '.join((name, *args))})",
            ]


def _call(call: Call) -> list[str]:
    prefix = f"{', '.join(call.results)} = " if call.results else ""
    value = Invoke(call.function, call.args, call.kwargs)
    comments: list[str] = []
    if call.at is not None:
        comments.append(f"# {call.value}: {call.at.path}:{call.at.line}")
    if call.why:
        comments.append(f"# {call.why}")
    # One level of indentation is added later, inside the function.
    return [*comments, *(line[len(INDENT) :] for line in broken(prefix, value, "", 1))]


def _arguments(
    args: Sequence[Expression], kwargs: Sequence[tuple[str, Expression]]
) -> tuple[str, ...]:
    named = (f"{name}={expression(value)}" for name, value in kwargs)
    return (*(expression(value) for value in args), *named)


def _callee(value: Invoke) -> str:
    return value.function if value.own else f"ttnn.{value.function}"


def _parts(value: Expression) -> tuple[str, list[tuple[str, Expression]], str]:
    match value:
        case Invoke(args=args, kwargs=kwargs):
            parts = [("", part) for part in args]
            return f"{_callee(value)}(", parts + [(f"{n}=", v) for n, v in kwargs], ")"
        case Items(items=items):
            return "[", [("", item) for item in items], "]"
        case tuple():
            return "(", [("", item) for item in value], ")"
        case _:
            return "", [], ""
