"""Tensor parallel programs and several replicas against transformers, on emulated meshes."""

from pathlib import Path

import numpy as np
import pytest
from random_models import PROMPT_TOKENS, Case, make_case, open_session, pcc, run

pytestmark = pytest.mark.emulate

# Query and key heads that no degree divides, heads that all do, one key head; sizes of no tiles.
MODELS = {
    "9 heads": {
        "hidden_size": 288,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "intermediate_size": 352,
        "vocab_size": 321,
    },
    "8 heads": {
        "hidden_size": 256,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "intermediate_size": 512,
        "vocab_size": 999,
        "tie_word_embeddings": True,
    },
    "1 key head": {
        "hidden_size": 192,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "head_dim": 64,
        "vocab_size": 131,
    },
}
MESHES = ("N300", "N150x4", "T3K", "TG", "P150x4")


@pytest.fixture(scope="module", params=MODELS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("model")
    return make_case(folder, "LlamaForCausalLM", MODELS[request.param] | {"num_hidden_layers": 1})


@pytest.mark.parametrize("mesh", MESHES)
def test_unrounded_logits_are_those_of_transformers(case: Case, tmp_path: Path, mesh: str) -> None:
    with open_session(case, tmp_path, mesh=mesh, rounding=False) as session:
        logits = run(session, case.token_ids)
        for part in (slice(PROMPT_TOKENS), slice(PROMPT_TOKENS, None)):
            assert pcc(logits[part], case.logits[part]) > 0.99999
        assert session.program.MESH_SHAPE != (1, 1)


@pytest.mark.parametrize(("heads", "kv_heads", "hidden"), [(4, 2, 320), (9, 3, 288)])
def test_norms_of_heads_with_weights_of_their_own(
    tmp_path: Path, heads: int, kv_heads: int, hidden: int
) -> None:
    """Each rank scales its heads, copies of kv heads and padding included; padded in width too."""
    changes = {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "hidden_size": hidden}
    changes |= {"qk_layernorm": True, "use_parallel_residual": True, "use_qkv_bias": True}
    changes |= {"num_hidden_layers": 1, "initializer_range": 0.1}
    case = make_case(tmp_path, "StableLmForCausalLM", changes)
    with open_session(case, tmp_path, mesh="T3K", rounding=False) as session:
        logits = run(session, case.token_ids)
        for part in (slice(PROMPT_TOKENS), slice(PROMPT_TOKENS, None)):
            assert pcc(logits[part], case.logits[part]) > 0.99999


@pytest.mark.parametrize("mesh", ["T3K", "P150x4"])
def test_bf16_stays_close(case: Case, tmp_path: Path, mesh: str) -> None:
    """Sums that are rounded on their way from chip to chip cost little."""
    with open_session(case, tmp_path, mesh=mesh) as session:
        assert 0.99999 > pcc(run(session, case.token_ids), case.logits) > 0.999


def test_greedy_feedback_on_the_devices_equals_feedback_through_the_host(
    case: Case, tmp_path: Path
) -> None:
    """The next token is found among the logits of all chips, padding of the vocabulary left out."""
    with open_session(case, tmp_path, mesh="N150x4") as session:
        first = session.prefill([case.token_ids[:PROMPT_TOKENS]])[0].argmax()
        session.write([int(first)])
        on_device = [session.step()[0] for _ in range(6)]
        token, through_host = int(first), []
        session.prefill([case.token_ids[:PROMPT_TOKENS]])
        for _ in range(6):
            token = int(session.decode([token])[0].argmax())
            through_host.append(token)
        assert on_device == through_host


def test_users_of_all_replicas_get_what_each_gets_alone(case: Case, tmp_path: Path) -> None:
    with open_session(case, tmp_path, mesh="TG", rounding=False) as session:
        assert len(session.replicas) > 1
        prompts = [case.token_ids[first : first + 5 + first] for first in range(session.batch)]
        together = [session.prefill(prompts), session.decode([7] * len(prompts))]
        for user, prompt in enumerate(prompts):
            alone = [session.prefill([prompt]), session.decode([7])]
            for some, one in zip(together, alone, strict=True):
                np.testing.assert_allclose(some[user], one[0], atol=1e-4)
