"""Architectures: the weights of a decoder family and the operations of its blocks."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from ttc.errors import Problem, Source, did_you_mean
from ttc.located import Located, raise_problems
from ttc.schema import load_yaml
from ttc.spec import library
from ttc.spec.biases import with_biases
from ttc.spec.config_keys import ConfigKeys, check_config_keys, read_config_keys
from ttc.spec.flow import check_flow
from ttc.spec.steps import (
    NORMS,
    Condition,
    Option,
    Scope,
    Step,
    read_steps,
    word_settings,
)
from ttc.spec.taken_names import free_name, why_no_weight
from ttc.spec.tensor_names import ROW, check_tensor_names, text_of

__all__ = ["ROW", "Architecture", "Step", "WeightSpec", "load_architecture"]

ONCE = ("embedding", "lm_head")  # groups with exactly one weight
NORMS_OF_HEADS = (("heads", "head_dim"), ("kv_heads", "head_dim"))


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightSpec:
    """A weight as checkpoints store it.

    `shape` is [out, in]; each size is a product of names of dims. `hf`, `meta` and `gguf` are
    tensor names in each format, after the prefix for weights of a decoder, "" where the file does
    not say; with ROW in it, each row is a tensor of its own, whose number stands there.

    rotary  the number of heads, as a product of names of dims, whose rows are in rotary order: hf
            stores each head as two halves, meta and gguf as pairs; None for other weights
    after   the weights whose rows come before these in the same tensor
    only_if what a flag must say for a model to have it, None for all models
    """

    name: str
    shape: tuple[tuple[str, ...], ...]
    hf: str
    meta: str
    gguf: str
    group: str
    rotary: tuple[str, ...] | None
    after: tuple[str, ...]
    only_if: Condition | None
    at: Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A decoder family. `prefixes` has, by format, the prefix of a decoder's tensors with `{i}`.

    The block `decoder` reads x and `model` reads tokens; the last step of each is its result.
    `numbers` are scalars that a spec gives, with the value where it does not (None: it must), and
    `kinds` those of its decoders, () where all are alike. `options` are what its models may differ
    in, with the value where a spec does not say; of a spec's architecture, `left_out` are the
    weights that the model does not have (see ttc/spec/options.py). `config` says what keys of a
    config.json mean. `file` is the path to write into emitted files: it does not depend on the
    working directory.
    """

    name: str
    hf_classes: tuple[str, ...]
    dims: tuple[str, ...]
    numbers: Mapping[str, float | None]
    kinds: tuple[str, ...]
    options: Mapping[str, Option]
    weights: tuple[WeightSpec, ...]
    decoder_weights: tuple[WeightSpec, ...]
    prefixes: Mapping[str, str]
    decoder: tuple[Step, ...]
    model: tuple[Step, ...]
    config: ConfigKeys
    file: str
    at: Source
    left_out: tuple[WeightSpec, ...] = ()

    def weight(self, name: str) -> WeightSpec:
        """The weight of that name, of the model or of a decoder."""
        return next(each for each in self.weights + self.decoder_weights if each.name == name)

    def centres_heads(self, step: Step) -> bool:
        """Whether a step is a layer norm of single heads, whose projection is then centred."""
        if step.op != "layer_norm":
            return False
        shapes = (self.weight(name).shape for name in step.values("weight"))
        return any(("head_dim",) in shape for shape in shapes)

    def is_last(self, weight: WeightSpec) -> bool:
        """Whether no other weight comes after this one in the same tensor."""
        every = self.weights + self.decoder_weights
        return not any(weight.name in other.after for other in every)


