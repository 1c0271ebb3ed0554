"""The steps of an architecture: which operations there are, and what one step must look like."""

import keyword
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from ttc.errors import Problem, Source, did_you_mean
from ttc.located import Located


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """`result: {op: operands, setting: value}`; `at` is the place of the result's name.

    `repeat` has the block as its operand, and the settings `times` (a size) and `input` (a value).
    """

    result: str
    op: str
    operands: tuple[str, ...]
    settings: tuple[tuple[str, str], ...]
    at: Source

    def setting(self, name: str, default: str | None = None) -> str | None:
        return dict(self.settings).get(name, default)


@dataclass(frozen=True, slots=True, kw_only=True)
class OneOf:
    """A setting with a fixed set of values."""

    values: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightOf:
    """A setting that names a weight of the block, with so many dimensions."""

    rank: int


type Setting = OneOf | WeightOf | Literal["size", "value"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What an operation takes: its operands by name, and its settings, all of them required."""

    operands: tuple[str, ...]
    settings: Mapping[str, Setting]


OPERATIONS: Mapping[str, Operation] = {
    "embedding": Operation(operands=("tokens",), settings={"weight": WeightOf(rank=2)}),
    "rms_norm": Operation(operands=("x",), settings={"weight": WeightOf(rank=1)}),
    "linear": Operation(operands=("x",), settings={"weight": WeightOf(rank=2)}),
    "rope": Operation(operands=("x",), settings={}),
    "attention": Operation(operands=("q", "k", "v"), settings={"mask": OneOf(values=("causal",))}),
    "gated": Operation(operands=("gate", "up"), settings={"activation": OneOf(values=("silu",))}),
    "add": Operation(operands=("a", "b"), settings={}),
    "repeat": Operation(operands=("block",), settings={"times": "size", "input": "value"}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What the steps of one block may name: weights with their ranks, sizes, other blocks."""

    block: str
    input: str
    weights: Mapping[str, int]
    sizes: tuple[str, ...]
    blocks: tuple[str, ...]


def read_steps(data: Located, scope: Scope) -> tuple[tuple[Step, ...], list[Problem]]:
    """The steps of a block, whose schema holds, and everything that is wrong with them."""
    reader = _StepReader(scope, data)
    for item in data.elements():
        ((result, body),) = item.fields().items()
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
            settings = self._settings(op, body)
            at = body.key_at
            step = Step(result=result, op=op, operands=operands, settings=settings, at=at)
            self.steps.append(step)
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
        elif keyword.iskeyword(result) or result in self.scope.weights:
            why = "a Python keyword" if keyword.iskeyword(result) else "the name of a weight"
            self.problems.append(
                Problem(message=f"'{result}' is {why}", at=at, note="results become variables")
            )

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

    def _settings(self, op: str, body: Located) -> tuple[tuple[str, str], ...]:
        expected = OPERATIONS[op].settings
        given = {name: each for name, each in body.fields().items() if name != op}
        meant: set[str] = set()
        for name, each in given.items():
            if name in expected:
                self._check_setting(name, each, expected[name])
                continue
            near = get_close_matches(name, [each for each in expected if each not in given], n=1)
            meant |= set(near)
            self.problems.append(
                Problem(
                    message=f"unknown setting '{name}'",
                    at=each.key_at,
                    note=f"not a setting of '{op}'",
                    help=did_you_mean(name, near or expected),
                )
            )
        for name in expected:
            if name not in given and name not in meant:
                message = f"'{op}' needs the setting '{name}'"
                self.problems.append(
                    Problem(message=message, at=body[op].key_at, help=f"add '{name}:'")
                )
        return tuple((name, each.written) for name, each in given.items())

    def _check_setting(self, name: str, data: Located, kind: Setting) -> None:
        match kind:
            case "value":
                self._use(data)
            case "size":
                self._expect(data, "size", self.scope.sizes)
            case OneOf(values=values):
                self._expect(data, name, values)
            case WeightOf(rank=rank):
                has = self.scope.weights.get(data.written)
                if self._expect(data, "weight", self.scope.weights) and has != rank:
                    message = f"'{data.written}' has {has} dimension(s), expected {rank}"
                    self.problems.append(Problem(message=message, at=data.at))

    def _expect(self, data: Located, kind: str, choices: Collection[str]) -> bool:
        if data.written in choices:
            return True
        if isinstance(data.value, tuple):
            self.problems.append(Problem(message=f"expected one {kind}, got a list", at=data.at))
            return False
        self.problems.append(
            Problem(
                message=f"unknown {kind} '{data.written}'",
                at=data.at,
                help=did_you_mean(data.written, choices),
            )
        )
        return False
