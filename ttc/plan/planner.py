"""The planner: a graph, a mesh and a precision profile become a plan, or a reason why not."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from math import ceil

from ttc.errors import PlanError
from ttc.graph.graph import Graph, ModelGraph
from ttc.graph.nodes import Repeat
from ttc.hardware.hardware import Mesh, load_mesh, mesh_names
from ttc.plan.capacity import MemoryPlan
from ttc.plan.check import check_plan
from ttc.plan.chunks import SMALLEST_BUCKET_TOKENS, start_multiple
from ttc.plan.collectives import gather, semaphores, sum_buffers
from ttc.plan.decode import DecodeStep, plan_decode_ops
from ttc.plan.l1 import greedy_bytes
from ttc.plan.limits import (
    check_paging,
    check_request,
    check_sizes,
    check_whole_caches,
    refuse,
    ways_out,
)
from ttc.plan.masks import plan_decode_masks, plan_prefill_masks
from ttc.plan.matmul import matmul_limit
from ttc.plan.memory import add_up, chunk_inputs, plan_memory, rope_positions
from ttc.plan.operations import operations_of, results_of
from ttc.plan.paging import Paging
from ttc.plan.placement import DRAM, TILE, DType, TensorPlan, tiles
from ttc.plan.plan import (
    Choice,
    DecoderPlan,
    HeadPlan,
    KvCachePlan,
    PhasePlan,
    Plan,
    PlannedOp,
    PlannedPositions,
    PlannedRows,
    WeightPlan,
)
from ttc.plan.prefill import (
    PrefillStep,
    plan_prefill_ops,
)
from ttc.plan.prompts import PromptPlan, cut_prompts
from ttc.plan.rotation import plan_decode_positions, plan_prefill_positions, rotation_refused
from ttc.plan.sampling import plan_sampling
from ttc.plan.setting import Setting, make_setting
from ttc.plan.solve import BatchPlan, Sizing
from ttc.plan.tables import RopeForm
from ttc.plan.walk import Values
from ttc.plan.weights import plan_tables, plan_weights
from ttc.spec.model import ModelSpec
from ttc.spec.precision import EffectivePrecision, PrecisionProfile

type Planned = tuple[PlannedOp, ...]

# Context planned for when none is asked for: enough for a conversation, small enough to open fast.
DEFAULT_CONTEXT_TOKENS = 4096


def plan_model(
    spec: ModelSpec,
    graph: ModelGraph,
    mesh: Mesh,
    profile: PrecisionProfile,
    *,
    batch: int = 1,
    context: int | None = None,
    chunk: int | None = None,
    tp: int | None = None,
    paging: Paging | None = None,
) -> Plan:
    """Choose everything for one model on one mesh.

    `batch` users of up to `context` tokens each (None: as many as a conversation needs and fit);
    prompts are read in chunks of `chunk` tokens, or of the most below that fits (None: what is
    fastest, within the spec's value for the mesh);
    `tp` chips of the mesh work on one user (None: the spec's value, else the longer axis);
    `paging` cuts the KV caches into blocks (None: of 32 tokens, enough for all users' contexts).
    Raises PlanError with the numbers, and what would fit, where the model cannot be planned.
    """
    request = Request(
        spec=spec,
        graph=graph,
        profile=profile,
        batch=batch,
        chunk=chunk,
        tp=tp,
        paging=paging or Paging(),
    )
    check_paging(request.spec, request.paging)
    wanted = default_context(request) if context is None else context
    plan, sizing = _plan(request, mesh, wanted)
    if context is None and not plan.memory.fits_dram:
        less = sizing.largest_context(batch)
        if less >= SMALLEST_BUCKET_TOKENS:
            plan, sizing = _plan(request, mesh, less)
    if not plan.memory.fits:
        ways = () if plan.memory.fits_dram else ways_out(sizing, plan.largest)
        larger = "" if ways else _smallest_mesh(request, mesh, plan, wanted)
        raise refuse(plan, spec, ways, larger)
    return plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is planned for, wherever it is planned: all but the mesh and the context."""

    spec: ModelSpec
    graph: ModelGraph
    profile: PrecisionProfile
    batch: int
    chunk: int | None
    tp: int | None
    paging: Paging


def default_context(request: Request) -> int:
    """Tokens of each user when nobody says: a conversation, as far as model and blocks allow."""
    paging = request.paging
    wanted = min(DEFAULT_CONTEXT_TOKENS, request.spec.max_context_tokens)
    if paging.max_blocks is not None:
        wanted = min(wanted, paging.max_blocks * paging.block_tokens)
    return max(1, paging.per_user(wanted)) * paging.block_tokens


def _smallest_mesh(request: Request, refused: Mesh, plan: Plan, context: int) -> str:
    """The mesh with the least memory that holds a request which `refused` does not; "" if none."""
    weights = plan.memory.weight_bytes
    meshes = sorted(map(load_mesh, mesh_names()), key=lambda mesh: mesh.dram_bytes)
    for mesh in meshes:
        if mesh.dram_bytes <= max(weights, refused.dram_bytes):
            continue
        try:
            found = _choose(request, mesh, context)
        except PlanError:
            continue
        if found.memory.fits:
            return mesh.name
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chosen:
    """All that a plan is made of, before what else would fit is asked."""

    setting: Setting
    sizing: Sizing
    users: BatchPlan
    prompts: PromptPlan
    weights: tuple[WeightPlan, ...]
    kv_cache: KvCachePlan
    memory: MemoryPlan
    choices: tuple[Choice, ...]


def _choose(request: Request, mesh: Mesh, context: int) -> _Chosen:
    spec, batch = request.spec, request.batch
    check_request(spec, mesh, batch=batch, context=context, paging=request.paging)
    check_sizes(spec, request.graph, mesh)
    setting = make_setting(
        spec,
        request.graph,
        mesh,
        request.profile,
        batch=batch,
        context=context,
        paging=request.paging,
        tp=request.tp,
    )
    check_whole_caches(setting)
    setting = replace(setting, buffers=sum_buffers(setting))
    rope_form, choice = _choose_rope_form(setting)
    positions = _positions(setting, rope_form)
    weights = plan_weights(setting, rope_form, positions)
    stored = add_up(weights, setting)
    sizing = Sizing(setting, stored, _plan_batch)
    users = sizing.of_batch(batch)
    kv_cache = users.kv_cache(setting)
    prompts = cut_prompts(sizing, weights, kv_cache, chunk=request.chunk)
    memory = plan_memory(
        setting,
        stored=stored,
        kv_cache=kv_cache,
        decode=users.decode,
        prefill=prompts.phases,
        head=users.head,
    )
    return _Chosen(
        setting=setting,
        sizing=sizing,
        users=users,
        prompts=prompts,
        weights=weights,
        kv_cache=kv_cache,
        memory=memory,
        choices=(*setting.choices, choice, *prompts.choices),
    )


def _plan(request: Request, mesh: Mesh, context: int) -> tuple[Plan, Sizing]:
    spec, chosen = request.spec, _choose(request, mesh, context)
    setting, decode, prompts = chosen.setting, chosen.users.decode, chosen.prompts
    plan = Plan(
        spec=spec.file,
        model=spec.model,
        mesh=mesh.name,
        arch=mesh.chip.arch,
        parallel=setting.parallel,
        profile=request.profile.name,
        batch=request.batch,
        slots=setting.slots,
        context=context,
        vocab=spec.dims.vocab,
        rope_positions=rope_positions(setting, decode.positions),
        prefill_chunk_tokens=prompts.chunk,
        chunk_start_tokens=start_multiple(prompts.chunk, setting.paging.block_tokens),
        pages=chunk_inputs(setting, prompts.chunk).pages,
        kv_cache=chosen.kv_cache,
        decode=decode,
        prefill=prompts.first,
        chunks=prompts.later,
        batched=prompts.batched,
        batched_chunks=prompts.batched_later,
        together=prompts.together,
        head=chosen.users.head,
        weights=chosen.weights,
        memory=chosen.memory,
        largest=chosen.sizing.largest(),
        buffers=setting.buffers,
        semaphores=semaphores(setting),
        choices=chosen.choices,
    )
    check_plan(plan)
    return plan, chosen.sizing


def _positions(setting: Setting, rope_form: RopeForm) -> tuple[PlannedPositions, ...]:
    """What a decode step gathers, for each table that a decoder rotates by."""
    return tuple(plan_decode_positions(setting, rope_form, table) for table in setting.rope_tables)


def _plan_batch(setting: Setting) -> BatchPlan:
    """What a number of users needs, for the search of what would still fit."""
    rope_form, _ = _choose_rope_form(setting)
    positions = _positions(setting, rope_form)
    return BatchPlan(
        setting=setting,
        decode=_plan_decode(setting, rope_form),
        head=_plan_head(setting, rope_form),
        prefill=cache(partial(_plan_prefill, setting, rope_form)),
        kv_cache=lambda at: _plan_kv_cache(at, rope_form),
        tables=lambda at: plan_tables(at, rope_form, positions),
    )


def _choose_rope_form(setting: Setting) -> tuple[RopeForm, Choice]:
    """Which elements of a head rotate together: the form that launches the fewest operations.

    Prefill writes and decode reads one KV cache, so both use one form. "pairs" has an operation
    that rotates q and k at once in decode, but takes bf16 only; "halves" takes block formats in
    prefill, which saves retyping k and v for a block-format cache. Raises PlanError where the
    width of a head rules out both.
    """
    costs: dict[RopeForm, tuple[int, str]] = {}
    refused: dict[RopeForm, str] = {}
    for form in ("pairs", "halves"):
        why = rotation_refused(setting, form)
        if why:
            refused[form] = f"not legal: {why}"
            continue
        decode = max(operations_of(d.ops) for d in _decoders_decode(setting, form))
        prefill = max(
            operations_of(d.ops) for d in _decoders_prefill(setting, form, SMALLEST_BUCKET_TOKENS)
        )
        costs[form] = (
            decode + prefill,
            f"{decode} operations in decode, {prefill} in prefill",
        )
    taken = min(costs, key=lambda form: costs[form][0])
    texts = {form: text for form, (_, text) in costs.items()} | refused
    alternatives = tuple(sorted((form, text) for form, text in texts.items()))
    return taken, Choice(name="rope_form", taken=taken, alternatives=alternatives)


def _entering(graph: Graph) -> tuple[Graph, Graph]:
    """The model graph before its Repeat, and after it."""
    (repeat,) = graph.find(Repeat)
    at = graph.nodes.index(repeat)
    before = Graph(name="enter", inputs=graph.inputs, outputs=(repeat.x,), nodes=graph.nodes[:at])
    after = Graph(
        name="head",
        inputs=(repeat.out,),
        outputs=graph.outputs,
        nodes=graph.nodes[at + 1 :],
    )
    return before, after


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """Decoders of one kind and precision, which have equal plans."""

    graph: Graph
    precision: EffectivePrecision
    layers: tuple[int, ...]


def _variants(setting: Setting) -> tuple[Variant, ...]:
    """The distinct decoders, in the order of their first layers."""
    layers: dict[tuple[str, int], list[int]] = {}
    for layer, precision in enumerate(setting.decoders):
        layers.setdefault((setting.spec.kind_of(layer), id(precision)), []).append(layer)
    return tuple(
        Variant(
            graph=setting.graph_of(each[0]),
            precision=setting.decoders[each[0]],
            layers=tuple(each),
        )
        for each in layers.values()
    )


def _decoder_name(layers: tuple[int, ...], variants: int) -> str:
    return "decoder" if variants == 1 else f"decoder_{layers[0]}"


def _residual(setting: Setting, rows: int, *, decode: bool) -> TensorPlan:
    dtype = setting.model_precision.dtype("residual", "decode" if decode else "prefill")
    fractured = setting.fractured and not decode
    return TensorPlan(
        shape=(1, 1, rows, setting.embedded if fractured else setting.dims.hidden),
        dtype=dtype,
        placement=setting.residual if decode else DRAM,
    )


def _decoders(
    setting: Setting, residual: TensorPlan, plan_ops: Callable[[Variant, Values], Planned]
) -> tuple[DecoderPlan, ...]:
    """One plan for each distinct decoder, its operations planned by `plan_ops`."""
    variants = _variants(setting)
    return tuple(
        DecoderPlan(
            name=_decoder_name(variant.layers, len(variants)),
            layers=variant.layers,
            ops=plan_ops(variant, {variant.graph.inputs[0]: residual}),
        )
        for variant in variants
    )


def _decoders_decode(setting: Setting, rope_form: RopeForm) -> tuple[DecoderPlan, ...]:
    def plan_ops(variant: Variant, inputs: Values) -> Planned:
        step = DecodeStep(
            setting=setting,
            graph=variant.graph,
            precision=variant.precision,
            rope_form=rope_form,
        )
        return plan_decode_ops(step, inputs)

    return _decoders(setting, _residual(setting, TILE, decode=True), plan_ops)


def _decoders_prefill(
    setting: Setting, rope_form: RopeForm, tokens: int, prompts: int = 1
) -> tuple[DecoderPlan, ...]:
    def plan_ops(variant: Variant, inputs: Values) -> Planned:
        step = PrefillStep(
            setting=setting,
            graph=variant.graph,
            precision=variant.precision,
            rope_form=rope_form,
            tokens=tokens,
            prompts=prompts,
        )
        return plan_prefill_ops(step, inputs)

    return _decoders(setting, _residual(setting, prompts * tokens, decode=False), plan_ops)


def _plan_decode(setting: Setting, rope_form: RopeForm) -> PhasePlan:
    before, _ = _entering(setting.graph.model)
    positions = _positions(setting, rope_form)
    step = DecodeStep(
        setting=setting, graph=before, precision=setting.model_precision, rope_form=rope_form
    )
    return PhasePlan(
        decode=True,
        tokens=1,
        enter=plan_decode_ops(step, {}),
        value=before.outputs[0],
        residual=_residual(setting, TILE, decode=True),
        positions=positions,
        decoders=_decoders_decode(setting, rope_form),
        masks=plan_decode_masks(setting, rope_positions(setting, positions)),
    )


def _plan_prefill(setting: Setting, rope_form: RopeForm, tokens: int, prompts: int) -> PhasePlan:
    before, _ = _entering(setting.graph.model)
    step = PrefillStep(
        setting=setting,
        graph=before,
        precision=setting.model_precision,
        rope_form=rope_form,
        tokens=tokens,
        prompts=prompts,
    )
    return PhasePlan(
        decode=False,
        tokens=tokens,
        prompts=prompts,
        enter=plan_prefill_ops(step, {}),
        value=before.outputs[0],
        residual=_residual(setting, step.rows, decode=False),
        positions=tuple(
            plan_prefill_positions(setting, tokens, table) for table in setting.rope_tables
        ),
        decoders=_decoders_prefill(setting, rope_form, tokens, prompts),
        masks=plan_prefill_masks(setting, tokens),
    )


def _plan_head(setting: Setting, rope_form: RopeForm) -> HeadPlan:
    _, after = _entering(setting.graph.model)
    step = DecodeStep(
        setting=setting,
        graph=after,
        precision=setting.model_precision,
        rope_form=rope_form,
    )
    value = after.inputs[0]
    residual = _residual(setting, TILE, decode=True)
    sliced = _residual(setting, TILE, decode=False)
    gathered = gather(setting, sliced, residual.placement) if setting.fractured else None
    rows = PlannedRows(value=value, rows=TILE, sliced=sliced, out=residual, gather=gathered)
    ops = plan_decode_ops(step, {value: residual})
    ((result, logits),) = results_of(ops[-1])
    whole = gather(setting, logits, DRAM) if setting.parallel.tp > 1 else None
    return HeadPlan(
        value=value,
        from_prefill=rows,
        ops=ops,
        result=result,
        logits=logits,
        vocab_shards=setting.parallel.tp,
        gather=whole,
        choice_columns=_choice_columns(setting, logits, whole.out if whole else logits),
        sampling=plan_sampling(
            logits,
            setting.spec.dims.vocab,
            setting.parallel.tp,
            gather=partial(gather, setting),
            chip=setting.chip,
            free_bytes=_free_l1_bytes(setting) - logits.bytes_per_core(setting.chip.grid.cores),
        ),
    )


def _choice_columns(setting: Setting, logits: TensorPlan, whole: TensorPlan) -> tuple[int, ...]:
    """Ranges of columns that become rows at once: as few as fit in L1, all but the last equal."""
    free, cores = _free_l1_bytes(setting), setting.chip.grid.cores
    count, width = 1, tiles(whole.shape[3])
    while count < width and greedy_bytes(logits, whole, count, cores) > free:
        count += 1
    vocab, columns = setting.spec.dims.vocab, ceil(width / count) * TILE
    return tuple(min(columns, vocab - first) for first in range(0, vocab, columns))


def _free_l1_bytes(setting: Setting) -> int:
    """What the choice of a token may take of a core's L1."""
    return matmul_limit(setting.chip, setting.kept_l1_bytes)


def _plan_kv_cache(setting: Setting, rope_form: RopeForm) -> KvCachePlan:
    dims, paging = setting.dims, setting.paging
    shared, block = setting.slots, setting.context
    blocks = shared + 1
    if not setting.whole_caches:
        shared = blocks = paging.blocks(setting.slots, setting.context)
        block = paging.block_tokens
    shape = (shared, dims.kv_heads, block, dims.head_dim)
    dtypes: list[DType] = [p.dtype("kv_cache", "decode") for p in setting.decoders]
    return KvCachePlan(
        block_tokens=block,
        blocks=blocks,
        dtypes=tuple(dtypes),
        tensor=tuple(TensorPlan(shape=shape, dtype=dtype, placement=DRAM) for dtype in dtypes),
        rope_form=rope_form,
    )