def load_architecture(wanted: str | Path) -> Architecture:
    """The architecture in a file, or of that name in architectures/.

    Raises SpecError with every problem of the file, UsageError when there is no such file.
    """
    path = library.resolve(library.ARCHITECTURES, wanted)
    data = load_yaml(path, "architecture", shown=library.shown(path))
    raise_problems(_undecided(data))
    data, problems = with_biases(data)
    problems += _check_name(data["architecture"], path)
    weights = data["weights"].fields()
    decoder_weights = {
        name: each for name, each in data["decoder_weights"].fields().items() if name != "prefix"
    }
    problems += _check_weights(data, weights, decoder_weights)
    model, model_problems = read_steps(data["model"], _scope(data, "model", weights))
    decoder, decoder_problems = read_steps(
        data["decoder"], _scope(data, "decoder", decoder_weights)
    )
    raise_problems(problems + model_problems + decoder_problems)
    raise_problems(
        _check_used(weights, model, "model")
        + _check_used(decoder_weights, decoder, "decoder")
        + _check_norms_of_heads(decoder_weights, decoder)
        + _check_numbers_used(data, (*model, *decoder))
        + _check_options(data, {**weights, **decoder_weights}, (*model, *decoder))
        + check_config_keys(
            data.get("config"),
            dims=_dims(data),
            numbers=_numbers(data),
            kinds=_kinds(data),
            options=_options(data),
        )
    )
    raise_problems(
        check_flow(
            model,
            decoder,
            kinds=_kinds(data),
            weights={**weights, **decoder_weights},
            rotary=_rotary(data),
        )
    )
    rotary = {name: _heads(each) for name, each in _rotary(data).items()}
    prefixes = {
        name: each.text for name, each in data["decoder_weights"]["prefix"].fields().items()
    }
    return Architecture(
        name=data["architecture"].text,
        hf_classes=tuple(each.text for each in data["hf"].elements()),
        dims=_dims(data),
        numbers=_numbers(data),
        kinds=_kinds(data),
        options=_options(data),
        weights=tuple(_weight(name, each, rotary) for name, each in weights.items()),
        decoder_weights=tuple(
            _weight(name, each, rotary) for name, each in decoder_weights.items()
        ),
        prefixes=MappingProxyType(prefixes),
        decoder=decoder,
        model=model,
        config=read_config_keys(data.get("config"), _options(data)),
        file=library.stable(path),
        at=data["architecture"].at,
    )


def _undecided(data: Located) -> list[Problem]:
    """What a draft leaves to a person."""
    listed = data.get("undecided")
    return [
        Problem(
            message="the architecture is not finished",
            at=each.at,
            help="decide this, change the file, and remove the line",
        )
        for each in (listed.elements() if listed else ())
    ]


def _dims(data: Located) -> tuple[str, ...]:
    return tuple(each.text for each in data["dims"].elements())


def _numbers(data: Located) -> Mapping[str, float | None]:
    numbers: dict[str, float | None] = {}
    listed = data.get("numbers")
    for each in listed.elements() if listed else ():
        if isinstance(each.value, str):
            numbers[each.value] = None
        else:
            numbers |= {name: default.number for name, default in each.fields().items()}
    return MappingProxyType(numbers)


def _kinds(data: Located) -> tuple[str, ...]:
    listed = data.get("kinds")
    return tuple(each.text for each in listed.elements()) if listed else ()


def _options(data: Located) -> Mapping[str, Option]:
    listed = data.get("options")
    return MappingProxyType(
        {
            name: each.flag if isinstance(each.value, bool) else each.text
            for name, each in (listed.fields().items() if listed else ())
        }
    )


def _rotary(data: Located) -> dict[str, Located]:
    rows = data.get("rotary_rows")
    return rows.fields() if rows else {}


def _product(text: str) -> tuple[str, ...]:
    return tuple(text.split(" * "))


def _heads(data: Located) -> tuple[str, ...]:
    """The dim that counts heads; the empty product where the weight is one head."""
    return (data.text,) if isinstance(data.value, str) else ()


