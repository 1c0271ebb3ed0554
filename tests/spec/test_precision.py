from pathlib import Path
from typing import Any

import pytest

from ttc.errors import SpecError, UsageError
from ttc.schema import load_schema
from ttc.spec.groups import ACTIVATIONS, MODEL_ONLY, OPS, WEIGHTS
from ttc.spec.model import ModelSpec, load_model
from ttc.spec.precision import effective, load_profile, precision_table

pytestmark = pytest.mark.fast

SPEC = """\
model: org/tiny
architecture: llama
dims: {hidden: 64, layers: 4, heads: 4, kv_heads: 2, head_dim: 16, ffn: 96, vocab: 128}
norm_eps: 1.0e-5
rope: {kind: none, theta: 10000}
tie_embeddings: true
max_context_tokens: 256
"""
EXCEPTION = """\
precision:
  mixed:
    wo: bf16
    decoders:
      2: {wo: bfp4, li_ff2: hifi4}
"""
PROFILE = """\
profile: mixed
default: {weights: bfp8, activations: bf16, ops: hifi2}
weights: {ff2: bfp4, wo: bfp4, wqkv: bf16}
activations: {qkv: {decode: bf16, prefill: bfp8}}
decoders:
  0-1: {ff2: bf16, wo: bfp8}
  2: {wqkv: bfp4}
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for folder, name, text in (
        ("specs", "plain", SPEC),
        ("specs", "tiny", SPEC + EXCEPTION),
        ("precision_profiles", "mixed", PROFILE),
    ):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f"{name}.yaml").write_text(text)
    return tmp_path


def loaded(tree: Path, name: str) -> ModelSpec:
    return load_model(tree / "specs" / f"{name}.yaml")


@pytest.mark.parametrize(
    ("spec", "decoder", "group", "value", "origin"),
    [
        ("plain", 3, "kv_cache", "bfp8", "profile default, precision_profiles/mixed.yaml:2"),
        ("plain", 3, "ff2", "bfp4", "profile group, precision_profiles/mixed.yaml:3"),
        ("plain", 1, "ff2", "bf16", "profile decoder entry, precision_profiles/mixed.yaml:6"),
        ("plain", None, "ff2", "bfp4", "profile group, precision_profiles/mixed.yaml:3"),
        ("plain", 0, "wo", "bfp8", "profile decoder entry, precision_profiles/mixed.yaml:6"),
        ("tiny", 0, "wo", "bf16", "spec exception, specs/tiny.yaml:10"),
        ("tiny", None, "wo", "bf16", "spec exception, specs/tiny.yaml:10"),
        ("tiny", 2, "wo", "bfp4", "spec decoder exception, specs/tiny.yaml:12"),
        ("tiny", 2, "wqkv", "bfp4", "profile decoder entry, precision_profiles/mixed.yaml:7"),
    ],
)
def test_precedence(
    tree: Path, spec: str, decoder: int | None, group: str, value: str, origin: str
) -> None:
    profile = load_profile(tree / "precision_profiles" / "mixed.yaml")
    precision = effective(profile, loaded(tree, spec), decoder)
    assert (precision.dtype(group), precision.origin(group)) == (value, origin)
    assert precision.source(group).line == int(origin.rpartition(":")[2])


def test_phases_and_fidelities(tree: Path) -> None:
    profile = load_profile(tree / "precision_profiles" / "mixed.yaml")
    precision = effective(profile, loaded(tree, "tiny"), 2)
    assert precision.dtype("qkv", "decode") == "bf16"
    assert precision.dtype("qkv", "prefill") == "bfp8"
    assert precision.fidelity("li_ff2").math_fidelity == "HiFi4"
    assert precision.fidelity("li_ff1_3").name == "hifi2"


def test_equal_decoders_are_equal_whatever_decided(tree: Path) -> None:
    profile = load_profile(tree / "precision_profiles" / "mixed.yaml")
    decoders = [effective(profile, loaded(tree, "tiny"), decoder) for decoder in range(4)]
    assert len(set(decoders)) == 3
    assert decoders[0] == decoders[1]


def test_a_profile_that_names_a_decoder_the_model_lacks(tree: Path) -> None:
    path = tree / "precision_profiles" / "mixed.yaml"
    path.write_text(PROFILE.replace("2: {wqkv", "2-40: {wqkv"))
    with pytest.raises(SpecError) as raised:
        effective(load_profile(path), loaded(tree, "plain"), 0)
    (problem,) = raised.value.problems
    assert problem.at is not None
    assert (problem.at.line, problem.at.column) == (7, 3)
    assert (problem.message, problem.note) == (
        "there is no decoder 40",
        "plain has decoders 0 to 3",
    )


BASE = """\
profile: wide
extends: mixed
weights: {wo: bf16}
ops: {norm: {decode: lofi, prefill: hifi4}}
decoders:
  2: {ff2: bfp8}
