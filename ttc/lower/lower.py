"""Plan -> calls: the module as data, ready to print.

A module is the program of every chip of one replica (MESH_SHAPE rows and columns of the mesh); all
shapes are those on one chip. What the caller hands over in `w` beside the weights:

    w.device      the mesh device of the replica
    w.semaphores  SEMAPHORES global semaphores of value 0, on all worker cores
    w.NAME        for each name of BUFFERS a tensor of any content, allocated once

A prompt turns by its length where PROMPT_TABLES names tables. Before a prompt of another length
than the one before, the caller writes into them what their entries describe: cos or sin, order of
the elements, width of a head and of the part that turns, rows, the fields of the spec's `rope`.

Logits leave a program as VOCAB_SHARDS parts: chip r holds the columns from r * (their width) on,
and the columns from VOCAB on are padding, which the caller cuts. With VOCAB_SHARDS 1 every chip
holds all of them.
"""

from itertools import groupby

from ttc.hardware.chips import Chip
from ttc.lower.attention import lower_positions
from ttc.lower.blocks import (
    Block,
    decoder_arguments,
    describe,
    lower_decoder,
    mask_names,
    prefill_arguments,
    sum_names,
    swap_name,
    table_names,
)
from ttc.lower.calls import (
    Call,
    CallModule,
    Constant,
    EntryTable,
    Expression,
    Free,
    Function,
    Layers,
    LayerTable,
    Local,
    Name,
    Pack,
    Ref,
    Section,
    Statement,
    TensorTable,
)
from ttc.lower.collectives import pack_sum
from ttc.lower.constants import Constants, dtype_name
from ttc.lower.liveness import free_after_last_use
from ttc.lower.operations import lower_op, lower_picked
from ttc.lower.sampling import lower_greedy, lower_logprobs, lower_sampling
from ttc.lower.scores import lower_mask
from ttc.plan.placement import TILE, TensorPlan
from ttc.plan.plan import PhasePlan, Plan, WeightPlan
from ttc.plan.tables import RopeTable
from ttc.spec.rope import rope_fields


def lower_plan(plan: Plan, chip: Chip, fingerprint: str) -> CallModule:
    """Every function and constant of the emitted module; `fingerprint` identifies the plan."""
    constants = Constants(chip.compute_config)
    functions: list[Function] = []
    tables: list[LayerTable] = []
    known: dict[str, Block] = {}
    for phase in plan.phases:
        for decoder in phase.decoders:
            functions += lower_decoder(decoder, phase, constants, known)
        tables.append(_layer_table(phase))
    entries = [
        _decode(plan, constants),
        lower_greedy(plan, constants),
        lower_sampling(plan, constants),
        lower_logprobs(plan, constants),
        _advance(),
        *(_prefill(phase, plan, constants) for phase in plan.prefills),
        _head(plan, constants),
        _head_prefill(plan, constants),
        *((_head_prompts(plan, constants),) if plan.batched else ()),
    ]
    tensors, caches, tensor_layers = _tensor_tables(plan, constants)
    return CallModule(
        title=f"{plan.model} on {plan.mesh}, precision {plan.profile}",
        facts=(
            ("spec", plan.spec),
            ("mesh", f"{plan.mesh} ({plan.arch})"),
            ("precision", plan.profile),
            ("users", f"{plan.batch} of up to {plan.context} tokens each"),
            ("plan", fingerprint),
        ),
        sections=(_numbers(plan), *constants.sections()),
        tensors=tensors,
        caches=caches,
        tensor_layers=tensor_layers,
        functions=tuple(functions),
        tables=tuple(tables),
        entries=tuple(entries),
        entry_tables=_entry_tables(plan),
    )


def _numbers(plan: Plan) -> Section:
    values: tuple[tuple[str, Expression], ...] = (
        ("BATCH", plan.slots),
        ("CONTEXT", plan.context),
        ("KV_BLOCK", plan.kv_cache.block_tokens),
        ("KV_BLOCKS", plan.kv_cache.blocks),
        ("CHUNK_START", plan.chunk_start_tokens),
        ("PAGES", plan.pages),
        ("VOCAB", plan.vocab),
        ("ROPE_POSITIONS", plan.rope_positions),
        ("MESH_SHAPE", plan.parallel.replica_shape),
        ("VOCAB_SHARDS", plan.head.vocab_shards),
        ("TOP_K", plan.head.sampling.top_k),
        ("OFFSETS", plan.head.sampling.offsets),
        ("LOGPROB_SHARDS", 1 if plan.head.sampling.whole else plan.head.vocab_shards),
        ("SEMAPHORES", plan.semaphores),
    )
    return Section(
        comment="Users, tokens of each, tokens of a cache block, blocks, what starts of chunks are "
        "multiples of, sizes of inputs; chips of a replica; tokens that a draw is among at most.",
        constants=tuple(Constant(name=name, value=value) for name, value in values),
    )