def _weight(name: str, data: Located, rotary: Mapping[str, tuple[str, ...]]) -> WeightSpec:
    after, condition = data.get("after"), data.get("if")
    return WeightSpec(
        name=name,
        shape=tuple(_product(each.text) for each in data["shape"].elements()),
        hf=text_of(data, "hf"),
        meta=text_of(data, "meta"),
        gguf=text_of(data, "gguf"),
        group=data["group"].text,
        rotary=rotary.get(name),
        after=tuple(each.text for each in after.elements()) if after else (),
        only_if=Condition.parse(condition.text) if condition else None,
        at=data.key_at,
    )


def _scope(data: Located, block: str, weights: Mapping[str, Located]) -> Scope:
    model = block == "model"
    return Scope(
        block=block,
        input="tokens" if model else "x",
        weights={name: len(each["shape"].elements()) for name, each in weights.items()},
        blocks=("decoder",) if model else (),
        numbers=tuple(_numbers(data)),
        kinds=() if model else _kinds(data),
        words={name: word for name, word in _options(data).items() if isinstance(word, str)},
        optional=tuple(name for name, each in weights.items() if "if" in each.fields()),
    )


def _check_name(name: Located, path: Path) -> list[Problem]:
    if name.text == path.stem:
        return []
    message = f"the architecture '{name.text}' is in a file of another name"
    note = f"the file is {path.name}"
    return [Problem(message=message, at=name.at, note=note, help=f"write '{path.stem}'")]


def _check_weights(
    data: Located, weights: Mapping[str, Located], decoder_weights: Mapping[str, Located]
) -> list[Problem]:
    every = {**weights, **decoder_weights}
    prefix = data["decoder_weights"]["prefix"]
    problems = check_tensor_names(prefix, weights, decoder_weights)
    for name, each in decoder_weights.items():
        if name in weights:
            message = f"the weight '{name}' is declared twice"
            details = (f"the first time at {weights[name].key_at}",)
            problems.append(Problem(message=message, at=each.key_at, details=details))
    for each in every.values():
        problems += _check_shape(each, _dims(data))
    problems += _check_weight_names(every)
    for group in ONCE:
        members = [each for each in weights.values() if each["group"].text == group]
        if len(members) != 1:
            at = members[1]["group"].at if members else data["weights"].key_at
            message = f"'weights' needs exactly one weight of the group '{group}'"
            problems.append(Problem(message=message, at=at, note=f"found {len(members)}"))
    for each in decoder_weights.values():
        if each["group"].text in ONCE:
            message = f"a decoder weight cannot be of the group '{each['group'].text}'"
            problems.append(Problem(message=message, at=each["group"].at))
    return problems + _check_rotary(data, every)


def _check_weight_names(weights: Mapping[str, Located]) -> list[Problem]:
    """No weight can have a name that emitted modules give to a tensor of theirs."""
    groups: dict[str, list[str]] = {}
    for name, each in weights.items():
        groups.setdefault(each["group"].text, []).append(name)
    found = {name: why_no_weight(name, groups.values()) for name in weights}
    return [
        Problem(
            message=f"'{name}' is {why}",
            at=weights[name].key_at,
            note="weights become names of stored tensors",
            help=f"write '{free_name(name, weights)}'",
        )
        for name, why in found.items()
        if why
    ]


def _check_shape(weight: Located, dims: tuple[str, ...]) -> list[Problem]:
    return [
        Problem(message=f"unknown size '{name}'", at=size.part(name), help=did_you_mean(name, dims))
        for size in weight["shape"].elements()
        for name in _product(size.text)
        if name not in dims
    ]


def _check_rotary(data: Located, weights: Mapping[str, Located]) -> list[Problem]:
    problems: list[Problem] = []
    for name, heads in _rotary(data).items():
        if name not in weights:
            message, hint = f"unknown weight '{name}'", did_you_mean(name, weights)
            problems.append(Problem(message=message, at=heads.key_at, help=hint))
            continue
        rows, *columns = weights[name]["shape"].elements()
        expected = (*_heads(heads), "head_dim")
        sizes = _product(rows.text)
        if [each.text for each in columns] == ["head_dim"]:  # a row for each head
            sizes = (*sizes, "head_dim")
        known = set(sizes) <= set(_dims(data))
        if known and sorted(sizes) != sorted(expected):
            message = f"the rows of '{name}' are not {' * '.join(expected)}"
            details = (f"its shape is declared at {rows.at}",)
            problems.append(
                Problem(message=message, at=heads.at, note=f"got {rows.text}", details=details)
            )
    return problems


