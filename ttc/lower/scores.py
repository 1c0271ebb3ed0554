"""Masks, and attention made of products -> ttnn calls."""

from ttc.lower.calls import Call, Expression, Invoke, Items, Name, Ref, Statement, Sum
from ttc.lower.constants import Constants, dtype_name
from ttc.plan.placement import TensorPlan
from ttc.plan.plan import PlannedAttention
from ttc.plan.scores import Scores, score_names
from ttc.plan.tables import PlannedMask

type Settings = tuple[tuple[str, Expression], ...]


def softcap(cap: float, scale: float = 1.0) -> Items:
    """cap * tanh(x * scale / cap) as a chain of functions.

    ttnn.softcap is for Blackhole only, so its three steps are spelled out; 0: tanh is exact.
    """
    steps = (("MUL_UNARY_SFPU", scale / cap), ("TANH", 0.0), ("MUL_UNARY_SFPU", cap))
    return Items(
        tuple(
            Invoke("UnaryWithParam", (Name(name=f"UnaryOpType.{name}"), number))
            for name, number in steps
        )
    )


def lower_mask(mask: PlannedMask, constants: Constants) -> tuple[Statement, ...]:
    """Gather the rows of a mask for the positions of a step."""
    positions, users = "rope_positions", mask.gathered.shape[2]
    placement = ("memory_config", constants.placement(mask.out.placement))
    calls: list[Statement] = []
    if users < mask.positions:
        calls.append(
            Call(
                function="slice",
                args=(Ref(name=positions), (0, 0), (1, users)),
                results=("mask_positions",),
            )
        )
        positions = "mask_positions"
    gathered = mask.name if mask.gathered == mask.out else f"{mask.name}_rows"
    calls += [
        Call(
            function="embedding",
            args=(Ref(name=positions), Ref(name=f"w.{mask.name}")),
            kwargs=(("layout", Name(name="TILE_LAYOUT")), placement),
            results=(gathered,),
        ),
        _reshape(gathered, mask.gathered.shape),
    ]
    if gathered == mask.name:
        return tuple(calls)
    if mask.decode:
        args: tuple[Expression, ...] = (Ref(name=gathered), 1, 2)
        function = "transpose"
    else:
        args = (Ref(name=gathered), (0, 0, 0, 0), mask.out.shape)
        function = "slice"
    calls.append(Call(function=function, args=args, kwargs=(placement,), results=(mask.name,)))
    if mask.decode:
        calls.append(_reshape(mask.name, mask.out.shape))
    return tuple(calls)


def lower_scores(
    op: PlannedAttention, scores: Scores, operands: tuple[str, str, str], constants: Constants
) -> tuple[Statement, ...]:
    """Products of q with k and of weights with v, `operands`; results by kv head.

    Queries come by kv head in a decode step; those of a prompt are in that order already.
    """
    names = score_names(op.node.out)
    q, k, v = operands
    in_dram = ("memory_config", constants.placement(scores.scores.placement))
    compute = ("compute_kernel_config", constants.fidelity(op.compute))
    product: Settings = (("dtype", dtype_name(scores.scores.dtype)), in_dram, compute)
    to_scores, to_results = _programs(op, scores, constants)
    regroup = scores.by_head != scores.scores.shape
    return (
        *((_reshape(q, scores.queries.shape),) if regroup else ()),
        Call(
            function="matmul",
            args=(Ref(name=q), Ref(name=k)),
            kwargs=(("transpose_b", True), *to_scores, *product),
            results=(names.scores,),
        ),
        Call(
            function="unary_chain",
            args=(Ref(name=names.scores), softcap(scores.cap, op.scale)),
            kwargs=(in_dram,),
            results=(names.capped,),
        ),
        *((_reshape(names.capped, scores.by_head),) if regroup else ()),
        Call(
            function="add",
            args=(Ref(name=names.capped), Ref(name="mask")),
            kwargs=(in_dram,),
            results=(names.masked,),
        ),
        Call(
            function="softmax",
            args=(Ref(name=names.masked),),
            kwargs=(("dim", 3), in_dram, compute, ("numeric_stable", True)),
            results=(names.weights,),
        ),
        *((_reshape(names.weights, scores.scores.shape),) if regroup else ()),
        Call(
            function="matmul",
            args=(Ref(name=names.weights), Ref(name=v)),
            kwargs=(*to_results, *product),
            results=(names.results,),
        ),
    )


