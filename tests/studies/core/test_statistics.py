"""Statistics against scipy and slow second versions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from vrx.studies.core.statistics import Share, above_chance, correlation, mcnemar


@pytest.mark.parametrize(("count", "total"), [(0, 1), (0, 40), (3, 7), (5, 119), (200, 200), (37, 80)])
def test_the_interval_is_wilsons_closed_form(count: int, total: int) -> None:
    z, p = stats.norm.ppf(0.975), count / total
    centre = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    assert Share(count, total).interval == pytest.approx((centre - half, centre + half), abs=1e-12)


def test_a_share_of_nothing_is_nan_and_has_no_metrics() -> None:
    empty = Share(0, 0)
    assert math.isnan(empty.value) and all(map(math.isnan, empty.interval))
    assert empty.metrics("left/x") == {}
    assert str(empty) == "none to count"


def test_share_metrics_are_named() -> None:
    assert set(Share(1, 4).metrics("found/x")) == {"found/x", "found/x_low", "found/x_high"}
    assert Share.of([True, False, True]) == Share(2, 3)


@pytest.mark.parametrize(
    ("only_a", "only_b", "both", "none"), [(0, 0, 3, 4), (1, 0, 0, 0), (12, 3, 5, 9), (4, 4, 0, 1)]
)
def test_mcnemar_is_twice_the_binomial_tail_of_discordant_pairs(only_a: int, only_b: int, both: int, none: int) -> None:
    pairs = [(1, 0)] * only_a + [(0, 1)] * only_b + [(1, 1)] * both + [(0, 0)] * none
    first, second = zip(*pairs, strict=True)
    tail = sum(math.comb(only_a + only_b, i) for i in range(min(only_a, only_b) + 1))
    expected = min(1.0, 2 * tail / 2 ** (only_a + only_b))
    assert mcnemar(first, second) == pytest.approx(expected)
    assert mcnemar(second, first) == pytest.approx(expected)


def test_mcnemar_wants_pairs() -> None:
    with pytest.raises(ValueError, match="zip"):
        mcnemar([True], [True, False])


def test_correlation_is_scipys_and_its_interval_that_of_a_slow_bootstrap() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=80).round(1)  # some ties
    y = x + rng.normal(size=80)
    found = correlation("x", x.tolist(), y.tolist(), draws=300, seed=5)
    expected = stats.spearmanr(x, y)
    assert (found["x"], found["x_p"]) == pytest.approx((expected.statistic, expected.pvalue))
    drawn = np.random.default_rng(5).integers(0, 80, (300, 80))
    slow = [stats.spearmanr(x[i], y[i]).statistic for i in drawn]
    assert (found["x_low"], found["x_high"]) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])), abs=1e-9)


def test_correlation_leaves_out_what_is_not_finite() -> None:
    finite = correlation("x", [1, 2, 3], [1, 2, 3])
    assert finite["x"] == 1 and correlation("x", [1, 2, 3, math.nan, 5], [1, 2, 3, 4, math.inf]) == finite
    assert correlation("x", [1, 2], [1, 2]) == correlation("x", [1, 1, 1], [1, 2, 3]) == {}


def test_above_chance_is_the_binomial_tail_for_equal_chances() -> None:
    found = [True] * 7 + [False] * 13
    expected = stats.binomtest(7, 20, 0.2, alternative="greater").pvalue
    assert above_chance(found, [0.2] * 20) == pytest.approx(expected)


def test_above_chance_by_counting_all_outcomes() -> None:
    chances = [0.1, 0.5, 0.3, 0.7]
    expected = sum(
        math.prod(c if hit else 1 - c for hit, c in zip(outcome, chances, strict=True))
        for outcome in itertools.product((0, 1), repeat=4)
        if sum(outcome) >= 3
    )
    assert above_chance([True, True, True, False], chances) == pytest.approx(expected)


def test_above_chance_of_many_trials() -> None:
    found = np.arange(2100) < 545
    assert above_chance(found.tolist(), [0.25] * 2100) == pytest.approx(stats.binom.sf(544, 2100, 0.25))
