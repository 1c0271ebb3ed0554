"""Settings of a request: what does not exist or means nothing is refused."""

from pathlib import Path
from typing import Any

import pytest

from ttc.errors import UsageError
from ttc.runtime.request import Limits, Prompt, check_settings, read_messages

pytestmark = pytest.mark.fast


def test_settings_that_exist() -> None:
    check_settings({"max_new_tokens": 3, "stop": "x", "logprobs": True, "temperature": None})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"temprature": 0.5},
            "there is no setting 'temprature'\n  = help: did you mean 'temperature'",
        ),
        ({"min_p": 0.1}, "there is no setting 'min_p'"),
        ({"stop_at_eos": "no"}, "stop_at_eos is 'no', expected True or False"),
        ({"logprobs": 5}, "logprobs is 5, expected True or False"),
    ],
)
def test_settings_that_do_not(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        check_settings(settings)


def test_one_stop_string_needs_no_list() -> None:
    assert Limits.of({"stop": "END"}).stop == ("END",)
    assert Limits.of({"stop": ["a", "b"]}).stop == ("a", "b")


def test_none_is_the_default() -> None:
    nothing: Any = {"stop": None, "max_new_tokens": None, "stop_at_eos": None, "logprobs": None}
    check_settings(nothing)
    assert Limits.of(nothing) == Limits()


@pytest.mark.parametrize("stop", [5, b"x", {"a"}, 1.5])
def test_stop_is_a_text_or_several(stop: Any) -> None:
    with pytest.raises(UsageError, match=r"stop is .*, expected a text or several"):
        check_settings({"stop": stop})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"stop": ""}, "a stop string is empty"),
        ({"stop": ["a", ""]}, "a stop string is empty"),
        ({"stop": ["\ud800"]}, "a stop string is not valid Unicode"),
        ({"stop": [3]}, "a stop string is 3, expected a text"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"max_new_tokens": -5}, "max_new_tokens is -5"),
        ({"max_new_tokens": 1.5}, "max_new_tokens is 1.5"),
        ({"max_new_tokens": "many"}, "max_new_tokens is 'many'"),
    ],
)
def test_limits_that_are_refused(settings: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Limits.of(settings).check()


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (Prompt(text="a\ud800"), "the prompt is not valid Unicode.*character 2 is half of a"),
        (Prompt(text="\udcff"), "character 1 is the byte 0xff, which is no UTF-8"),
        (Prompt(text="a", system="\udfff"), "the system prompt is not .*U[+]DFFF"),
        (
            Prompt(messages=({"role": "user", "content": [{"text": "b\ud800"}]},)),
            "message 1 is not valid Unicode",
        ),
    ],
)
def test_text_that_is_none(prompt: Prompt, words: str) -> None:
    with pytest.raises(UsageError, match=f"(?s){words}"):
        prompt.check()


@pytest.mark.parametrize("text", ["", " ", "\n\t"])
@pytest.mark.parametrize("chat", [True, False])
def test_a_prompt_that_asks_nothing(text: str, chat: bool) -> None:
    with pytest.raises(UsageError, match=r"the prompt is empty\n.*help: write what to ask"):
        Prompt(text=text, system="Be brief." if chat else "", chat=chat).check()


def test_messages_that_ask_nothing() -> None:
    hello, nothing = ({"role": "user", "content": text} for text in ("Hello", " "))
    with pytest.raises(UsageError, match="the prompt is empty"):
        Prompt(messages=(hello, nothing)).check()
    Prompt(messages=(nothing, hello)).check()
    Prompt(messages=(hello, {"role": "tool", "content": ""})).check()
    Prompt(messages=({"role": "user", "content": [{"type": "text", "text": "Hello"}]},)).check()


def test_messages_of_a_file_that_are_no_text(tmp_path: Path) -> None:
    file = tmp_path / "messages.json"
    file.write_text(r'[{"role": "user", "content": "fine"}, {"role": "user", "content": "\ud800"}]')
    with pytest.raises(UsageError, match=r"message 2 of .*messages.json is not valid Unicode"):
        read_messages(file)
