"""Damaged and hostile files end in errors that say where, and in nothing else.

Every example of hypothesis is the seed of `INPUTS` files, each a valid one with some changes.
"""

import json
import random
import struct
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from ttc.checkpoint import meta_folder
from ttc.checkpoint.config_reading import read_config
from ttc.checkpoint.fingerprint import Span
from ttc.checkpoint.gguf_file import GgufFile
from ttc.checkpoint.meta_folder import MetaFolder
from ttc.checkpoint.safetensors_folder import SafetensorsFolder
from ttc.checkpoint.stored import StoredTensor
from ttc.errors import TtcError
from ttc.plan.text import fingerprint
from ttc.runtime.artefact import file_facts, read_artefact, ttc_version, ttnn_version
from ttc.runtime.manifest import CheckpointFacts, KvLayout, Manifest, MeshFacts
from ttc.runtime.weight_files import WeightFile
from ttc.spec.architecture import load_architecture
from ttc.spec.config_keys import with_shared

pytestmark = pytest.mark.emulate

INPUTS, EXAMPLES, FORMATS = 40, 63, 8
assert INPUTS * EXAMPLES * FORMATS >= 20_000

NUMBERS = (0, 1, -1, 2, 7, 255, 1 << 16, (1 << 31) - 1, 1 << 32, 1 << 62, (1 << 64) - 1)
VALUES: tuple[Any, ...] = (
    *NUMBERS, None, True, 1.5, float("nan"), float("inf"), "", "x", "../x", "/etc/passwd", "\0", [],
    {}, [1, 2], [[]], {"a": 1}, "F32", "BF16", "F8_E4M3", "U4", "x" * 1000, -(1 << 70),
)  # fmt: skip

type Target = Callable[[bytes], object]


