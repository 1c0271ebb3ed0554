"""Planning of a prefill: all tokens of a prompt, or of several, activations interleaved in DRAM."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

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
from ttc.plan.collectives import gather, scatter_sum, whole_sum
from ttc.plan.matmul import plan_multicast
from ttc.plan.placement import DRAM, DType, TensorPlan
from ttc.plan.plan import (
    DecoderPlan,
    PhasePlan,
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
from ttc.plan.scores import Scores, continued_scores, prefill_scores, with_products
from ttc.plan.sdpa import plan_sdpa, sdpa_bytes
from ttc.plan.setting import MATMUL_GROUPS, Setting, window_of
from ttc.plan.tables import RopeForm
from ttc.plan.walk import Planners, Values, plan_nodes
from ttc.plan.weights import HEADS, ROWS
from ttc.spec.precision import EffectivePrecision, Fidelity
from ttc.spec.taken_names import stored_name


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillStep:
    """What every operation of a prefill is planned against: `tokens` of each of `prompts`."""

    setting: Setting
    graph: Graph
    precision: EffectivePrecision
    rope_form: RopeForm
    tokens: int
    prompts: int = 1

    @property
    def rows(self) -> int:
        """Tokens of all prompts, which are rows of one matrix everywhere but in attention."""
        return self.prompts * self.tokens


def plan_prefill_ops(step: PrefillStep, inputs: Mapping[str, TensorPlan]) -> tuple[PlannedOp, ...]:
    """Plan each node of the step's graph in order; `inputs` are the graph's inputs."""
    return plan_nodes(step.graph, _PLANNERS, step, inputs)


def continue_prompt(phase: PhasePlan, keys: int, setting: Setting) -> PhasePlan:
    """The step for a chunk that starts anywhere in its prompt: only attention differs.

    It reads `keys` at once, and ttnn wants starts that are multiples of that. Products read the
    whole cache of a user, and whole rows of masks.
    """
    masks = tuple(replace(mask, out=mask.gathered) for mask in phase.masks)
    context = masks[0].gathered.shape[3] if masks else 0

    def continued(decoder: DecoderPlan) -> DecoderPlan:
        ops = (
            _continued(op, keys, context, setting) if isinstance(op, PlannedAttention) else op
            for op in decoder.ops
        )
        return replace(decoder, ops=tuple(ops))

    decoders = tuple(map(continued, phase.decoders))
    return replace(phase, continues=True, masks=masks, decoders=decoders)


def _continued(op: PlannedAttention, keys: int, context: int, setting: Setting) -> PlannedAttention:
    if op.scores is not None:
        scores = continued_scores(op.scores, context=context, kv_dtype=op.kv_dtype)
        scores, size = _with_products(scores, op.kv_dtype, op.compute, setting)
        return replace(op, continues=True, scores=scores, buffer_bytes=size)
    assert op.program is not None, "what is not made of products has a program"
    q_chunk = min(op.program.q_chunk_tokens, keys)
    program = replace(op.program, q_chunk_tokens=q_chunk, k_chunk_tokens=keys)
    prompts, tokens, head_dim = op.prompts, op.out.shape[2] // op.prompts, setting.dims.head_dim
    size = sdpa_bytes(
        program,
        head_dim=head_dim,
        dtype=op.out.dtype,
        kv_dtype=op.kv_dtype,
        window=op.window,
        compute=op.compute,
    )
    return replace(
        op,
        continues=True,
        program=program,
        buffer_bytes=size,
        gathered=replace(op.out, shape=(prompts, op.heads, tokens, head_dim)),
    )


def _with_products(
    scores: Scores, kv_dtype: DType, compute: Fidelity, setting: Setting
) -> tuple[Scores, int]:
    chip, kept = setting.chip, setting.kept_l1_bytes
    return with_products(scores, kv_dtype=kv_dtype, compute=compute, chip=chip, kept_bytes=kept)


def _embedding(
    node: Embedding, step: PrefillStep, values: Values
) -> tuple[PlannedEmbedding, Values]:
    out = TensorPlan(
        shape=(1, 1, step.rows, step.setting.embedded),
        dtype=step.precision.dtype("residual", "prefill"),
        placement=DRAM,
    )
    gathered = None
    if step.setting.embedded < step.setting.dims.hidden and not step.setting.fractured:
        gathered = gather(step.setting, out, DRAM)
        out = gathered.out
    return PlannedEmbedding(node=node, out=out, gather=gathered), {node.out: out}


def _norm(
    node: RmsNorm | LayerNorm, step: PrefillStep, values: Values
) -> tuple[PlannedNorm, Values]:
    setting, x = step.setting, values[node.x]
    compute = step.precision.fidelity("norm", "prefill")
    # Only sums and embedded tokens are a part of the width; a norm needs all of it.
    on_stream = isinstance(step.graph.producer(node.x), Add | Embedding | None)
    whole = gather(setting, x, DRAM) if setting.fractured and on_stream else None
    out = whole.out if whole else x
    op = PlannedNorm(
        node=setting.norm(node),
        program=None,
        compute=compute,
        gathered=None,
        out=out,
        gather=whole,
    )
    return op, {node.out: out}


def _scale_heads(
    node: ScaleHeads, step: PrefillStep, values: Values
) -> tuple[PlannedScale, Values]:
    """A matrix of tokens for each head: its row of the weight is a matrix of one row."""
    out = values[node.x]
    return PlannedScale(node=node, weight=f"{node.weight}{HEADS}", out=out), {node.out: out}


def _linear(node: Linear, step: PrefillStep, values: Values) -> tuple[PlannedLinear, Values]:
    setting, x = step.setting, values[node.x]
    group = setting.weight_groups[node.weights[0]]
    groups = MATMUL_GROUPS[group]
    compute = step.precision.fidelity(groups.op["prefill"], "prefill")
    dtype = step.precision.dtype(groups.activation, "prefill")
    if setting.sums_ranks(node):
        dtype = step.precision.dtype("collectives", "prefill")
    elif step.rope_form == "pairs" and group == "wqkv":  # pairs are rotated in bf16 only
        dtype = "bf16"
    columns = sum(setting.weight_shapes[name][0] for name in node.weights)
    program, buffers = plan_multicast(
        tokens=step.rows,
        rows=x.shape[3],
        columns=columns,
        x_dtype=x.dtype,
        weight_dtype=step.precision.dtype(group, "prefill"),
        out=dtype,
        compute=compute,
        chip=setting.chip,
        kept_bytes=setting.kept_l1_bytes,
    )
    out = TensorPlan(shape=(1, 1, step.rows, columns), dtype=dtype, placement=DRAM)
    collective = None
    if setting.sums_ranks(node):
        collective = (
            scatter_sum(setting, out) if setting.fractured else whole_sum(setting, out, out)
        )
    op = PlannedLinear(
        node=node,
        rows=x.shape[3],
        weights=(stored_name(node.weights),),
        biases=(f"{stored_name(node.biases)}{ROWS}",) if node.biases else (),
        programs=(program,),
        buffer_bytes=(buffers,),
        compute=compute,
        split_outs=(out,),
        out=collective.out if collective else out,
        collective=collective,
    )
    return op, {node.out: op.out}


def _split_qkv(node: SplitQkv, step: PrefillStep, values: Values) -> tuple[PlannedSplitQkv, Values]:
    dims, dtype = step.setting.dims, values[node.qkv].dtype

    def heads(count: int) -> TensorPlan:
        shape = (step.prompts, count, step.tokens, dims.head_dim)
        return TensorPlan(shape=shape, dtype=dtype, placement=DRAM)

    q, k = heads(dims.heads), heads(dims.kv_heads)
    op = PlannedSplitQkv(
        node=node,
        decode=False,
        users=1,
        heads=dims.heads,
        kv_heads=dims.kv_heads,
        overlap=False,
        q=q,
        k=k,
        v=k,
    )
    return op, {node.q: q, node.k: k, node.v: k}


def _rope_qk(node: RopeQk, step: PrefillStep, values: Values) -> tuple[PlannedRope, Values]:
    q, k = values[node.q], values[node.k]
    op = PlannedRope(
        node=node,
        decode=False,
        form=step.rope_form,
        fused=False,
        compute=step.precision.fidelity("rope", "prefill"),
        q=q,
        k=k,
    )
    return op, {node.q_out: q, node.k_out: k}


def _attention(
    node: Attention, step: PrefillStep, values: Values
) -> tuple[PlannedAttention, Values]:
    setting, q, k = step.setting, values[node.q], values[node.k]
    dims = setting.dims
    kv_dtype = step.precision.dtype("kv_cache", "prefill")
    width = dims.heads * dims.head_dim
    out = TensorPlan(shape=(1, 1, step.rows, width), dtype=q.dtype, placement=DRAM)
    window, program, scores = window_of(node, setting), None, None
    compute = step.precision.fidelity("sdpa_prefill", "prefill")
    if node.cap:
        out = replace(out, dtype="bf16")
        scores = prefill_scores(node.cap, window, dims, users=setting.slots, tokens=step.tokens)
        scores, size = _with_products(scores, kv_dtype, compute, setting)
    else:
        program, size = plan_sdpa(
            step.tokens,
            head_dim=dims.head_dim,
            dtype=q.dtype,
            kv_dtype=kv_dtype,
            window=window,
            compute=compute,
            chip=setting.chip,
            kept_bytes=setting.kept_l1_bytes,
        )
    op = PlannedAttention(
        node=node,
        decode=False,
        scale=node.scale,
        window=window,
        heads=dims.heads,
        cast_kv=k.dtype != kv_dtype,
        kv_dtype=kv_dtype,
        fused_update=False,
        program=program,
        buffer_bytes=size,
        compute=compute,
        gathered=out,
        split=out,
        out=out,
        scores=scores,
        prompts=step.prompts,
    )
    return op, {node.out: out}


def _gated(node: Gated, step: PrefillStep, values: Values) -> tuple[PlannedGated, Values]:
    out = TensorPlan(
        shape=values[node.gate].shape,
        dtype=step.precision.dtype("ff_act", "prefill"),
        placement=DRAM,
    )
    return PlannedGated(node=node, out=out), {node.out: out}


def _add(node: Add, step: PrefillStep, values: Values) -> tuple[PlannedAdd, Values]:
    out = TensorPlan(
        shape=values[node.a].shape,
        dtype=step.precision.dtype("residual", "prefill"),
        placement=DRAM,
    )
    return PlannedAdd(node=node, out=out), {node.out: out}


def _unary(
    node: Activate | Multiply | Softcap, step: PrefillStep, values: Values
) -> tuple[PlannedUnary, Values]:
    out = values[node.x]
    return PlannedUnary(node=node, out=out), {node.out: out}


def _concat(node: Concat, step: PrefillStep, values: Values) -> tuple[PlannedConcat, Values]:
    xs = [values[name] for name in node.xs]
    width = sum(x.shape[3] for x in xs)
    out = TensorPlan(shape=(1, 1, step.rows, width), dtype=xs[0].dtype, placement=DRAM)
    return PlannedConcat(node=node, moved=0, out=out), {node.out: out}


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
