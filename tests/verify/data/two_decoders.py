# type: ignore
"""A program of two decoders of one head, written by hand in the shape of an emitted module.

Each decoder is 11 device operations, in decode and in prefill; reshapes here are none.
"""

import ttnn

BATCH = 32
CONTEXT = 128
KV_BLOCK = 32
KV_BLOCKS = 128
CHUNK_START = 64
PAGES = 8
VOCAB = 96
ROPE_POSITIONS = 32
MESH_SHAPE = (1, 1)
VOCAB_SHARDS = 1
SEMAPHORES = 0
BUFFERS = {}
SAMPLING = {}

USERS = ttnn.CoreRangeSet([ttnn.CoreRange(ttnn.CoreCoord(0, 0), ttnn.CoreCoord(7, 3))])
HEADS_L1 = ttnn.MemoryConfig(
    ttnn.TensorMemoryLayout.HEIGHT_SHARDED,
    ttnn.BufferType.L1,
    ttnn.ShardSpec(USERS, [32, 64], ttnn.ShardOrientation.ROW_MAJOR),
)
MATMUL_64X64 = ttnn.MatmulMultiCoreReuseMultiCastProgramConfig(
    compute_with_storage_grid_size=(2, 2),
    in0_block_w=2,
    out_subblock_h=1,
    out_subblock_w=1,
    per_core_M=1,
    per_core_N=1,
    transpose_mcast=False,
    fused_activation=None,
)
HIFI4 = ttnn.WormholeComputeKernelConfig(
    math_fidelity=ttnn.MathFidelity.HiFi4, fp32_dest_acc_en=True, packer_l1_acc=True
)

MODEL_WEIGHTS = {
    "embed": ((1, 1, 96, 64), ttnn.bfloat16, ttnn.ROW_MAJOR_LAYOUT, ttnn.DRAM_MEMORY_CONFIG),
    "lm_head": ((1, 1, 64, 96), ttnn.bfloat8_b, ttnn.TILE_LAYOUT, ttnn.DRAM_MEMORY_CONFIG),
}
DECODER = {
    "norm": ((1, 1, 1, 64), ttnn.bfloat16, ttnn.TILE_LAYOUT, ttnn.DRAM_MEMORY_CONFIG),
    "wqkv": ((1, 1, 64, 192), ttnn.bfloat8_b, ttnn.TILE_LAYOUT, ttnn.DRAM_MEMORY_CONFIG),
    "wo": ((1, 1, 64, 64), ttnn.bfloat8_b, ttnn.TILE_LAYOUT, ttnn.DRAM_MEMORY_CONFIG),
}
DECODER_WEIGHTS = (DECODER,) * 2
CACHE = ((128, 1, 32, 64), ttnn.bfloat8_b, ttnn.TILE_LAYOUT, ttnn.DRAM_MEMORY_CONFIG)
CACHES = ((CACHE, CACHE),) * 2


def decoder_decode(x, positions, page_table, cache, w):
    """x [1, 1, 32, 64] bf16 DRAM; freed here."""
    k_cache, v_cache = cache
    normed = ttnn.rms_norm(x, epsilon=1e-05, weight=w.norm, memory_config=ttnn.L1_MEMORY_CONFIG)
    qkv = ttnn.linear(
        normed, w.wqkv, compute_kernel_config=HIFI4, memory_config=ttnn.L1_MEMORY_CONFIG
    )
    ttnn.deallocate(normed)
    q, k, v = ttnn.experimental.nlp_create_qkv_heads_decode(
        qkv, num_heads=1, num_kv_heads=1, memory_config=HEADS_L1
    )
    ttnn.deallocate(qkv)
    ttnn.experimental.paged_update_cache(
        k_cache, k, update_idxs_tensor=positions, page_table=page_table
    )
    ttnn.experimental.paged_update_cache(
        v_cache, v, update_idxs_tensor=positions, page_table=page_table
    )
    ttnn.deallocate(k)
    ttnn.deallocate(v)
    attn = ttnn.transformer.paged_scaled_dot_product_attention_decode(
        q,
        k_cache,
        v_cache,
        page_table_tensor=page_table,
        cur_pos_tensor=positions,
        scale=0.125,
        compute_kernel_config=HIFI4,
        memory_config=ttnn.DRAM_MEMORY_CONFIG,
    )
    ttnn.deallocate(q)
    attn_l1 = ttnn.interleaved_to_sharded(attn, HEADS_L1)
    ttnn.deallocate(attn)
    heads = ttnn.experimental.nlp_concat_heads_decode(attn_l1, num_heads=1)
    ttnn.deallocate(attn_l1)
    rows = ttnn.sharded_to_interleaved(heads, ttnn.L1_MEMORY_CONFIG)
    ttnn.deallocate(heads)
    out = ttnn.linear(rows, w.wo, compute_kernel_config=HIFI4, memory_config=ttnn.L1_MEMORY_CONFIG)
    ttnn.deallocate(rows)
    y = ttnn.add(x, out, memory_config=ttnn.DRAM_MEMORY_CONFIG)
    ttnn.deallocate(out)
    ttnn.deallocate(x)
    return y


