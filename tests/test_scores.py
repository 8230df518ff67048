"""Margins, corrections and tests against second versions."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from scipy import stats

from vrx.scores import above_p_value, holm, margins


def test_margins_are_log_odds() -> None:
    logits = torch.randn(4, 5, dtype=torch.float64)
    p = logits.softmax(1)
    torch.testing.assert_close(margins(logits), (p / (1 - p)).log())
    assert margins(torch.randn(2, 3, 4)).shape == (2, 3, 4)
    torch.testing.assert_close(margins(torch.tensor([2.0, -1.0])), torch.tensor([3.0, -3.0]))


def holm_slowly(p_values: list[float]) -> list[float]:
    """Corrected p_i: the smallest level at which the step-down procedure rejects hypothesis i."""

    def rejected(level: float) -> set[int]:
        out: set[int] = set()
        for step, i in enumerate(sorted(range(len(p_values)), key=lambda k: p_values[k])):
            if p_values[i] * (len(p_values) - step) > level + 1e-12:
                break
            out.add(i)
        return out

    levels = sorted({min(1.0, p * m) for p in p_values for m in range(1, len(p_values) + 1)} | {1.0})
    return [next((a for a in levels if i in rejected(a)), 1.0) for i in range(len(p_values))]


def test_holm_against_the_step_down_procedure_itself() -> None:
    rng = np.random.default_rng(0)
    for size in (1, 2, 5, 8):
        p_values = rng.random(size) ** 3
        np.testing.assert_allclose(holm(p_values), holm_slowly(p_values.tolist()), rtol=1e-9)
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.9, 0.9])).max() == 1.0


def test_above_random_against_all_sign_flips() -> None:
    """The exact one-sided signed-rank test: how many of all 2^m sign patterns rank as high or higher."""
    rng = np.random.default_rng(1)
    effects, controls = rng.normal(0.5, 1, 8), rng.normal(0, 1, 8)
    difference = effects - controls
    ranks = stats.rankdata(np.abs(difference))
    seen = ranks[difference > 0].sum()
    sums = [sum(r for r, plus in zip(ranks, signs, strict=True) if plus) for signs in product([0, 1], repeat=8)]
    assert above_p_value(effects, controls) == pytest.approx(np.mean([s >= seen - 1e-9 for s in sums]))


def test_above_random_without_evidence_is_one() -> None:
    assert above_p_value(np.ones(6), np.ones(6)) == 1.0
    assert above_p_value(np.ones(1), np.zeros(1)) == 1.0
    assert above_p_value(np.zeros(0), np.zeros(0)) == 1.0
    assert above_p_value(np.arange(10.0), np.arange(10.0) + 1) > 0.9, "one-sided"
