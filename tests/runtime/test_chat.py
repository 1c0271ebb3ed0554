"""Chat templates: what Hugging Face templates rely on, where a template is found, refusals."""

import json
from pathlib import Path
from typing import Any

import pytest

from ttc.errors import ArtefactError, UsageError
from ttc.runtime.chat import ChatTemplate, load_chat_template

pytestmark = pytest.mark.fast

HELLO = [{"role": "user", "content": "Hello <you>"}]

CHATML = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def render(text: str, messages: list[dict[str, str]] = HELLO) -> str:
    return ChatTemplate(text=text, special_tokens={"eos_token": "</s>"}).render(messages)


def test_messages_and_special_tokens() -> None:
    system = {"role": "system", "content": "Be brief."}
    assert render(CHATML, [system, *HELLO]) == (
        "<|system|>Be brief.</s><|user|>Hello <you></s><|assistant|>"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{% for m in messages %}\n    {{ m.content }}\n{% endfor %}", "    Hello <you>\n"),
        ("{{ messages[0] | tojson }}", '{"role": "user", "content": "Hello <you>"}'),
        ("{{ {'a': 1} | tojson(indent=2) }}", '{\n  "a": 1\n}'),
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}!", "Hello <you>!"),
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("{{ strftime_now('%%') }}", "%"),
        ("{{ bos_token }}|", "|"),
    ],
)
def test_what_templates_rely_on(text: str, expected: str) -> None:
    assert render(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{{ ''.__class__.__mro__ }}",
        "{% set _ = messages.append(1) %}",
        "{% for %}",
    ],
)
def test_a_refusal_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="the chat template refuses these messages"):
        render(text)


def write(folder: Path, config: dict[str, Any]) -> Path:
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_special_tokens_have_two_spellings(tmp_path: Path) -> None:
    config = {
        "chat_template": CHATML,
        "eos_token": {"content": "</s>", "lstrip": False},
        "bos_token": "<s>",
        "pad_token": None,
        "add_bos_token": True,
    }
    template = load_chat_template(write(tmp_path, config))
    assert template is not None
    assert template.special_tokens == {"eos_token": "</s>", "bos_token": "<s>"}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ([], "it is not a JSON object"),
        ({"chat_template": 3}, "its chat_template is 3, expected text"),
        ({"chat_template": [{"name": "default", "template": {}}]}, "its chat_template is {}"),
    ],
)
def test_a_config_of_another_form(tmp_path: Path, config: Any, words: str) -> None:
    with pytest.raises(ArtefactError, match=words):
        load_chat_template(write(tmp_path, config))


def test_tokens_and_templates_without_a_text_are_none(tmp_path: Path) -> None:
    config = {"chat_template": CHATML, "eos_token": {"lstrip": False}, "bos_token": {"content": 1}}
    template = load_chat_template(write(tmp_path, config))
    assert template is not None
    assert template.special_tokens == {}
    assert load_chat_template(write(tmp_path, {"chat_template": [3, {"name": "x"}]})) is None


def test_a_file_beside_the_config_wins(tmp_path: Path) -> None:
    write(tmp_path, {"chat_template": "old"})
    (tmp_path / "chat_template.jinja").write_text("new")
    template = load_chat_template(tmp_path)
    assert template is not None
    assert template.text == "new"


def test_named_templates(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "a"}, {"name": "default", "template": "b"}]
    template = load_chat_template(write(tmp_path, {"chat_template": named}))
    assert template is not None
    assert template.text == "b"


@pytest.mark.parametrize("config", [{}, {"chat_template": None}])
def test_a_base_model_has_none(tmp_path: Path, config: dict[str, Any]) -> None:
    assert load_chat_template(write(tmp_path, config)) is None


def test_a_damaged_config(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(ArtefactError, match=r"tokenizer_config\.json is damaged"):
        load_chat_template(tmp_path)
