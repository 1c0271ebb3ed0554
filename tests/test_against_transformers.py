"""The whole way, from a checkpoint to logits, against Hugging Face transformers on tiny models.

Every architecture is tested by existing: a random model of its first class, untied and tied, and
the variants that data/variants.yaml has for it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_models import PROMPT_TOKENS, Case, make_case, open_session, pcc, read, run, variants_of

from ttc.plan import planner
from ttc.plan.plan import WeightPlan
from ttc.spec import library
from ttc.spec.architecture import load_architecture

pytestmark = pytest.mark.emulate

MESHES = ("N150", "N300", "P150")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What a configuration changes in the sizes that all tests share, and where it runs."""

    name: str
    hf_class: str
    changes: Mapping[str, Any]
    mesh: str
    precision: str


def variants() -> Iterator[Variant]:
    """Of every architecture, in turn on all MESHES."""
    names = sorted(path.stem for path in library.shipped(library.ARCHITECTURES).glob("*.yaml"))
    meshes = cycle(MESHES)
    for name in names:
        hf_class = load_architecture(name).hf_classes[0]
        for variant, changes in variants_of(name).items():
            yield Variant(
                name=f"{name}-{variant}",
                hf_class=hf_class,
                changes=changes,
                mesh=next(meshes),
                precision=changes.get("precision", "bf16"),
            )


@pytest.fixture(scope="module", params=list(variants()), ids=lambda each: each.name)
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Variant, Case]:
    variant = request.param
    folder = tmp_path_factory.mktemp(variant.name)
    return variant, make_case(folder, variant.hf_class, variant.changes, prompt=PROMPT_TOKENS)


def test_unrounded_logits_are_those_of_transformers(
    made: tuple[Variant, Case], tmp_path: Path
) -> None:
    """Without rounding nothing but the mathematics is left: prefill and 16 decode steps."""
    variant, case = made
    with open_session(
        case, tmp_path, mesh=variant.mesh, precision=variant.precision, rounding=False
    ) as session:
        logits = run(session, case.token_ids)
    for part in (slice(PROMPT_TOKENS), slice(PROMPT_TOKENS, None)):
        assert pcc(logits[part], case.logits[part]) > 0.99999
    assert (logits.argmax(-1) == case.logits.argmax(-1)).mean() > 0.98


def test_bf16_stays_close(made: tuple[Variant, Case], tmp_path: Path) -> None:
    variant, case = made
    with open_session(case, tmp_path, mesh=variant.mesh) as session:
        logits = run(session, case.token_ids)
    for part in (slice(PROMPT_TOKENS), slice(PROMPT_TOKENS, None)):
        assert 0.999999 > pcc(logits[part], case.logits[part]) > 0.999


def test_rounding_costs_what_the_profile_gives_up(tmp_path: Path) -> None:
    """bf16 stays close; fewer bits are further away, and never where a wrong operand would be."""
    case = make_case(tmp_path, "LlamaForCausalLM")
    close: dict[str, float] = {}
    for precision in ("bf16", "accuracy", "performance"):
        with open_session(case, tmp_path, precision=precision) as session:
            close[precision] = pcc(run(session, case.token_ids), case.logits)
    assert 0.99999 > close["bf16"] > 0.999
    assert close["bf16"] > close["accuracy"] > close["performance"] > 0.9


def test_rows_in_the_wrong_order_are_noticed(tmp_path: Path) -> None:
    """The check can fail: q and k rows left as halves for an operation that rotates pairs."""

    def halves(weight: WeightPlan) -> WeightPlan:
        parts = tuple(replace(part, rows="halves") for part in weight.parts)
        return replace(weight, parts=parts)

    case = make_case(tmp_path, "LlamaForCausalLM")
    with open_session(case, tmp_path, rounding=False, change=halves) as session:
        assert pcc(run(session, case.token_ids), case.logits) < 0.99


def test_users_of_a_batch_do_not_see_each_other(tmp_path: Path) -> None:
    """Three prompts of different lengths, decoded together, give what each gives alone."""
    case = make_case(tmp_path, "LlamaForCausalLM")
    prompts = [case.token_ids[:5], case.token_ids[5:38], case.token_ids[38:59]]
    alone = []
    for prompt in prompts:
        with open_session(case, tmp_path, rounding=False) as session:
            first = session.prefill([prompt])[0]
            alone.append([first, session.decode([3])[0], session.decode([4])[0]])
    with open_session(case, tmp_path, batch=3, rounding=False) as session:
        together = [session.prefill(prompts), session.decode([3, 3, 3]), session.decode([4, 4, 4])]
    for user, steps in enumerate(alone):
        for logits, step in zip(together, steps, strict=True):
            np.testing.assert_allclose(logits[user], step, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("variant", ["llama dynamic", "phi3 longrope"])
def test_prompts_of_every_length_in_turn(tmp_path: Path, variant: str) -> None:
    """Where a prompt turns by its length, neither those before it nor their caches matter."""
    name, _, changed = variant.partition(" ")
    hf_class = load_architecture(name).hf_classes[0]
    case = make_case(tmp_path, hf_class, variants_of(name)[changed])
    lengths, alone = (40, 30, 61, 60, 33, 61), dict[int, np.ndarray]()
    for tokens in sorted(set(lengths)):
        with open_session(case, tmp_path, rounding=False) as session:
            alone[tokens] = session.prefill([case.token_ids[:tokens]])[0]
    with open_session(case, tmp_path, batch=3, rounding=False) as session:
        replica = session.replicas[0]
        for turn, tokens in enumerate(lengths):
            replica.release(turn % 3)
            logits = read(replica, turn % 3, case.token_ids[:tokens])
            np.testing.assert_allclose(logits, alone[tokens], rtol=1e-3, atol=1e-3)
        assert replica.cached_tokens(2) == 32, "of the same length before"
        for waiting in (lengths[:3], lengths[3:]):
            logits = session.prefill([case.token_ids[:tokens] for tokens in waiting])
            expected = [alone[tokens] for tokens in waiting]
            np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("ranges", [1, 3])
def test_greedy_feedback_on_the_device_equals_feedback_through_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranges: int
) -> None:
    """Also where logits become rows in several ranges of columns, as those of many tokens do."""
    monkeypatch.setattr(
        planner, "greedy_bytes", lambda logits, whole, parts, cores: (parts < ranges) * 10**9
    )
    case = make_case(tmp_path, "LlamaForCausalLM")
    prompt = case.token_ids[:PROMPT_TOKENS]
    with open_session(case, tmp_path) as session:
        first = int(session.prefill([prompt])[0].argmax())
        session.write([first])
        on_device = [session.step()[0] for _ in range(6)]
    with open_session(case, tmp_path) as session:
        token, on_host = int(session.prefill([prompt])[0].argmax()), []
        for _ in range(6):
            token = int(session.decode([token])[0].argmax())
            on_host.append(token)
    assert on_device == on_host
