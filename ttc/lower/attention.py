"""Heads, rotation, KV cache and attention -> ttnn calls."""

import struct

from ttc.lower.calls import Call, Expression, Name, Ref, Statement
from ttc.lower.constants import Constants, dtype_name
from ttc.lower.scores import (
    gather_queries,
    join_prompt,
    lower_scores,
    scatter_results,
    take_cached,
)
from ttc.plan.placement import TILE
from ttc.plan.plan import (
    PlannedAttention,
    PlannedPositions,
    PlannedRope,
    PlannedSplitQkv,
)
from ttc.plan.scores import score_names


def lower_positions(op: PlannedPositions, constants: Constants) -> tuple[Statement, ...]:
    """Gather the rows of cos and sin; a decode step spreads them over the cores that rotate."""
    calls: list[Statement] = []
    for kind in ("cos", "sin"):
        gathered = gathered_name(op, kind)
        calls.append(
            Call(
                function="embedding",
                args=(Ref(name="rope_positions"), Ref(name=f"w.{op.stored}_{kind}")),
                kwargs=(
                    ("layout", Name(name="TILE_LAYOUT")),
                    ("memory_config", Name(name="DRAM_MEMORY_CONFIG")),
                ),
                results=(gathered,),
            )
        )
        calls.append(
            Call(
                function="reshape",
                args=(Ref(name=gathered), (1, 1, op.rows, op.head_dim)),
                results=(gathered,),
            )
        )
        if op.decode:
            calls += [
                Call(
                    function="transpose",
                    args=(Ref(name=gathered), 1, 2),
                    kwargs=(("memory_config", constants.placement(placement)),),
                    results=(name,),
                )
                for name, placement in zip(position_names(op, kind), op.placements, strict=True)
            ]
    return tuple(calls)


def gathered_name(op: PlannedPositions, kind: str) -> str:
    """`cos`, or `local_cos` for the table local_rope: the rows that were gathered."""
    return f"{op.table.removesuffix('rope')}{kind}"


def position_names(op: PlannedPositions, kind: str) -> tuple[str, ...]:
    """Names of the gathered cos or sin: one for each set of cores that rotates."""
    name = gathered_name(op, kind)
    if not op.decode:
        return (name,)
    if len(op.placements) == 1:
        return (f"{name}_users",)
    return (f"{name}_q", f"{name}_k")


def lower_split_qkv(op: PlannedSplitQkv, constants: Constants) -> tuple[Statement, ...]:
    """Cut q|k|v into heads; in decode every user gets a core."""
    node = op.node
    heads: tuple[tuple[str, Expression], ...] = (
        ("num_heads", op.heads),
        ("num_kv_heads", op.kv_heads),
    )
    if not op.decode:
        prompts, _, tokens, head_dim = op.q.shape
        apart = (prompts, 1, tokens, (op.heads + 2 * op.kv_heads) * head_dim)
        return (
            *(_same_memory(node.qkv, apart, "Prompts apart.") if prompts > 1 else ()),
            Call(
                function="experimental.nlp_create_qkv_heads",
                args=(Ref(name=node.qkv),),
                kwargs=(
                    *heads,
                    ("transpose_k_heads", False),
                    ("memory_config", constants.placement(op.q.placement)),
                ),
                results=node.writes,
                value=", ".join(node.writes),
                at=node.at,
            ),
        )
    calls: list[Statement] = []
    width = (op.heads + 2 * op.kv_heads) * op.q.shape[3]
    if op.users < TILE:
        calls.append(
            Call(
                function="reshape",
                args=(Ref(name=node.qkv), (1, 1, op.users, width), (1, 1, TILE, width)),
                results=(node.qkv,),
                why=f"Of the {TILE} rows of a tile, {op.users} hold users.",
            )
        )
    calls.append(
        Call(
            function="experimental.nlp_create_qkv_heads_decode",
            args=(Ref(name=node.qkv),),
            kwargs=(
                *heads,
                ("overlap_qk_coregrid", op.overlap),
                ("memory_config", constants.placement(op.q.placement)),
            ),
            results=node.writes,
            value=", ".join(node.writes),
            at=node.at,
        )
    )
    return tuple(calls)


