"""What a legal plan is: everything divides, and prefill and decode agree on the KV cache."""

from ttc.plan.placement import TILE, tiles
from ttc.plan.plan import (
    Plan,
    PlannedAttention,
    PlannedLinear,
    PlannedOp,
    PlannedRope,
)
from ttc.plan.programs import DramShardedMatmul, MulticastMatmul


def check_plan(plan: Plan) -> None:
    """Assert the rules that ttnn would otherwise refuse, or worse, not refuse."""
    every = [op for phase in plan.phases for d in phase.decoders for op in d.ops]
    for op in (*every, *plan.head.ops):
        _check_op(op, plan)
    layers = sorted(layer for decoder in plan.decode.decoders for layer in decoder.layers)
    assert layers == list(range(len(plan.kv_cache.tensor))), "each layer has one decoder"
    stored = {weight.full_name for weight in plan.weights}
    assert len(stored) == len(plan.weights), "each weight is stored once"
    shared_tokens = (plan.kv_cache.blocks - 1) * plan.kv_cache.block_tokens
    assert shared_tokens >= plan.context, "one user at least may have a whole context"
    assert plan.context % plan.kv_cache.block_tokens == 0, "page tables list whole blocks"
    chunk = plan.prefill_chunk_tokens
    assert chunk == plan.buckets[-1], "a chunk has a program"
    paged = all(not isinstance(op, PlannedAttention) or op.scores is None for op in every)
    if plan.chunks:
        assert chunk % plan.chunk_start_tokens == 0, "a chunk starts where another ends"
        blocks = plan.chunk_start_tokens % plan.kv_cache.block_tokens == 0
        assert blocks or not paged, "chunks fill whole blocks"
        assert plan.context % chunk == 0 or paged, "a chunk ends in the cache of its user"
    for use in plan.together:
        step = (use.prompts, use.padded)
        assert step in {(each.prompts, each.tokens) for each in plan.batched}, "it has a program"
        assert use.tokens <= use.padded, "it has room for the tokens"
        assert 1 < use.least <= use.prompts, "it reads several prompts"
    assert plan.chunks or plan.context <= chunk or not paged, "a prompt can be continued"


def _check_op(op: PlannedOp, plan: Plan) -> None:
    match op:
        case PlannedLinear():
            _check_linear(op)
        case PlannedRope():
            assert op.form == plan.kv_cache.rope_form, "one cache holds one rotation"
            assert op.form == "halves" or op.q.dtype == "bf16", "pairs rotate in bf16 only"
        case PlannedAttention():
            assert op.kv_dtype in plan.kv_cache.dtypes, "the cache has the dtype that is written"
            if op.continues and op.program is not None:
                sizes = op.program.q_chunk_tokens, op.program.k_chunk_tokens
                starts = plan.chunk_start_tokens
                assert not any(starts % size for size in sizes), "starts are those attention takes"
        case _:
            pass


def _check_linear(op: PlannedLinear) -> None:
    assert op.out.dtype != "bfp4", "no operation writes bfp4: the packer truncates it"
    whole = op.collective.x if op.collective else op.out
    assert sum(out.shape[3] for out in op.split_outs) == whole.shape[3], "splits cover the result"
    for program, out in zip(op.programs, op.split_outs, strict=True):
        width = tiles(out.shape[3])
        if isinstance(program, DramShardedMatmul):
            assert out.placement.cores * program.per_core_n >= width, "shards cover the result"
            assert out.shape[2] == TILE, "a decode step is one row of tiles"
        else:
            assert isinstance(program, MulticastMatmul)
            columns, rows = program.grid
            assert columns * program.per_core_n >= width, "grid columns cover the result"
            assert rows * program.per_core_m >= tiles(out.shape[2]), "grid rows cover the tokens"
            assert program.per_core_m % program.out_block_h == 0
            assert program.per_core_n % program.out_block_w == 0
            assert program.out_block_w % program.out_subblock_w == 0
            assert program.out_block_h % program.out_subblock_h == 0
