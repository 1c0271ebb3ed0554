"""Keys that a config.json leaves out mean what the classes of transformers take for them."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from ttc.checkpoint.config_reading import Reading, read_config
from ttc.spec import library
from ttc.spec.architecture import load_architecture
from ttc.spec.config_keys import with_shared

pytestmark = pytest.mark.emulate

CLASSES = [
    (name, class_)
    for name in library.names(library.ARCHITECTURES, near=Path("specs/any.yaml"))
    for class_ in load_architecture(name).hf_classes
    if class_.endswith("ForCausalLM")
]
SIZES: dict[str, Any] = {
    "hidden_size": 512,
    "num_hidden_layers": 32,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "intermediate_size": 96,
    "vocab_size": 131,
    "max_position_embeddings": 16384,
    "original_max_position_embeddings": 1024,
    "use_sliding_window": True,
}
LONGROPE = {"type": "longrope", "short_factor": [1.0] * 32, "long_factor": [2.0] * 32}
COMPARED = ("values", "rope", "local_rope", "kinds")


@pytest.mark.parametrize(("architecture", "class_"), CLASSES)
def test_a_missing_key_stands_for_what_the_class_takes(architecture: str, class_: str) -> None:
    """For every key that is read: without it, and as transformers then completes the file."""
    import transformers

    config_class: Any = getattr(transformers, class_).config_class

    def make(**fields: Any) -> Any:
        return config_class(**deepcopy(fields))  # some classes change what they are given

    keys = with_shared(load_architecture(architecture).config)
    known: dict[str, Any] = make().to_dict()
    given: dict[str, Any] = {key: each for key, each in SIZES.items() if key in known}
    if "original_max_position_embeddings" in known:
        given["rope_scaling"] = LONGROPE
    # "Completed" lists of layers would say again what other keys say.
    listed = {key for key, each in known.items() if isinstance(each, list)}
    whole = {key: each for key, each in make(**given).to_dict().items() if key not in listed}
    checked: set[str] = set()
    for key in read_config(whole, keys).used:
        fewer = {name: each for name, each in whole.items() if name != key}
        if key not in whole or read_config(fewer, keys).missing:
            continue  # a part of a key, or one that must be there
        found = read_config(fewer, keys)
        expected = read_config(make(**fewer).to_dict(), keys)
        assert not found.wrong, key
        assert compared(found) == compared(expected), f"without {key}"
        checked.add(key)
    assert {"max_position_embeddings", "rope_theta"} <= checked


def compared(reading: Reading) -> dict[str, object]:
    return {name: getattr(reading, name) for name in COMPARED}
