"""The names of `ttnn.experimental`."""

from ttc.emulate.heads import (
    nlp_concat_heads,
    nlp_concat_heads_decode,
    nlp_create_qkv_heads,
    nlp_create_qkv_heads_decode,
)
from ttc.emulate.kv_cache import paged_fill_cache, paged_fused_update_cache, paged_update_cache
from ttc.emulate.matmul import minimal_matmul
from ttc.emulate.rotary import (
    rotary_embedding_hf,
    rotary_embedding_llama,
    rotary_embedding_llama_fused_qk,
)

__all__ = [
    "minimal_matmul",
    "nlp_concat_heads",
    "nlp_concat_heads_decode",
    "nlp_create_qkv_heads",
    "nlp_create_qkv_heads_decode",
    "paged_fill_cache",
    "paged_fused_update_cache",
    "paged_update_cache",
    "rotary_embedding_hf",
    "rotary_embedding_llama",
    "rotary_embedding_llama_fused_qk",
]