def _runs(names: list[str]) -> tuple[tuple[str, int], ...]:
    return tuple((name, len(list(group))) for name, group in groupby(names))


def _entry_tables(plan: Plan) -> tuple[EntryTable, ...]:
    """The prefills by size, and when several prompts are read at once."""

    def table(name: str, phases: tuple[PhasePlan, ...], comment: str = "") -> EntryTable:
        rows = tuple((phase.tokens, phase.name) for phase in phases)
        return EntryTable(name=name, comment=comment, keys=1, rows=rows)

    def several(name: str, phases: tuple[PhasePlan, ...], comment: str = "") -> EntryTable:
        rows = tuple((phase.prompts, phase.tokens, phase.name) for phase in phases)
        return EntryTable(name=name, comment=comment, keys=2, rows=rows)

    return (
        table(
            "PREFILL",
            plan.prefill,
            "The prefill of a prompt's first chunk of up to so many tokens, and that of its later "
            "chunks.",
        ),
        table("PREFILL_CHUNK", plan.chunks),
        several(
            "PREFILL_PROMPTS",
            plan.batched,
            "The same of several prompts at once: (prompts, tokens of each).",
        ),
        several("PREFILL_CHUNK_PROMPTS", plan.batched_chunks),
        EntryTable(
            name="TOGETHER",
            comment="Chunks of a size, and how many wait at least: (prompts, tokens) of their "
            "program.",
            keys=2,
            rows=tuple((use.tokens, use.least, use.prompts, use.padded) for use in plan.together),
        ),
    )


def _layer_table(phase: PhasePlan) -> LayerTable:
    named = {
        layer: f"{decoder.name}_{phase.name}"
        for decoder in phase.decoders
        for layer in decoder.layers
    }
    return LayerTable(
        name=f"{phase.name.upper()}_LAYERS",
        comment="The function of each layer.",
        runs=_runs([named[layer] for layer in sorted(named)]),
    )


def _enter(phase: PhasePlan, constants: Constants) -> list[Statement]:
    """Embedding, and positions by table, packed for the decoders."""
    body: list[Statement] = []
    for op in phase.enter:
        body += lower_op(op, constants)
    for positions in phase.positions:
        body += lower_positions(positions, constants)
        names = (*table_names(positions), *swap_name(phase))
        parts = tuple(Ref(name=name) for name in names)
        body.append(Pack(name=positions.table, parts=parts))
    for mask in phase.masks:
        body += lower_mask(mask, constants)
    return body


def _decode(plan: Plan, constants: Constants) -> Function:
    phase = plan.decode
    enter = _enter(phase, constants)
    tables, x = _tables(phase), phase.value
    body = free_after_last_use(enter, owned=(), keep=(x, *tables))
    return Function(
        name="decode",
        parameters=(
            "tokens",
            "positions",
            "rope_positions",
            "page_table",
            "caches",
            "w",
        ),
        doc=(
            "One decode step: the next token's logits of every user.",
            "",
            f"tokens          uint32 [1, 1, 1, {TILE}] row major, one token of each user",
            f"positions       int32 [{plan.slots}], the tokens' positions; -1 for no user",
            f"rope_positions  uint32 [1, {plan.rope_positions}], the positions to rotate by",
            f"page_table      int32 [{plan.slots}, {plan.context // plan.kv_cache.block_tokens}],"
            " the cache blocks of each user;",
            f"                {plan.kv_cache.blocks - 1}, the last one, where the user has none",
            "caches          (k, v) of each layer, written in place",
            f"->              {describe(plan.head.logits)}; the caller frees it",
        ),
        body=(
            *body,
            *(pack_sum(name, plan.semaphore_of(name)) for name in sum_names(phase)),
            Layers(
                table="DECODE_LAYERS",
                value=x,
                args=(*decoder_arguments(phase), "layer"),
            ),
            *(Free(name=name) for name in tables),
            Local(function="head", args=(x, "w"), results=(plan.head.result,)),
        ),
        returns=(plan.head.result,),
    )


