"""Margins, rank agreement and paired tests: the one home of each."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

SIGNIFICANT = 0.05  # a p-value below this is significant


def margins(logits: Tensor) -> Tensor:
    """Log-odds of each class of interest against the others: logit minus the log-sum-exp of the rest.

    ``[..., n]`` -> ``[..., n]``, n >= 2.
    """
    n = logits.shape[-1]
    others = (
        logits.unsqueeze(-2)
        .expand(*logits.shape[:-1], n, n)
        .masked_fill(torch.eye(n, dtype=torch.bool, device=logits.device), -torch.inf)
    )
    return logits - others.logsumexp(-1)


def centred(logits: Tensor) -> Tensor:
    """Logits minus their mean: what a softmax can see."""
    return logits - logits.mean(-1, keepdim=True)


def rank_agreement(scores: NDArray[np.floating], measured: NDArray[np.floating]) -> float:
    """Spearman's correlation of two samples; NaN with fewer than three values, 0 when one side is constant."""
    if len(scores) < 3:
        return math.nan
    if np.ptp(scores) == 0 or np.ptp(measured) == 0:
        return 0.0
    return float(stats.spearmanr(scores, measured).statistic)


def finite_mean(values: NDArray[np.floating]) -> float:
    """Mean of what is finite; NaN where nothing is."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else math.nan


def pearson(a: Tensor, b: Tensor, valid: Tensor) -> Tensor:
    """Correlation along the last dimension, ``[..., V]``, over valid places, 0 where one side is constant (up to 1e-6).

    Differentiable: the loss of the distillation.
    """
    count = valid.sum(-1, keepdim=True).clamp(min=1)
    a, b = (torch.where(valid, v - torch.where(valid, v, 0).sum(-1, keepdim=True) / count, 0) for v in (a, b))
    # a floor on each side: one on their product would swallow small falls; the root of 0 has no gradient
    norms = [(v**2).sum(-1).clamp(min=1e-12).sqrt() for v in (a, b)]
    return (a * b).sum(-1) / (norms[0] * norms[1])


def ranks(values: Tensor, valid: Tensor) -> Tensor:
    """Average ranks (ties share theirs) among the valid places of the last dimension."""
    valid = valid.unsqueeze(-2)
    below = ((values.unsqueeze(-1) > values.unsqueeze(-2)) & valid).sum(-1)
    equal = ((values.unsqueeze(-1) == values.unsqueeze(-2)) & valid).sum(-1)
    return below + (equal + 1) / 2


def spearman(a: Tensor, b: Tensor, valid: Tensor) -> Tensor:
    """Spearman's correlation of many samples at once, along the last dimension over the valid places."""
    return pearson(ranks(a, valid), ranks(b, valid), valid)


def above_p_value(ours: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """One-sided paired p-value (Wilcoxon signed-rank) that ``ours`` exceed ``others``; 1 when all are equal."""
    difference = ours - others
    if len(difference) < 2 or np.allclose(difference, 0):
        return 1.0
    return float(stats.wilcoxon(difference, alternative="greater").pvalue)


def holm(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Holm's step-down correction of a family of p-values, ``[m]``."""
    order = np.argsort(p_values)
    scaled = p_values[order] * np.arange(len(p_values), 0, -1)
    corrected = np.empty_like(p_values)
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return corrected
