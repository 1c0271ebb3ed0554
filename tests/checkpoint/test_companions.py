"""Files beside the weights: what they may be, and what they may hold."""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ttc.checkpoint.companions import check_end_ids, find_companion, read_checked
from ttc.checkpoint.config_check import check_config
from ttc.checkpoint.files import open_checkpoint
from ttc.checkpoint.stored import read_json
from ttc.errors import CheckpointError, Problem
from ttc.spec.model import ModelSpec

pytestmark = pytest.mark.fast


def refusal(path: Path, schema: str) -> Problem:
    with pytest.raises(CheckpointError) as caught:
        read_checked(path, schema)
    assert len(caught.value.problems) == 1
    return caught.value.problems[0]


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ('"temperature": "hot"', "'temperature' must be a number or empty"),
        ('"temperature": NaN', "'temperature' must be a number or empty"),
        ('"temperature": Infinity', "'temperature' must be a number or empty"),
        ('"temperature": 1e999', "'temperature' must be at most 1000000.0"),
        ('"temperature": -0.5', "'temperature' must be at least 0"),
        ('"top_k": -5', "'top_k' must be at least 0"),
        ('"top_k": 3.5', "'top_k' must be a whole number or empty"),
        ('"top_k": true', "'top_k' must be a whole number or empty"),
        ('"top_p": 2', "'top_p' must be at most 1"),
        ('"top_p": 0', "'top_p' must be greater than 0"),
        ('"do_sample": "yes"', "'do_sample' must be true or false or empty"),
        ('"repetition_penalty": 0', "'repetition_penalty' must be greater than 0"),
        ('"repetition_penalty": -1', "'repetition_penalty' must be greater than 0"),
        ('"eos_token_id": -1', "'eos_token_id' must be at least 0"),
        ('"eos_token_id": "2"', "'eos_token_id' must be a whole number or a list or empty"),
        ('"eos_token_id": true', "'eos_token_id' must be a whole number or a list or empty"),
        ('"eos_token_id": 2.0', "'eos_token_id' must be a whole number or a list or empty"),
        ('"eos_token_id": [[2]]', "item 1 of 'eos_token_id' must be a whole number"),
    ],
)
def test_generation_config(tmp_path: Path, entry: str, words: str) -> None:
    """Told at the value, in a file that YAML would not read: JSON may be indented by tabs."""
    path = tmp_path / "generation_config.json"
    path.write_text(f'{{\n\t"bos_token_id": 1,\n\t"min_p": 1e-5,\n\t{entry}\n}}\n')
    problem = refusal(path, "generation_config")
    assert problem.message == words
    assert problem.at is not None
    assert (problem.at.path, problem.at.line) == (str(path), 4)
    assert problem.at.column >= entry.index(": ") + 4
    assert problem.help


def test_a_generation_config_as_they_are(tmp_path: Path) -> None:
    content = {
        "do_sample": None, "temperature": 0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.05,
        "eos_token_id": [1, 2], "transformers_version": "4.57.1", "max_length": None,
    }  # fmt: skip
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps(content))
    assert read_checked(path, "generation_config") == content


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"chat_template": 5}, "'chat_template' must be text or a list or empty"),
        ({"chat_template": {"a": "b"}}, "'chat_template' must be text or a list or empty"),
        ({"chat_template": ["a"]}, "item 1 of 'chat_template' must be a mapping"),
        ({"chat_template": [{"name": "default"}]}, "the field 'template' is missing"),
        ({"eos_token": 5}, "'eos_token' must be text or a mapping or empty"),
        ({"eos_token": {"content": 5}}, "'content' must be text"),
    ],
)
def test_tokenizer_config(tmp_path: Path, content: Any, words: str) -> None:
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(content))
    problem = refusal(path, "tokenizer_config")
    assert problem.message == words
    assert problem.at is not None
    assert problem.at.path == str(path)


@pytest.mark.parametrize("wrong", [512, 100_000, 2**70])
def test_a_token_that_the_model_does_not_have(tmp_path: Path, wrong: int) -> None:
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps({"bos_token_id": 1, "eos_token_id": [2, wrong]}, indent=1))
    check_end_ids([2, 511], 512, path, "tiny")
    with pytest.raises(CheckpointError) as caught:
        check_end_ids([2, wrong], 512, path, "tiny")
    (problem,) = caught.value.problems
    assert problem.message == f"'eos_token_id' names token {wrong}, the model has 512"
    assert str(problem.at) == f"{path}:3:18"
    with pytest.raises(CheckpointError, match="'eos_token_id' of tiny names token"):
        check_end_ids([wrong], 512, None, "tiny")


@pytest.mark.parametrize("escape", ["\\ud800", "\\udc00 x", "\\ud800\\n"])
def test_half_of_a_character(tmp_path: Path, escape: str) -> None:
    path = tmp_path / "tokenizer_config.json"
    path.write_text('{\n "a": "\\ud83d\\ude00 \\\\ud",\n "chat_template": "x' + escape + '"\n}')
    with pytest.raises(CheckpointError, match="holds half of a character") as caught:
        read_json(path)
    assert str(caught.value.problems[0].at) == f"{path}:3:21"


@pytest.mark.parametrize("text", ["\\ud83d\\ude00", "\\\\ud800"])
def test_whole_characters(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(f'{{"a": "{text}"}}')
    assert read_json(path)["a"] in ("\U0001f600", "\\ud800")


NAMES = ("config.json", "generation_config.json", "tokenizer_config.json")
LIES: dict[str, tuple[Callable[[Path], object], str]] = {
    "dangling": (lambda path: path.symlink_to("nowhere"), "it is a link to nowhere: No such file"),
    "loop": (lambda path: path.symlink_to(path.name), "Too many levels of symbolic links"),
    "folder": (Path.mkdir, "it is a folder"),
    "pipe": (os.mkfifo, "it is a pipe or a device"),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("lie", LIES)
def test_a_name_that_is_no_file(tmp_path: Path, name: str, lie: str) -> None:
    make, words = LIES[lie]
    make(tmp_path / name)
    with pytest.raises(CheckpointError, match=words) as caught:
        find_companion(tmp_path, name)
    assert f"{tmp_path / name} cannot be read" in str(caught.value)
    assert caught.value.problems[0].help


def test_a_name_that_is_not_there(tmp_path: Path) -> None:
    assert find_companion(tmp_path, "config.json") is None


def test_a_link_to_a_file(tmp_path: Path) -> None:
    (tmp_path / "blob").write_text("{}")
    (tmp_path / "config.json").symlink_to("blob")
    assert find_companion(tmp_path, "config.json") == tmp_path / "config.json"


def test_a_folder_in_place_of_the_config(tiny_folder: Path) -> None:
    (tiny_folder / "config.json").unlink()
    (tiny_folder / "config.json").mkdir()
    with pytest.raises(CheckpointError, match="it is a folder"):
        open_checkpoint(str(tiny_folder))


def test_a_config_that_is_missing_is_told(
    tiny_folder: Path, tiny_spec: ModelSpec, caplog: pytest.LogCaptureFixture
) -> None:
    (tiny_folder / "config.json").unlink()
    with caplog.at_level(logging.WARNING):
        check_config(tiny_spec, open_checkpoint(str(tiny_folder)))
    assert "no config.json in tiny: the spec was not compared" in caplog.text
