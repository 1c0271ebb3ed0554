"""What becomes of the keys of a config.json: used, ignored, unknown, missing or wrong."""

from typing import Any

import pytest

from ttc.checkpoint.config_reading import Reading, read_config, shortest_cycle
from ttc.spec.architecture import load_architecture
from ttc.spec.config_keys import with_shared
from ttc.spec.rope import Linear, LongRope, NoScaling, Yarn, attention_factor, rope_fields

pytestmark = pytest.mark.fast

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "vocab_size": 128,
    "max_position_embeddings": 256,
}


def read(architecture: str = "llama", **config: Any) -> Reading:
    fields = {key: each for key, each in (LLAMA | config).items() if each != "absent"}
    return read_config(fields, with_shared(load_architecture(architecture).config))


def test_missing_keys_stand_for_what_transformers_takes() -> None:
    reading = read()
    assert (reading.values["dims.kv_heads"], reading.values["dims.head_dim"]) == (4, 16)
    assert reading.values["dims.rotary_dim"] == 16
    assert (reading.values["norm_eps"], reading.values["tie_embeddings"]) == (1e-6, False)
    assert reading.keys["norm_eps"] == ()
    assert reading.keys["dims.hidden"] == ("hidden_size",)
    assert reading.rope == NoScaling(theta=10000)
    assert (reading.missing, reading.wrong, reading.unknown) == ((), (), {})
    assert read("qwen3").values["dims.head_dim"] == 128, "its class has a head_dim of its own"


def test_what_is_missing_wrong_or_unknown_is_told() -> None:
    reading = read(hidden_size="absent", vocab_size="many", use_qk_norm=True, temper=1)
    assert reading.missing == ("hidden_size",)
    assert reading.wrong == (
        "vocab_size is 'many'",
        "use_qk_norm is true, the architecture has false",
    )
    assert reading.unknown == {"temper": 1}
    assert "temper" in read(temper=None).ignored, "nothing is set"


def test_the_text_model_of_a_model_with_vision() -> None:
    text = {key: each for key, each in LLAMA.items() if key != "architectures"}
    whole = {"architectures": ["Gemma3ForConditionalGeneration"], "vision_config": {"depth": 2}}
    config = whole | {"text_config": text, "tie_word_embeddings": True}
    reading = read_config(config, with_shared(load_architecture("gemma3").config))
    assert reading.values["dims.hidden"] == 64
    assert reading.values["tie_embeddings"] is True
    assert reading.ignored["vision_config"] == "images are not read, the text model stands alone"


@pytest.mark.parametrize("spelling", ["rope_scaling", "rope_parameters"])
def test_yarn_in_both_spellings(spelling: str) -> None:
    scaling = {"rope_type": "yarn", "factor": 4, "mscale": 0.7, "mscale_all_dim": 0.7}
    rope = read(**{spelling: scaling}).rope
    assert isinstance(rope, Yarn)
    assert rope.original_context_tokens == 256
    assert attention_factor(rope) == 1.0, "the two factors cancel out"
    assert read(**{spelling: scaling}).values["max_context_tokens"] == 1024


def test_theta_in_both_places_must_agree() -> None:
    reading = read(rope_theta=1e6, rope_parameters={"rope_type": "default", "rope_theta": 1e6})
    assert reading.rope == NoScaling(theta=1e6)
    assert reading.ignored["rope_theta"] == "rope_parameters.rope_theta says it"
    assert read(rope_theta=5e5, rope_parameters={"rope_theta": 1e6}).wrong == (
        "rope_theta is 500000.0, and rope_parameters.rope_theta is 1000000.0",
    )


def test_a_rope_that_contradicts_itself() -> None:
    linear, other = {"type": "linear", "factor": 2}, {"rope_type": "linear", "factor": 2}
    assert not read(rope_scaling=linear, rope_parameters=other).wrong
    assert read(rope_scaling=linear, rope_parameters={**other, "factor": 4}).wrong == (
        "rope_parameters and rope_scaling differ: keep the one that is meant",
    )
    assert read(rope_scaling={**linear, "rope_type": "dynamic"}).wrong == (
        "rope_scaling.rope_type is dynamic, and rope_scaling.type is linear",
    )


