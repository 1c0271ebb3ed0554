"""Planned operations -> ttnn calls, by kind of operation. Translates; chooses nothing."""

from collections.abc import Callable, Mapping
from typing import Any

from ttc.graph.nodes import Activate, LayerNorm, Multiply, Softcap
from ttc.lower.attention import (
    lower_attention,
    lower_rope,
    lower_split_qkv,
)
from ttc.lower.calls import Call, Expression, Invoke, Items, Name, Ref, Statement, Sum
from ttc.lower.collectives import lower_collective
from ttc.lower.constants import Constants, dtype_name
from ttc.lower.scores import softcap
from ttc.plan.placement import TensorPlan
from ttc.plan.plan import (
    PlannedAdd,
    PlannedAttention,
    PlannedConcat,
    PlannedEmbedding,
    PlannedGated,
    PlannedLinear,
    PlannedNorm,
    PlannedOp,
    PlannedRope,
    PlannedRows,
    PlannedScale,
    PlannedSplitQkv,
    PlannedUnary,
)
from ttc.plan.programs import DramShardedMatmul, MulticastMatmul, ShardedNorm

# The function of each element as a step of another operation. GELU takes a number: 0 for the exact
# form, 1 for a table of straight lines that is off by 1 %.
ACTIVATIONS: Mapping[str, Expression] = {
    "silu": Name(name="UnaryOpType.SILU"),
    "relu": Name(name="UnaryOpType.RELU"),
    "gelu": Invoke("UnaryWithParam", (Name(name="UnaryOpType.GELU"), 0.0)),
    "gelu_tanh": Name(name="UnaryOpType.GELU_TANH"),
}
# The same as an operation of its own, with its arguments.
FUNCTIONS: Mapping[str, tuple[str, tuple[tuple[str, Expression], ...]]] = {
    "silu": ("silu", ()),
    "relu": ("relu", ()),
    "gelu": ("gelu", (("variant", Name(name="GeluVariant.Accurate")),)),
    "gelu_tanh": ("gelu", (("variant", Name(name="GeluVariant.Tanh")),)),
}


def lower_op(op: PlannedOp, constants: Constants) -> tuple[Statement, ...]:
    """The calls that carry out one operation, its operands and results under their own names."""
    return _LOWERINGS[type(op)](op, constants)


def _embedding(op: PlannedEmbedding, constants: Constants) -> tuple[Statement, ...]:
    node = op.node
    rows = op.gather.x if op.gather else op.out
    name = f"{node.out}_part" if op.gather else node.out
    calls = (
        Call(
            function="embedding",
            args=(Ref(name=node.tokens), Ref(name=f"w.{node.weight}")),
            kwargs=(
                ("layout", Name(name="TILE_LAYOUT")),
                ("memory_config", constants.placement(rows.placement)),
            ),
            results=(name,),
            value=node.out,
            at=node.at,
        ),
        Call(
            function="reshape",
            args=(Ref(name=name), rows.shape),
            results=(name,),
        ),
    )
    gathering = lower_collective(op.gather, name, node.out, constants) if op.gather else ()
    return (*calls, *gathering)


def _norm(op: PlannedNorm, constants: Constants) -> tuple[Statement, ...]:
    node, x = op.node, op.node.x
    calls: list[Statement] = []
    if op.gathered is not None:
        x = f"{node.x}_gathered"
        calls.append(
            Call(
                function="sharded_to_interleaved",
                args=(Ref(name=node.x), constants.placement(op.gathered.placement)),
                results=(x,),
                value=node.out,
                at=node.at,
                why="A norm does not read the shards of heads, but it writes them.",
            )
        )
    if op.gather is not None:
        calls += lower_collective(op.gather, x, f"{x}_whole", constants, of=node)
        x = f"{x}_whole"
    kwargs: list[tuple[str, Expression]] = [("epsilon", node.epsilon)]
    if node.weight:
        kwargs.append(("weight", Ref(name=f"w.{node.weight}")))
    if isinstance(node, LayerNorm):
        kwargs += [("bias", Ref(name=f"w.{bias}")) for bias in node.biases]
    if op.program is not None:
        name = _norm_name(op.program, op.out)
        kwargs.append(("program_config", constants.program(op.program, name, node.out)))
    kwargs += [
        ("memory_config", constants.placement(op.out.placement)),
        ("compute_kernel_config", constants.fidelity(op.compute)),
    ]
    calls.append(
        Call(
            function="layer_norm" if isinstance(node, LayerNorm) else "rms_norm",
            args=(Ref(name=x),),
            kwargs=tuple(kwargs),
            results=(node.out,),
            value="" if calls else node.out,
            at=None if calls else node.at,
        )
    )
    return tuple(calls)


