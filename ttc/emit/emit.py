"""Calls -> Python text. Prints; does not know what a call means."""

from ttc.emit.literals import INDENT, WIDTH, assignment, broken, statement
from ttc.lower.calls import CallModule, Constant, EntryTable, Function, LayerTable, TensorTable


def emit_module(module: CallModule) -> str:
    """The text of model.py: imports only ttnn, and is the same for the same plan."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # a tenth of a second

    environment = Environment(
        loader=PackageLoader("ttc.emit"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters |= {
        "constant": _constant,
        "tensors": _tensors,
        "layers": _layers,
        "function": _function,
        "entries": _entries,
    }
    return environment.get_template("module.py.j2").render(module=module)


def _constant(constant: Constant) -> str:
    return "\n".join(assignment(constant.name, constant.value))


def _tensors(table: TensorTable) -> str:
    if not table.rows:
        return f"{table.name} = {{}}"
    lines = [f"{table.name} = {{  # {table.comment}"]
    for name, row in table.rows:
        lines += broken(f'"{name}": ', row, ",", 1)
    return "\n".join([*lines, "}"])


def _layers(table: LayerTable) -> str:
    terms = [f"({name},) * {count}" if count > 1 else f"({name},)" for name, count in table.runs]
    line = f"{table.name} = {' + '.join(terms)}"
    if len(line) <= WIDTH:
        return line
    first, *rest = terms
    lines = [f"{INDENT}{first}", *(f"{INDENT}+ {term}" for term in rest)]
    return "\n".join([f"{table.name} = (", *lines, ")"])


def _entries(table: EntryTable) -> str:
    if not table.rows:
        return f"{table.name} = {{}}"
    lines = [
        f"{INDENT}{_term(row[: table.keys])}: {_term(row[table.keys :])}," for row in table.rows
    ]
    return "\n".join([f"{table.name} = {{", *lines, "}"])


def _term(values: tuple[int | str, ...]) -> str:
    text = ", ".join(map(str, values))
    return text if len(values) == 1 else f"({text})"


def _function(function: Function) -> str:
    head = f"def {function.name}({', '.join(function.parameters)}):"
    first, *rest = function.doc
    doc = [f'"""{first}"""'] if not rest else [f'"""{first}', *rest, '"""']
    lines = [*doc, *(line for each in function.body for line in statement(each))]
    if function.returns:
        lines.append(f"return {', '.join(function.returns)}")
    return "\n".join([head, *(f"{INDENT}{line}" if line else "" for line in lines)])
