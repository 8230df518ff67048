"""Honest small-sample statistics of shares and paired answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats


@dataclass(frozen=True)
class Share:
    """A share with its Wilson interval; all NaN when there is nothing to count.

    Args:
        count: successes.
        total: trials.
        level: confidence of the interval, in (0, 1).
    """

    count: int
    total: int
    level: float = 0.95

    def __post_init__(self) -> None:
        if not 0 <= self.count <= self.total:
            raise ValueError(f"{self.count} of {self.total} is no share")

    @property
    def value(self) -> float:
        return self.count / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's score interval (Wilson 1927): never empty, never outside [0, 1], right for 0 and for all."""
        if not self.total:
            return math.nan, math.nan
        z = float(stats.norm.ppf(0.5 + self.level / 2))
        n, p = self.total, self.value
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        low = 0.0 if self.count == 0 else centre - half
        return low, 1.0 if self.count == n else centre + half

    def metrics(self, name: str) -> dict[str, float]:
        """``name``, ``name_low`` and ``name_high``; nothing when there was nothing to count."""
        if not self.total:
            return {}
        low, high = self.interval
        return {name: self.value, f"{name}_low": low, f"{name}_high": high}

    def __str__(self) -> str:
        if not self.total:
            return "none to count"
        low, high = self.interval
        return f"{self.count} of {self.total} ({self.value:.1%}, {low:.1%} to {high:.1%})"


def mcnemar(first: Sequence[bool] | NDArray[np.bool_], second: Sequence[bool] | NDArray[np.bool_]) -> float:
    """Exact two-sided McNemar test: p-value that two paired yes/no answers have the same rate.

    Args:
        first: of each subject under one treatment.
        second: of the same subjects under the other.

    Returns:
        The binomial tail of the discordant pairs, doubled and cut at 1; 1 when no pair is discordant.

    Raises:
        ValueError: different lengths.
    """
    a, b = np.asarray(first, bool), np.asarray(second, bool)
    if a.shape != b.shape:
        raise ValueError(f"{a.shape} answers against {b.shape}: they must be paired")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    discordant = only_a + only_b
    tail = sum(math.comb(discordant, i) for i in range(min(only_a, only_b) + 1))
    return min(1.0, 2 * tail / 2**discordant)


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation with an interval by the bootstrap over subjects; NaN with fewer than three."""

    value: float
    low: float
    high: float
    p_value: float
    count: int

    @classmethod
    def of(
        cls, first: Sequence[float], second: Sequence[float], draws: int = 2000, level: float = 0.95, seed: int = 0
    ) -> Correlation:
        """Correlate two paired samples; pairs that are not finite are left out."""
        pairs = np.array([first, second], float)
        pairs = pairs[:, np.isfinite(pairs).all(0)]
        count = pairs.shape[1]
        if count < 3 or (np.ptp(pairs, axis=1) == 0).any():
            return cls(math.nan, math.nan, math.nan, math.nan, count)
        found = stats.spearmanr(pairs[0], pairs[1])
        drawn = pairs[:, np.random.default_rng(seed).integers(0, count, (draws, count))]
        values = _pearson(stats.rankdata(drawn[0], axis=1), stats.rankdata(drawn[1], axis=1))
        low, high = np.nanquantile(values, [0.5 - level / 2, 0.5 + level / 2])
        return cls(float(found.statistic), float(low), float(high), float(found.pvalue), count)

    def metrics(self, name: str) -> dict[str, float]:
        """``name`` with its interval and p-value; nothing when it could not be measured."""
        if math.isnan(self.value):
            return {}
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high, f"{name}_p": self.p_value}


def _pearson(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correlation of each row of ``a`` with the same row of ``b``; NaN where one is constant."""
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    scale = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    return np.divide((a * b).sum(1), scale, out=np.full(len(a), np.nan), where=scale > 0)


def above_chance(found: Sequence[bool], chances: Sequence[float], draws: int = 100_000, seed: int = 0) -> float:
    """One-sided p-value that hits are more frequent than by chance, each trial with its own chance.

    The null distribution is Poisson-binomial; it is computed exactly by convolution up to 2000 trials, drawn beyond.

    Args:
        found: whether each trial hit.
        chances: probability of a hit by chance, in [0, 1].
        draws: simulated totals where there are too many trials.
        seed: of the draws.
    """
    hits, chance = int(np.sum(found)), np.asarray(chances, float)
    if len(chance) > 2000:
        totals = (np.random.default_rng(seed).random((draws // 100, len(chance))) < chance).sum(1)
        return float((1 + (totals >= hits).sum()) / (1 + len(totals)))
    null = np.ones(1)
    for c in chance:
        null = np.convolve(null, [1 - c, c])
    return float(min(1.0, null[hits:].sum()))