def lower_rope(op: PlannedRope, constants: Constants) -> tuple[Statement, ...]:
    """Rotate q and k, in one operation where the plan says so."""
    node = op.node
    compute = ("compute_kernel_config", constants.fidelity(op.compute))
    value = f"{node.q_out}, {node.k_out}"
    if op.fused:
        tables = (Ref(name="cos"), Ref(name="sin"), Ref(name="swap"))
        return (
            Call(
                function="experimental.rotary_embedding_llama_fused_qk",
                args=(Ref(name=node.q), Ref(name=node.k), *tables),
                kwargs=(compute,),
                results=(node.q_out, node.k_out),
                value=value,
                at=node.at,
            ),
        )
    calls: list[Statement] = []
    for x, out, names, of in zip(
        (node.q, node.k), (node.q_out, node.k_out), rope_operands(op), (op.q, op.k), strict=True
    ):
        first, prompts = not calls, 1 if op.decode else of.shape[0]
        if prompts > 1:
            why = "Prompts have the same positions, as heads have." if first else ""
            joined = (1, prompts * of.shape[1], *of.shape[2:])
            calls += _same_memory(x, joined, why)
        calls.append(
            Call(
                function="experimental.rotary_embedding_llama"
                if op.form == "pairs"
                else "experimental.rotary_embedding_hf",
                args=(Ref(name=x), *(Ref(name=name) for name in names)),
                kwargs=(("is_decode_mode", op.decode), compute),
                results=(out,),
                value=value if first else "",
                at=node.at if first else None,
            )
        )
        if prompts > 1:
            calls += _same_memory(out, of.shape)
    return tuple(calls)


def _same_memory(name: str, shape: tuple[int, ...], why: str = "") -> tuple[Call, ...]:
    """Another shape of whole tiles in the same order, which moves nothing."""
    return (Call(function="reshape", args=(Ref(name=name), shape), results=(name,), why=why),)


