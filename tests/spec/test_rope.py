"""RoPE: the formulas against transformers, and what a spec may write."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ttc.errors import SpecError
from ttc.spec.model import load_model
from ttc.spec.rope import (
    Dynamic,
    Linear,
    Llama3,
    LongRope,
    NoScaling,
    Rope,
    Yarn,
    alike_tokens,
    attention_factor,
    inverse_frequencies,
    longrope_attention_factor,
    yarn_attention_factor,
)

SCALED = Llama3(
    theta=500000, factor=8, low_freq_factor=1, high_freq_factor=4, original_context_tokens=8192
)
CONTEXT = 4096
FACTORS = {
    "short_factors": tuple(1 + 0.01 * i for i in range(32)),
    "long_factors": tuple(1 + 1.5 * i for i in range(32)),
}


def yarn(**changes: Any) -> Yarn:
    fields = {"theta": 10000.0, "factor": 4.0, "original_context_tokens": 4096} | changes
    defaults = {
        "attention_factor": yarn_attention_factor(fields["factor"]),
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": True,
    }
    return Yarn(**(defaults | fields))


@pytest.mark.fast
def test_no_scaling() -> None:
    assert inverse_frequencies(NoScaling(theta=100.0), 4, CONTEXT) == pytest.approx((1.0, 0.1))


@pytest.mark.fast
def test_llama3_keeps_fast_and_divides_slow_frequencies() -> None:
    plain = inverse_frequencies(NoScaling(theta=SCALED.theta), 128, CONTEXT)
    scaled = inverse_frequencies(SCALED, 128, CONTEXT)
    assert scaled[0] == plain[0] == 1.0
    assert scaled[-1] == pytest.approx(plain[-1] / 8)
    ratios = [ours / theirs for ours, theirs in zip(scaled, plain, strict=True)]
    assert ratios == sorted(ratios, reverse=True)
    blended = [ratio for ratio in ratios if 1 / 8 < ratio < 1]
    wavelengths = [2 * math.pi / each for each in plain]
    assert len(blended) == sum(2048 < each < 8192 for each in wavelengths) > 0


@pytest.mark.fast
def test_the_length_decides_for_dynamic_and_longrope() -> None:
    plain = inverse_frequencies(NoScaling(theta=10000.0), 64, CONTEXT)
    dynamic = Dynamic(theta=10000.0, factor=2.0, original_context_tokens=4096)
    assert inverse_frequencies(dynamic, 64, 4096) == plain
    assert inverse_frequencies(dynamic, 64, 8192)[-1] < plain[-1]
    assert inverse_frequencies(dynamic, 2, 8192) == (1.0,)
    long = LongRope(
        theta=10000.0, factor=32, original_context_tokens=4096, attention_factor=1.2, **FACTORS
    )
    for context, factors in ((4096, long.short_factors), (4128, long.long_factors)):
        expected = [f / factor for f, factor in zip(plain, factors, strict=True)]
        assert inverse_frequencies(long, 64, context) == pytest.approx(expected)


@pytest.mark.fast
def test_lengths_that_turn_alike() -> None:
    dynamic = Dynamic(theta=10000.0, factor=2.0, original_context_tokens=4096)
    assert [alike_tokens(dynamic, n) for n in (1, 4096, 4097, 5000)] == [1, 1, 4097, 5000]
    long = LongRope(
        theta=10000.0, factor=32, original_context_tokens=4096, attention_factor=1.2, **FACTORS
    )
    assert [alike_tokens(long, n) for n in (1, 4096, 4097, 5000)] == [1, 1, 4097, 4097]
    for rope in (dynamic, long):
        for tokens in (7, 4096, 4097, 5000):
            alike = inverse_frequencies(rope, 64, alike_tokens(rope, tokens))
            assert alike == inverse_frequencies(rope, 64, tokens)


TEXT = """\
model: org/tiny
architecture: llama
dims: {hidden: 64, layers: 2, heads: 4, kv_heads: 2, head_dim: 16, ffn: 96, vocab: 128}
norm_eps: 1.0e-5
rope: ROPE
tie_embeddings: true
max_context_tokens: 256
"""
NO_SCALING = "{kind: none, theta: 10000}"


def written(folder: Path, rope: str) -> Rope:
    path = folder / "tiny.yaml"
    path.write_text(TEXT.replace("ROPE", rope))
    return load_model(path).rope


@pytest.mark.fast
def test_what_a_model_does_not_say_is_what_the_papers_say(tmp_path: Path) -> None:
    rope = written(tmp_path, "{kind: yarn, theta: 10000, factor: 16, original_context_tokens: 128}")
    assert rope == yarn(factor=16.0, original_context_tokens=128)
    assert attention_factor(rope) == pytest.approx(0.1 * math.log(16) + 1)
    factors = f"[{', '.join(['1.5'] * 8)}]"
    rope = written(
        tmp_path,
        "{kind: longrope, theta: 10000, factor: 32, original_context_tokens: 4096, "
        f"short_factors: {factors}, long_factors: {factors}}}",
    )
    assert attention_factor(rope) == pytest.approx(math.sqrt(1 + math.log(32) / math.log(4096)))
    assert attention_factor(SCALED) == 1.0


@pytest.mark.fast
def test_longrope_needs_a_factor_for_each_pair(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as raised:
        written(
            tmp_path,
            "{kind: longrope, theta: 10000, factor: 32, original_context_tokens: 4096, "
            "short_factors: [1, 1], long_factors: [1, 1, 1, 1, 1, 1, 1, 1]}",
        )
    (problem,) = raised.value.problems
    assert problem.message == "'short_factors' needs 8 numbers, one for each pair that turns"
    assert (problem.at and problem.at.line, problem.note) == (5, "got 2")


def dynamic(factor: float, original: int) -> tuple[Rope, Mapping[str, Any]]:
    rope = Dynamic(theta=10000.0, factor=factor, original_context_tokens=original)
    return rope, {"rope_type": "dynamic", "factor": factor}


def longrope(factor: float, original: int, **given: float) -> tuple[Rope, Mapping[str, Any]]:
    default = longrope_attention_factor(factor, original)
    rope = LongRope(
        theta=10000.0,
        factor=factor,
        original_context_tokens=original,
        attention_factor=given.get("attention_factor", default),
        **FACTORS,
    )
    scaling = {
        "rope_type": "longrope",
        "factor": factor,
        "short_factor": list(rope.short_factors),
        "long_factor": list(rope.long_factors),
    }
    return rope, scaling | given


def yarns(**fields: Any) -> tuple[Rope, Mapping[str, Any]]:
    rope = yarn(**fields)
    scaling = {key: value for key, value in fields.items() if key != "original_context_tokens"}
    original = {"original_max_position_embeddings": rope.original_context_tokens}
    return rope, {"rope_type": "yarn", "factor": rope.factor} | original | scaling


LLAMA3 = {
    "rope_type": "llama3",
    "factor": SCALED.factor,
    "low_freq_factor": SCALED.low_freq_factor,
    "high_freq_factor": SCALED.high_freq_factor,
    "original_max_position_embeddings": SCALED.original_context_tokens,
}


@pytest.mark.emulate
@pytest.mark.parametrize(
    ("rope", "scaling"),
    [
        (NoScaling(theta=10000.0), None),
        (NoScaling(theta=130000.0), None),
        (Linear(theta=100000.0, factor=4.0), {"rope_type": "linear", "factor": 4.0}),
        dynamic(2.0, 4096),
        dynamic(8.0, 1024),
        (SCALED, LLAMA3),
        yarns(),
        yarns(factor=32.0, original_context_tokens=64, truncate=False),
        yarns(factor=40.0, beta_fast=16.0, beta_slow=2.0, attention_factor=1.25),
        yarns(factor=1.0),
        longrope(32.0, 4096),
        longrope(2.0, 128, attention_factor=1.5),
        longrope(1.0, 4096),
    ],
)
@pytest.mark.parametrize("partial", [1.0, 0.5])
@pytest.mark.parametrize("context", [1024, 4096, 5000, 131072])
def test_frequencies_are_those_of_transformers(
    rope: Rope, scaling: dict[str, Any] | None, partial: float, context: int
) -> None:
    from transformers import PretrainedConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    original = getattr(rope, "original_context_tokens", 4096)
    config = PretrainedConfig(
        head_dim=round(64 / partial),
        hidden_size=256,
        num_attention_heads=4,
        partial_rotary_factor=partial,
        rope_theta=rope.theta,
        rope_scaling=scaling,
        max_position_embeddings=original,
    )
    kind = scaling["rope_type"] if scaling else "default"
    expected, factor = ROPE_INIT_FUNCTIONS[kind](config, device="cpu", seq_len=context)
    assert attention_factor(rope) == pytest.approx(factor)
    assert inverse_frequencies(rope, 64, context) == pytest.approx(expected.tolist(), rel=2e-6)
