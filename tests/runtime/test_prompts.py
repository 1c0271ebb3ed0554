"""Prompts files and run modes: what is read, and what is refused with its place."""

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ttc.errors import UsageError
from ttc.runtime.modes import run_mode, run_modes
from ttc.runtime.prompts import fitted, read_prompts
from ttc.runtime.request import Prompt

pytestmark = pytest.mark.fast

type Golden = Callable[[Path, str], None]

BAD = {
    "unknown_field": '[\n  {"prompt": "Hello"},\n  {"promt": "Hello"}\n]',
    "no_prompt": '[{"context": "book.txt"}]',
    "not_a_list": '{"prompt": "Hello"}',
    "no_entries": "[]",
    "empty_file": "",
    "no_json": '[{"prompt": "Hello" "there"}]',
    "comma_at_the_end": '[\n  {"prompt": "Hello"},\n]',
    "single_quotes": "[{'prompt': 'Hello'}]",
    "yaml": "- prompt: Hello",
    "comment": '[{"prompt": "Hello"}]  # one',
    "unclosed": '[\n  {"prompt": "Hello"}',
    "wrong_types": '[{"prompt": 3}, "Hello", {"prompt": "a", "context": "b", "max_length": "c"}]',
    "twice": '[{"prompt": "Hello", "prompt": "Bye"}]',
    "empty_prompt": '[{"prompt": ""}]',
    "only_white_space": '[\n  {"prompt": "Hello"},\n  {"prompt": " \\n "}\n]',
    "no_context_to_cut": '[{"prompt": "Hello", "max_length": 40}]',
    "negative_length": '[{"prompt": "Hello", "context": "book.txt", "max_length": -1}]',
    "no_such_file": '[{"prompt": "Hello", "context": "nowhere.txt"}]',
    "half_a_character": '[\n  {"prompt": "fine"},\n  {"prompt": "a\\ud800"}\n]',
    "long_line": json.dumps([{"prompt": "Hello " * 100, "contxt": "book.txt"}]),
}


def write(folder: Path, entries: Any) -> Path:
    path = folder / "prompts.json"
    path.write_text(entries if isinstance(entries, str) else json.dumps(entries))
    (folder / "book.txt").write_text("Call me Ishmael. Some years ago", encoding="utf-8")
    return path


@pytest.mark.parametrize("name", BAD)
def test_bad_files(
    name: str, tmp_path: Path, golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, BAD[name])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        read_prompts(Path("prompts.json"), cache=tmp_path)
    golden(Path(__file__).parent / "errors" / f"prompts_{name}.txt", f"{caught.value}\n")


def test_prompts_alone(tmp_path: Path) -> None:
    path = write(tmp_path, [{"prompt": "Hello"}, {"prompt": "Line\nbreak"}])
    asked = [each.asked(instruct=True) for each in read_prompts(path, cache=tmp_path)]
    assert asked == [Prompt(text="Hello"), Prompt(text="Line\nbreak")]


def test_json_that_is_not_yaml(tmp_path: Path) -> None:
    text = '[\n\t{\t"prompt":"tab\\tface \\ud83d\\ude00 slash \\/ \\u00e9"}\n]'
    (each,) = read_prompts(write(tmp_path, text), cache=tmp_path)
    assert each.prompt == json.loads(text)[0]["prompt"]


def test_a_context_goes_before_the_prompt(tmp_path: Path) -> None:
    entry = {"prompt": "Who speaks?", "context": "book.txt", "max_length": 15}
    (each,) = read_prompts(write(tmp_path, [entry]), cache=tmp_path)
    assert each.asked(instruct=True) == Prompt(text="```Call me Ishmael```\n\nWho speaks?")
    assert each.asked(instruct=False) == Prompt(text="Call me IshmaelWho speaks?", chat=False)


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A server of a folder with book.txt in it."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    folder = tmp_path / "served"
    folder.mkdir()
    write(folder, [])
    server = http.server.HTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_context_is_downloaded_once(tmp_path: Path, address: str) -> None:
    path = write(tmp_path, [{"prompt": "?", "context": f"{address}/book.txt"}])
    (first,) = read_prompts(path, cache=tmp_path / "cache")
    (tmp_path / "served" / "book.txt").unlink()
    (second,) = read_prompts(path, cache=tmp_path / "cache")
    assert first == second
    assert first.context.startswith("Call me Ishmael")
    other = write(tmp_path, [{"prompt": "?", "context": f"{address}/other.txt"}])
    with pytest.raises(UsageError, match="the context cannot be read"):
        read_prompts(other, cache=tmp_path / "cache")


@pytest.mark.parametrize("limit", [12, 20, 30, 44])
def test_a_context_is_cut_to_what_fits(tmp_path: Path, limit: int) -> None:
    path = write(tmp_path, [{"prompt": "?", "context": "book.txt"}])
    (each,) = read_prompts(path, cache=tmp_path)

    def encode(prompt: Prompt) -> list[int]:
        return [ord(letter) for letter in prompt.text]

    fitting = fitted(each, limit, encode, instruct=True)
    tokens = len(encode(fitting.asked(instruct=True)))
    assert tokens <= limit
    assert each.context.startswith(fitting.context)
    assert tokens == len(encode(each.asked(instruct=True))) or tokens > 0.8 * limit


def test_a_prompt_that_is_too_long_without_its_context_stays(tmp_path: Path) -> None:
    path = write(tmp_path, [{"prompt": "?" * 100, "context": "book.txt"}])
    (each,) = read_prompts(path, cache=tmp_path)
    assert fitted(each, 50, lambda prompt: [0] * len(prompt.text), instruct=True) == each


def test_every_mode_has_its_prompts(tmp_path: Path) -> None:
    assert list(run_modes()) == ["batch-1", "batch-32", "long-context", "reasoning"]
    for mode in run_modes().values():
        assert read_prompts(mode.prompts, cache=tmp_path)
    assert len(read_prompts(run_mode("batch-32").prompts, cache=tmp_path)) == 32


def test_a_mode_that_does_not_exist() -> None:
    with pytest.raises(UsageError, match="there is no mode 'batch-2'"):
        run_mode("batch-2")


@pytest.mark.parametrize("character", ["\x7f", "\x85", "\u2028", "\ufeff", "\uffff"])
def test_characters_that_only_json_allows(tmp_path: Path, character: str) -> None:
    text = f"a{character}b"
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps([{"prompt": text}], ensure_ascii=False), encoding="utf-8")
    (read,) = read_prompts(path, cache=tmp_path)
    assert read.prompt == text