def _prefill(phase: PhasePlan, plan: Plan, constants: Constants) -> Function:
    tables, x = _tables(phase), phase.value
    body = free_after_last_use(_enter(phase, constants), owned=(), keep=(x, *tables))
    what, rows, prompts = "The first chunk", "0, 1, 2, ...", phase.prompts
    if phase.continues:
        what, rows = "A later chunk", "start, start + 1, ..."
    of = "a prompt" if prompts == 1 else f"each of {prompts} prompts"
    blocks = -(-phase.tokens // plan.kv_cache.block_tokens)
    before = prefill_arguments(phase)
    where = {
        "user": "the slot of the user, for caches without blocks",
        "prompts": f"int32 [{prompts}] row major: 0, 1, 2, ...",
        "first": "the start, for caches without blocks",
        "start": f"int32 [1], a multiple of {plan.chunk_start_tokens}",
        "page_table": f"int32 [{prompts}, {plan.pages}], the cache blocks of {of} from its first",
    }
    return Function(
        name=phase.name,
        parameters=("tokens", "rope_positions", "blocks", *before, "caches", "w"),
        doc=(
            f"{what} of {of}, up to {phase.tokens} tokens; padding tokens come last.",
            "",
            f"tokens          uint32 [1, {phase.rows}] row major",
            f"rope_positions  uint32 [1, {phase.tokens}] row major: {rows}",
            f"blocks          int32 [{prompts}, {blocks}], the cache blocks it is written to; "
            "-1 for none",
            *(f"{name:<15} {where[name]}" for name in before),
            "caches          (k, v) of each layer, written in place",
            f"->              {describe(phase.residual)}, before the head; the caller frees it",
        ),
        body=(
            *body,
            Layers(
                table=f"{phase.name.upper()}_LAYERS",
                value=x,
                args=(*decoder_arguments(phase), "layer"),
            ),
            *(Free(name=name) for name in tables),
        ),
        returns=(x,),
    )


def _head(plan: Plan, constants: Constants) -> Function:
    body: list[Statement] = []
    for op in plan.head.ops:
        body += lower_op(op, constants)
    value, result = plan.head.value, plan.head.result
    return Function(
        name="head",
        parameters=(value, "w"),
        doc=(
            "Logits of one row of tiles of the residual stream.",
            "",
            f"{value}  {describe(plan.head.from_prefill.out)}; freed here",
            f"->  {describe(plan.head.logits)}",
        ),
        body=free_after_last_use(body, owned=(value,), keep=(result,)),
        returns=(result,),
    )


def _head_prefill(plan: Plan, constants: Constants) -> Function:
    rows = plan.head.from_prefill
    body = free_after_last_use(lower_op(rows, constants), owned=(), keep=(rows.value, "x"))
    result = plan.head.result
    return Function(
        name="head_prefill",
        parameters=("x", "row", "w"),
        doc=(
            f"Logits of the {rows.rows} tokens of a prefill that start at `row`.",
            "",
            "x    what a prefill returned; it stays",
            f"row  a multiple of {rows.rows}",
            f"->   {describe(plan.head.logits)}; the caller frees it",
        ),
        body=(*body, Local(function="head", args=(rows.value, "w"), results=(result,))),
        returns=(result,),
    )


def _head_prompts(plan: Plan, constants: Constants) -> Function:
    rows = plan.head.from_prefill
    body = free_after_last_use(lower_picked(rows, constants), owned=(), keep=(rows.value, "x"))
    result = plan.head.result
    return Function(
        name="head_prompts",
        parameters=("x", "last", "w"),
        doc=(
            "Logits of the last token of each prompt of a prefill.",
            "",
            "x     what a prefill of several prompts returned; it stays",
            f"last  uint32 [1, {rows.rows}] row major, rows of x; any row where there is no prompt",
            f"->    {describe(plan.head.logits)}, a row for each; the caller frees it",
        ),
        body=(*body, Local(function="head", args=(rows.value, "w"), results=(result,))),
        returns=(result,),
    )


def _advance() -> Function:
    return Function(
        name="advance",
        parameters=("positions", "rope_positions"),
        doc=("Move every user one position on, on the device; -1 stays -1.",),
        body=(
            Call(
                function="plus_one",
                args=(Ref(name="positions"),),
                kwargs=(("skip_negative_entries", True),),
            ),
            Call(function="plus_one", args=(Ref(name="rope_positions"),)),
        ),
    )


def _tables(phase: PhasePlan) -> tuple[str, ...]:
    """Names of what was gathered from the tables: it lives until the last decoder has run."""
    tables = (name for positions in phase.positions for name in table_names(positions))
    return (*tables, *mask_names(phase))


def _row(tensor: TensorPlan, constants: Constants) -> tuple[Expression, ...]:
    layout = Name(name="TILE_LAYOUT" if tensor.layout == "tile" else "ROW_MAJOR_LAYOUT")
    return (
        tensor.shape,
        dtype_name(tensor.dtype),
        layout,
        constants.placement(tensor.placement),
    )


def _prompt_tables(plan: Plan) -> tuple[tuple[str, tuple[Expression, ...]], ...]:
    """The tables that prefills read and decode steps do not."""
    apart = {each.stored for phase in plan.prefill for each in phase.positions}
    apart -= {each.stored for each in plan.decode.positions}
    return tuple(
        (weight.name, _described(weight.table))
        for weight in plan.weights
        if isinstance(weight.table, RopeTable) and weight.name.rpartition("_")[0] in apart
    )


def _described(table: RopeTable) -> tuple[Expression, ...]:
    rope = tuple(rope_fields(table.rope).items())
    return (table.kind, table.order, table.head_dim, table.rotary_dim, table.rows, rope)


def _input_row(tensor: TensorPlan, constants: Constants) -> tuple[Expression, ...]:
    """Settings as rows have an entry for each user, and no other dim."""
    shape, *others = _row(tensor, constants)
    return (tensor.shape[3:] if tensor.layout == "row_major" else shape, *others)


def _tensor_tables(
    plan: Plan, constants: Constants
) -> tuple[tuple[TensorTable, ...], Section, tuple[LayerTable, ...]]:
    """Stored tensors by name; layers that store alike share a table, and so do their caches."""

    def rows(
        weights: list[WeightPlan],
    ) -> tuple[tuple[str, tuple[Expression, ...]], ...]:
        return tuple((weight.name, _row(weight.tensor, constants)) for weight in weights)

    model = rows([weight for weight in plan.weights if weight.decoder is None])
    buffers = tuple((name, _row(tensor, constants)) for name, tensor in plan.buffers)
    inputs = plan.head.sampling.inputs
    settings = tuple((name, _input_row(tensor, constants)) for name, tensor in inputs)
    tables = [
        TensorTable(name="BUFFERS", comment="Allocated once, of any content.", rows=buffers),
        TensorTable(
            name="PROMPT_TABLES", comment="Of a prompt's length.", rows=_prompt_tables(plan)
        ),
        TensorTable(name="SAMPLING", comment="What a draw is given.", rows=settings),
        TensorTable(name="MODEL_WEIGHTS", comment="Stored once.", rows=model),
    ]
    caches: list[Constant] = []
    weight_names: list[str] = []
    cache_names: list[str] = []
    for decoder in plan.decode.decoders:
        layer = decoder.layers[0]
        name = f"{decoder.name.upper()}_TENSORS"
        stored = rows([weight for weight in plan.weights if weight.decoder == layer])
        tables.append(TensorTable(name=name, comment="Stored for each layer.", rows=stored))
        cache = _row(plan.kv_cache.tensor[layer], constants)
        caches.append(Constant(name=f"{decoder.name.upper()}_CACHE", value=(cache, cache)))
    owner = {layer: d.name for d in plan.decode.decoders for layer in d.layers}
    for layer in sorted(owner):
        weight_names.append(f"{owner[layer].upper()}_TENSORS")
        cache_names.append(f"{owner[layer].upper()}_CACHE")
    layers = (
        LayerTable(
            name="DECODER_WEIGHTS",
            comment="Tables of the layers.",
            runs=_runs(weight_names),
        ),
        LayerTable(name="CACHES", comment="Tables of the layers.", runs=_runs(cache_names)),
    )
    section = Section(
        comment="The caches of k and of v: block, head, position in the block, element.",
        constants=tuple(caches),
    )
    return tuple(tables), section, layers
