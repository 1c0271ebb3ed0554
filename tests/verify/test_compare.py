"""Agreement of logits: every figure moves when it should, and only then."""

import math

import numpy as np
import pytest

from ttc.verify.compare import compare_logits, correlation

pytestmark = pytest.mark.fast

REFERENCE = np.random.default_rng(0).normal(size=(10, 50)).astype(np.float32)


def test_equal_logits_agree() -> None:
    agreement = compare_logits(REFERENCE, REFERENCE)
    assert (agreement.top1, agreement.top5, agreement.positions) == (1.0, 1.0, 10)
    assert agreement.pcc == pytest.approx(1.0, abs=1e-12)
    assert agreement.kl == pytest.approx(0.0, abs=1e-12)


def test_scale_changes_the_distribution_and_not_the_order() -> None:
    agreement = compare_logits(REFERENCE * 3, REFERENCE)
    assert (agreement.top1, agreement.top5) == (1.0, 1.0)
    assert agreement.pcc == pytest.approx(1.0, abs=1e-6)
    assert agreement.kl > 0.1


@pytest.mark.parametrize(("rank", "top5"), [(2, 1.0), (5, 1.0), (6, 0.9)])
def test_one_position_prefers_another_token(rank: int, top5: float) -> None:
    ours = REFERENCE.copy()
    ours[3, np.argsort(-REFERENCE[3])[rank - 1]] = 100.0
    agreement = compare_logits(ours, REFERENCE)
    assert (agreement.top1, agreement.top5) == (0.9, top5)


def test_noise_lowers_the_correlation() -> None:
    noise = np.random.default_rng(1).normal(size=REFERENCE.shape).astype(np.float32)
    assert compare_logits(REFERENCE + noise, REFERENCE).pcc < 0.9
    assert abs(correlation(noise, REFERENCE)) < 0.2
    assert correlation(-REFERENCE, REFERENCE) == pytest.approx(-1.0)


def test_kl_of_two_known_distributions() -> None:
    reference = np.log(np.array([[0.5, 0.25, 0.1, 0.05, 0.05, 0.05]], dtype=np.float32))
    ours = np.zeros((1, 6), dtype=np.float32)
    entropy = -(np.exp(reference) * reference).sum()
    assert compare_logits(ours, reference).kl == pytest.approx(math.log(6) - entropy, abs=1e-6)


def test_constant_logits_have_no_correlation() -> None:
    assert math.isnan(compare_logits(np.zeros_like(REFERENCE), REFERENCE).pcc)
