"""What flows through the steps: how wide each value is, and which weights its columns come from.

Sizes are products of names of dims, so that this is known before any model is. A step whose input
does not fit its weight is a mistake of the architecture, and so is a `rotary_rows` that does not
name the weights whose rows a rope turns: a checkpoint with the same sizes would load either way.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ttc.errors import Problem
from ttc.located import Located
from ttc.spec.steps import NORMS, Step

type Width = tuple[str, ...]
"""A product of dims, by name in order; () where it is not known."""

KEEP_COLUMNS = (*NORMS, "rope", "multiply", "divide", "softcap", "activate")
"""Operations whose result has the columns of their operand, in its order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Value:
    """`rows` are the weights whose rows its columns are; `rope` is the step that turned it."""

    width: Width = ()
    rows: tuple[str, ...] = ()
    rope: Step | None = None
    table: str = ""


@dataclass(slots=True, kw_only=True)
class _Flow:
    """The steps that decoders of a kind have, or the model. `turned` are the weights behind a rope,
    with that step.
    """

    weights: Mapping[str, Located]
    kind: str = ""
    values: dict[str, _Value] = field(default_factory=dict[str, _Value])
    turned: dict[str, Step] = field(default_factory=dict[str, Step])
    problems: list[Problem] = field(default_factory=list[Problem])

    def follow(self, steps: Sequence[Step]) -> None:
        """Add the result of each step, from the values that it reads in decoders of this kind."""
        passed: dict[str, str] = {}
        for written in steps:
            step = written.reading(passed)
            if step.kinds and self.kind not in step.kinds:
                passed[step.result] = step.instead
                continue
            self.values[step.result] = self._result(step)
            if step.otherwise:
                self._same(step, (step.result, step.otherwise))

    def _result(self, step: Step) -> _Value:
        read = [self.values.get(name, _Value()) for name in step.operands]
        if step.op != "attention":
            self._refuse_turned(step, read)
        match step.op:
            case "embedding":
                return self._embedding(step)
            case "linear":
                return self._linear(step, read[0])
            case "rope":
                return self._rope(step, read[0])
            case "attention":
                return self._attention(step, read)
            case "gated" | "add":
                self._same(step, step.operands)
                return _Value(width=read[0].width)
            case op if op in NORMS:
                self._scales(step, read[0])
                named = self._named(step, "weight", "bias")
                return _Value(width=read[0].width, rows=(*read[0].rows, *named))
            case _:
                return read[0]

    def _embedding(self, step: Step) -> _Value:
        (name,) = self._named(step, "weight")
        rows, columns = self._sizes(name)
        if rows != ("vocab",):
            size = self.weights[name]["shape"].elements()[0]
            message = f"the embedding '{name}' needs a row for each token"
            help_text = "shapes are [out, in]: an embedding is [vocab, hidden]"
            note = f"got {_text(rows)}, expected vocab"
            self.problems.append(Problem(message=message, at=size.at, note=note, help=help_text))
            return _Value()
        return _Value(width=columns)

    def _linear(self, step: Step, x: _Value) -> _Value:
        (name,) = self._named(step, "weight")
        rows, columns = self._sizes(name)
        at = self.weights[name]["shape"].elements()[1]
        if x.width and x.width != columns:
            swapped = x.width == rows
            self.problems.append(
                Problem(
                    message=f"the weight '{name}' does not fit what it multiplies",
                    at=at.at,
                    note=f"'{step.operands[0]}' is {_text(x.width)} wide",
                    details=(f"the step '{step.result}' at {step.at} reads both",),
                    help=f"shapes are [out, in]: write [{_text(columns)}, {_text(rows)}]"
                    if swapped
                    else "shapes are [out, in]",
                )
            )
            return _Value(rows=(name,))
        biases = self._named(step, "bias")
        for bias in biases:
            if self._sizes(bias) != (rows,):
                size = self.weights[bias]["shape"].elements()[0]
                message = f"the bias '{bias}' is not as long as '{name}' has rows"
                note = f"expected {_text(rows)}"
                self.problems.append(Problem(message=message, at=size.at, note=note))
        return _Value(width=rows, rows=(name, *biases))

    def _scales(self, step: Step, x: _Value) -> None:
        for name in self._named(step, "weight", "bias"):
            sizes = self._sizes(name)
            held = tuple(sorted(each for size in sizes for each in size))
            if not x.width or held == x.width or (held == ("head_dim",) and "head_dim" in x.width):
                continue
            size = self.weights[name]["shape"].elements()[0]
            message = f"the weight '{name}' does not fit what it scales"
            note = f"'{step.operands[0]}' is {_text(x.width)} wide"
            details = (f"the step '{step.result}' at {step.at} reads both",)
            self.problems.append(Problem(message=message, at=size.at, note=note, details=details))

    def _rope(self, step: Step, x: _Value) -> _Value:
        if x.width and "head_dim" not in x.width:
            message = f"'{step.result}' turns '{step.operands[0]}', which has no heads"
            note = f"it is {_text(x.width)} wide"
            self.problems.append(Problem(message=message, at=step.at, note=note))
            return _Value(rope=step)
        self.turned |= {name: step for name in x.rows if name not in self.turned}
        table = step.setting("table", self.kind) or "rope"
        return _Value(width=x.width, rows=x.rows, rope=step, table=table)

    def _attention(self, step: Step, read: Sequence[_Value]) -> _Value:
        q, k, v = read
        named = dict(zip(("q", "k", "v"), step.operands, strict=True))
        heads = ("head_dim", "heads")
        message, note = "", "expected [q, k, v]: a rope turns q and k, or neither"
        if v.rope:
            message = f"'{step.result}' takes '{named['v']}' as v, which a rope turned"
        elif bool(q.rope) != bool(k.rope):
            turned, still = ("q", "k") if q.rope else ("k", "q")
            message = f"a rope turned '{named[turned]}' and not '{named[still]}', "
            message += f"q and k of '{step.result}'"
        elif q.rope and k.rope and q.table != k.table:
            message = f"q and k of '{step.result}' are turned by different tables"
            note = f"{q.table} and {k.table}"
        else:
            for role, value in zip(named, read, strict=True):
                expected = heads if role == "q" else ("head_dim", "kv_heads")
                if not message and value.width and value.width != expected:
                    message = f"'{step.result}' takes '{named[role]}' as {role}"
                    note = f"it is {_text(value.width)} wide, expected {_text(expected)}"
        if message:
            self.problems.append(Problem(message=message, at=step.at, note=note))
        return _Value(width=heads)

    def _refuse_turned(self, step: Step, read: Sequence[_Value]) -> None:
        """Nothing but an attention reads what a rope turned: its columns are in another order."""
        for name, value in zip(step.operands, read, strict=True):
            if value.rope:
                message = f"'{step.result}' reads '{name}', which a rope turned"
                note = "only an attention reads it, as q or k"
                self.problems.append(Problem(message=message, at=step.at, note=note))

    def in_order(self, steps: Sequence[Step], turned: Mapping[str, Step]) -> list[Problem]:
        """Problems where rows in rotary order are read by what needs them in their own."""
        problems: list[Problem] = []
        for step in steps:
            operands = step.operands[2:] if step.op == "attention" else step.operands
            if step.op in KEEP_COLUMNS:
                continue
            for name in operands:
                rows = [each for each in self.values.get(name, _Value()).rows if each in turned]
                if rows:
                    message = f"'{step.result}' reads '{name}', whose columns are in rotary order"
                    details = (f"'{turned[rows[0]].result}' turns the rows of '{rows[0]}'",)
                    problems.append(Problem(message=message, at=step.at, details=details))
        return problems

    def _same(self, step: Step, names: Sequence[str]) -> None:
        """The values must be equally wide."""
        first, second = (self.values.get(name, _Value()).width for name in names)
        if first and second and first != second:
            message = f"'{names[0]}' and '{names[1]}' of '{step.result}' differ in width"
            note = f"{_text(first)} and {_text(second)}"
            self.problems.append(Problem(message=message, at=step.at, note=note))

    def _named(self, step: Step, *settings: str) -> tuple[str, ...]:
        """The weights that settings of a step say for this kind."""
        said = (step.setting(name, self.kind) for name in settings)
        return tuple(each for each in said if each is not None)

    def _sizes(self, name: str) -> tuple[Width, ...]:
        return tuple(
            tuple(sorted(each.text.split(" * "))) for each in self.weights[name]["shape"].elements()
        )