def _norm_name(program: ShardedNorm, out: TensorPlan) -> str:
    return f"NORM_{out.shape[2]}X{out.shape[3]}"


def _linear(op: PlannedLinear, constants: Constants) -> tuple[Statement, ...]:
    node = op.node
    product = f"{node.out}_part" if op.collective else node.out
    parts = [product] if len(op.weights) == 1 else [f"{product}_{i}" for i in _range(op.weights)]
    calls: list[Statement] = []
    for i, (part, weight) in enumerate(zip(parts, op.weights, strict=True)):
        out = op.split_outs[i]
        program = constants.program(
            op.programs[i], _matmul_name(op.programs[i], out, op.rows), node.out
        )
        calls.append(
            Call(
                function="linear",
                args=(Ref(name=node.x), Ref(name=f"w.{weight}")),
                kwargs=(
                    *((("bias", Ref(name=f"w.{op.biases[i]}")),) if op.biases else ()),
                    ("program_config", program),
                    ("compute_kernel_config", constants.fidelity(op.compute)),
                    ("dtype", dtype_name(out.dtype)),
                    ("memory_config", constants.placement(out.placement)),
                ),
                results=(part,),
                value=node.out if i == 0 else "",
                at=node.at if i == 0 else None,
            )
        )
    target = constants.placement(op.out.placement)
    if op.collective is not None:
        calls += lower_collective(op.collective, product, node.out, constants)
    elif len(parts) > 1:
        calls.append(
            Call(
                function="concat",
                args=(Items(tuple(Ref(name=part) for part in parts)),),
                kwargs=(("dim", 3), ("memory_config", target)),
                results=(node.out,),
            )
        )
    elif op.out.placement != op.split_outs[0].placement:
        calls.append(
            Call(
                function="sharded_to_interleaved",
                args=(Ref(name=node.out), target),
                results=(node.out,),
            )
        )
    return tuple(calls)


def _range(items: tuple[str, ...]) -> range:
    return range(len(items))


def _matmul_name(program: DramShardedMatmul | MulticastMatmul, out: TensorPlan, rows: int) -> str:
    product = f"{rows}X{out.shape[3]}"
    if isinstance(program, DramShardedMatmul):
        return f"MATMUL_{product}"
    return f"MATMUL_{out.shape[2]}X{product}"


def _gated(op: PlannedGated, constants: Constants) -> tuple[Statement, ...]:
    node = op.node
    return (
        Call(
            function="mul",
            args=(Ref(name=node.gate), Ref(name=node.up)),
            kwargs=(
                (
                    "input_tensor_a_activations",
                    Items((ACTIVATIONS[node.activation],)),
                ),
                ("dtype", dtype_name(op.out.dtype)),
                ("memory_config", constants.placement(op.out.placement)),
            ),
            results=(node.out,),
            value=node.out,
            at=node.at,
        ),
    )


def _add(op: PlannedAdd, constants: Constants) -> tuple[Statement, ...]:
    node = op.node
    return (
        Call(
            function="add",
            args=(Ref(name=node.a), Ref(name=node.b)),
            kwargs=(
                *_scaled(node.scale),
                ("dtype", dtype_name(op.out.dtype)),
                ("memory_config", constants.placement(op.out.placement)),
            ),
            results=(node.out,),
            value=node.out,
            at=node.at,
        ),
    )