def _programs(
    op: PlannedAttention, scores: Scores, constants: Constants
) -> tuple[Settings, Settings]:
    """How the two products are cut over cores, where that is planned."""
    if scores.products is None:
        return (), ()
    tokens, keys = scores.by_head[2:]
    to_scores, to_results = (
        (("program_config", constants.program(program, name, op.node.out)),)
        for program, name in zip(
            scores.products,
            (f"SCORES_{tokens}X{keys}", f"RESULTS_{tokens}X{keys}"),
            strict=True,
        )
    )
    return to_scores, to_results


def take_cached(
    taken: TensorPlan, keys: str, values: str, constants: Constants
) -> tuple[Statement, ...]:
    """Keys and values of a prompt's user, those of earlier chunks and its own."""
    _, *sizes = taken.shape
    return tuple(
        Call(
            function="slice",
            args=(
                Ref(name=cache),
                (Ref(name="user"), 0, 0, 0),
                (Sum(name="user", number=1), *sizes),
            ),
            kwargs=(("memory_config", constants.placement(taken.placement)),),
            results=(name,),
        )
        for cache, name in (("k_cache", keys), ("v_cache", values))
    )


def gather_queries(
    op: PlannedAttention, scores: Scores, constants: Constants
) -> tuple[Statement, ...]:
    """A decode step's queries, out of the users' shards and by kv head."""
    names, placement = score_names(op.node.out), constants.placement(scores.queries.placement)
    gathered = names.gathered if scores.regroup else names.queries
    return (
        _moved("sharded_to_interleaved", op.node.q, placement, gathered),
        _regrouped(gathered, names.queries, scores.queries.shape, placement),
    )


def scatter_results(
    op: PlannedAttention, scores: Scores, split: str, constants: Constants
) -> tuple[Statement, ...]:
    """A decode step's results by user, then in the users' shards, called `split`."""
    names, placement = score_names(op.node.out), constants.placement(scores.queries.placement)
    by_user = names.by_user if scores.regroup else names.results
    return (
        _regrouped(names.results, by_user, op.split.shape, placement),
        _moved("interleaved_to_sharded", by_user, constants.placement(op.split.placement), split),
    )


def _moved(function: str, name: str, placement: Ref | Name, result: str) -> Call:
    return Call(function=function, args=(Ref(name=name), placement), results=(result,))


def _regrouped(name: str, result: str, shape: tuple[int, ...], placement: Ref | Name) -> Call:
    """Another shape: under a name of its own it is moved, under the same it is the same memory."""
    if name == result:
        return _reshape(name, shape)
    return Call(
        function="reshape",
        args=(Ref(name=name), shape),
        kwargs=(("memory_config", placement),),
        results=(result,),
    )


def join_prompt(op: PlannedAttention, constants: Constants) -> tuple[Statement, ...]:
    """The results of a prompt, heads side by side."""
    results = score_names(op.node.out).results
    tokens, head_dim = op.out.shape[2], op.out.shape[3] // op.heads
    return (
        _reshape(results, (1, op.heads, tokens, head_dim)),
        Call(
            function="experimental.nlp_concat_heads",
            args=(Ref(name=results),),
            kwargs=(("memory_config", constants.placement(op.out.placement)),),
            results=(op.node.out,),
        ),
    )


def _reshape(name: str, shape: tuple[int, ...]) -> Call:
    """The same memory under another shape."""
    return Call(function="reshape", args=(Ref(name=name), shape), results=(name,))
