"""Margins, corrections and tests against second versions; TCAV on a planted direction."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from scipy import stats

from vrx.concepts.importance import area_matched, tcav
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


def test_area_matched_takes_one_of_the_nearest_in_area_that_are_allowed() -> None:
    areas = np.array([0.10, 0.11, 0.095, 0.30, 0.02, 0.105], np.float32)
    forbidden = np.array([False, True, False, False, False, False])
    rng = np.random.default_rng(0)
    drawn = {area_matched(areas, 0, forbidden, rng, among=2) for _ in range(60)}
    assert drawn == {2, 5}, "both, and never itself, the forbidden one or one of another size"
    assert area_matched(areas, 0, np.ones(6, bool), rng) == -1
    assert area_matched(areas[:1], 0, np.zeros(1, bool), rng) == -1


def test_tcav_finds_a_planted_direction() -> None:
    rng = np.random.default_rng(0)
    direction = np.zeros(12, np.float32)
    direction[3] = 1
    random = rng.normal(0, 1, (120, 12)).astype(np.float32)
    concept = (rng.normal(0, 1, (40, 12)) + 5 * direction).astype(np.float32)
    # of eight in ten photos the class' logit rises along the planted direction
    gradients = np.where(np.arange(50)[:, None] < 40, direction, -direction).astype(np.float32)
    score, p_value = tcav(concept, random, gradients)
    assert score == pytest.approx(0.8) and p_value < 0.05
    assert tcav(concept, random, -gradients)[0] == pytest.approx(0.2)
    assert tcav(concept, random, gradients) == (score, p_value), "seeded"


def test_tcav_of_random_concepts_is_significant_no_more_often_than_its_level_says() -> None:
    gradients = np.where(np.arange(50)[:, None] < 40, 1.0, -1.0).astype(np.float32) * np.eye(12, dtype=np.float32)[3]
    p_values, scores = [], []
    for seed in range(60):
        patches = np.random.default_rng(seed).normal(0, 1, (120, 12)).astype(np.float32)
        score, p_value = tcav(patches[:40], patches[40:], gradients, seed=seed)
        scores.append(score)
        p_values.append(p_value)
    assert stats.binom.sf((np.array(p_values) < 0.05).sum() - 1, 60, 0.05) > 0.01, "3 of 60 are to be expected"
    assert min(p_values) < 0.3, "and yet it does not always say 1"
    assert np.mean(scores) == pytest.approx(0.5, abs=0.1)


def test_tcav_of_too_few_patches_for_a_test_is_not_significant() -> None:
    patches = np.random.default_rng(0).normal(0, 1, (9, 4)).astype(np.float32)
    gradients = np.ones((5, 4), np.float32)
    for concept, random in ((patches[:3] + 9, patches[3:]), (patches[:5] + 9, patches[5:7])):
        score, p_value = tcav(concept, random, gradients)
        assert score == 1.0 and p_value == 1.0