def _scaled(scale: float) -> tuple[tuple[str, Expression], ...]:
    """A factor of the second operand, applied as that is read."""
    if scale == 1.0:
        return ()
    factor = Invoke("UnaryWithParam", (Name(name="UnaryOpType.MUL_UNARY_SFPU"), scale))
    return (("input_tensor_b_activations", Items((factor,))),)


def _unary(op: PlannedUnary, constants: Constants) -> tuple[Statement, ...]:
    node = op.node
    args: tuple[Expression, ...] = (Ref(name=node.x),)
    kwargs: tuple[tuple[str, Expression], ...] = ()
    match node:
        case Activate():
            function, kwargs = FUNCTIONS[node.activation]
        case Multiply():
            function, args = "multiply", (*args, node.factor)
        case Softcap():
            function, args = "unary_chain", (*args, softcap(node.cap))
    return (
        Call(
            function=function,
            args=args,
            kwargs=(*kwargs, ("memory_config", constants.placement(op.out.placement))),
            results=(node.out,),
            value=node.out,
            at=node.at,
        ),
    )


def _scale(op: PlannedScale, constants: Constants) -> tuple[Statement, ...]:
    node = op.node
    return (
        Call(
            function="multiply",
            args=(Ref(name=node.x), Ref(name=f"w.{op.weight}")),
            kwargs=(("memory_config", constants.placement(op.out.placement)),),
            results=(node.out,),
            value=node.out,
            at=node.at,
        ),
    )


def _concat(op: PlannedConcat, constants: Constants) -> tuple[Statement, ...]:
    node = op.node
    return (
        Call(
            function="concat",
            args=(Items(tuple(Ref(name=name) for name in node.xs)),),
            kwargs=(("dim", 3), ("memory_config", constants.placement(op.out.placement))),
            results=(node.out,),
            value=node.out,
            at=node.at,
        ),
    )


def _rows(op: PlannedRows, constants: Constants) -> tuple[Statement, ...]:
    width = op.sliced.shape[3]
    return (
        Call(
            function="slice",
            args=(
                Ref(name="x"),
                (0, 0, Ref(name="row"), 0),
                (1, 1, Sum(name="row", number=op.rows), width),
            ),
            results=("rows",),
        ),
        *_to_head(op, constants),
    )


def lower_picked(op: PlannedRows, constants: Constants) -> tuple[Statement, ...]:
    """As many rows from anywhere in a prefill: those that `last` numbers."""
    return (
        Call(
            function="untilize",
            args=(Ref(name="x"),),
            results=("tokens",),
            why="Rows are gathered as those of a table are.",
        ),
        Call(
            function="embedding",
            args=(Ref(name="last"), Ref(name="tokens")),
            kwargs=(
                ("layout", Name(name="TILE_LAYOUT")),
                ("memory_config", constants.placement(op.sliced.placement)),
            ),
            results=("rows",),
        ),
        Call(function="reshape", args=(Ref(name="rows"), op.sliced.shape), results=("rows",)),
        *_to_head(op, constants),
    )


def _to_head(op: PlannedRows, constants: Constants) -> tuple[Statement, ...]:
    """The rows where the head wants them."""
    if op.gather:
        return lower_collective(op.gather, "rows", op.value, constants)
    placement = constants.placement(op.out.placement)
    args = (Ref(name="rows"), placement)
    return (Call(function="interleaved_to_sharded", args=args, results=(op.value,)),)


_LOWERINGS: Mapping[type, Callable[[Any, Constants], tuple[Statement, ...]]] = {
    PlannedEmbedding: _embedding,
    PlannedNorm: _norm,
    PlannedLinear: _linear,
    PlannedConcat: _concat,
    PlannedSplitQkv: lower_split_qkv,
    PlannedRope: lower_rope,
    PlannedAttention: lower_attention,
    PlannedGated: _gated,
    PlannedAdd: _add,
    PlannedUnary: _unary,
    PlannedScale: _scale,
    PlannedRows: _rows,
}
