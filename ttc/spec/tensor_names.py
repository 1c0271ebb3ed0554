"""The names of tensors in checkpoints, as an architecture gives them to its weights."""

import re
from collections.abc import Mapping

from ttc.errors import Problem, did_you_mean
from ttc.located import Located
from ttc.spec.steps import FORMATS, Condition

ROW = "{row}"


def check_tensor_names(
    prefix: Located, weights: Mapping[str, Located], decoder_weights: Mapping[str, Located]
) -> list[Problem]:
    """Whether weights have the names that they need, each of them one that no other has."""
    problems = _check_prefix(prefix)
    every = {**weights, **decoder_weights}
    for name, each in every.items():
        problems += _check_names(name, each, prefix) + _check_after(each, every)
    return problems + _check_own(weights) + _check_own(decoder_weights)


def _check_prefix(prefix: Located) -> list[Problem]:
    return [
        Problem(
            message=f"the prefix of '{form}' must hold {{i}} once",
            at=each.at,
            note="{i} stands for the decoder number",
        )
        for form, each in prefix.fields().items()
        if each.text.count("{i}") != 1 or re.search(r"[{}]", each.text.replace("{i}", ""))
    ]


def _check_names(name: str, weight: Located, prefix: Located) -> list[Problem]:
    """A weight must have a name in every format the prefix has, and in no other."""
    problems: list[Problem] = []
    for form in FORMATS:
        tensor, expected = weight.get(form), form in prefix.fields()
        if tensor is None and expected:
            message = f"the weight '{name}' has no '{form}' name"
            note = f"the prefix at line {prefix.key_at.line} has one"
            help_text = f"add '{form}:'"
            problems.append(Problem(message=message, at=weight.key_at, note=note, help=help_text))
        elif tensor is not None and not expected:
            message = f"decoder_weights has no '{form}' prefix"
            problems.append(Problem(message=message, at=tensor.key_at))
        elif tensor is not None:
            problems += _check_placeholders(tensor, weight)
    return problems


def _check_placeholders(tensor: Located, weight: Located) -> list[Problem]:
    """ROW in the name of a matrix says that each of its rows is a tensor."""
    rows = tensor.text.count(ROW)
    if re.search(r"[{}]", tensor.text.replace(ROW, "")):
        message = f"'{tensor.text}' cannot hold {{ or }}"
        note = "{i} belongs into the prefix of decoder_weights"
    elif rows > 1 or (rows and (len(weight["shape"].elements()) < 2 or "after" in weight.fields())):
        message = f"'{tensor.text}' cannot hold {ROW}"
        note = f"{ROW} stands once in the name of a weight of two dims, whose rows are tensors"
    else:
        return []
    return [Problem(message=message, at=tensor.at, note=note)]


def _check_after(weight: Located, weights: Mapping[str, Located]) -> list[Problem]:
    """The weights before this one must lie in the same tensor, and have its number of columns."""
    problems: list[Problem] = []
    after = weight.get("after")
    for each in after.elements() if after else ():
        other = weights.get(each.text)
        if other is None:
            message, hint = f"unknown weight '{each.text}'", did_you_mean(each.text, weights)
            problems.append(Problem(message=message, at=each.at, help=hint))
        elif any(text_of(other, form) != text_of(weight, form) for form in FORMATS):
            message = f"'{each.text}' is of another tensor"
            details = (f"it is declared at {other.key_at}",)
            problems.append(Problem(message=message, at=each.at, details=details))
    return problems


def _check_own(weights: Mapping[str, Located]) -> list[Problem]:
    """One tensor is two weights only where `after` says in which order their rows lie."""
    problems: list[Problem] = []
    for form in FORMATS:
        first: dict[str, list[str]] = {}
        for name, weight in weights.items():
            tensor = text_of(weight, form)
            others = first.setdefault(tensor, [])
            apart = [each for each in others if _clash(each, name, weights)]
            others.append(name)
            if tensor and apart:
                problems.append(
                    Problem(
                        message=f"the weights '{apart[0]}' and '{name}' are one tensor, '{tensor}'",
                        at=weight[form].at,
                        details=(f"'{apart[0]}' is declared at {weights[apart[0]].key_at}",),
                        help=f"if it holds the rows of '{name}' behind those of '{apart[0]}', add "
                        f"'after: [{apart[0]}]'",
                    )
                )
    return problems


def _clash(one: str, other: str, weights: Mapping[str, Located]) -> bool:
    """Whether a model may have both, and neither says that it comes after the other."""
    for name, before in ((one, other), (other, one)):
        after = weights[name].get("after")
        if after and before in [each.text for each in after.elements()]:
            return False
    conditions = [weights[each].get("if") for each in (one, other)]
    read = [Condition.parse(each.text) for each in conditions if each]
    return len(read) < 2 or read[0].option != read[1].option or read[0].value == read[1].value


def text_of(weight: Located, name: str) -> str:
    """What a field says, "" where it is not there."""
    written = weight.get(name)
    return written.text if written else ""
