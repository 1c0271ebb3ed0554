"""Options of an architecture: what models of one class of transformers may have or not.

A flag says which weights exist. A linear without its bias adds none, and a step whose weight is not
there is left out. A word stands for one of the values of a setting.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from ttc.errors import Problem, did_you_mean
from ttc.located import Located
from ttc.spec.architecture import Architecture, WeightSpec
from ttc.spec.steps import OPERATIONS, OneOf, Option, Step, word_settings


def check_options(data: Located | None, architecture: Architecture) -> list[Problem]:
    """Options of a spec that its architecture does not have, or not with this value."""
    problems: list[Problem] = []
    for name, each in data.fields().items() if data else ():
        if name not in architecture.options:
            message = f"'{architecture.name}' has no option '{name}'"
            hint = did_you_mean(name, architecture.options)
            problems.append(Problem(message=message, at=each.key_at, help=hint))
            continue
        choices = option_choices(architecture, name)
        if each.value not in choices or isinstance(each.value, bool) != (True in choices):
            words = "true or false" if True in choices else " or ".join(map(str, choices))
            message, note = f"'{name}' must be {words}", f"got {each.written}"
            problems.append(Problem(message=message, at=each.at, note=note))
    return problems


def option_choices(architecture: Architecture, name: str) -> tuple[Option, ...]:
    """The values that an option may have: flags, or what every setting that names it takes."""
    if isinstance(architecture.options[name], bool):
        return (True, False)
    settings = word_settings((*architecture.decoder, *architecture.model), name)
    first, *others = settings.values()
    return tuple(value for value in first if all(value in each for each in others))


def read_options(data: Located | None, architecture: Architecture) -> Mapping[str, Option]:
    """The value of every option: a spec's, which was checked, or the architecture's."""
    given: dict[str, Option] = {}
    for name, each in data.fields().items() if data else ():
        given[name] = each.flag if isinstance(each.value, bool) else each.text
    return MappingProxyType({**architecture.options, **given})


def with_options(architecture: Architecture, options: Mapping[str, Option]) -> Architecture:
    """The architecture of a model with these options: only what it has is left."""
    every = (*architecture.weights, *architecture.decoder_weights)
    left_out = tuple(
        each
        for each in every
        if each.only_if and options[each.only_if.option] != each.only_if.value
    )
    gone = {each.name for each in left_out}

    def kept(weights: Sequence[WeightSpec]) -> tuple[WeightSpec, ...]:
        return tuple(each for each in weights if each.name not in gone)

    return replace(
        architecture,
        weights=kept(architecture.weights),
        decoder_weights=kept(architecture.decoder_weights),
        left_out=left_out,
        decoder=_steps(architecture.decoder, options, gone),
        model=_steps(architecture.model, options, gone),
    )


def _steps(
    steps: Sequence[Step], options: Mapping[str, Option], gone: set[str]
) -> tuple[Step, ...]:
    """The steps without those whose weight is gone; what reads one reads another value instead."""
    passed: dict[str, str] = {}
    kept: list[Step] = []
    for written in steps:
        step = written.reading(passed)
        if gone & set(step.values("weight")):
            passed[step.result] = step.instead
            continue
        settings = tuple(
            (name, _chosen(name, held, step, options, passed))
            for name, held in step.settings
            if not gone & set(step.values(name))
        )
        kept.append(replace(step, settings=settings))
    return tuple(kept)


def _chosen(
    name: str,
    held: str | Mapping[str, str],
    step: Step,
    options: Mapping[str, Option],
    passed: Mapping[str, str],
) -> str | Mapping[str, str]:
    """A setting with the word of an option, or the value that is read instead of one left out."""
    setting = OPERATIONS[step.op].known.get(name)
    if not isinstance(setting, OneOf):
        return passed.get(held, held) if setting == "value" and isinstance(held, str) else held
    if isinstance(held, str):
        return str(options.get(held, held))
    return MappingProxyType({kind: str(options.get(each, each)) for kind, each in held.items()})
