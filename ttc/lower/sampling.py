"""The choice of the next token, the likeliest or a draw -> ttnn calls.

A token is drawn where the running sum of the probabilities passes a number that the host sends for
each user and step. The random numbers of `ttnn.sampling` itself come from generators of the cores:
what a user gets would depend on its slot, on who was there before, and on whether the device or the
host draws. So `ttnn.sampling` only picks the id at the place that was drawn.
"""

from ttc.lower.calls import Call, Expression, Function, Items, Name, Ref, Statement
from ttc.lower.collectives import WIDTH, lower_collective
from ttc.lower.constants import Constants
from ttc.lower.liveness import free_after_last_use
from ttc.plan.placement import DRAM, L1, TILE
from ttc.plan.plan import Plan
from ttc.plan.sampling import LOWEST, SamplingPlan, VocabRange
from ttc.spec.fidelity import load_fidelities

_PARTS = ("values", "ids")


def lower_greedy(plan: Plan, constants: Constants) -> Function:
    """The emitted `greedy`: the first of the largest logits.

    Ranks gather them: one argmax over all columns keeps the order of equal ones, which a choice
    among the ranks' winners would have to be told of.
    """
    gathering = plan.head.gather
    body: list[Statement] = []
    logits = "logits"
    if gathering is not None:
        logits = "whole"
        body += lower_collective(gathering, "logits", logits, constants)
    body += _rows(plan, logits, constants)
    body += [
        Call(
            function="argmax",
            args=(Ref(name="rows"),),
            kwargs=(
                ("dim", 3),
                ("keepdim", False),
                ("output_tensor", Ref(name="tokens")),
            ),
        ),
    ]
    return Function(
        name="greedy",
        parameters=("logits", "tokens"),
        doc=(
            "Write the most likely token of every user into `tokens`, on the device.",
            "",
            "logits  what decode returned; it stays",
            "tokens  the input of the next decode step",
        ),
        body=free_after_last_use(body, owned=(), keep=()),
    )


