import pytest
import yaml

from ttc.checkpoint.spec_text import differing, fields_of, spec_text, yaml_value
from ttc.spec.model import load_model

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (500000.0, "500000"),
        (1e-5, "1.0e-5"),
        (1.5e-6, "1.5e-6"),
        (0.1, "0.1"),
        (64.11434936523438, "64.11435"),
        (25.298221281347036, "25.298221281347036"),
        ([1.1, 2], "[1.1, 2]"),
        ({"kind": "none", "theta": 1e4}, "{kind: none, theta: 10000}"),
    ],
)
def test_values_are_written_as_a_person_would(value: object, text: str) -> None:
    assert yaml_value(value) == text


def test_long_fields_are_broken_at_commas() -> None:
    numbers = [1.5 + i for i in range(40)]
    text = spec_text({"rope": {"kind": "longrope", "long_factors": numbers}}, remarks=["a remark"])
    lines = text.splitlines()
    assert lines[0] == "# a remark"
    assert max(map(len, lines)) <= 100
    assert yaml.safe_load(text)["rope"]["long_factors"] == numbers


def test_a_variant_gives_what_differs() -> None:
    base = fields_of(load_model("llama-3.1-8b-instruct"))
    own = base | {"dims": {**base["dims"], "vocab": 7}, "norm_eps": 1e-6}  # type: ignore[dict-item]
    assert differing(own, base) == {"dims": {"vocab": 7}, "norm_eps": 1e-6}
    assert differing(base, base) == {}