def rope_operands(op: PlannedRope) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The tables that rotate q, and those that rotate k."""
    if op.form == "pairs":
        return ("cos", "sin", "swap"), ("cos", "sin", "swap")
    if op.decode and op.q.placement.grid != op.k.placement.grid:
        return ("cos_q", "sin_q"), ("cos_k", "sin_k")
    return ("cos", "sin"), ("cos", "sin")


def lower_attention(op: PlannedAttention, constants: Constants) -> tuple[Statement, ...]:
    """Write k and v to the paged cache, attend, and put the heads side by side."""
    return _decode(op, constants) if op.decode else _prefill(op, constants)


def _program(op: PlannedAttention, constants: Constants) -> Ref:
    assert op.program is not None, "attention made of products has no program"
    queries, keys = op.program.q_chunk_tokens, op.program.k_chunk_tokens
    name = "SDPA_DECODE" if op.decode else f"SDPA_{queries}X{keys}"
    return constants.program(op.program, name, op.node.out)


def _window(op: PlannedAttention) -> tuple[tuple[str, Expression], ...]:
    return (("sliding_window_size", op.window),) if op.window else ()


def _decode(op: PlannedAttention, constants: Constants) -> tuple[Statement, ...]:
    node = op.node
    k_cache, v_cache = Ref(name="k_cache"), Ref(name="v_cache")
    where: tuple[tuple[str, Expression], ...] = (("update_idxs_tensor", Ref(name="positions")),)
    if op.scores is None:
        where += (("page_table", Ref(name="page_table")),)
    calls: list[Statement] = []
    if op.fused_update:
        calls.append(
            Call(
                function="experimental.paged_fused_update_cache",
                args=(k_cache, Ref(name=node.k), v_cache, Ref(name=node.v)),
                kwargs=where,
                value=node.out,
                at=node.at,
            )
        )
    else:
        calls += [
            Call(
                function="experimental.paged_update_cache",
                args=(cache, Ref(name=value)),
                kwargs=where,
                value=node.out if value == node.k else "",
                at=node.at if value == node.k else None,
            )
            for cache, value in ((k_cache, node.k), (v_cache, node.v))
        ]
    gathered, split = f"{node.out}_heads", f"{node.out}_users"
    if op.gathered.placement == op.split.placement:
        split = gathered
    move = Call(
        function="interleaved_to_sharded",
        args=(Ref(name=gathered), constants.placement(op.split.placement)),
        results=(split,),
        why="With several kv heads the attention cannot write shards, and the join reads them.",
    )
    if op.scores is not None:
        queries = score_names(node.out).queries
        calls += [
            *gather_queries(op, op.scores, constants),
            *lower_scores(op, op.scores, (queries, k_cache.name, v_cache.name), constants),
            *scatter_results(op, op.scores, split, constants),
        ]
    else:
        calls += [
            Call(
                function="transformer.paged_scaled_dot_product_attention_decode",
                args=(Ref(name=node.q), k_cache, v_cache),
                kwargs=(
                    ("page_table_tensor", Ref(name="page_table")),
                    ("cur_pos_tensor", Ref(name="positions")),
                    ("scale", op.scale),
                    *_window(op),
                    ("program_config", _program(op, constants)),
                    ("compute_kernel_config", constants.fidelity(op.compute)),
                    ("memory_config", constants.placement(op.gathered.placement)),
                ),
                results=(gathered,),
            ),
            *(() if split == gathered else (move,)),
        ]
    calls.append(
        Call(
            function="experimental.nlp_concat_heads_decode",
            args=(Ref(name=split),),
            kwargs=(("num_heads", op.heads),),
            results=(node.out,),
        )
    )
    return tuple(calls)


def _prefill(op: PlannedAttention, constants: Constants) -> tuple[Statement, ...]:
    node = op.node
    calls: list[Statement] = []
    stored = {node.k: node.k, node.v: node.v}
    if op.cast_kv:
        for value in (node.k, node.v):
            stored[value] = f"{value}_{op.kv_dtype}"
            calls.append(
                Call(
                    function="typecast",
                    args=(Ref(name=value), dtype_name(op.kv_dtype)),
                    results=(stored[value],),
                    why="The cache takes its own dtype only." if value == node.k else "",
                )
            )
    for cache, value in (("k_cache", node.k), ("v_cache", node.v)):
        first = cache == "k_cache"
        paged = op.scores is None
        calls.append(
            Call(
                function="experimental.paged_fill_cache" if paged else "fill_cache",
                args=(
                    Ref(name=cache),
                    Ref(name=stored[value]),
                    *((Ref(name="blocks"),) if paged else ()),
                ),
                kwargs=_filled(op),
                value=node.out if first else "",
                at=node.at if first else None,
            )
        )
    if op.scores is not None:
        keys, values = stored[node.k], stored[node.v]
        if op.continues:
            keys, values = "k_cache", "v_cache"
        if op.scores.cached is not None:
            names = score_names(node.out)
            keys, values = names.keys, names.values
            calls += take_cached(op.scores.cached, keys, values, constants)
        calls += lower_scores(op, op.scores, (node.q, keys, values), constants)
        return (*calls, *join_prompt(op, constants))
    if op.continues:
        return (*calls, *_attend_to_cache(op, constants))
    calls.append(
        Call(
            function="transformer.scaled_dot_product_attention",
            args=(
                Ref(name=node.q),
                *(Ref(name=stored[value]) for value in (node.k, node.v)),
            ),
            kwargs=(
                ("is_causal", True),
                ("scale", op.scale),
                *_window(op),
                ("program_config", _program(op, constants)),
                ("compute_kernel_config", constants.fidelity(op.compute)),
                ("memory_config", constants.placement(op.out.placement)),
                ("output_concat_heads", True),
            ),
            results=(node.out,),
        )
    )
    return (*calls, *_rows_again(op))


def _filled(op: PlannedAttention) -> tuple[tuple[str, Expression], ...]:
    """Which lines of the blocks are written, or which user's cache, from where on."""
    if op.scores is not None:
        start: tuple[tuple[str, Expression], ...] = (("update_idx", Ref(name="first")),)
        return (("batch_idx", Ref(name="user")), *(start if op.continues else ()))
    return (("batch_idx_tensor", Ref(name="prompts")),) if op.prompts > 1 else ()


def _rows_again(op: PlannedAttention) -> tuple[Statement, ...]:
    """The result of several prompts as rows of one matrix."""
    return _same_memory(op.node.out, op.out.shape) if op.prompts > 1 else ()


def _attend_to_cache(op: PlannedAttention, constants: Constants) -> tuple[Statement, ...]:
    """Queries of a chunk against all that the cache holds up to their own."""
    heads, placement = f"{op.node.out}_heads", constants.placement(op.out.placement)
    return (
        Call(
            function="transformer.chunked_scaled_dot_product_attention",
            args=(
                Ref(name=op.node.q),
                Ref(name="k_cache"),
                Ref(name="v_cache"),
                Ref(name="page_table"),
            ),
            kwargs=(
                ("chunk_start_idx_tensor", Ref(name="start")),
                ("scale", _single(op.scale)),
                *_window(op),
                ("program_config", _program(op, constants)),
                ("compute_kernel_config", constants.fidelity(op.compute)),
                ("memory_config", placement),
            ),
            results=(heads,),
        ),
        Call(
            function="experimental.nlp_concat_heads",
            args=(Ref(name=heads),),
            kwargs=(("memory_config", placement),),
            results=(op.node.out,),
        ),
        *_rows_again(op),
    )


def _single(number: float) -> float:
    """The float32 that kernels get: the binding of this operation takes no other number."""
    return struct.unpack("f", struct.pack("f", number))[0]
