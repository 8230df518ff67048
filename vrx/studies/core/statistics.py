"""Small-sample statistics of the studies: shares with intervals, paired tests, rank correlation, hits above chance."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from vrx.scores import margins, pearson

LEVEL = 0.95  # of every interval


def log_odds(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Margin of each class, :func:`vrx.scores.margins`, of logits ``[..., n]``."""
    return np.asarray(margins(torch.from_numpy(logits)).numpy())


@dataclass(frozen=True)
class Share:
    """``count`` successes of ``total`` trials, with Wilson's interval; all NaN when there is nothing to count."""

    count: int
    total: int

    @classmethod
    def of(cls, outcomes: Iterable[bool]) -> Share:
        """How many of the outcomes are true."""
        known = list(outcomes)
        return cls(sum(known), len(known))

    @property
    def value(self) -> float:
        return self.count / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's score interval (Wilson 1927): never empty, never outside [0, 1], right for 0 and for all."""
        if not self.total:
            return math.nan, math.nan
        found = stats.binomtest(self.count, self.total).proportion_ci(LEVEL, method="wilson")
        return float(found.low), float(found.high)

    def metrics(self, name: str) -> dict[str, float]:
        """``name``, ``name_low`` and ``name_high``; nothing when there was nothing to count."""
        low, high = self.interval
        return {name: self.value, f"{name}_low": low, f"{name}_high": high} if self.total else {}

    def __str__(self) -> str:
        if not self.total:
            return "none to count"
        low, high = self.interval
        return f"{self.count} of {self.total} ({self.value:.1%}, {low:.1%} to {high:.1%})"


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Exact two-sided McNemar test: p-value that two paired yes/no outcomes have the same rate.

    The binomial test of the discordant pairs; 1 when no pair is discordant.
    """
    discordant = [a for a, b in zip(first, second, strict=True) if a != b]
    return float(stats.binomtest(sum(discordant), len(discordant)).pvalue) if discordant else 1.0


def correlation(
    name: str, first: Sequence[float], second: Sequence[float], draws: int = 2000, seed: int = 0
) -> dict[str, float]:
    """Spearman's rank correlation of two paired samples; pairs that are not finite are left out.

    Returns:
        ``name``, ``name_low`` and ``name_high`` (bootstrap over the pairs) and ``name_p``; nothing with fewer than
        three pairs or where one side is constant.
    """
    pairs = np.array([first, second], float)
    pairs = pairs[:, np.isfinite(pairs).all(0)]
    count = pairs.shape[1]
    if count < 3 or (np.ptp(pairs, axis=1) == 0).any():
        return {}
    found = stats.spearmanr(pairs[0], pairs[1])
    drawn = pairs[:, np.random.default_rng(seed).integers(0, count, (draws, count))]
    ranked = torch.from_numpy(stats.rankdata(drawn, axis=2))
    values = pearson(ranked[0], ranked[1], torch.ones(draws, count, dtype=torch.bool))
    low, high = np.quantile(values.numpy(), [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    known = {"": found.statistic, "_low": low, "_high": high, "_p": found.pvalue}
    return {name + ending: float(value) for ending, value in known.items()}


def above_chance(found: Sequence[bool], chances: Sequence[float]) -> float:
    """One-sided p-value that hits are more frequent than by chance, each trial with its own, in [0, 1].

    Exact: the tail of the Poisson-binomial distribution, by convolution.
    """
    null = np.ones(1)
    for chance in chances:
        null = np.convolve(null, [1 - chance, chance])
    return float(min(1.0, null[int(np.sum(found)) :].sum()))
