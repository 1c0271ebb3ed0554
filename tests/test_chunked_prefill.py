"""Prompts in chunks on random models: windows, scales of their own and stretched positions.

Prompts are short for the time it takes; TTC_LONG_PROMPT_TOKENS=8000 makes them as long as that.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import random_models
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from random_models import Case, make_case, open_session, pcc

from ttc.runtime.replica import Replica
from ttc.runtime.session import Session

pytestmark = pytest.mark.emulate

PROMPT = int(os.environ.get("TTC_LONG_PROMPT_TOKENS", "700"))
STEPS = 4
CHUNK = 256 if PROMPT < 4096 else 2048
CONTEXT = -(-(PROMPT + STEPS) // CHUNK) * CHUNK
ONE_PIECE = 1 << (CONTEXT - 1).bit_length()

CASES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "windows and a scale": (
        "Gemma3ForCausalLM",
        {
            "sliding_window": 100,
            "query_pre_attn_scalar": 40,
            "num_hidden_layers": 3,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "capped scores": (
        "Gemma2ForCausalLM",
        {
            "sliding_window": 300,
            "query_pre_attn_scalar": 32,
            "attn_logit_softcapping": 4.0,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "a window over chunks": ("MistralForCausalLM", {"sliding_window": 300}),
    "a length that matters": (
        "LlamaForCausalLM",
        {
            "rope_scaling": {"rope_type": "dynamic", "factor": 64.0},
            "max_position_embeddings": 256,
        },
    ),
    "yarn": (
        "LlamaForCausalLM",
        {
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 64.0,
                "original_max_position_embeddings": 256,
            }
        },
    ),
}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    hf_class, changes = CASES[request.param]
    limit = {"max_position_embeddings": 16384}
    folder = tmp_path_factory.mktemp("model")
    return make_case(folder, hf_class, {**limit, **changes}, tokens=PROMPT + STEPS, prompt=PROMPT)


def read(session: Session, token_ids: list[int]) -> NDArray[np.float32]:
    """Logits of every position: a prompt in chunks, the rest token by token."""
    logits = [session.prefill_all(token_ids[:PROMPT])]
    logits += [session.decode([token]) for token in token_ids[PROMPT:]]
    return np.concatenate(logits)


def test_unrounded_logits_are_those_of_transformers(case: Case, tmp_path: Path) -> None:
    with open_session(case, tmp_path, context=CONTEXT, chunk=CHUNK, rounding=False) as session:
        logits = read(session, case.token_ids)
    for first in range(0, PROMPT + STEPS, CHUNK):
        part = slice(first, first + CHUNK)
        assert pcc(logits[part], case.logits[part]) > 0.99999


def test_chunks_give_what_one_piece_gives(case: Case, tmp_path: Path) -> None:
    """To the rounding of the emulator's own sums: the programs round at the same places."""
    context = ONE_PIECE
    with open_session(case, tmp_path, context=context, chunk=CHUNK) as session:
        assert max(session.program.PREFILL) == CHUNK
        chunks = read(session, case.token_ids)
    with open_session(case, tmp_path, context=context, chunk=ONE_PIECE) as session:
        assert max(session.program.PREFILL) == ONE_PIECE
        whole = read(session, case.token_ids)
    assert pcc(chunks, whole) > 0.99999
    # Products, which capped scores take, are cut at places of their own.
    least = 0.99 if "score_cap" in case.spec.read_text() else 0.998
    assert (chunks.argmax(-1) == whole.argmax(-1)).mean() > least


def test_chunks_of_users_whose_caches_have_no_blocks(tmp_path: Path) -> None:
    """Each finds its own keys, in a slot that another had before."""
    hf_class, changes = CASES["capped scores"]
    case = make_case(tmp_path, hf_class, changes, tokens=600)
    others = case.token_ids[::-1]
    with open_session(case, tmp_path, context=768, chunk=256, batch=3, rounding=False) as session:
        replica = session.replicas[0]
        replica.join(1, others, 600)
        replica.join(2, others, 600)
        replica.release(1)
        logits = replica.join(1, case.token_ids, 600)
        assert logits is not None
        assert pcc(logits, case.logits) > 0.99999


LENGTHS = 1000


@pytest.fixture(scope="module")
def boundaries(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Case, NDArray[np.float32], Replica]]:
    """A prompt, the logits of one piece after each of its tokens, and a replica with chunks."""
    folder = tmp_path_factory.mktemp("boundaries")
    case = make_case(folder, "MistralForCausalLM", {"sliding_window": 70}, tokens=LENGTHS)
    with open_session(case, folder, context=1024, chunk=1024) as session:
        whole = session.prefill_all(case.token_ids)
    with open_session(case, folder, context=1024, chunk=256, batch=2) as session:
        yield case, whole, session.replicas[0]


@settings(
    max_examples=16,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.integers(0, 31), st.sampled_from((-1, 0, 1)), st.integers(0, 31))
def test_every_boundary_of_chunks_and_blocks(
    boundaries: tuple[Case, NDArray[np.float32], Replica], block: int, beyond: int, held: int
) -> None:
    """A prompt that ends at a block or next to it, after one that left blocks to be found again."""
    case, whole, replica = boundaries
    tokens = min(max(32 * block + beyond, 1), LENGTHS)
    before = case.token_ids[: 32 * held + 1]
    replica.clear()
    replica.join(0, before, len(before))
    logits = random_models.read(replica, 1, case.token_ids[:tokens])
    assert pcc(logits, whole[tokens - 1]) > 0.9999
    assert logits.argmax() == whole[tokens - 1].argmax()