"""


def test_what_a_profile_does_not_say_is_said_by_the_one_it_extends(tree: Path) -> None:
    path = tree / "precision_profiles" / "wide.yaml"
    path.write_text(BASE)
    profile, spec = load_profile(path), loaded(tree, "tiny")
    found = {
        (group, decoder): effective(profile, spec, decoder).shown(group)
        for group in ("wo", "ff2", "wqkv")
        for decoder in (0, 2)
    }
    # The spec's exception is for the profile below, so that the profile above is stronger.
    assert found["wo", 0] == found["wo", 2] == "bf16"
    assert (found["ff2", 0], found["ff2", 2]) == ("bf16", "bfp8")
    assert (found["wqkv", 0], found["wqkv", 2]) == ("bf16", "bfp4")
    norm = effective(profile, spec, 1)
    assert norm.shown("norm") == "lofi, prefill hifi4"
    assert norm.fidelity("norm", "prefill").math_fidelity == "HiFi4"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("profile: wide\nextends: wide\n", "profiles extend each other"),
        ("profile: wide\nextends: mixd\n", "unknown precision profile 'mixd'"),
        ("profile: wide\n", "a profile has either 'default' or 'extends'"),
        (BASE.replace("lofi", "lowfi"), "unknown fidelity 'lowfi'"),
    ],
)
def test_a_profile_that_extends_nothing_good(tree: Path, text: str, message: str) -> None:
    path = tree / "precision_profiles" / "wide.yaml"
    path.write_text(text)
    with pytest.raises(SpecError, match=message):
        load_profile(path)


def test_the_table_names_every_group_and_who_decided(tree: Path) -> None:
    profile = load_profile(tree / "precision_profiles" / "mixed.yaml")
    rows = precision_table(profile, loaded(tree, "tiny"))
    assert {row.group for row in rows} == set(WEIGHTS + ACTIVATIONS + OPS)
    found = [(row.decoders, row.decode) for row in rows if row.group == "ff2"]
    assert found == [("0-1", "bf16"), ("2-3", "bfp4")]
    (head,) = (row for row in rows if row.group == "lm_head")
    assert (head.decoders, head.origin) == ("", "profile default, precision_profiles/mixed.yaml:2")


@pytest.mark.parametrize("group", ["embedding", "norms"])
def test_what_no_default_changes_is_not_said_to_be_one(tree: Path, group: str) -> None:
    profile = load_profile(tree / "precision_profiles" / "mixed.yaml")
    precision = effective(profile, loaded(tree, "plain"), 3)
    assert precision.dtype(group) == "bf16"
    assert precision.origin(group) == "fixed rule, bf16 whatever the defaults say"


def test_a_spec_takes_another_profile_instead(tree: Path) -> None:
    path = tree / "specs" / "plain.yaml"
    path.write_text(SPEC + "precision:\n  mixed: bf16\n  bf16: mixed\n")
    spec = loaded(tree, "plain")
    profile = load_profile(tree / "precision_profiles" / "mixed.yaml")
    precision = effective(profile, spec, 2)
    assert (precision.dtype("ff2"), precision.fidelity("norm").name) == ("bf16", "hifi4")
    assert precision.origin("ff2") == (
        "profile default, precision_profiles/bf16.yaml:5, instead of mixed: specs/plain.yaml:9"
    )
    assert effective(load_profile("bf16"), spec, 2).dtype("wqkv") == "bfp4"


def test_a_spec_that_takes_an_unknown_profile(tree: Path) -> None:
    (tree / "specs" / "plain.yaml").write_text(SPEC + "precision: {mixed: acuracy}\n")
    with pytest.raises(SpecError, match="unknown precision profile 'acuracy'") as raised:
        loaded(tree, "plain")
    assert raised.value.problems[0].help == "did you mean 'accuracy'?"


def test_a_profile_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="did you mean 'performance'"):
        load_profile("performanse")


def test_performance_of_llama_8b_keeps_the_last_decoder_finer() -> None:
    profile, spec = load_profile("performance"), load_model("llama-3.1-8b-instruct")
    middle, last = effective(profile, spec, 30), effective(profile, spec, 31)
    assert (middle.dtype("ff1_3"), middle.fidelity("li_ff1_3").name) == ("bfp4", "lofi")
    assert (last.dtype("ff1_3"), last.fidelity("li_ff1_3").name) == ("bfp8", "hifi2fp16")
    assert (middle.dtype("ff2"), middle.fidelity("li_ff2").name) == ("bfp8", "hifi2fp16")
    assert middle.fidelity("sdpa_prefill").name == "hifi4"


def test_bf16_is_bf16_but_for_logits_with_sums_in_fp32() -> None:
    precision = effective(load_profile("bf16"), load_model("smollm2-135m-instruct"), None)
    dtypes = {group: precision.dtype(group, "prefill") for group in WEIGHTS + ACTIVATIONS}
    assert {group for group, dtype in dtypes.items() if dtype != "bf16"} == {"logits"}
    assert dtypes["logits"] == "fp32"
    fidelities = {precision.fidelity(op) for op in OPS}
    assert {(each.math_fidelity, each.fp32_dest_acc) for each in fidelities} == {("HiFi4", True)}


def test_the_schema_has_the_groups_of_the_code() -> None:
    definitions: Any = load_schema("precision_profile")["$defs"]
    for name, groups in (("weights", WEIGHTS), ("activations", ACTIVATIONS), ("ops", OPS)):
        assert tuple(definitions[name]["properties"]) == groups
    every = set(WEIGHTS + ACTIVATIONS + OPS)
    assert set(definitions["decoder_exception"]["properties"]) == every - set(MODEL_ONLY)
    assert set(definitions["exception"]["properties"]) == every | {"decoders"}