def changed_bytes(rng: random.Random, content: bytes) -> bytes:
    """One to four bytes, numbers or runs changed, left out or repeated."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data)) if data else 0
        match rng.randrange(6):
            case 0 if data:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                del data[at : at + rng.randint(1, 40)]
            case 2:
                data[at:at] = data[at : at + rng.randint(1, 40)]
            case 3:
                form = rng.choice(["<I", "<Q"])
                number = struct.pack(form, rng.choice(NUMBERS) % (1 << 8 * struct.calcsize(form)))
                data[at : at + len(number)] = number
            case 4:
                del data[at:]
            case _:
                data[at : at + 1] = rng.randbytes(rng.randint(1, 8))
    return bytes(data)


def changed_json(rng: random.Random, content: bytes) -> bytes:
    """Some values or names changed inside valid JSON; now and then only bytes."""
    if rng.random() < 0.25:
        return changed_bytes(rng, content)
    document = json.loads(content)
    for _ in range(rng.randint(1, 3)):
        document = _changed(rng, document)
    return json.dumps(document).encode()


def _changed(rng: random.Random, value: Any) -> Any:
    if rng.random() < 0.15 or not isinstance(value, dict | list) or not value:
        return rng.choice(VALUES)
    copy: Any = dict(value) if isinstance(value, dict) else list(value)
    key = rng.choice(list(copy)) if isinstance(copy, dict) else rng.randrange(len(copy))
    choice = rng.random()
    if choice < 0.15:
        del copy[key]
    elif choice < 0.25 and isinstance(copy, dict):
        copy[rng.choice(("x", "../y", "", "__metadata__", "weight"))] = copy.pop(key)
    else:
        copy[key] = _changed(rng, copy[key])
    return copy


def fuzz(seed: int, content: bytes, change: Callable[..., bytes], target: Target) -> None:
    rng = random.Random(seed)
    for _ in range(INPUTS):
        damaged = change(rng, content)
        try:
            target(damaged)
        except TtcError:
            continue  # an error cannot be made without a message
        except Exception as error:
            raise AssertionError(f"{type(error).__name__}: {error}; input {damaged!r}") from error


seeds = given(seed=st.integers(0, 1 << 48))
often = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def read_everything(checkpoint: Any) -> None:
    """All that a conversion would read; sizes are those that the header was checked to have."""
    checkpoint.config()
    for name in checkpoint.names():
        assert len(checkpoint.shape(name)) < 100
        if not checkpoint.unreadable(name):
            checkpoint.read(name)


@often
@seeds
def test_safetensors_headers(tmp_path: Path, seed: int) -> None:
    scales = np.ones((2, 1), np.float32)
    content = save({"a": np.ones((2, 3), np.float32), "b.weight_scale": scales})
    length = int.from_bytes(content[:8], "little")
    header, data = content[8 : 8 + length], content[8 + length :]

    def change(rng: random.Random, whole: bytes) -> bytes:
        if rng.random() < 0.3:
            return changed_bytes(rng, whole)
        text = changed_json(rng, header)
        return struct.pack("<Q", len(text)) + text + data

    def target(damaged: bytes) -> None:
        (tmp_path / "model.safetensors").write_bytes(damaged)
        read_everything(SafetensorsFolder(tmp_path, "c"))

    fuzz(seed, content, change, target)


@often
@seeds
def test_gguf_headers(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "tiny.gguf"
    if not (tmp_path / "valid.gguf").exists():
        writer = gguf.GGUFWriter(tmp_path / "valid.gguf", "llama")
        writer.add_block_count(2)
        writer.add_rope_freq_base(10000.0)
        writer.add_token_list(["<s>", "a", "b"])
        writer.add_tensor("token_embd.weight", np.ones((3, 32), np.float32))
        packed = gguf.quantize(np.ones((2, 32), np.float32), gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor("output.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    def target(damaged: bytes) -> None:
        path.write_bytes(damaged)
        read_everything(GgufFile(path, "tiny.gguf"))

    fuzz(seed, (tmp_path / "valid.gguf").read_bytes(), changed_bytes, target)


CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "vocab_size": 128,
    "max_position_embeddings": 256,
    "hidden_act": "silu",
    "sliding_window": 32,
    "max_window_layers": 2,
    "use_sliding_window": True,
    "layer_types": ["full_attention"] * 4,
    "partial_rotary_factor": 0.5,
    "sliding_window_pattern": 2,
    "no_rope_layer_interval": 4,
    "original_max_position_embeddings": 128,
}
FACTORS = {"factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "mscale": 1.0}
ROPES = (
    {"rope_type": "linear", "factor": 2.0},
    {"rope_type": "llama3", **FACTORS, "original_max_position_embeddings": 64},
    {"rope_type": "yarn", "factor": 4.0, "mscale": 1.0, "mscale_all_dim": 1.0, "beta_fast": 32},
    {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4},
    {"full_attention": {"rope_type": "dynamic", "factor": 2.0}, "sliding_attention": {}},
)
KEYS = [
    with_shared(load_architecture(path).config)
    for path in sorted((Path(__file__).parents[2] / "architectures").glob("*.yaml"))
]


@often
@seeds
def test_configurations(seed: int) -> None:
    """config.json as every architecture reads it: what is wrong is told, and nothing raised."""

    def change(rng: random.Random, _: bytes) -> bytes:
        place = rng.choice(("rope_scaling", "rope_parameters"))
        return changed_json(rng, json.dumps(CONFIG | {place: rng.choice(ROPES)}).encode())

    def target(damaged: bytes) -> None:
        try:
            config: object = json.loads(damaged)
        except (ValueError, RecursionError):
            return
        if isinstance(config, dict):
            read_config(config, random.Random(damaged).choice(KEYS))

    fuzz(seed, b"", change, target)


@often
@seeds
def test_indices(tmp_path: Path, seed: int) -> None:
    names = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(save({f"w{number}": np.ones(2, np.float32)}))
    index = {"metadata": {"total_size": 16}, "weight_map": {"w0": names[0], "w1": names[1]}}

    def target(damaged: bytes) -> None:
        (tmp_path / "model.safetensors.index.json").write_bytes(damaged)
        read_everything(SafetensorsFolder(tmp_path, "c"))

    fuzz(seed, json.dumps(index).encode(), changed_json, target)


@often
@seeds
def test_quantisation_settings(tmp_path: Path, seed: int) -> None:
    (tmp_path / "model.safetensors").write_bytes(
        save(
            {
                "a.weight": np.ones((4, 8), np.int8),
                "a.weight_scale": np.ones((2, 4), np.float32),
                "b.weight_packed": np.ones((4, 1), np.int32),
                "b.weight_scale": np.ones((4, 2), np.float32),
                "b.weight_shape": np.array([4, 8]),
                "c.qweight": np.ones((1, 8), np.int32),
                "c.qzeros": np.ones((2, 1), np.int32),
                "c.scales": np.ones((2, 8), np.float16),
                "c.g_idx": np.arange(8, dtype=np.int32),
            }
        )
    )
    config = {
        "quantization_config": {
            "quant_method": "gptq",
            "bits": 4,
            "weight_block_size": [2, 2],
            "config_groups": {"group_0": {"weights": {"num_bits": 4}}},
        }
    }

    def target(damaged: bytes) -> None:
        (tmp_path / "config.json").write_bytes(damaged)
        read_everything(SafetensorsFolder(tmp_path, "c"))

    fuzz(seed, json.dumps(config).encode(), changed_json, target)


PARTS = {
    "fp8": {"weight": (np.int8, (4, 8)), "weight_scale": (np.float32, (2, 4))},
    "compressed-tensors": {
        "weight_packed": (np.int32, (4, 1)),
        "weight_scale": (np.float32, (4, 2)),
        "weight_shape": (np.int64, (2,)),
        "weight_zero_point": (np.int32, (1, 2)),
        "weight_g_idx": (np.int32, (8,)),
    },
    "gptq": {
        "qweight": (np.int32, (1, 8)),
        "qzeros": (np.int32, (2, 1)),
        "scales": (np.float16, (2, 8)),
        "g_idx": (np.int32, (8,)),
    },
    "awq": {
        "qweight": (np.int32, (8, 1)),
        "qzeros": (np.int32, (2, 1)),
        "scales": (np.float16, (2, 8)),
    },
}
SIZES = (0, 1, 2, 4, 8, 16)
KINDS = (np.int8, np.int32, np.int64, np.uint8, np.float16, np.float32)


@often
@seeds
def test_quantised_parts(tmp_path: Path, seed: int) -> None:
    """Sound files whose parts have other dtypes and shapes than their scheme wants."""

    def change(rng: random.Random, _: bytes) -> bytes:
        method = rng.choice(sorted(PARTS))
        parts = dict(PARTS[method])
        for name in rng.sample(sorted(parts), rng.randint(1, 2)):
            kind, shape = parts[name]
            if rng.random() < 0.5:
                shape = tuple(rng.choice(SIZES) for _ in range(rng.choice((0, 1, 1, 2, 2, 2, 3))))
            parts[name] = (rng.choice((kind, *KINDS)), shape)
            if rng.random() < 0.1:
                del parts[name]
        tensors = {f"a.{name}": np.ones(shape, kind) for name, (kind, shape) in parts.items()}
        if parts.get("weight_shape") == (np.int64, (2,)):
            sizes = rng.choice(((4, 8), (4, 7), (8, 4), (0, 0), (-1, 8)))
            tensors["a.weight_shape"] = np.array(sizes)
        config = {"quantization_config": {"quant_method": method, "weight_block_size": [2, 2]}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        return save(tensors)

    def target(damaged: bytes) -> None:
        (tmp_path / "model.safetensors").write_bytes(damaged)
        checkpoint = SafetensorsFolder(tmp_path, "c")
        for name in checkpoint.names():
            if not checkpoint.unreadable(name):
                assert checkpoint.read(name).shape == checkpoint.shape(name)

    fuzz(seed, b"", change, target)


@often
@seeds
def test_params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    shard = tmp_path / "consolidated.00.pth"
    np.ones(8, "<u2").tofile(shard)
    stored = StoredTensor(
        path=shard, dtype="BF16", shape=(2, 4), span=Span(offset=0, size_bytes=16)
    )
    monkeypatch.setattr(meta_folder, "read_pickle", lambda _: {"tok_embeddings.weight": stored})
    params = {"dim": 4, "n_layers": 1, "n_heads": 2, "n_kv_heads": 1, "vocab_size": -1}
    params |= {"multiple_of": 4, "ffn_dim_multiplier": 1.3, "norm_eps": 1e-5, "rope_theta": 1e4}

    def target(damaged: bytes) -> None:
        (tmp_path / "params.json").write_bytes(damaged)
        read_everything(MetaFolder(tmp_path, "meta"))

    fuzz(seed, json.dumps(params).encode(), changed_json, target)


PLAN = b"""\
model: org/tiny
mesh: N150
profile: bf16
batch: 1
context: 128
kv_cache: {block_tokens: 32, blocks: 4, dtypes: [bf16]}
prefill: [{tokens: 32}]
weights: [w = w -> 1x1x32x32 bf16 tile DRAM]
memory: {trace_region_bytes: 0}
"""


@often
@seeds
def test_manifests_and_plans(tmp_path: Path, seed: int) -> None:
    """Every other file is a changed plan.yaml; half of those are what the manifest lists."""
    plan, weight = tmp_path / "plan.yaml", tmp_path / "weights" / "w.tensorbin"
    plan.write_bytes(PLAN)
    (tmp_path / "model.py").write_text("")
    weight.parent.mkdir(exist_ok=True)
    weight.write_bytes(bytes(64))
    facts = file_facts(weight)
    manifest = Manifest(
        ttc=ttc_version(), ttnn=ttnn_version(), name="tiny", model="org/tiny",
        mesh=MeshFacts(name="N150", shape=(1, 1)), precision="bf16", batch=1, context=128,
        kv=KvLayout(block_tokens=32, blocks=4, dtypes=("bf16",)), buckets=(32,),
        trace_region_bytes=0, plan=fingerprint(PLAN.decode()), eos_ids=(2,),
        files={name: file_facts(tmp_path / name) for name in ("model.py", "plan.yaml")},
        checkpoint=CheckpointFacts(description="org/tiny", fingerprint="ab" * 32),
        weights={
            "w": WeightFile(
                file="weights/w.tensorbin", header_sha256=facts.sha256, **asdict(facts)
            )
        },
    )  # fmt: skip
    sound = json.dumps(asdict(manifest)).encode()

    def change(rng: random.Random, whole: bytes) -> bytes:
        if rng.random() < 0.5:
            plan.write_bytes(changed_bytes(rng, PLAN))
            listed = asdict(file_facts(plan))
            record = json.loads(whole)
            record["files"]["plan.yaml"] |= listed if rng.random() < 0.5 else {}
            return json.dumps(record).encode()
        plan.write_bytes(PLAN)
        return changed_json(rng, whole)

    def target(damaged: bytes) -> None:
        (tmp_path / "manifest.json").write_bytes(damaged)
        read_artefact(tmp_path, mesh="N150", verify_weights=True)

    fuzz(seed, sound, change, target)
