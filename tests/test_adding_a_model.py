"""docs/adding-a-model.md: its commands, in its order, in a folder with nothing but checkpoints."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch

from ttc import cli
from ttc.runtime.artefact import read_artefact

pytestmark = pytest.mark.mock

TEXT = (Path(__file__).parents[1] / "docs" / "adding-a-model.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"^```sh\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
]


def save_llama(folder: Path, vocab: int) -> None:
    import transformers

    library: Any = transformers
    torch.manual_seed(3)
    config = library.LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=vocab,
        max_position_embeddings=128,
    )
    library.LlamaForCausalLM(config).save_pretrained(folder)
    words = {f"word{i}": i for i in range(vocab)}
    tokenizers.Tokenizer(tokenizers.models.WordLevel(words, "word0")).save(
        str(folder / "tokenizer.json")
    )


def test_the_steps_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_llama(tmp_path / "my-llama", 128)
    save_llama(tmp_path / "my-tuned-llama", 136)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TTC_CACHE", str(tmp_path / "cache"))
    assert len(COMMANDS) == 6
    for command in COMMANDS:
        words = shlex.split(command)
        assert words[0] == "ttc"
        with pytest.raises(SystemExit) as ended:
            cli.main(words[1:])
        assert not ended.value.code, f"{command}\n{capsys.readouterr()}"
    tuned = (tmp_path / "specs" / "my-tuned-llama.yaml").read_text()
    assert "dims: {vocab: 136}" in tuned
    assert "extends: my-llama" in tuned
    assert len(read_artefact(tmp_path / "build" / "my-llama").manifest.weights or ()) > 10
