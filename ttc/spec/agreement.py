"""Whether a spec gives what its architecture asks for, and no more."""

from ttc.errors import Problem, did_you_mean
from ttc.located import Located
from ttc.spec.architecture import Architecture


def check_agreement(data: Located, architecture: Architecture) -> list[Problem]:
    """What is wrong between a spec, whose schema holds, and its architecture.

    A spec gives each number that has no default, a kind for each decoder where there are kinds, the
    second RoPE table where a step names it, and `rotary_dim` only where the architecture has it.
    """
    return [
        *_check_numbers(data, architecture),
        *_check_kinds(data, architecture),
        *_check_tables(data, architecture),
        *_check_rotary_dim(data, architecture),
    ]


def _check_numbers(data: Located, architecture: Architecture) -> list[Problem]:
    numbers = data.get("numbers")
    given = numbers.fields() if numbers else {}
    declared = f"'{architecture.name}' declares its numbers at {architecture.file}"
    problems = [
        Problem(
            message=f"'{architecture.name}' has no number '{name}'",
            at=each.key_at,
            help=did_you_mean(name, architecture.numbers),
        )
        for name, each in given.items()
        if name not in architecture.numbers
    ]
    for name, default in architecture.numbers.items():
        if default is None and name not in given:
            at = numbers.key_at if numbers else data["architecture"].at
            message, hint = f"the number '{name}' is missing", f"add '{name}:' to 'numbers'"
            problems.append(Problem(message=message, at=at, note=declared, help=hint))
    return problems


def _check_kinds(data: Located, architecture: Architecture) -> list[Problem]:
    kinds = data.get("layer_kinds")
    known = ", ".join(architecture.kinds)
    if kinds is None:
        if not architecture.kinds:
            return []
        message, hint = "'layer_kinds' is missing", f"list the kinds of the decoders: {known}"
        note = f"'{architecture.name}' has decoders of several kinds"
        return [Problem(message=message, at=data["architecture"].at, note=note, help=hint)]
    if not architecture.kinds:
        note = f"all decoders of '{architecture.name}' are alike"
        return [Problem(message="unexpected 'layer_kinds'", at=kinds.key_at, note=note)]
    return [
        Problem(
            message=f"unknown kind '{each.text}'",
            at=each.at,
            note=f"'{architecture.name}' has {known}",
            help=did_you_mean(each.text, architecture.kinds),
        )
        for each in kinds.elements()
        if each.text not in architecture.kinds
    ]


def _check_tables(data: Located, architecture: Architecture) -> list[Problem]:
    tables = {table for step in architecture.decoder for table in step.values("table")}
    local = data.get("local_rope")
    if local is None and "local_rope" in tables:
        note = f"a step of '{architecture.name}' rotates by it"
        at = data["architecture"].at
        return [Problem(message="'local_rope' is missing", at=at, note=note)]
    if local is not None and "local_rope" not in tables:
        note = f"no step of '{architecture.name}' rotates by it"
        return [Problem(message="unexpected 'local_rope'", at=local.key_at, note=note)]
    return []


def _check_rotary_dim(data: Located, architecture: Architecture) -> list[Problem]:
    rotary = data["dims"].get("rotary_dim")
    if rotary is None or "rotary_dim" in architecture.dims:
        return []
    note = f"whole heads turn in '{architecture.name}': its dims do not have it"
    return [Problem(message="unexpected 'rotary_dim'", at=rotary.key_at, note=note)]