def check_flow(
    model: Sequence[Step],
    decoder: Sequence[Step],
    *,
    kinds: Sequence[str],
    weights: Mapping[str, Located],
    rotary: Mapping[str, Located],
) -> list[Problem]:
    """Whether the sizes of weights and values fit, and `rotary` names what the ropes turn.

    The steps were read without problems, `weights` are those of the model and of a decoder, and
    `rotary` the entries of `rotary_rows`.
    """
    problems: list[Problem] = []
    outer = _Flow(weights=weights)
    flows: list[_Flow] = []
    for step in model:
        if step.op != "repeat":
            outer.follow((step,))
            continue
        entry = outer.values.get(step.values("input")[0], _Value())
        for kind in kinds or ("",):
            values = {"x": _Value(width=entry.width)}
            flow = _Flow(weights=weights, kind=kind, values=values)
            flow.follow(decoder)
            flows.append(flow)
            problems += flow.problems + _check_result(flow, decoder[-1], entry.width, "decoder")
        outer.values[step.result] = _Value(width=entry.width)
    problems += outer.problems + _check_result(outer, model[-1], ("vocab",), "model")
    if problems:
        return problems
    turned = {name: step for flow in reversed(flows) for name, step in flow.turned.items()}
    for flow in flows:
        problems += flow.in_order(decoder, turned)
    return problems or _check_rotary(turned, weights, rotary)


