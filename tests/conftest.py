"""Options and fixtures shared by all tests."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, settings

# The same examples every time, however loaded the machine is.
settings.register_profile(
    "ttc",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("ttc")

# Torch's threads spin while they wait, which slows everything else on a small machine down.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A shell that puts a command in the background makes it and its children deaf to Ctrl-C, which
# tests of interrupts send.
signal.signal(signal.SIGINT, signal.default_int_handler)

type Golden = Callable[[Path, str], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite the golden files with what came out"
    )
    parser.addoption(
        "--packing-values",
        type=float,
        default=10e6,
        help="at least how many values are packed by ttnn too (docs/measurements.md: 64e6)",
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """`-m fast` does not even import the modules of other tiers: they load torch and ttnn."""
    if config.option.markexpr != "fast" or not collection_path.name.startswith("test_"):
        return None
    return "mark.fast" not in collection_path.read_text(encoding="utf-8") or None


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """Compare a text with a golden file; with --update-golden, rewrite the file instead."""

    def compare(path: Path, text: str) -> None:
        if request.config.getoption("--update-golden"):
            path.write_text(text, encoding="utf-8")
        expected = path.read_text(encoding="utf-8") if path.exists() else ""
        assert text == expected, f"{path} differs; run pytest --update-golden and read the diff"

    return compare


@pytest.fixture
def tiny_spec() -> Path:
    """The spec of a model of two small decoders."""
    return Path(__file__).parent / "data" / "tiny.yaml"


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dims of tests/data/tiny.yaml, random weights in several shards, a byte tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(3)
    config = LlamaConfig(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        vocab_size=320,
        max_position_embeddings=1024,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        initializer_range=0.15,
        eos_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size=200_000)
    write_byte_tokenizer(folder)
    return folder


def write_byte_tokenizer(folder: Path) -> None:
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    codec = cast(Any, tokenizers.Tokenizer(models.BPE()))
    codec.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    codec.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<end>"],
        show_progress=False,
    )
    codec.train_from_iterator([], trainer)
    codec.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<end>"}))
