"""The precision formats of tt-transformers: what they mean, and what is wrong in them.

`golden/optimizations.txt` holds, for every example of its documentation and every JSON file it
ships, the settings of all its keys. `merged` computes the same from its documented rules.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ttc import api
from ttc.errors import SpecError, TtcError, UsageError
from ttc.plan.plan import PhasePlan, Plan, PlannedAttention, PlannedLinear
from ttc.spec.model import ModelSpec, load_model
from ttc.spec.optimizations import differences, load_decoder_config, read_optimizations
from ttc.spec.precision import PrecisionProfile, effective, load_profile

pytestmark = pytest.mark.fast

DEFAULTS = {
    **dict.fromkeys(("ff1_3", "ff2", "wqkv", "wo", "kv_cache"), "bfp8"),
    "activation": "mixed",
    **dict.fromkeys(("li_ff1_3", "li_ff2"), "hifi2fp16"),
    **dict.fromkeys(("li_qkv_decode", "li_o_decode", "sdpa_decode"), "hifi2"),
    **dict.fromkeys(("li_qkv_prefill", "li_o_prefill"), "hifi2"),
    "sdpa_prefill": "hifi4",
}
FIDELITY = {"bfp4": "lofi", "bfp8": "hifi2", "bf16": "hifi4"}
ATTENTION = (
    "wqkv: bfp8, wo: {wo}, kv_cache: bfp8, activation: {activation}}}, fidelity_cfg = {{"
    "li_qkv_decode: hifi2, li_o_decode: {o}, sdpa_decode: hifi2, li_qkv_prefill: hifi2, "
    "li_o_prefill: {o}, sdpa_prefill: hifi4"
)


def ablation(ff1_3: str, ff2: str, wo: str = "bfp8", activation: str = "mixed") -> str:
    """An entry of its ablation: bfp4 runs LoFi, bfp8 HiFi2, bf16 HiFi4."""
    rest = ATTENTION.format(wo=wo, activation=activation, o=FIDELITY[wo])
    return (
        f"precision_cfg = {{ff1_3: {ff1_3}, ff2: {ff2}, {rest}, "
        f"li_ff1_3: {FIDELITY[ff1_3]}, li_ff2: {FIDELITY[ff2]}}}"
    )


STRINGS = {
    "grammar": "precision_cfg = {ff1_3: bfp4}, fidelity_cfg = {li_ff1_3: hifi2}",
    "every key": (
        "precision_cfg = {ff1_3: bfp4, ff2: bfp4, wqkv: bfp8, wo: bfp8, kv_cache: bfp8, "
        "activation: mixed}, fidelity_cfg = {li_ff1_3: hifi2, li_ff2: lofi, li_qkv_decode: hifi2, "
        "li_o_decode: hifi2, sdpa_decode: hifi2na, li_qkv_prefill: hifi2, "
        "li_o_prefill: hifi2fp16, sdpa_prefill: hifi4}"
    ),
    "precision only": "precision_cfg = {ff1_3: bfp4, ff2: bfp4}",
    "fidelity only": "fidelity_cfg = {li_ff1_3: lofi, accuracy: hifi4fp32}",
    **{f"mlp {ff1_3} {ff2}": ablation(ff1_3, ff2) for ff1_3 in FIDELITY for ff2 in FIDELITY},
    **{
        f"wo bfp4, activation {activation}": ablation("bfp8", "bfp8", "bfp4", activation)
        for activation in ("bf16", "bfp8", "mixed")
    },
}
FINE = {
    "precision_cfg": {
        **dict.fromkeys(("FF1_FF3", "FF2"), "BFP8"),
        **dict.fromkeys(("WQKV", "WO", "KV_CACHE", "ACTIVATION"), "BF16"),
    },
    "fidelity_cfg": dict.fromkeys(
        (
            *("LI_FF1_FF3", "LI_FF2", "LI_QKV_DECODE", "LI_O_DECODE", "SDPA_DECODE"),
            *("LI_QKV_PREFILL", "LI_O_PREFILL", "SDPA_PREFILL"),
        ),
        "HIFI4",
    ),
}
EXACT_ATTENTION = (
    "{wqkv: bf16, wo: bf16, kv_cache: bf16, li_qkv_decode: hifi4, li_qkv_prefill: hifi4, "
    "li_o_decode: hifi4, li_o_prefill: hifi4, sdpa_decode: hifi4, sdpa_prefill: hifi4}"
)
LAST = {"precision_cfg": {"FF1_FF3": "BFP8"}, "fidelity_cfg": {"LI_FF1_FF3": "HIFI2_FP16"}}
FILES: Mapping[str, tuple[str, int, str, Any]] = {
    "llama-3.1-8b performance": ("performance", 32, "", {31: LAST}),
    "qwen2.5-7b performance": ("performance", 28, EXACT_ATTENTION, dict.fromkeys(range(28), FINE)),
    "qwen2.5-7b accuracy": ("accuracy", 28, EXACT_ATTENTION, dict.fromkeys(range(28), FINE)),
    "qwen2.5-vl-7b performance": ("performance", 28, "", dict.fromkeys(range(28), FINE)),
    "gemma-3-27b accuracy": (
        "accuracy",
        62,
        EXACT_ATTENTION,
        {number: {"precision_cfg": {"KV_CACHE": "BFP8"}} for number in range(62)},
    ),
}


def spec_of(folder: Path, layers: int, profile: str = "", exception: str = "") -> ModelSpec:
    folder.mkdir(exist_ok=True)
    path = folder / "sized.yaml"
    tiny = Path(__file__).parents[1] / "data" / "tiny.yaml"
    text = tiny.read_text().replace("layers: 2", f"layers: {layers}")
    path.write_text(text + (f"precision:\n  {profile}: {exception}\n" if exception else ""))
    return load_model(path)


def settings(profile: PrecisionProfile, spec: ModelSpec, decoder: int) -> dict[str, str]:
    """A profile in the keys of tt-transformers."""
    precision = effective(profile, spec, decoder)
    stored = {precision.shown(each) for each in ("residual", "qkv", "attn_out", "ff_act")}
    activation = stored.pop() if len(stored) == 1 else "mixed"
    return {key: activation if key == "activation" else precision.shown(key) for key in DEFAULTS}


def merged(text: str) -> dict[str, str]:
    """What tt-transformers makes of a string: its defaults, and the pairs in the braces."""
    pairs = [
        pair.split(":") for part in text.split("{")[1:] for pair in part.split("}")[0].split(",")
    ]
    given = {key.strip(): value.strip() for key, value in pairs}
    return DEFAULTS | {key: value for key, value in given.items() if key in DEFAULTS}


def json_file(folder: Path, entries: Mapping[int, Any]) -> Path:
    path = folder / "performance_decoder_config.json"
    path.write_text(json.dumps({"decoders": {str(key): value for key, value in entries.items()}}))
    return path


def planned(plan: Plan, decoder: int) -> dict[str, str]:
    """What a plan stores and computes in a decoder, in the same keys; activations are not named."""
    groups = {each.name: each.group for each in plan.weights if each.decoder == decoder}
    stored = {
        each.group: each.tensor.dtype
        for each in plan.weights
        if each.decoder == decoder and each.group in DEFAULTS
    }
    found: dict[str, str] = stored | {"kv_cache": plan.kv_cache.dtypes[decoder]}

    def compute(phase: PhasePlan, name: str) -> None:
        keys = {"wqkv": f"li_qkv_{name}", "wo": f"li_o_{name}", "ff1_3": "li_ff1_3"}
        ops = next(each.ops for each in phase.decoders if decoder in each.layers)
        for op in ops:
            if isinstance(op, PlannedAttention):
                found[f"sdpa_{name}"] = op.compute.name
            elif isinstance(op, PlannedLinear):
                group = groups[op.weights[0]]
                key = keys.get(group, f"li_{group}")
                assert found.setdefault(key, op.compute.name) == op.compute.name

    compute(plan.decode, "decode")
    for phase in plan.prefill:
        compute(phase, "prefill")
    return found


@pytest.mark.parametrize("name", STRINGS)
def test_plans_carry_them_out(name: str, tmp_path: Path) -> None:
    spec_of(tmp_path, 2)
    target = api.Target(precision=read_optimizations(STRINGS[name]), context=256)
    wanted = merged(STRINGS[name])
    wanted.pop("activation")
    assert planned(api.plan(tmp_path / "sized.yaml", target), 1) == wanted


@pytest.mark.parametrize("name", FILES)
def test_plans_carry_files_out(name: str, tmp_path: Path) -> None:
    profile, layers, exception, entries = FILES[name]
    spec = spec_of(tmp_path, layers, profile, exception)
    loaded = load_decoder_config(json_file(tmp_path, entries), load_profile(profile))
    plan = api.plan(tmp_path / "sized.yaml", api.Target(precision=loaded, context=256))
    for decoder in (0, layers - 1):
        wanted = settings(loaded, spec, decoder)
        wanted.pop("activation")
        assert planned(plan, decoder) == wanted


@pytest.mark.parametrize("name", STRINGS)
def test_strings_mean_what_they_mean_there(name: str, tmp_path: Path) -> None:
    profile = read_optimizations(STRINGS[name])
    assert settings(profile, spec_of(tmp_path, 2), 1) == merged(STRINGS[name])


def test_every_example_gives_the_settings_of_the_table(tmp_path: Path, golden: Any) -> None:
    lines: list[str] = []
    for name, text in STRINGS.items():
        found = settings(read_optimizations(text), spec_of(tmp_path, 2), 0)
        lines.append(f"{name}: " + " ".join(found.values()))
    for name, (profile, layers, exception, entries) in FILES.items():
        spec = spec_of(tmp_path, layers, profile, exception)
        loaded = load_decoder_config(json_file(tmp_path, entries), load_profile(profile))
        for decoder in (0, layers - 1):
            found = settings(loaded, spec, decoder)
            lines.append(f"{name}, decoder {decoder}: " + " ".join(found.values()))
        lines += [f"{name}, not there: {each}" for each in differences(loaded, spec)]
    table = " ".join(DEFAULTS) + "\n" + "\n".join(lines) + "\n"
    golden(Path(__file__).parent / "golden" / "optimizations.txt", table)


def test_names_of_profiles_are_taken() -> None:
    assert read_optimizations("accuracy").name == "accuracy"
    assert read_optimizations("accuracy", load_profile("accuracy")).name == "accuracy"
    with pytest.raises(UsageError, match="--precision bf16 and --optimizations accuracy name two"):
        read_optimizations("accuracy", load_profile("bf16"))


def test_a_partial_entry_falls_back_to_the_profile(tmp_path: Path) -> None:
    path = json_file(tmp_path, {0: {"precision_cfg": {"KV_CACHE": "BFP8"}}})
    spec = spec_of(tmp_path, 2, "accuracy", EXACT_ATTENTION)
    loaded = load_decoder_config(path, load_profile("accuracy"))
    precision = effective(loaded, spec, 0)
    assert (precision.dtype("kv_cache"), precision.dtype("wqkv")) == ("bfp8", "bf16")
    assert precision.origin("wqkv").startswith("spec exception")
    told = differences(loaded, spec)
    assert "wqkv of decoder 0, bf16 here and bfp8 there: its default under an entry" in told
    assert told[-1] == "decoders from 1 on: the profile here, an error there"


@pytest.mark.parametrize("text", ["", "  "])
def test_an_argument_without_settings(text: str) -> None:
    with pytest.raises(UsageError, match="--optimizations says nothing"):
        read_optimizations(text)


def test_an_argument_over_a_named_profile_keeps_that_profile(tmp_path: Path) -> None:
    profile = read_optimizations("precision_cfg = {ff2: bf16}", load_profile("performance"))
    found = settings(profile, spec_of(tmp_path, 2), 0)
    assert (found["ff1_3"], found["ff2"], found["li_ff1_3"]) == ("bfp4", "bf16", "lofi")


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("precision_cfg = {ff1_4: bfp4}", 18, "unknown group 'ff1_4'"),
        ("precision_cfg = {ff1_3: bfp5}", 25, "'ff1_3' cannot be 'bfp5'"),
        ("precision_cfg = {wo: bfp4, wo: bfp8}", 28, "'wo' is set twice"),
        ("precision_cfg = {kv_cache: bfp4}", 28, "'kv_cache' cannot be bfp4"),
        ("precision_cfg = {activation: bfp4}", 30, "'activation' cannot be bfp4"),
        ("precision_cfg = {wo: mixed}", 22, "'wo' cannot be 'mixed'"),
        ("fidelity_cfg = {li_ff2: hifi5}", 25, "'li_ff2' cannot be 'hifi5'"),
        ("fidelity_cfg = {ff2: hifi4}", 17, "unknown group 'ff2'"),
        ("precision = {wo: bfp8}", 1, "unknown section 'precision'"),
        ("precision_cfg = {wo: bfp8}, precision_cfg = {}", 29, "'precision_cfg' is given twice"),
        ("precision_cfg = {wo}", 20, "expected ':'"),
        ("precision_cfg = {wo: }", 22, "expected a value"),
        ("precision_cfg = {wo: bfp8,}", 27, "expected a group"),
        ("precision_cfg = {wo: bfp8; ff2: bfp8}", 26, "expected ',' or '}'"),
        ("precision_cfg = {wo: bfp8 ff2: bfp8}", 27, "expected ',' or '}'"),
        ("precision_cfg = {wo=bfp8}", 20, "expected ':'"),
        ("precision_cfg: {wo: bfp8}", 14, "expected '='"),
        ("precision_cfg = {wo: bfp8} fidelity_cfg = {}", 28, "expected ','"),
        ("precision_cfg = {wo: bfp8},", 28, "expected precision_cfg or fidelity_cfg"),
        ("precision_cfg = {'wo': bfp8}", 18, "names and values stand without quotes"),
        ('precision_cfg = {wo: "bfp8"}', 22, "names and values stand without quotes"),
        ("'precision_cfg = {wo: bfp8}'", 1, "names and values stand without quotes"),
        ("precision_cfg = {wo: bfp8", 17, "this '{' is not closed"),
        ("precision_cfg = {wo: bfp8, fidelity_cfg = {}", 17, "this '{' is not closed"),
        ("precision_cfg {wo: bfp8}", 15, "expected '='"),
    ],
)
def test_bad_arguments_are_located(text: str, column: int, message: str) -> None:
    with pytest.raises(SpecError) as raised:
        read_optimizations(text)
    problem = raised.value.problems[0]
    assert problem.message == message
    assert problem.at is not None
    assert (problem.at.path, problem.at.column) == ("--optimizations", column)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"decoders": {"0": {"precision_cfg": {"FF1_3": "BFP4"}}}}', "unknown group 'FF1_3'"),
        ('{"decoders": {"0": {"precision_cfg": {"FF2": "bfp4"}}}}', "'FF2' cannot be 'bfp4'"),
        (
            '{"decoders": {"0": {"precision_cfg": {"KV_CACHE": "BFP4"}}}}',
            "'KV_CACHE' cannot be BFP4",
        ),
        ('{"decoders": {"x": {"precision_cfg": {}}}}', "x"),
        ('{"decoders": {"0": {"precision": {}}}}', "precision"),
        ('{"decoders": {"0": {"fidelity_cfg": {"LI_FF2": "LOFI", "LI_FF2": "HIFI2"}}}}', "LI_FF2"),
        ('{"decoders": {"0": {"fidelity_cfg": {}}, "00": {"fidelity_cfg": {}}}}', "is set twice"),
        ('{"layers": {}}', "layers"),
        ('{"decoders": {"0": {"fidelity_cfg": {"LI_FF2": "LOFI",}}}}', "remove it"),
        ("decoders: {0: {fidelity_cfg: {}}}", "not valid JSON"),
        ("", "empty"),
    ],
)
def test_bad_files_are_located(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "decoder_config.json"
    path.write_text(text)
    with pytest.raises(TtcError, match=message) as raised:
        load_decoder_config(path, load_profile("performance"))
    assert all(problem.at and problem.at.line == 1 for problem in raised.value.problems)


def test_a_decoder_the_model_lacks(tmp_path: Path) -> None:
    loaded = load_decoder_config(json_file(tmp_path, {7: LAST}), load_profile("performance"))
    with pytest.raises(SpecError, match="there is no decoder 7"):
        effective(loaded, spec_of(tmp_path, 2), 0)
