"""Does an explanation survive what nobody sees? The photo as JPEG, a little brighter, shifted by two pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vrx.concepts.perturbations import PERTURBATIONS, moved_back
from vrx.explain.explainer import Explainer
from vrx.explanation import Explanation
from vrx.scores import finite_mean, rank_agreement
from vrx.structures import Patches

NAMES = ("top_concept", "rank", "iou", "found")


def stability(explainer: Explainer, explanations: Sequence[Explanation]) -> dict[str, float]:
    """The ``stability/*`` metrics: means of :func:`agreement` over the photos and the perturbed copies of each.

    Held-out photos without a found concept of the predicted class are left out; NaN where nothing could be compared.
    """
    rows = []
    for clean in tqdm(explanations, desc="explaining changed photos", unit="photo", leave=False):
        if clean.detected[clean.predicted].any():
            for name in PERTURBATIONS:
                rows.append(agreement(clean, perturbed(explainer, clean, name)))
    table = np.array(rows).reshape(-1, len(NAMES))
    return {f"stability/{name}": finite_mean(column) for name, column in zip(NAMES, table.T, strict=True)}


def perturbed(explainer: Explainer, clean: Explanation, name: str) -> Explanation:
    """The explanation of a perturbed copy, its regions in the places of the clean photo."""
    x = PERTURBATIONS[name](explainer.classifier, clean.x[None])[0]
    after = explainer.of(clean.class_names).explain_input(x, measure=False, relations=False)
    labels = after.superpixels.labels
    back = moved_back(name, labels, int(labels.max()) + 1)
    return replace(after, superpixels=Patches(back, after.superpixels.ids))


def agreement(clean: Explanation, after: Explanation) -> tuple[float, float, float, float]:
    """How far two explanations of the same photo agree on the concepts of the class predicted for the first.

    Returns:
        ``top_concept``: 1 where the found concept with the largest contribution to the class is the same, else 0.
        ``rank``: Spearman of the contributions over the concepts found in either, 0 where not found; NaN with fewer
        than three. ``iou``: mean overlap (IoU) of the concepts found in both; NaN if there are none. ``found``: share
        of the concepts of the first that the second finds too.
    """
    own = clean.predicted
    scores = [np.where(e.detected[own], e.node_scores[own, own], 0.0) for e in (clean, after)]
    before, now = clean.detected[own], after.detected[own]
    both = np.flatnonzero(before & now)
    masks = [(clean.mask(own, k), after.mask(own, k)) for k in both.tolist()]
    overlaps = [(a & b).sum() / max(int((a | b).sum()), 1) for a, b in masks]
    return (
        float(_top(scores[0], before) == _top(scores[1], now)),
        rank_agreement(*(s[before | now] for s in scores)),
        float(np.mean(overlaps)) if overlaps else float("nan"),
        len(both) / max(int(before.sum()), 1),
    )


def _top(scores: NDArray[np.float64], found: NDArray[np.bool_]) -> int:
    """The found concept with the largest score; -1: none is found."""
    return int(np.where(found, scores, -np.inf).argmax()) if found.any() else -1
