"""Planning of a decode step: one token for each user, activations sharded in L1.

The residual stream stays in one placement from embedding to head; matmuls stream their weights
from the DRAM banks and write the shards that their reader wants, so that nothing is moved.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil

from ttc.errors import PlanError, Problem
from ttc.graph.graph import Graph
from ttc.graph.nodes import (
    Activate,
    Add,
    Attention,
    Concat,
    Embedding,
    Gated,
    LayerNorm,
    Linear,
    Multiply,
    RmsNorm,
    RopeQk,
    ScaleHeads,
    Softcap,
    SplitQkv,
)
from ttc.plan.collectives import buffer_name, buffered_sum, gather, whole_sum
from ttc.plan.exchange import Collective
from ttc.plan.l1 import greedy_bytes
from ttc.plan.matmul import matmul_limit, plan_dram_sharded
from ttc.plan.placement import (
    DRAM,
    L1,
    TILE,
    DType,
    Placement,
    TensorPlan,
    core_run,
    divisors,
    largest_divisor,
    rectangle,
    row_major_cores,
    tiles,
)
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
    PlannedScale,
    PlannedSplitQkv,
    PlannedUnary,
)
from ttc.plan.programs import DramShardedMatmul, SdpaProgram, ShardedNorm
from ttc.plan.rotation import heads_apart, splits_shards
from ttc.plan.scores import decode_scores
from ttc.plan.setting import MATMUL_GROUPS, Setting, window_of
from ttc.plan.tables import RopeForm
from ttc.plan.walk import Planners, Values, plan_nodes
from ttc.plan.weights import bias_names, column_splits
from ttc.spec.precision import EffectivePrecision, Fidelity
from ttc.spec.taken_names import stored_name

# Placements whose grid and shard the operation that writes them works out.
WORKED_OUT = ("L1_WIDTH_SHARDED", "L1_HEIGHT_SHARDED")


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeStep:
    """What every operation of a decode step is planned against."""

    setting: Setting
    graph: Graph
    precision: EffectivePrecision
    rope_form: RopeForm

    @property
    def cores(self) -> int:
        """Cores that programs may use."""
        return self.setting.chip.grid.cores

    @property
    def separate_heads(self) -> bool:
        """Whether q and k of all users can lie on cores of their own."""
        return heads_apart(self.setting)


def plan_decode_ops(step: DecodeStep, inputs: Mapping[str, TensorPlan]) -> tuple[PlannedOp, ...]:
    """Plan each node of the step's graph in order; `inputs` are the graph's inputs."""
    return plan_nodes(step.graph, _PLANNERS, step, inputs)


def _embedding(
    node: Embedding, step: DecodeStep, values: Values
) -> tuple[PlannedEmbedding, Values]:
    out = TensorPlan(
        shape=(1, 1, TILE, step.setting.dims.hidden),
        dtype=step.precision.dtype("residual", "decode"),
        placement=step.setting.residual,
    )
    gathered = None
    if step.setting.embedded < out.shape[3]:
        part = replace(out, shape=(1, 1, TILE, step.setting.embedded), placement=L1)
        gathered = gather(step.setting, part, out.placement)
    return PlannedEmbedding(node=node, out=out, gather=gathered), {node.out: out}


def _norm(
    node: RmsNorm | LayerNorm, step: DecodeStep, values: Values
) -> tuple[PlannedNorm, Values]:
    x = values[node.x]
    compute = step.precision.fidelity("norm")
    if x.placement.layout == "height_sharded":
        return _norm_of_heads(step.setting.norm(node), x, compute)
    ((x0, y0, x1, y1),) = x.placement.grid
    block_w = tiles(x.placement.shard[1])
    program = ShardedNorm(
        grid=(x1 - x0 + 1, y1 - y0 + 1),
        block_h=1,
        block_w=block_w,
        subblock_w=largest_divisor(block_w, 4),
    )
    out = _where(x, node.out)
    node = step.setting.norm(node)
    op = PlannedNorm(node=node, program=program, compute=compute, gathered=None, out=out)
    return op, {node.out: out}


def _where(x: TensorPlan, value: str) -> TensorPlan:
    """A result on the cores of an operand, which only some operations work out by themselves."""
    if x.placement.name not in WORKED_OUT:
        return x
    return replace(x, placement=replace(x.placement, name=f"{value.upper()}_L1"))


def _norm_of_heads(
    node: RmsNorm | LayerNorm, x: TensorPlan, compute: Fidelity
) -> tuple[PlannedNorm, Values]:
    """ttnn's norms refuse height sharded operands, but write height sharded results."""
    out = _where(x, node.out)
    gathered = replace(x, placement=L1)
    op = PlannedNorm(node=node, program=None, compute=compute, gathered=gathered, out=out)
    return op, {node.out: out}