def _check_used(
    weights: Mapping[str, Located], steps: tuple[Step, ...], block: str
) -> list[Problem]:
    used = {value for step in steps for name in ("weight", "bias") for value in step.values(name)}
    return [
        Problem(
            message=f"the weight '{name}' is never used",
            at=each.key_at,
            note=f"no step of '{block}' names it",
        )
        for name, each in weights.items()
        if name not in used
    ]


def _check_norms_of_heads(weights: Mapping[str, Located], steps: tuple[Step, ...]) -> list[Problem]:
    """A norm whose weight has a row for each head; a layer norm of heads centres a projection."""
    problems: list[Problem] = []
    by_result = {step.result: step for step in steps}
    for step in steps:
        shapes = [
            tuple(each.text for each in weights[name]["shape"].elements())
            for name in step.values("weight")
            if step.op in NORMS
        ]
        by_head = [shape for shape in shapes if len(shape) > 1 or shape == ("head_dim",)]
        wrong = [s for s in by_head if len(s) > 1 and s not in NORMS_OF_HEADS]
        if wrong:
            message = f"'{step.result}' has a weight of shape [{', '.join(wrong[0])}]"
            note = "a norm of heads takes [heads, head_dim] or [kv_heads, head_dim]"
            problems.append(Problem(message=message, at=step.at, note=note))
        if not by_head or step.op != "layer_norm":
            continue
        source = by_result.get(step.operands[0])
        readers = [each for each in steps if step.operands[0] in (*each.operands, each.otherwise)]
        if source is None or source.op != "linear" or readers != [step]:
            message = (
                f"'{step.operands[0]}' is not the result of a linear that only this norm reads"
            )
            note = "the mean of each head is taken out of the rows of its projection"
            problems.append(Problem(message=message, at=step.at, note=note))
        if step.values("bias"):
            message = f"the layer norm of heads '{step.result}' cannot have a bias"
            problems.append(Problem(message=message, at=step.at))
    return problems


def _check_numbers_used(data: Located, steps: tuple[Step, ...]) -> list[Problem]:
    """Every number must be what a setting of some step says."""
    used = {value for step in steps for name, _ in step.settings for value in step.values(name)}
    unused = [name for name in _numbers(data) if name not in used]
    return [
        Problem(message=f"the number '{name}' is never used", at=data["numbers"].at)
        for name in unused
    ]


def _check_options(
    data: Located, weights: Mapping[str, Located], steps: tuple[Step, ...]
) -> list[Problem]:
    """A weight names a flag, and every option must change something."""
    options, listed = _options(data), data.get("options")
    flags = [name for name, value in options.items() if isinstance(value, bool)]
    conditions = [each["if"] for each in weights.values() if "if" in each.fields()]
    named = [(Condition.parse(each.text).option, each) for each in conditions]
    problems = [
        Problem(
            message=f"unknown option '{name}'",
            at=each.part(name),
            note="" if flags else "'options' has no flags",
            help=did_you_mean(name, flags),
        )
        for name, each in named
        if name not in flags
    ]
    used = {name for name, _ in named}
    for name, each in listed.fields().items() if listed else ():
        settings = word_settings(steps, name)
        if name not in used and not settings:
            problems.append(Problem(message=f"the option '{name}' is never used", at=each.key_at))
        problems += [
            Problem(
                message=f"unknown {setting} '{each.written}'",
                at=each.at,
                help=did_you_mean(each.written, values),
            )
            for setting, values in settings.items()
            if options[name] not in values
        ]
    return problems
