"""The names of `ttnn.transformer`."""

from ttc.emulate.attention import (
    paged_scaled_dot_product_attention_decode,
    scaled_dot_product_attention,
)

__all__ = ["paged_scaled_dot_product_attention_decode", "scaled_dot_product_attention"]