def test_a_window_that_contradicts_the_kinds() -> None:
    listed = {"layer_types": ["full_attention", "sliding_attention"] * 2}
    asked = {**listed, "use_sliding_window": True}
    assert read("qwen2", **asked, sliding_window=None).wrong == (
        "sliding_window is null, but there are sliding decoders",
    )
    assert read("qwen2", **listed, use_sliding_window=False).wrong == (
        "use_sliding_window is false, but layer_types has sliding decoders",
    )
    longer = {"layer_types": [*listed["layer_types"], "full_attention"]}
    assert read("qwen2", **longer).wrong == ("layer_types has 5 entries for 4 layers",)
    assert read("mistral", sliding_window=-5).wrong == (
        "sliding_window is -5, expected a number from 0",
    )
    assert read("mistral", sliding_window=0).wrong == (
        "sliding_window is 0, expected a number above 0, or null for none",
    )


@pytest.mark.parametrize("architecture", ["qwen2", "mistral", "phi3"])
def test_biases_that_a_class_does_not_ask_for(architecture: str) -> None:
    """What biases there are is fixed, and a checkpoint with others has tensors without a name."""
    reading = read(architecture, attention_bias=True, mlp_bias=True)
    assert reading.wrong == ()
    assert reading.ignored["attention_bias"] == "the class does not read it"
    assert read("olmo2", mlp_bias=True).wrong == ("mlp_bias is true, the architecture has false",)


def test_longrope_without_an_original_context_reaches_beyond_the_one_there_is() -> None:
    factors = {"short_factor": [1.0] * 16, "long_factor": [2.0] * 16}
    scaling = {"rope_type": "longrope", "factor": 4.0, **factors}
    reading = read(rope_scaling=scaling)
    assert reading.wrong == ()
    assert reading.values["max_context_tokens"] == 1024
    beside = read(rope_scaling=scaling, original_max_position_embeddings=64)
    assert beside.values["max_context_tokens"] == 256


def test_two_tables_in_both_spellings() -> None:
    old = read(
        "gemma3", rope_theta=1e6, rope_local_base_freq=1e4,
        rope_scaling={"rope_type": "linear", "factor": 8.0},
    )  # fmt: skip
    new = read(
        "gemma3",
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    )
    for reading in (old, new):
        assert reading.rope == Linear(theta=1e6, factor=8)
        assert reading.local_rope == NoScaling(theta=1e4)
        assert (reading.unknown, reading.wrong) == ({}, ())


def test_longrope_of_phi3() -> None:
    scaling = {"type": "su", "short_factor": [1.1] * 8, "long_factor": [64.11434936523438] * 8}
    reading = read("phi3", rope_scaling=scaling, original_max_position_embeddings=64)
    assert isinstance(reading.rope, LongRope)
    assert (reading.rope.factor, reading.rope.original_context_tokens) == (4, 64)
    assert reading.rope.long_factors[0] == 64.11434936523438
    assert rope_fields(reading.rope)["kind"] == "longrope"
    inside = {**scaling, "original_max_position_embeddings": 64}
    (wrong,) = read("phi3", rope_scaling=inside).wrong
    assert "64, which longrope does not read" in wrong
    assert "beside rope_scaling is or stands for 4096" in wrong
    assert read(rope_scaling=inside).wrong[0].endswith("stands for 256")
    newer = {**inside, "rope_type": "longrope"}
    assert read(rope_parameters=newer).rope == reading.rope
    assert not read("phi3", rope_scaling=inside, original_max_position_embeddings=64).wrong


def test_a_rope_that_cannot_be() -> None:
    for scaling, message in (
        ({"rope_type": "linear"}, "rope_scaling of type linear has no 'factor'"),
        (
            {"rope_type": "linear", "factor": "8"},
            "rope_scaling.factor is '8', expected a number above 0",
        ),
        ("linear", "rope_scaling is 'linear', expected a mapping"),
    ):
        reading = read(rope_scaling=scaling)
        assert message in reading.wrong


def test_kinds_of_decoders() -> None:
    listed = ["full_attention", "sliding_attention"] * 2
    reading = read("qwen2", layer_types=listed, use_sliding_window=True, sliding_window=32)
    assert reading.kinds == ("full", "sliding") * 2
    assert reading.values["numbers.window"] == 32
    counted = read("qwen2", use_sliding_window=True, sliding_window=32, max_window_layers=1)
    assert counted.kinds == ("full", "sliding", "sliding", "sliding")
    idle = read("qwen2", use_sliding_window=False, sliding_window=32, max_window_layers=1)
    assert idle.kinds == ("full",) * 4
    assert "numbers.window" not in idle.values
    assert idle.ignored["sliding_window"] == "no decoder is of the kind sliding"
    assert read("smollm3").kinds == ("rotating", "rotating", "rotating", "still")
    assert read("smollm3", no_rope_layers=[1, 0, 1, 0]).kinds == ("rotating", "still") * 2
    short = read("qwen2", layer_types=listed[:3])
    assert short.wrong == ("layer_types has 3 entries for 4 layers",)


