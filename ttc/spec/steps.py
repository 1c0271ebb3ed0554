"""The steps of an architecture: which operations there are, and what one step must look like."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from types import MappingProxyType
from typing import Literal

from ttc.errors import Problem, Source, did_you_mean
from ttc.located import Located, exponent_hint
from ttc.spec.taken_names import free_name, why_no_result

FORMATS = ("hf", "meta", "gguf")  # of checkpoints
KINDS = "kinds"  # a setting that every step of a decoder may have
OTHERWISE = "otherwise"  # a setting of every step that some decoders or models do not have


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """`result: {op: operands, setting: value}`; `at` is the place of the result's name.

    `repeat` has the block as its operand, and the settings `times` and `input` (a value).
    A setting is text as written, or such texts by kind of decoder. `kinds` are the decoders that
    have the step, () for all. Where it is left out its result is the value `otherwise`, "" for its
    first operand.
    """

    result: str
    op: str
    operands: tuple[str, ...]
    settings: tuple[tuple[str, str | Mapping[str, str]], ...]
    kinds: tuple[str, ...] = ()
    otherwise: str = ""
    at: Source

    @property
    def instead(self) -> str:
        """What is read for its result where the step is left out."""
        return self.otherwise or self.operands[0]

    def reading(self, names: Mapping[str, str]) -> "Step":
        """This step with the values it reads renamed, those in settings excepted."""
        return replace(
            self,
            operands=tuple(names.get(name, name) for name in self.operands),
            otherwise=names.get(self.otherwise, self.otherwise),
        )

    def setting(self, name: str, kind: str = "") -> str | None:
        """What a setting says for decoders of a kind; None where it says nothing."""
        held = dict(self.settings).get(name)
        return held if held is None or isinstance(held, str) else held.get(kind)

    def values(self, name: str) -> tuple[str, ...]:
        """Everything that a setting says, for whatever kind."""
        held = dict(self.settings).get(name)
        if held is None:
            return ()
        return (held,) if isinstance(held, str) else tuple(held.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class OneOf:
    """A setting with a fixed set of values."""

    values: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightOf:
    """A setting that names a weight of the block, with so many dimensions, or so many."""

    ranks: tuple[int, ...]


# The value of an option: a flag, or the word that a setting then says.
type Option = bool | str

NOT = "not "


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """`OPTION`, or `not OPTION`: what a flag must say for a model to have a weight."""

    option: str
    value: bool

    @classmethod
    def parse(cls, text: str) -> "Condition":
        """A condition as written, which its schema allows."""
        return cls(option=text.removeprefix(NOT), value=not text.startswith(NOT))

    def __str__(self) -> str:
        return f"{self.option}: {'true' if self.value else 'false'}"


# "number" is a literal or a name among the architecture's `numbers`.
type Setting = OneOf | WeightOf | Literal["value", "number"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What an operation takes: its operands by name, the settings it needs, those it may have."""

    operands: tuple[str, ...]
    settings: Mapping[str, Setting] = field(default_factory=lambda: MappingProxyType({}))
    optional: Mapping[str, Setting] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def known(self) -> dict[str, Setting]:
        """All its settings."""
        return {**self.settings, **self.optional}


VECTOR, MATRIX = WeightOf(ranks=(1,)), WeightOf(ranks=(2,))
SCALE = WeightOf(ranks=(1, 2))  # of a norm: [width], [head_dim], or a row for each head
NORMS = ("rms_norm", "layer_norm")

ACTIVATIONS = OneOf(values=("silu", "gelu", "gelu_tanh", "relu"))

