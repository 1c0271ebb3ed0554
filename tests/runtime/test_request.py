"""Settings of a request: what does not exist or means nothing is refused."""

from typing import Any

import pytest

from ttc.errors import UsageError
from ttc.runtime.request import Limits, check_settings

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