def decoder_prefill(x, blocks, cache, w):
    """x [1, 1, 64, 64] bf16 DRAM; freed here."""
    k_cache, v_cache = cache
    normed = ttnn.rms_norm(x, epsilon=1e-05, weight=w.norm)
    qkv = ttnn.linear(normed, w.wqkv, compute_kernel_config=HIFI4)
    ttnn.deallocate(normed)
    q, k, v = ttnn.experimental.nlp_create_qkv_heads(
        qkv, num_heads=1, num_kv_heads=1, transpose_k_heads=False
    )
    ttnn.deallocate(qkv)
    k_stored = ttnn.typecast(k, ttnn.bfloat8_b)
    v_stored = ttnn.typecast(v, ttnn.bfloat8_b)
    ttnn.experimental.paged_fill_cache(k_cache, k_stored, blocks)
    ttnn.experimental.paged_fill_cache(v_cache, v_stored, blocks)
    ttnn.deallocate(k_stored)
    ttnn.deallocate(v_stored)
    attn = ttnn.transformer.scaled_dot_product_attention(
        q, k, v, is_causal=True, scale=0.125, compute_kernel_config=HIFI4
    )
    ttnn.deallocate(q)
    ttnn.deallocate(k)
    ttnn.deallocate(v)
    rows = ttnn.experimental.nlp_concat_heads(attn)
    ttnn.deallocate(attn)
    # out: the output projection
    out = ttnn.linear(rows, w.wo, program_config=MATMUL_64X64, compute_kernel_config=HIFI4)
    ttnn.deallocate(rows)
    y = ttnn.add(x, out)
    ttnn.deallocate(out)
    ttnn.deallocate(x)
    return y


def embed(tokens, w):
    """tokens uint32 [1, n] -> [1, 1, n, 64] bf16 DRAM."""
    x = ttnn.embedding(tokens, w.embed, layout=ttnn.TILE_LAYOUT)
    return ttnn.reshape(x, (1, 1, x.shape[-2], 64))


def decode(tokens, positions, rope_positions, page_table, caches, w):
    """Logits [1, 1, 32, 96] bf16 of the next token of every user; the caller frees them."""
    x = embed(tokens, w)
    for cache, layer in zip(caches, w.decoders, strict=True):
        x = decoder_decode(x, positions, page_table, cache, layer)
    logits = ttnn.linear(x, w.lm_head, compute_kernel_config=HIFI4)
    ttnn.deallocate(x)
    return logits


def greedy(logits, tokens):
    """Write the most likely token of every user into `tokens`."""
    rows = ttnn.untilize(logits)
    ttnn.argmax(rows, dim=3, keepdim=False, output_tensor=tokens)
    ttnn.deallocate(rows)


def sample(logits, tokens, how):
    """The likeliest tokens; their logits and ids."""
    greedy(logits, tokens)
    return ttnn.topk(logits, 32, dim=3, stable=True)


def logprobs(logits):
    """The largest logit of each user, and the sum of all."""
    return ttnn.max(logits, dim=3, keepdim=True), ttnn.sum(logits, dim=3, keepdim=True)


def advance(positions, rope_positions):
    """One position on, for every user."""
    ttnn.plus_one(positions)
    ttnn.plus_one(rope_positions)


def prefill_64(tokens, rope_positions, blocks, user, caches, w):
    """[1, 1, 64, 64] bf16 DRAM, before the head; the caller frees it."""
    x = embed(tokens, w)
    for cache, layer in zip(caches, w.decoders, strict=True):
        x = decoder_prefill(x, blocks, cache, layer)
    return x


def head_prefill(x, row, w):
    """Logits [1, 1, 32, 96] bf16 of the 32 tokens from `row`."""
    rows = ttnn.slice(x, (0, 0, row, 0), (1, 1, row + 32, 64))
    logits = ttnn.linear(rows, w.lm_head, compute_kernel_config=HIFI4)
    ttnn.deallocate(rows)
    return logits


PREFILL = {64: prefill_64}
PREFILL_CHUNK = {}
PREFILL_PROMPTS = {}
PREFILL_CHUNK_PROMPTS = {}
TOGETHER = {}
