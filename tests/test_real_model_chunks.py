"""A trained model reads a long prompt in chunks: the same numbers and words as in one piece.

The prompt is shorter than 3,000 tokens for the time it takes; docs/measurements.md has those.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ttc import api
from ttc.accuracy.teacher import TEXT
from ttc.runtime.model import Model
from ttc.runtime.replica import Logits

pytestmark = [pytest.mark.emulate, pytest.mark.mock]

PROMPT_TOKENS = 600
STEPS = 8


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module", params=[256, 512])
def chunked(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, cache: Path
) -> Iterator[Model]:
    with model(tmp_path_factory.mktemp("chunked"), cache, request.param) as loaded:
        assert max(loaded.session.program.PREFILL) == request.param
        yield loaded


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Model]:
    with model(tmp_path_factory.mktemp("whole"), cache, 1024) as loaded:
        yield loaded


def model(folder: Path, cache: Path, chunk: int) -> Model:
    artefact = api.compile(
        "smollm2-135m-instruct",
        mesh="N150",
        precision="bf16",
        context=1024,
        prefill_chunk_tokens=chunk,
        out=folder / "model",
        cache=cache,
    )
    return api.load(artefact, backend="emulate")


def answer(loaded: Model) -> tuple[Logits, list[int]]:
    """The next token's logits, and a greedy continuation."""
    session = loaded.session
    prompt = loaded.encode(TEXT.read_text())[:PROMPT_TOKENS]
    logits = session.prefill([prompt])[0]
    tokens = [int(logits.argmax())]
    for _ in range(STEPS):
        tokens.append(int(session.decode([tokens[-1]])[0].argmax()))
    return logits, tokens


def test_chunks_continue_as_one_piece_does(chunked: Model, whole: Model) -> None:
    ours, words = answer(chunked)
    logits, expected = answer(whole)
    assert np.corrcoef(ours, logits)[0, 1] > 0.9999
    assert words == expected
