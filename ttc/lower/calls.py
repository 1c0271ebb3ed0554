"""ttnn calls as data: what `lower` makes and `emit` prints."""

from dataclasses import dataclass

from ttc.errors import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Ref:
    """A variable, parameter or module constant; `name` may be dotted (`w.wqkv`)."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Name:
    """An attribute of the ttnn module, without `ttnn.`: `bfloat16`, `MathFidelity.LoFi`."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """`name + number`: the only arithmetic in an emitted module."""

    name: str
    number: int


@dataclass(frozen=True, slots=True)
class Items:
    """A list literal."""

    items: "tuple[Expression, ...]"


@dataclass(frozen=True, slots=True)
class Invoke:
    """A nested call of a ttnn name, as constants need them; `own` calls the module's function."""

    function: str
    args: "tuple[Expression, ...]" = ()
    kwargs: "tuple[tuple[str, Expression], ...]" = ()
    own: bool = False


Expression = Ref | Name | Sum | Items | Invoke | str | int | float | bool | tuple["Expression", ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """`results = ttnn.function(args, kwargs)`.

    `at` is the place in the architecture that the call comes from and `value` the value it
    belongs to; both are empty for the second and later calls of one operation. `why` is said only
    where the hardware forces something.
    """

    function: str
    args: tuple[Expression, ...]
    kwargs: tuple[tuple[str, Expression], ...] = ()
    results: tuple[str, ...] = ()
    value: str = ""
    at: Source | None = None
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Free:
    """`ttnn.deallocate(name)`: after the last use of a value."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpack:
    """`names = source`: parts of a tuple get their names."""

    names: tuple[str, ...]
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """`name = (parts)`."""

    name: str
    parts: tuple[Ref, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Local:
    """`results = function(args)`: a call of another function of the module."""

    function: str
    args: tuple[str, ...]
    results: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """The loop over the layers: each function of a table on its cache and its weights."""

    table: str
    value: str
    args: tuple[str, ...]


Statement = Call | Free | Unpack | Pack | Local | Layers


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """One emitted function. `doc` is its docstring, line by line."""

    name: str
    parameters: tuple[str, ...]
    doc: tuple[str, ...]
    body: tuple[Statement, ...]
    returns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """A module constant under the name that calls use."""

    name: str
    value: Expression


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Constants that belong together, under one comment."""

    comment: str
    constants: tuple[Constant, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTable:
    """A tuple with one entry per layer: runs of a name."""

    name: str
    comment: str
    runs: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorTable:
    """Name -> (shape, dtype, layout, memory config) of stored tensors."""

    name: str
    comment: str
    rows: tuple[tuple[str, tuple[Expression, ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryTable:
    """Which entry function serves what: the first `keys` of a row are its key. Without a comment a
    table belongs to the one before it."""

    name: str
    comment: str
    keys: int
    rows: tuple[tuple[int | str, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallModule:
    """A whole module: what `emit` turns into text."""

    title: str
    facts: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]
    tensors: tuple[TensorTable, ...]
    caches: Section
    tensor_layers: tuple[LayerTable, ...]
    functions: tuple[Function, ...]
    tables: tuple[LayerTable, ...]
    entries: tuple[Function, ...]
    entry_tables: tuple[EntryTable, ...]


def names_in(expression: Expression) -> tuple[str, ...]:
    """The variables that an expression reads, first part of dotted names."""
    match expression:
        case Ref(name=name) | Sum(name=name):
            return (name.partition(".")[0],)
        case Items(items=items):
            return tuple(name for item in items for name in names_in(item))
        case Invoke(args=args, kwargs=kwargs):
            values = (*args, *(value for _, value in kwargs))
            return tuple(name for value in values for name in names_in(value))
        case tuple():
            return tuple(name for item in expression for name in names_in(item))
        case _:
            return ()