def _scale_heads(node: ScaleHeads, step: DecodeStep, values: Values) -> tuple[PlannedScale, Values]:
    """A tile holds all heads of a user: their rows of the weight are one matrix."""
    out = _where(values[node.x], node.out)
    return PlannedScale(node=node, weight=node.weight, out=out), {node.out: out}


def _linear(node: Linear, step: DecodeStep, values: Values) -> tuple[PlannedLinear, Values]:
    setting = step.setting
    x = values[node.x]
    group = setting.weight_groups[node.weights[0]]
    groups = MATMUL_GROUPS[group]
    compute = step.precision.fidelity(groups.op["decode"])
    dtype = result = step.precision.dtype(groups.activation, "decode")
    if setting.sums_ranks(node):
        dtype = step.precision.dtype("collectives", "decode")
    elif group == "wqkv":  # heads are split in bf16 only
        dtype = result = "bf16"
    weight_dtype = step.precision.dtype(group, "decode")
    rows = x.shape[3]
    splits = column_splits(node, setting, step.precision)
    outs = [
        _width_sharded(columns, _columns_per_core(node, columns, step), dtype, step)
        for columns in splits
    ]
    programs: list[DramShardedMatmul] = []
    buffers: list[int] = []
    for columns, out in zip(splits, outs, strict=True):
        waiting = sum(each.bytes_per_core(step.cores) for each in outs if each is not out)
        kept = setting.kept_l1_bytes + waiting
        program, size = plan_dram_sharded(
            rows=rows,
            columns=columns,
            in_cores=x.placement.cores,
            per_core_n=tiles(out.placement.shard[1]),
            x_dtype=x.dtype,
            weight_dtype=weight_dtype,
            out=dtype,
            compute=compute,
            chip=setting.chip,
            kept_bytes=kept,
        )
        if size > (limit := matmul_limit(setting.chip, kept)):
            raise PlanError(
                Problem(
                    message=f"the decode matmul of {'|'.join(node.weights)} does not fit in L1 "
                    f"of {setting.mesh.name}",
                    at=node.at,
                    note=f"its buffers need {size} bytes of a core, which has {limit} for them",
                    help="a smaller dtype for this group, or a mesh that splits it, would fit",
                )
            )
        programs.append(program)
        buffers.append(size)
    out = outs[0]
    if len(splits) > 1 or _leaves(node.out, step.graph):  # logits are read as one tensor
        out = _joined(setting, sum(splits), dtype)
    reads_heads = any(isinstance(each, SplitQkv) for each in step.graph.consumers(node.out))
    if reads_heads and not splits_shards(setting):
        out = replace(out, placement=L1)
    collective = _sum(node, out, result, step) if setting.sums_ranks(node) else None
    name = stored_name(node.weights)
    weights = (name,) if len(splits) == 1 else tuple(f"{name}_{i}" for i in range(len(splits)))
    op = PlannedLinear(
        node=node,
        rows=rows,
        weights=weights,
        biases=bias_names(node, len(splits)),
        programs=tuple(programs),
        buffer_bytes=tuple(buffers),
        compute=compute,
        split_outs=tuple(outs),
        out=collective.out if collective else out,
        collective=collective,
    )
    return op, {node.out: op.out}


def _joined(setting: Setting, columns: int, dtype: DType) -> TensorPlan:
    """Logits as one tensor: in L1 where a token can be chosen from them there, else in DRAM."""
    chip = setting.chip
    out = TensorPlan(shape=(1, 1, TILE, columns), dtype=dtype, placement=L1)
    limit = matmul_limit(chip, setting.kept_l1_bytes)
    fits = greedy_bytes(out, out, 1, chip.grid.cores) <= limit
    return out if fits else replace(out, placement=DRAM)


