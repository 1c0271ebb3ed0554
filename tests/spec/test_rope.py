import math

import pytest

from ttc.spec.rope import Llama3, NoScaling, Rope, inverse_frequencies

SCALED = Llama3(
    theta=500000, factor=8, low_freq_factor=1, high_freq_factor=4, original_context_tokens=8192
)


@pytest.mark.fast
def test_no_scaling() -> None:
    assert inverse_frequencies(NoScaling(theta=100.0), 4) == pytest.approx((1.0, 0.1))


@pytest.mark.fast
def test_llama3_keeps_fast_and_divides_slow_frequencies() -> None:
    plain = inverse_frequencies(NoScaling(theta=SCALED.theta), 128)
    scaled = inverse_frequencies(SCALED, 128)
    assert scaled[0] == plain[0] == 1.0
    assert scaled[-1] == pytest.approx(plain[-1] / 8)
    ratios = [ours / theirs for ours, theirs in zip(scaled, plain, strict=True)]
    assert ratios == sorted(ratios, reverse=True)
    blended = [ratio for ratio in ratios if 1 / 8 < ratio < 1]
    wavelengths = [2 * math.pi / each for each in plain]
    assert len(blended) == sum(2048 < each < 8192 for each in wavelengths) > 0


@pytest.mark.emulate
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("rope", [NoScaling(theta=10000), NoScaling(theta=130000), SCALED])
def test_frequencies_are_those_of_transformers(rope: Rope, head_dim: int) -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling = None
    if isinstance(rope, Llama3):
        scaling = {
            "rope_type": "llama3",
            "factor": rope.factor,
            "low_freq_factor": rope.low_freq_factor,
            "high_freq_factor": rope.high_freq_factor,
            "original_max_position_embeddings": rope.original_context_tokens,
        }
    config = LlamaConfig(
        hidden_size=head_dim * 4,
        num_attention_heads=4,
        head_dim=head_dim,
        rope_theta=rope.theta,
        rope_scaling=scaling,
        max_position_embeddings=131072,
    )
    kind = "llama3" if scaling else "default"
    expected, factor = ROPE_INIT_FUNCTIONS[kind](config, device="cpu")
    assert factor == 1.0
    assert inverse_frequencies(rope, head_dim) == pytest.approx(expected.tolist(), rel=2e-6)