def _check_result(flow: _Flow, last: Step, expected: Width, block: str) -> list[Problem]:
    """What a decoder makes of x is as wide as x, what the model makes of tokens is the logits."""
    found = flow.values.get(last.result, _Value()).width
    if not found or not expected or found == expected:
        return []
    message = f"the result of '{block}' is {_text(found)} wide"
    return [Problem(message=message, at=last.at, note=f"expected {_text(expected)}")]


def _check_rotary(
    turned: Mapping[str, Step], weights: Mapping[str, Located], rotary: Mapping[str, Located]
) -> list[Problem]:
    """Whether `rotary_rows` names the weights behind a rope. A bias that a weight declares in its
    own entry follows that weight.
    """
    own = {name for name, each in weights.items() if each.key_at != each.at}
    problems: list[Problem] = []
    for name, step in turned.items():
        if name in rotary or name not in own:
            continue
        sizes = [size.text.split(" * ") for size in weights[name]["shape"].elements()]
        heads = next((each for size in sizes for each in size if each != "head_dim"), "1")
        problems.append(
            Problem(
                message=f"'rotary_rows' does not name the weight '{name}'",
                at=weights[name].key_at,
                note=f"the rope '{step.result}' turns its rows",
                details=(f"that step is at {step.at}",),
                help=f"add '{name}: {heads}' to rotary_rows",
            )
        )
    return problems + [
        Problem(
            message=f"'rotary_rows' names the weight '{name}', whose rows no rope turns",
            at=each.key_at,
            help=f"remove '{name}'",
        )
        for name, each in rotary.items()
        if name not in turned and name in own
    ]


def _text(width: Width) -> str:
    """A product as files write it: the count of heads first."""
    return " * ".join(sorted(width, reverse=True))
