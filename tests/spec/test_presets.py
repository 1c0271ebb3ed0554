"""The presets are those of tt-transformers, with its exceptions for families and models.

It tells models by their names; here each spec says it. Fine-tunes take what the spec says that
they extend, where tt-transformers goes by the new name.
"""

import re

import pytest

from ttc.spec import library
from ttc.spec.model import ModelSpec, load_model
from ttc.spec.precision import effective, load_profile

pytestmark = pytest.mark.fast

ATTENTION = ("wqkv", "wo", "kv_cache")
ATTENTION_OPS = (
    *("li_qkv_decode", "li_o_decode", "sdpa_decode"),
    *("li_qkv_prefill", "li_o_prefill", "sdpa_prefill"),
)
BASE = {
    **dict.fromkeys(("ff1_3", "ff2", *ATTENTION), "bfp8"),
    **dict.fromkeys(("li_ff1_3", "li_ff2"), "hifi2fp16"),
    **dict.fromkeys(ATTENTION_OPS, "hifi2"),
    "sdpa_prefill": "hifi4",
}
EXACT = BASE | dict.fromkeys(ATTENTION, "bf16") | dict.fromkeys(ATTENTION_OPS, "hifi4")
SMALL_MLP = {"ff1_3": "bfp4", "li_ff1_3": "lofi"}
FINE_IN_BFP8 = ("Llama-3", "Mistral-7B", "Phi-3-mini", "phi-4")
LARGE = ("Llama-3.1-70B", "Llama-3.2-90B", "DeepSeek-R1-Distill-Llama-70B", "Qwen2.5-72B")
EXACT_ALWAYS = ("Qwen2.5-7B", "Qwen2.5-VL-7B")
NAMES = library.names(library.SPECS, near=library.shipped(library.SPECS) / "_")


def base_name(spec: ModelSpec) -> str:
    return re.sub("-(Instruct|instruct|Chat|chat)$", "", spec.model.split("/")[-1])


def expected(spec: ModelSpec, profile: str) -> dict[str, str]:
    name = base_name(spec)
    if profile == "performance":
        settings = EXACT if name in EXACT_ALWAYS else BASE | SMALL_MLP
        narrow = {"li_qkv_prefill": "hifi2fp16"} if name.startswith("Phi-3-mini") else {}
        return settings | narrow
    if name in LARGE:
        return BASE | SMALL_MLP
    return BASE if name.startswith(FINE_IN_BFP8) else EXACT


def extends(name: str) -> bool:
    text = library.resolve(library.SPECS, name).read_text()
    return re.search("^extends:", text, re.MULTILINE) is not None


@pytest.mark.parametrize("profile", ["performance", "accuracy"])
@pytest.mark.parametrize("name", [name for name in NAMES if not extends(name)])
def test_presets_of_every_model(name: str, profile: str) -> None:
    spec = load_model(name)
    precision = effective(load_profile(profile), spec, 0)
    found = {group: precision.shown(group) for group in BASE}
    wanted = expected(spec, profile)
    same = next(
        (each for each in ("base", "performance", "accuracy") if wanted == _plain(each)), "?"
    )
    assert found == wanted, f"specs/{name}.yaml: add 'precision: {{{profile}: {same}}}'"


def _plain(profile: str) -> dict[str, str]:
    """What a profile says to a model without exceptions."""
    plain = load_model("smollm2-135m-instruct")
    precision = effective(load_profile(profile), plain, 0)
    return {group: precision.shown(group) for group in BASE}
