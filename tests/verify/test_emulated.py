"""Scoring a text: prefill and decode both count, and a wrong program is found."""

import numpy as np
import pytest

from ttc.verify.emulated import Scored, check_logits

pytestmark = pytest.mark.emulate

REFERENCE = np.random.default_rng(0).normal(size=(10, 50)).astype(np.float32)


def scored(logits: np.ndarray) -> Scored:
    return Scored(logits=logits, prefill_tokens=8, prefill_s=1.0, decode_s=0.5)


def test_the_right_logits_pass() -> None:
    verdict = check_logits(scored(REFERENCE), REFERENCE)
    assert verdict.ok
    assert verdict.decode_tokens_per_s == 4.0


def test_logits_of_another_text_fail() -> None:
    assert not check_logits(scored(REFERENCE[::-1].copy()), REFERENCE).ok


def test_nan_fails() -> None:
    logits = REFERENCE.copy()
    logits[3, 3] = np.nan
    assert not check_logits(scored(logits), REFERENCE).ok