def _sum(node: Linear, x: TensorPlan, dtype: DType, step: DecodeStep) -> Collective:
    """The sum of the ranks' products, where the residual stream lives."""
    setting = step.setting
    out = TensorPlan(shape=x.shape, dtype=dtype, placement=setting.residual)
    number = setting.sums_of(step.graph).index(node.out)
    if any(name == buffer_name(number, x.dtype) for name, _ in setting.buffers):
        return buffered_sum(setting, x, out, number)
    return whole_sum(setting, x, replace(out, dtype=x.dtype))


def _columns_per_core(node: Linear, columns: int, step: DecodeStep) -> int:
    """Result tiles on each core: what the operation that reads the result wants."""
    setting, width = step.setting, tiles(columns)
    if _leaves(node.out, step.graph):
        return ceil(width / step.cores)
    reader = step.graph.consumers(node.out)[0]
    if isinstance(reader, SplitQkv) and step.separate_heads:
        return tiles(setting.dims.head_dim)
    if isinstance(reader, Add) or setting.sums_ranks(node):
        return width // setting.residual.cores
    if isinstance(reader, RmsNorm | LayerNorm):
        return width // _norm_cores(width, setting)
    return width // largest_divisor(width, step.cores)


def _leaves(value: str, graph: Graph) -> bool:
    """Whether a value leaves the graph, itself or as functions of its elements."""
    readers = graph.consumers(value)
    functions = [each for each in readers if isinstance(each, Activate | Multiply | Softcap)]
    return len(functions) == len(readers) and all(_leaves(each.out, graph) for each in functions)


def _norm_cores(width: int, setting: Setting) -> int:
    """Cores for a result that a norm reads: a norm runs on a rectangle, a matmul writes row by row.

    The residual stream's where they are one, else the most that fill whole rows of cores.
    """
    grid = setting.chip.grid
    fitting = [
        cores
        for cores in divisors(width)
        if cores <= grid.x or (cores % grid.x == 0 and cores <= grid.cores)
    ]
    residual = setting.residual.cores
    return residual if residual in fitting else max(fitting)


def _width_sharded(columns: int, per_core_n: int, dtype: DType, step: DecodeStep) -> TensorPlan:
    cores = ceil(tiles(columns) / per_core_n)
    placement = Placement(
        name="L1_WIDTH_SHARDED",
        buffer="l1",
        layout="width_sharded",
        grid=row_major_cores(cores, step.setting.chip.grid.x),
        shard=(TILE, per_core_n * TILE),
    )
    return TensorPlan(shape=(1, 1, TILE, columns), dtype=dtype, placement=placement)


def _split_qkv(node: SplitQkv, step: DecodeStep, values: Values) -> tuple[PlannedSplitQkv, Values]:
    setting = step.setting
    dims, slots, columns = setting.dims, setting.slots, setting.chip.grid.x
    dtype = values[node.qkv].dtype

    def heads_on(first: int, heads: int) -> TensorPlan:
        placement = Placement(
            name="L1_HEIGHT_SHARDED",
            buffer="l1",
            layout="height_sharded",
            grid=core_run(first, slots, columns),
            shard=(tiles(heads) * TILE, dims.head_dim),
        )
        return TensorPlan(shape=(1, slots, heads, dims.head_dim), dtype=dtype, placement=placement)

    q, v = heads_on(0, dims.heads), heads_on(0, dims.kv_heads)
    k = heads_on(slots if step.separate_heads else 0, dims.kv_heads)
    op = PlannedSplitQkv(
        node=node,
        decode=True,
        users=slots,
        heads=dims.heads,
        kv_heads=dims.kv_heads,
        overlap=not step.separate_heads,
        q=q,
        k=k,
        v=v,
    )
    return op, {node.q: q, node.k: k, node.v: v}


def _rope_qk(node: RopeQk, step: DecodeStep, values: Values) -> tuple[PlannedRope, Values]:
    q, k = values[node.q], values[node.k]
    op = PlannedRope(
        node=node,
        decode=True,
        form=step.rope_form,
        fused=step.rope_form == "pairs" and step.separate_heads,
        compute=step.precision.fidelity("rope"),
        q=q,
        k=k,
    )
    return op, {node.q_out: q, node.k_out: k}


