"""RoPE as Hugging Face configurations write it."""

from typing import Any

from ttc.spec.rope import Dynamic, Linear, Llama3, LongRope, NoScaling, Rope, Yarn


def rope_scaling(rope: Rope) -> dict[str, Any] | None:
    """The `rope_scaling` of a config.json, None for rotary embedding that is not scaled."""
    match rope:
        case NoScaling():
            return None
        case Linear():
            return {"rope_type": "linear", "factor": rope.factor}
        case Dynamic():
            return {
                "rope_type": "dynamic",
                "factor": rope.factor,
                "original_max_position_embeddings": rope.original_context_tokens,
            }
        case Llama3():
            return {
                "rope_type": "llama3",
                "factor": rope.factor,
                "low_freq_factor": rope.low_freq_factor,
                "high_freq_factor": rope.high_freq_factor,
                "original_max_position_embeddings": rope.original_context_tokens,
            }
        case Yarn():
            return {
                "rope_type": "yarn",
                "factor": rope.factor,
                "original_max_position_embeddings": rope.original_context_tokens,
                "attention_factor": rope.attention_factor,
                "beta_fast": rope.beta_fast,
                "beta_slow": rope.beta_slow,
                "truncate": rope.truncate,
            }
        case LongRope():
            return {
                "rope_type": "longrope",
                "original_max_position_embeddings": rope.original_context_tokens,
                "attention_factor": rope.attention_factor,
                "short_factor": list(rope.short_factors),
                "long_factor": list(rope.long_factors),
            }
