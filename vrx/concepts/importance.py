"""How much F needs a concept, and whether that is more than it needs a random patch (3.1).

With global average pooling and a linear head the directional derivative at the last layer is the same for every
photo, so TCAV there is 0 or 1. The default is therefore a finite effect: the measured fall of F's margin when the
concept's pixels are deleted. TCAV on an earlier layer is offered beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.linear_model import SGDClassifier

Method = Literal["effect", "tcav"]


def area_matched(
    areas: NDArray[np.float32], patch: int, forbidden: NDArray[np.bool_], rng: np.random.Generator, among: int = 5
) -> int:
    """A random patch of the same photo with about the same area: one of the ``among`` nearest, -1 if there is none.

    Args:
        areas: of the photo's patches, ``[K]``.
        patch: the one to match.
        forbidden: patches that may not serve, e.g. those of the same concept, ``[K]``.
    """
    gap = np.abs(np.log(areas / areas[patch]))
    gap[forbidden] = np.inf
    gap[patch] = np.inf
    nearest = np.argsort(gap)[:among]
    nearest = nearest[np.isfinite(gap[nearest])]
    return int(rng.choice(nearest)) if len(nearest) else -1


def tcav(
    concept: NDArray[np.float32],
    random: NDArray[np.float32],
    gradients: NDArray[np.float32],
    runs: int = 10,
    seed: int = 0,
) -> tuple[float, float]:
    """TCAV score of a concept and its p-value against random concepts (Kim et al. 2018).

    The score is of runs that draw both sides anew from all patches. Such runs share patches, so a t-test over them
    would find a concept that is itself random significant one time in three; the p-value is of runs that share none.

    Args:
        concept: features of the concept's patches at a layer before the last, ``[P, D]``.
        random: features of random patches at the same layer, ``[R, D]``, R >= 2 P for proper random concepts.
        gradients: of the class logit at that layer, summed over space, one row a photo, ``[M, D]``.
        runs: concept activation vectors fitted to different patches; at most so many disjoint ones.

    Returns:
        The mean share of photos whose logit rises along the concept's direction, in [0, 1], and the two-sided
        p-value of a paired t-test against the scores of random directions. Identical scores, or patches for less
        than two disjoint runs, give p = 1.
    """
    rng = np.random.default_rng(seed)

    def score(positive: NDArray[np.float32], negative: NDArray[np.float32]) -> float:
        x = np.concatenate([positive, negative])
        y = np.r_[np.ones(len(positive)), np.zeros(len(negative))]
        fitted = SGDClassifier(alpha=0.01, random_state=int(rng.integers(2**31))).fit(x, y)
        return float((gradients @ fitted.coef_[0] > 0).mean())

    size = min(len(concept), len(random))
    scores = [score(rng.choice(concept, size), rng.permutation(random)[:size]) for _ in range(runs)]
    return float(np.mean(scores)), _disjoint_p(concept, random, score, runs, rng)


def _disjoint_p(
    concept: NDArray[np.float32],
    random: NDArray[np.float32],
    score: Callable[[NDArray[np.float32], NDArray[np.float32]], float],
    runs: int,
    rng: np.random.Generator,
) -> float:
    """Paired t-test of concept against random, where no patch serves in two runs: the runs are independent."""
    runs = min(runs, len(concept) // 2, len(random) // 4)
    if runs < 2:
        return 1.0
    size = min(len(concept) // runs, len(random) // (2 * runs))
    ours = rng.permutation(concept)[: runs * size].reshape(runs, size, -1)
    theirs = rng.permutation(random)[: 2 * runs * size].reshape(2, runs, size, -1)
    scores = np.array([score(ours[i], theirs[0, i]) for i in range(runs)])
    controls = np.array([score(theirs[1, i], theirs[0, i]) for i in range(runs)])
    difference = scores - controls
    if np.ptp(difference) < 1e-12:  # the t-test has no spread to go by
        return 1.0 if abs(difference[0]) < 1e-12 else 0.5 ** (runs - 1)
    return float(stats.ttest_1samp(difference, 0).pvalue)
