"""Chat templates: what Hugging Face templates rely on, where a template is found, refusals."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ttc.errors import ArtefactError, UsageError
from ttc.runtime.chat import ChatTemplate, load_chat_template
from ttc.runtime.template_process import TemplateFault, TemplateProcess

pytestmark = pytest.mark.fast

HELLO = [{"role": "user", "content": "Hello <you>"}]

CHATML = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def render(text: str, messages: list[dict[str, str]] = HELLO) -> str:
    return template(text).render(messages)


PROCESS = TemplateProcess()
"""One for all, as starting one takes a seventh of a second."""


def template(text: str) -> ChatTemplate:
    return ChatTemplate(text=text, special_tokens={"eos_token": "</s>"}, process=PROCESS)


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
    ],
)
def test_a_refusal_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="the chat template refuses these messages"):
        render(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{% for %}", "Expected an expression"),
        ("{% for i in range(99999999999) %}{% endfor %}x", "Range too big"),
        ("{{ 'a' * 10**11 }}", "it takes more than 512 MB of memory"),
        ("{{ 'a'.center(10**11) }}", "it takes more than 512 MB of memory"),
        ("{{ '%099999999999d' % 5 }}", "it takes more than 512 MB of memory"),
        ("{{ 'a' * 2000000 }}", "it makes a text of 2,000,000 characters"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "nested too deeply"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "nested too deeply"),
        ("{% if 1 %}" * 3000 + "{% endif %}" * 3000, "nested too deeply"),
        ('{{ "\\ud800" }}', "UnicodeEncodeError"),
        ("{{ lipsum(n=100000000) }}", "'lipsum' is undefined"),
        ("{{ cycler(1, 2) }}", "'cycler' is undefined"),
    ],
)
def test_a_template_that_fails(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)) as caught:
        render(text)
    assert "the chat template" in str(caught.value)
    assert "--no-chat-template sends the prompt as it is" in str(caught.value)
    assert render(CHATML).endswith("<|assistant|>"), "the next one is rendered all the same"


@pytest.mark.parametrize(
    "text",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 9999999999**9999999 }}",
    ],
)
def test_a_template_that_does_not_end(text: str) -> None:
    endless = ChatTemplate(text=text, special_tokens={}, process=TemplateProcess(seconds=0.1))
    with pytest.raises(UsageError, match=r"it takes more than 0\.1 s of processor time"):
        endless.render(HELLO)


def test_a_template_that_doubles_a_text() -> None:
    text = (
        "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}"
        "{% endfor %}"
    )
    process = TemplateProcess(seconds=60, megabytes=100)
    with pytest.raises(UsageError, match="it takes more than 100 MB of memory"):
        ChatTemplate(text=text, special_tokens={}, process=process).render(HELLO)


def test_places_in_a_file_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "chat_template.jinja"
    path.write_text("{% for m in messages %}\n  {{ m.role + 1 }}\n{% endfor %}\n")
    found = load_chat_template(tmp_path)
    assert found is not None
    with pytest.raises(UsageError) as caught:
        found.render(HELLO)
    (problem,) = caught.value.problems
    assert problem.at is not None
    assert (problem.at.path, problem.at.line) == (str(path), 2)
    assert problem.note.startswith("TypeError")


def test_places_in_a_config(tmp_path: Path) -> None:
    write(tmp_path, {"eos_token": "</s>", "chat_template": "a\n{% for %}\n"})
    found = load_chat_template(tmp_path)
    assert found is not None
    (problem,) = found.check()
    assert problem.message == "the chat template is not valid"
    assert problem.at is not None
    assert str(problem.at) == f"{tmp_path / 'tokenizer_config.json'}:1:23"
    assert problem.details == ("line 2 of chat_template: {% for %}",)


def test_a_check_renders_nothing() -> None:
    assert template("{{ raise_exception('never') }}").check() == []


def test_the_process_ends_with_its_last_holder() -> None:
    process = TemplateProcess()
    process.parse("x")
    running = process._running
    assert running is not None
    assert running.poll() is None
    del process
    assert running.poll() is not None


def test_an_interrupted_rendering_is_not_the_answer_to_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process = TemplateProcess()
    process.parse("x")
    running = process._running
    assert running is not None
    assert running.stdout is not None

    def interrupt() -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(running.stdout, "readline", interrupt)
    with pytest.raises(KeyboardInterrupt):
        process.render("first", HELLO, {})
    assert process.render("second", HELLO, {}) == "second"


def test_a_process_that_was_killed_is_started_again() -> None:
    process = TemplateProcess()
    process.parse("x")
    assert process._running is not None
    process._running.kill()
    process._running.wait()
    assert process.render("again", HELLO, {}) == "again"


def test_a_process_that_is_killed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    process = TemplateProcess()
    process.parse("x")
    running = process._running
    assert running is not None
    running.kill()
    running.wait()
    monkeypatch.setattr(running, "poll", lambda: None)
    with pytest.raises(TemplateFault) as caught:
        process.parse("x")
    assert (caught.value.kind, caught.value.message) == ("end", "by signal 9")


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