def _rows(plan: Plan, logits: str, constants: Constants) -> list[Statement]:
    """Logits as rows, without the columns of padding; range by range where the plan says so."""
    head, calls, first = plan.head, list[Statement](), 0
    ranges = head.choice_columns
    if len(ranges) == 1:
        return [_rows_of(logits, "rows", head.chosen_from.shape[3], plan.vocab)]
    for i, columns in enumerate(ranges):
        stop = min(-(-(first + columns) // TILE) * TILE, head.chosen_from.shape[3])
        calls += [
            Call(
                function="slice",
                args=(Ref(name=logits), (0, 0, 0, first), (1, 1, TILE, stop)),
                results=(f"columns_{i}",),
                why="" if i else "All columns at once would not fit in L1 as they become rows.",
            ),
            _rows_of(f"columns_{i}", f"rows_{i}", stop - first, columns),
        ]
        first += columns
    parts = Items(tuple(Ref(name=f"rows_{i}") for i in range(len(ranges))))
    placement = constants.placement(head.chosen_from.placement)
    joined = (("dim", 3), ("memory_config", placement))
    return [*calls, Call(function="concat", args=(parts,), kwargs=joined, results=("rows",))]


def _rows_of(tiles: str, rows: str, columns: int, wanted: int) -> Call:
    """The first `wanted` of so many columns as rows."""
    if columns == wanted:
        return Call(function="untilize", args=(Ref(name=tiles),), results=(rows,))
    return Call(
        function="untilize_with_unpadding",
        args=(Ref(name=tiles), (0, 0, TILE - 1, wanted - 1)),
        results=(rows,),
        why="The columns beyond the vocabulary are padding.",
    )


def lower_sampling(plan: Plan, constants: Constants) -> Function:
    """The emitted `sample`, which writes a token of every user and frees all it makes."""
    sampling = plan.head.sampling
    logits, body = _given(plan, constants)
    values, ids = ("best_values", "best_ids") if sampling.merges else _PARTS
    body += _candidates(sampling, logits, constants)
    body += _draw(sampling, values, ids, constants)
    merged = ("        offsets  the first id of each block of candidates",) * sampling.merges
    return Function(
        name="sample",
        parameters=("logits", "tokens", "how"),
        doc=(
            "Draw the next token of every user into `tokens`, on the device.",
            "",
            "logits  what decode returned; it stays",
            "tokens  the input of the next decode step",
            "how     the tensors of SAMPLING by name, a row for each user and a column for each of",
            f"        the {sampling.top_k} most likely tokens, the likeliest first:",
            "        scale    1 / temperature",
            "        mask     added: 0 for the first top_k, far below 0 for the others",
            "        places   1, 2, 3, ... for the first top_k, 0 for the others",
            "        top_p    the part of the probability that is kept",
            "        draws    at least 0 and below 1, another number in each step",
            "        best     1 for each user, and ones 1.0: that ttnn.sampling takes the largest",
            *merged,
            f"->      logits [1, 1, {TILE}, {sampling.top_k}] of the most likely tokens, and their",
            "        ids uint32; the caller frees both",
        ),
        body=free_after_last_use(body, owned=(), keep=(values, ids)),
        returns=(values, ids),
    )


def lower_logprobs(plan: Plan, constants: Constants) -> Function:
    """The emitted `logprobs`: what turns logits into log-probabilities."""
    sampling = plan.head.sampling
    value, body = _given(plan, constants)
    dram = ("memory_config", constants.placement(DRAM))
    if sampling.trimmed:
        args = (Ref(name=value), (0, 0, 0, 0), (1, 1, TILE, sampling.columns))
        value = "trimmed"
        body.append(Call(function="slice", args=args, kwargs=(dram,), results=(value,)))
    if sampling.narrow:
        args = (Ref(name=value), Name(name="float32"))
        value = "exact"
        body.append(Call(function="typecast", args=args, kwargs=(dram,), results=(value,)))
    l1 = ("memory_config", constants.placement(L1))
    row = (("dim", WIDTH), ("keepdim", True), l1)
    exponential = Items((Name(name="UnaryOpType.EXP"),))
    body += [
        Call(function="max", args=(Ref(name=value),), kwargs=row, results=("largest",)),
        Call(
            function="subtract",
            args=(Ref(name=value), Ref(name="largest")),
            kwargs=(("activations", exponential), dram),
            results=("powers",),
        ),
        Call(function="sum", args=(Ref(name="powers"),), kwargs=row, results=("total",)),
    ]
    which = "all ranks have" if sampling.whole else "a rank has"
    return Function(
        name="logprobs",
        parameters=("logits",),
        doc=(
            f"The largest logit that {which} of each user, and the sum of exp(logit - largest).",
            "",
            "logits  what decode returned; it stays",
            f"->      fp32 [1, 1, {TILE}, 1] L1 both; the caller frees them",
        ),
        body=free_after_last_use(body, owned=(), keep=("largest", "total")),
        returns=("largest", "total"),
    )


def _given(plan: Plan, constants: Constants) -> tuple[str, list[Statement]]:
    """The logits that are looked through: a rank's own, or those of all, gathered first."""
    gather = plan.head.gather
    if gather is None or not plan.head.sampling.whole:
        return "logits", []
    return "whole", [*lower_collective(gather, "logits", "whole", constants)]


def _candidates(sampling: SamplingPlan, logits: str, constants: Constants) -> list[Statement]:
    """The most likely tokens of all ranges and ranks: `values`, sorted, and their `ids`."""
    several = len(sampling.ranges) > 1
    body: list[Statement] = []
    for i, part in enumerate(sampling.ranges):
        names = tuple(f"{name}_{i}" for name in _PARTS) if several else _PARTS
        body += _of_range(sampling, part, i, logits, names, constants)
    placement = ("memory_config", constants.placement(L1))
    if several:
        for name in _PARTS:
            found = Items(tuple(Ref(name=f"{name}_{i}") for i in range(len(sampling.ranges))))
            kwargs = (("dim", WIDTH), placement)
            body.append(Call(function="concat", args=(found,), kwargs=kwargs, results=(name,)))
    names = _PARTS
    if sampling.gathers:
        names = tuple(f"all_{name}" for name in _PARTS)
        for gather, part, whole in zip(sampling.gathers, _PARTS, names, strict=True):
            body += lower_collective(gather, part, whole, constants)
    return [*body, *_merged(sampling, names, constants)] if sampling.merges else body


def _of_range(
    sampling: SamplingPlan,
    part: VocabRange,
    number: int,
    logits: str,
    names: tuple[str, ...],
    constants: Constants,
) -> list[Statement]:
    """The most likely tokens of one range of columns; ids count from its first column."""
    values, ids = names
    body: list[Statement] = []
    columns, dram = logits, ("memory_config", constants.placement(DRAM))
    if sampling.cut:
        columns, stop = f"columns_{number}", part.first + part.columns
        corners = (0, 0, 0, part.first), (1, 1, TILE, stop)
        args = (Ref(name=logits), *corners)
        body.append(Call(function="slice", args=args, kwargs=(dram,), results=(columns,)))
    if part.width > part.columns:
        padding = ((0, 0), (0, 0), (0, 0), (0, part.width - part.columns))
        args = (Ref(name=columns), padding, LOWEST)
        columns = f"padded_{number}"
        why = "Several cores look through a power of two of columns only."
        body.append(Call(function="pad", args=args, kwargs=(dram,), results=(columns,), why=why))
    if not sampling.narrow:
        return [*body, _top(columns, sampling.top_k, (values, ids), constants)]
    found, wide = f"{ids}_16", Name(name="uint32")
    return [
        *body,
        _top(columns, sampling.top_k, (values, found), constants),
        Call(function="typecast", args=(Ref(name=found), wide), results=(ids,)),
    ]


def _merged(
    sampling: SamplingPlan, names: tuple[str, ...], constants: Constants
) -> tuple[Statement, ...]:
    """The most likely of all candidates, and the ids that they have in the whole vocabulary."""
    values, ids = names
    return (
        Call(
            function="add",
            args=(Ref(name=ids), Ref(name="how.offsets")),
            results=("numbered",),
        ),
        _top(values, sampling.top_k, ("best_values", "ranks"), constants),
        Call(
            function="gather",
            args=(Ref(name="numbered"), WIDTH),
            kwargs=(("index", Ref(name="ranks")),),
            results=("best_ids",),
        ),
    )


def _top(x: str, count: int, results: tuple[str, str], constants: Constants) -> Call:
    """The largest values of each row and their columns; of equal ones the first comes first."""
    return Call(
        function="topk",
        args=(Ref(name=x), count),
        kwargs=(
            ("dim", WIDTH),
            ("largest", True),
            ("sorted", True),
            ("stable", True),
            ("memory_config", constants.placement(L1)),
        ),
        results=results,
    )


def _draw(sampling: SamplingPlan, values: str, ids: str, constants: Constants) -> list[Statement]:
    """The place of the token that is drawn among the candidates, and its id.

    A token is kept while the ones before it have not reached top_p; the last kept one that begins
    before the draw is taken, so that there always is one.
    """
    hifi4 = constants.fidelity(load_fidelities()["hifi4"])
    row = (("dim", WIDTH),)

    def call(function: str, x: str, y: str, result: str, **named: Expression) -> Call:
        args = (Ref(name=x), Ref(name=y))
        return Call(function=function, args=args, kwargs=tuple(named.items()), results=(result,))

    widened: list[Statement] = []
    if sampling.narrow:
        args = (Ref(name=values), Name(name="float32"))
        widened.append(Call(function="typecast", args=args, results=("exact",)))
        values = "exact"
    return [
        *widened,
        call("multiply", values, "how.scale", "scaled"),
        call("add", "scaled", "how.mask", "masked"),
        Call(
            function="softmax",
            args=(Ref(name="masked"),),
            kwargs=(*row, ("compute_kernel_config", hifi4), ("numeric_stable", True)),
            results=("probabilities",),
        ),
        Call(function="cumsum", args=(Ref(name="probabilities"),), kwargs=row, results=("sums",)),
        call("subtract", "sums", "probabilities", "before"),
        call("lt", "before", "how.top_p", "kept"),
        call("multiply", "probabilities", "kept", "kept_probabilities"),
        Call(
            function="sum",
            args=(Ref(name="kept_probabilities"),),
            kwargs=(*row, ("keepdim", True)),
            results=("total",),
        ),
        call("multiply", "how.draws", "total", "drawn"),
        call("le", "before", "drawn", "begun"),
        call("multiply", "begun", "kept", "possible"),
        call("multiply", "possible", "how.places", "score", dtype=Name(name="bfloat16")),
        Call(function="untilize", args=(Ref(name=ids),), results=("id_rows",)),
        Call(
            function="sampling",
            args=(Ref(name="score"), Ref(name="id_rows")),
            kwargs=(
                ("k", Ref(name="how.best")),
                ("p", Ref(name="how.ones")),
                ("temp", Ref(name="how.ones")),
                ("output_tensor", Ref(name="tokens")),
            ),
        ),
    ]