def test_kinds_that_a_second_property_changes() -> None:
    """SmolLM 3: decoders that do not rotate may slide, or those that layer_types lists."""
    asked = read("smollm3", use_sliding_window=True, sliding_window=32)
    assert asked.kinds == (*("rotating",) * 3, "still_sliding")
    assert asked.values["numbers.window"] == 32
    idle = read("smollm3", use_sliding_window=False, sliding_window=32)
    assert idle.kinds == (*("rotating",) * 3, "still")
    assert "numbers.window" not in idle.values
    assert "no decoder is of the kind" in idle.ignored["sliding_window"]
    listed = ["sliding_attention", "full_attention"] * 2
    other = read("smollm3", layer_types=listed, use_sliding_window=False, sliding_window=32)
    assert other.kinds == ("rotating_sliding", "rotating", "rotating_sliding", "still")
    assert other.values["numbers.window"] == 32
    assert other.ignored["use_sliding_window"] == "layer_types says it"
    assert not other.used.keys() & other.ignored.keys()
    assert read("smollm3", layer_types=listed).missing == ("sliding_window",)
    odd = read("smollm3", layer_types=["chunked_attention", *listed[1:]])
    known = "known are full_attention, sliding_attention"
    assert odd.wrong == (f"layer_types has the entry 'chunked_attention'; {known}",)


def test_a_window_that_no_context_exceeds_is_none() -> None:
    assert read("mistral", sliding_window=64).values["numbers.window"] == 64
    wide = read("mistral", sliding_window=256)
    assert wide.values["numbers.window"] == 0
    assert wide.ignored["sliding_window"] == "not less than max_context_tokens"


def test_a_window_of_a_context_that_its_rope_extends() -> None:
    scaling = {"rope_type": "dynamic", "factor": 4}
    extended = read("mistral", sliding_window=256, rope_scaling=scaling)
    assert extended.values["max_context_tokens"] == 1024
    assert extended.values["numbers.window"] == 256
    wide = read("mistral", sliding_window=1024, rope_scaling=scaling)
    assert wide.values["numbers.window"] == 0


def test_a_window_that_is_missing_is_not_one_that_is_null() -> None:
    wide = {"max_position_embeddings": 8192}
    assert read("mistral", **wide).values["numbers.window"] == 4096
    assert read("mistral", **wide, sliding_window=None).values["numbers.window"] == 0
    assert read("mistral", **wide, sliding_window=0).values["numbers.window"] == 0
    asked = read("qwen2", **wide, use_sliding_window=True, num_hidden_layers=30)
    assert asked.kinds == (*("full",) * 28, "sliding", "sliding")
    assert asked.values["numbers.window"] == 4096
    null = read("qwen2", **wide, use_sliding_window=True, num_hidden_layers=30, sliding_window=None)
    assert null.kinds == ("full",) * 30


def test_key_value_heads_that_are_null() -> None:
    assert read("mistral").values["dims.kv_heads"] == 8
    assert read("mistral", num_key_value_heads=None).values["dims.kv_heads"] == 4


def test_a_cap_that_the_class_does_not_apply() -> None:
    reading = read("gemma3", attn_logit_softcapping=20)
    assert "numbers.score_cap" not in reading.values
    assert reading.ignored["attn_logit_softcapping"].endswith("does not read it")


def test_numbers_are_computed() -> None:
    reading = read("gemma3", query_pre_attn_scalar=64)
    assert reading.values["numbers.attention_scale"] == 0.125
    assert reading.values["numbers.embedding_scale"] == 8


def test_the_shortest_cycle() -> None:
    assert shortest_cycle(("a", "b", "a", "b", "a")) == ("a", "b")
    assert shortest_cycle(("a", "a")) == ("a",)
    assert shortest_cycle(("a", "a", "b")) == ("a", "a", "b")
    assert shortest_cycle(()) == ()


def test_what_an_architecture_ignores_is_not_fixed_for_it() -> None:
    """Gemma's `hidden_act` says nothing: `hidden_activation` does."""
    keys = with_shared(load_architecture("gemma3").config)
    config = {"hidden_act": "gelu", "hidden_activation": "relu"}
    reading = read_config(config, keys)
    assert not [each for each in reading.wrong if "hidden" in each]
    assert reading.values["options.activation"] == "relu"
    assert "hidden_act" in reading.ignored
