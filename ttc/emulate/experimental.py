"""The names of `ttnn.experimental`."""

from ttc.emulate import heads, kv_cache, matmul, rotary
from ttc.emulate.collectives import all_gather_async, all_reduce_async, reduce_scatter_minimal_async
from ttc.emulate.mesh_tensor import per_device

minimal_matmul = per_device(matmul.minimal_matmul)
nlp_concat_heads = per_device(heads.nlp_concat_heads)
nlp_concat_heads_decode = per_device(heads.nlp_concat_heads_decode)
nlp_create_qkv_heads = per_device(heads.nlp_create_qkv_heads)
nlp_create_qkv_heads_decode = per_device(heads.nlp_create_qkv_heads_decode)
paged_fill_cache = per_device(kv_cache.paged_fill_cache, writes=["cache_tensor"])
paged_fused_update_cache = per_device(
    kv_cache.paged_fused_update_cache, writes=["cache_tensor1", "cache_tensor2"]
)
paged_update_cache = per_device(kv_cache.paged_update_cache, writes=["cache_tensor"])
rotary_embedding_hf = per_device(rotary.rotary_embedding_hf)
rotary_embedding_llama = per_device(rotary.rotary_embedding_llama)
rotary_embedding_llama_fused_qk = per_device(rotary.rotary_embedding_llama_fused_qk)

__all__ = [
    "all_gather_async",
    "all_reduce_async",
    "minimal_matmul",
    "nlp_concat_heads",
    "nlp_concat_heads_decode",
    "nlp_create_qkv_heads",
    "nlp_create_qkv_heads_decode",
    "paged_fill_cache",
    "paged_fused_update_cache",
    "paged_update_cache",
    "reduce_scatter_minimal_async",
    "rotary_embedding_hf",
    "rotary_embedding_llama",
    "rotary_embedding_llama_fused_qk",
]