OPERATIONS: Mapping[str, Operation] = {
    "embedding": Operation(
        operands=("tokens",), settings={"weight": MATRIX}, optional={"scale": "number"}
    ),
    "rms_norm": Operation(
        operands=("x",), settings={"weight": SCALE}, optional={"offset": "number"}
    ),
    "layer_norm": Operation(operands=("x",), settings={"weight": SCALE}, optional={"bias": VECTOR}),
    "linear": Operation(operands=("x",), settings={"weight": MATRIX}, optional={"bias": VECTOR}),
    "rope": Operation(operands=("x",), optional={"table": OneOf(values=("rope", "local_rope"))}),
    "attention": Operation(
        operands=("q", "k", "v"),
        settings={"mask": OneOf(values=("causal",))},
        optional={"scale": "number", "window": "number", "cap": "number"},
    ),
    "gated": Operation(operands=("gate", "up"), settings={"activation": ACTIVATIONS}),
    "activate": Operation(operands=("x",), settings={"activation": ACTIVATIONS}),
    "add": Operation(operands=("a", "b")),
    "multiply": Operation(operands=("x",), settings={"by": "number"}),
    "divide": Operation(operands=("x",), settings={"by": "number"}),
    "softcap": Operation(operands=("x",), settings={"cap": "number"}),
    "repeat": Operation(
        operands=("block",), settings={"times": OneOf(values=("layers",)), "input": "value"}
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What the steps of one block may name: weights with their ranks, other blocks, numbers, the
    kinds of decoders (none where all are alike, and in the model's own block), and options that
    are words, with the word where a spec does not say. `optional` are the weights that models may
    be without."""

    block: str
    input: str
    weights: Mapping[str, int]
    blocks: tuple[str, ...]
    numbers: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    words: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    optional: tuple[str, ...] = ()


def read_steps(data: Located, scope: Scope) -> tuple[tuple[Step, ...], list[Problem]]:
    """The steps of a block, whose schema holds, and everything that is wrong with them."""
    reader = _StepReader(scope, data)
    for item in data.elements():
        for result, body in item.fields().items():
            reader.read(result, body)
    return tuple(reader.steps), reader.problems or reader.unused()


class _StepReader:
    """Reads the steps in order; knows which values exist by then and which were used."""

    def __init__(self, scope: Scope, data: Located) -> None:
        self.scope = scope
        self.steps: list[Step] = []
        self.problems: list[Problem] = []
        self.places: dict[str, Source | None] = {scope.input: None}
        self.later = {
            name: each.key_at for item in data.elements() for name, each in item.fields().items()
        }
        self.used: set[str] = set()

    def read(self, result: str, body: Located) -> None:
        self._check_result(result, body)
        op = self._operation(body)
        if op is not None:
            operands = self._operands(op, body[op])
            step = Step(
                result=result,
                op=op,
                operands=operands,
                settings=self._settings(op, body),
                kinds=self._kinds(body),
                at=body.key_at,
            )
            self.steps.append(replace(step, otherwise=self._otherwise(step, body)))
        self.places.setdefault(result, body.key_at)

    def unused(self) -> list[Problem]:
        """Every value but the block's result must be read by a later step."""
        note = f"only the last step of '{self.scope.block}' is its result"
        return [
            Problem(message=f"nothing uses '{step.result}'", at=step.at, note=note)
            for step in self.steps[:-1]
            if step.result not in self.used
        ]

    def _check_result(self, result: str, body: Located) -> None:
        at = body.key_at
        if result in self.places:
            first = self.places[result]
            where = f"first defined at {first}" if first else f"the input of {self.scope.block}"
            self.problems.append(
                Problem(
                    message=f"'{result}' is defined twice",
                    at=at,
                    details=(f"'{result}' is {where}",) if first is None else (where,),
                    help="give each result its own name",
                )
            )
            return
        names = (*self.places, *self.later)
        why = why_no_result(result, names)
        if not why and result in self.scope.weights:
            why = "the name of a weight"
        if why:
            help_text = f"write '{free_name(result, (*names, *self.scope.weights))}'"
            message, note = f"'{result}' is {why}", "results become variables"
            self.problems.append(Problem(message=message, at=at, note=note, help=help_text))

    def _operation(self, body: Located) -> str | None:
        found = [name for name in body.fields() if name in OPERATIONS]
        if len(found) == 1:
            return found[0]
        first = next(iter(body.fields()))
        if found:
            message, hint = f"a step has one operation, got {' and '.join(found)}", ""
            at = body[found[1]].key_at
        else:
            message, hint = f"unknown operation '{first}'", did_you_mean(first, OPERATIONS)
            at = body[first].key_at
        self.problems.append(Problem(message=message, at=at, help=hint))
        return None

    def _operands(self, op: str, data: Located) -> tuple[str, ...]:
        listed = data.elements() if isinstance(data.value, tuple) else (data,)
        expected = OPERATIONS[op].operands
        if len(listed) != len(expected):
            form = expected[0] if len(expected) == 1 else f"[{', '.join(expected)}]"
            message = f"'{op}' takes {len(expected)} operand(s), got {len(listed)}"
            help_text = f"write '{op}: {form}'"
            self.problems.append(Problem(message=message, at=data.at, help=help_text))
        names: list[str] = []
        for each in listed:
            if expected == ("block",):
                self._expect(each, "block", self.scope.blocks)
            else:
                self._use(each)
            names.append(each.written)
        return tuple(names)

    def _use(self, operand: Located) -> None:
        """An operand must be the block's input or the result of an earlier step."""
        name = operand.written
        self.used.add(name)
        if name in self.places:
            return
        message, hint = f"unknown operand '{name}'", did_you_mean(name, self.places)
        details: tuple[str, ...] = ()
        if name in self.later:
            message, hint = f"'{name}' is used before it is defined", ""
            details = (f"defined at {self.later[name]}",)
        self.problems.append(Problem(message=message, at=operand.at, details=details, help=hint))

    def _settings(self, op: str, body: Located) -> tuple[tuple[str, str | Mapping[str, str]], ...]:
        operation = OPERATIONS[op]
        known = operation.known
        given = {
            name: each for name, each in body.fields().items() if name not in (op, KINDS, OTHERWISE)
        }
        meant: set[str] = set()
        for name, each in given.items():
            if name in known:
                self._check_setting(name, each, known[name], needed=name in operation.settings)
                continue
            near = get_close_matches(name, [each for each in known if each not in given], n=1)
            meant |= set(near)
            self.problems.append(
                Problem(
                    message=f"unknown setting '{name}'",
                    at=each.key_at,
                    note=f"not a setting of '{op}'",
                    help=did_you_mean(name, near or known),
                )
            )
        for name in operation.settings:
            if name not in given and name not in meant:
                message = f"'{op}' needs the setting '{name}'"
                self.problems.append(
                    Problem(message=message, at=body[op].key_at, help=f"add '{name}:'")
                )
        return tuple((name, _written(each)) for name, each in given.items())

    def _check_setting(self, name: str, data: Located, setting: Setting, *, needed: bool) -> None:
        """One value, or a mapping from kinds of decoders: from all of them where it is needed."""
        if not isinstance(data.value, dict):
            self._check_value(name, data, setting)
            return
        for kind, each in data.fields().items():
            if self._known_kind(kind, each.key_at):
                self._check_value(name, each, setting)
        missing = [kind for kind in self.scope.kinds if kind not in data.fields()]
        if needed and missing:
            message = f"'{name}' says nothing for the kind '{missing[0]}'"
            self.problems.append(Problem(message=message, at=data.key_at))

    def _check_value(self, name: str, data: Located, setting: Setting) -> None:
        match setting:
            case "value":
                self._use(data)
            case "number":
                literal = isinstance(data.value, int | float) and not isinstance(data.value, bool)
                if not literal:
                    self._expect(data, "number", self.scope.numbers)
            case OneOf(values=values):
                words = [each for each, word in self.scope.words.items() if _may_be(word, values)]
                self._expect(data, name, (*values, *words))
            case WeightOf(ranks=ranks):
                has = self.scope.weights.get(data.written)
                if self._expect(data, "weight", self.scope.weights) and has not in ranks:
                    expected = " or ".join(map(str, ranks))
                    message = f"'{data.written}' has {has} dimension(s), expected {expected}"
                    self.problems.append(Problem(message=message, at=data.at))

    def _kinds(self, body: Located) -> tuple[str, ...]:
        """The `kinds` of a step. The shape of its first operand is then that of its result."""
        data = body.get(KINDS)
        if data is None:
            return ()
        listed = data.elements() if isinstance(data.value, tuple) else (data,)
        return tuple(each.written for each in listed if self._known_kind(each.written, each.at))

    def _otherwise(self, step: Step, body: Located) -> str:
        """What is read where a step is left out, which must be able to happen."""
        data = body.get(OTHERWISE)
        if data is None:
            return ""
        self._use(data)
        if not step.kinds and not set(step.values("weight")) & set(self.scope.optional):
            self.problems.append(
                Problem(
                    message=f"'{step.result}' is never left out",
                    at=data.key_at,
                    note="a step with 'kinds' may be, or one whose weight has an 'if'",
                    help=f"remove '{OTHERWISE}'",
                )
            )
        return data.written

    def _known_kind(self, kind: str, at: Source) -> bool:
        if kind in self.scope.kinds:
            return True
        note = "" if self.scope.kinds else f"'{self.scope.block}' has no kinds"
        hint = did_you_mean(kind, self.scope.kinds)
        message = f"unknown kind '{kind}'"
        self.problems.append(Problem(message=message, at=at, note=note, help=hint))
        return False

    def _expect(self, data: Located, kind: str, choices: Collection[str]) -> bool:
        if data.written in choices:
            return True
        if isinstance(data.value, tuple):
            self.problems.append(Problem(message=f"expected one {kind}, got a list", at=data.at))
            return False
        hint = (kind == "number" and exponent_hint(data)) or did_you_mean(data.written, choices)
        message = f"unknown {kind} '{data.written}'"
        self.problems.append(Problem(message=message, at=data.at, help=hint))
        return False


def _may_be(word: str, values: Collection[str]) -> bool:
    """Whether an option with this word may be such a setting: no other one has the word."""
    return word in values or not any(
        word in setting.values
        for operation in OPERATIONS.values()
        for setting in operation.known.values()
        if isinstance(setting, OneOf)
    )


def _written(data: Located) -> str | Mapping[str, str]:
    if not isinstance(data.value, dict):
        return data.written
    return MappingProxyType({kind: each.written for kind, each in data.fields().items()})


def word_settings(steps: Iterable[Step], option: str) -> dict[str, tuple[str, ...]]:
    """The settings with fixed values that name an option, and their values."""
    return {
        name: setting.values
        for step in steps
        for name, setting in OPERATIONS[step.op].known.items()
        if isinstance(setting, OneOf) and option in step.values(name)
    }
