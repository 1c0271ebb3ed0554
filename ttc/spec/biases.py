"""The short form of a bias: `bias: bq` of a weight, or `bias: bq if OPTION`.

It declares a weight of its own: as many elements as the other has rows, under the same tensor names
with `.bias` for `.weight`, in the same rotary order, of the group `norms`.
"""

from collections.abc import Mapping
from dataclasses import replace

from ttc.errors import Problem
from ttc.located import Located
from ttc.spec.steps import FORMATS

SUFFIX, BIAS = ".weight", ".bias"


def with_biases(data: Located) -> tuple[Located, list[Problem]]:
    """An architecture, whose schema holds, with every bias written out, and what is wrong."""
    problems: list[Problem] = []
    rotary = data.get("rotary_rows")
    turned = dict(rotary.fields()) if rotary else {}
    fields = dict(data.fields())
    for part in ("weights", "decoder_weights"):
        entries: dict[str, Located] = {}
        for name, weight in data[part].fields().items():
            entries[name] = weight
            if name == "prefix" or "bias" not in weight.fields():
                continue
            bias = weight["bias"]
            short = bias.text.partition(" if ")[0]
            problems += _check(bias, short, weight, {**entries, **data[part].fields()})
            entries[name] = _without_bias(weight)
            entries[short] = _written_out(weight, bias)
            if name in turned:
                turned[short] = turned[name]
        fields[part] = replace(data[part], value=entries)
    if rotary:
        fields["rotary_rows"] = replace(rotary, value=turned)
    return replace(data, value=fields), problems


def _without_bias(weight: Located) -> Located:
    fields = {name: each for name, each in weight.fields().items() if name != "bias"}
    return replace(weight, value=fields)


def _written_out(weight: Located, bias: Located) -> Located:
    shape, (_, _, option) = weight["shape"], bias.text.partition(" if ")
    fields = {
        "shape": replace(shape, value=shape.elements()[:1]),
        "group": replace(bias, value="norms", written="norms"),
    }
    for form in FORMATS:
        if form in weight.fields():
            tensor = weight[form]
            fields[form] = replace(tensor, value=tensor.text.removesuffix(SUFFIX) + BIAS)
    if option:
        fields["if"] = replace(bias, value=option, at=bias.part(option))
    return replace(bias, value=fields, key_at=bias.at)


def _check(
    bias: Located, short: str, weight: Located, names: Mapping[str, Located]
) -> list[Problem]:
    problems: list[Problem] = []
    if short in names:
        details = (f"the first time at {names[short].key_at}",)
        message = f"the weight '{short}' is declared twice"
        problems.append(Problem(message=message, at=bias.at, details=details))
    if "after" in weight.fields():
        message = "the bias of a part of a tensor must be written out as a weight"
        problems.append(Problem(message=message, at=bias.at))
    return problems + [
        Problem(
            message=f"the bias of '{weight[form].text}' must be written out as a weight",
            at=bias.at,
            note=f"its tensor name does not end in {SUFFIX}",
        )
        for form in FORMATS
        if form in weight.fields() and not weight[form].text.endswith(SUFFIX)
    ]