def _attention(
    node: Attention, step: DecodeStep, values: Values
) -> tuple[PlannedAttention, Values]:
    setting = step.setting
    dims, slots, grid = setting.dims, setting.slots, setting.chip.grid
    q = values[node.q]
    if dims.heads > grid.cores:
        raise PlanError(
            Problem(
                message=f"{dims.heads} query heads on each chip of {setting.mesh.name} cannot be "
                "joined",
                at=setting.spec.source_of("dims.heads"),
                note=f"nlp_concat_heads_decode puts each on a core of its own, of {grid.cores}",
                help="take a mesh of more chips, which divides the heads",
            )
        )
    corners = rectangle(slots, grid.x, grid.y)
    assert corners is not None, "user_slots chose a number that fills a rectangle"
    users = Placement(
        name="HEADS_L1",
        buffer="l1",
        layout="height_sharded",
        grid=(corners,),
        shard=(tiles(dims.heads) * TILE, dims.head_dim),
    )
    joined = Placement(
        name="L1_WIDTH_SHARDED",
        buffer="l1",
        layout="width_sharded",
        grid=row_major_cores(dims.heads, grid.x),
        shard=(TILE, dims.head_dim),
    )
    width = dims.heads * dims.head_dim
    out = TensorPlan(shape=(1, 1, TILE, width), dtype=q.dtype, placement=joined)
    window, scores = window_of(node, setting), None
    if node.cap:
        scores = decode_scores(node.cap, window, dims, users=slots, context=setting.context)
    op = PlannedAttention(
        node=node,
        decode=True,
        scale=node.scale,
        window=window,
        heads=dims.heads,
        cast_kv=False,
        kv_dtype=step.precision.dtype("kv_cache", "decode"),
        fused_update=step.separate_heads,
        program=None
        if scores
        else SdpaProgram(grid=(grid.x, grid.y), q_chunk_tokens=0, k_chunk_tokens=0),
        compute=step.precision.fidelity("sdpa_decode"),
        # With more kv heads the attention cannot write shards (ttnn 0.81.1).
        gathered=replace(q, placement=users if dims.kv_heads == 1 and not scores else L1),
        split=replace(q, placement=users),
        out=out,
        scores=scores,
    )
    return op, {node.out: out}


def _gated(node: Gated, step: DecodeStep, values: Values) -> tuple[PlannedGated, Values]:
    gate = values[node.gate]
    placement = replace(gate.placement, name=f"{node.out.upper()}_L1")
    out = TensorPlan(
        shape=gate.shape,
        dtype=step.precision.dtype("ff_act", "decode"),
        placement=placement,
    )
    return PlannedGated(node=node, out=out), {node.out: out}


def _add(node: Add, step: DecodeStep, values: Values) -> tuple[PlannedAdd, Values]:
    out = TensorPlan(
        shape=values[node.a].shape,
        dtype=step.precision.dtype("residual", "decode"),
        placement=step.setting.residual,
    )
    return PlannedAdd(node=node, out=out), {node.out: out}


def _unary(
    node: Activate | Multiply | Softcap, step: DecodeStep, values: Values
) -> tuple[PlannedUnary, Values]:
    out = _where(values[node.x], node.out)
    return PlannedUnary(node=node, out=out), {node.out: out}


def _concat(node: Concat, step: DecodeStep, values: Values) -> tuple[PlannedConcat, Values]:
    xs = [values[name] for name in node.xs]
    width = sum(x.shape[3] for x in xs)
    out = TensorPlan(shape=(1, 1, TILE, width), dtype=xs[0].dtype, placement=L1)
    return PlannedConcat(node=node, moved=len(xs), out=out), {node.out: out}


_PLANNERS: Planners = {
    Embedding: _embedding,
    RmsNorm: _norm,
    LayerNorm: _norm,
    ScaleHeads: _scale_heads,
    Linear: _linear,
    Concat: _concat,
    SplitQkv: _split_qkv,
    RopeQk: _rope_qk,
    Attention: _attention,
    Gated: _gated,
    Activate: _unary,
    Multiply: _unary,
    Softcap: _unary,
    Add: _add,
}
