"""The names of `ttnn.transformer`."""

from ttc.emulate import attention
from ttc.emulate.mesh_tensor import per_device

chunked_scaled_dot_product_attention = per_device(attention.chunked_scaled_dot_product_attention)
paged_scaled_dot_product_attention_decode = per_device(
    attention.paged_scaled_dot_product_attention_decode
)
scaled_dot_product_attention = per_device(attention.scaled_dot_product_attention)

__all__ = [
    "chunked_scaled_dot_product_attention",
    "paged_scaled_dot_product_attention_decode",
    "scaled_dot_product_attention",
]
