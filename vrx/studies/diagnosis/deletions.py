"""What a wrong prediction rests on: the classifier's logits as parts of the photo are deleted (4.2, turned on errors).

Every region of the photo is deleted by itself. A region *supports the prediction* when the true class gains on the
predicted one without it, and *supports the true class* when it loses. Then the regions that support the prediction are
deleted together, and so are the patches of the concepts that the explanation names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import center_of_mass, distance_transform_edt

from vrx.explain.explainer import Explainer
from vrx.explanation import Explanation
from vrx.studies.core.exemplars import Mask
from vrx.studies.core.statistics import log_odds

Logits = NDArray[np.float64]

BATCH = 32  # edited photos a forward pass
TOGETHER = 10  # regions deleted together, at most
STRONG = 0.3  # of the strongest effect: regions above it count as support
PLACES = (
    "place: distance of centres", "place: spread of prediction", "place: spread", "place: from the middle",
    "place: prediction from the middle", "place: gap", "place: gap to true class' drops", "place: distance of drops",
    "place: area of prediction", "place: share of prediction",
)  # fmt: skip
AMOUNTS = (
    "deletion: strongest region", "deletion: all gains", "deletion: all losses", "deletion: true class' drop",
    "together: best margin", "together: best rise of true class", "together: best gain",
)  # fmt: skip
KEPT = ("only prediction's regions", "only true class' regions", "without prediction's regions")
CONCEPTS = (
    "true class' concepts", "predicted class' concepts", "true class' concepts alone",
    "predicted class' concepts alone", "concepts of both",
)  # fmt: skip
EFFECTS = (
    *PLACES, *AMOUNTS, *(f"{name}: margin of {whose}" for name in KEPT for whose in ("true class", "predicted class")),
    *(f"{name} deleted: drop of {whose}" for name in CONCEPTS for whose in ("true class", "predicted class")),
)  # fmt: skip


@dataclass(frozen=True)
class Deletions:
    """Logits of one photo with parts of it deleted."""

    true: int
    predicted: int
    regions: NDArray[np.int64]  # a partition of the photo, [H, W], 0 to S - 1
    logits: Logits  # of the photo as it is, [n]
    without: Logits  # each region deleted, [S, n]
    gains: NDArray[np.float64]  # how much the true class gains on the predicted one without each region, logits [S]
    together: Logits  # the 1, 2, ... regions deleted that support the prediction most, [min(S, TOGETHER), n]
    kept: Logits  # of KEPT: only the regions that support one class, or all but those of the prediction, [3, n]
    concepts: Logits  # of CONCEPTS: patches deleted of the concepts that speak for one class, or for both, [5, n]


def delete_parts(explainer: Explainer, explanation: Explanation, true: int) -> Deletions:
    """Delete the parts of a photo of this true class and read the logits."""
    predicted, clean = explanation.predicted, explanation.logits
    layers = explanation.superpixels.labels
    _, flat = np.unique(layers[len(layers) // 2], return_inverse=True)
    regions = flat.reshape(layers.shape[1:]).astype(np.int64)

    def logits(masks: Sequence[Mask]) -> Logits:
        parts = torch.from_numpy(np.stack(masks)).split(BATCH)
        return np.concatenate([explainer.logits(explainer.editor.delete(explanation.x[None], part)) for part in parts])

    without = logits([regions == s for s in range(regions.max() + 1)])
    gains = without[:, true] - without[:, predicted] - (clean[true] - clean[predicted])
    order = np.argsort(-gains, kind="stable")
    together = logits([np.isin(regions, order[:k]) for k in range(1, min(len(order), TOGETHER) + 1)])
    prediction, own = strong(gains)[regions], strong(-gains)[regions]
    kept = logits([~prediction, ~own, prediction])
    a, b = concept_mask(explanation, true), concept_mask(explanation, predicted)
    concepts = logits([a, b, a & ~b, b & ~a, a | b])
    return Deletions(true, predicted, regions, clean, without, gains, together, kept, concepts)


def strong(values: NDArray[np.float64]) -> Mask:
    """Which values are positive and not far below the largest."""
    return np.asarray((values > STRONG * values.max()) & (values > 0))


def concept_mask(explanation: Explanation, label: int) -> Mask:
    """Patches of the concepts of a class that speak for it, ``[H, W]``."""
    speaking = np.flatnonzero(explanation.detected[label] & (explanation.node_scores[label, label] > 0))
    masks = [explanation.mask(label, int(k)) for k in speaking]
    return np.any([np.zeros(explanation.superpixels.shape, bool), *masks], axis=0)


def effects(found: Deletions, unit: float = 1.0) -> dict[str, float]:
    """The evidence, a number for each of ``EFFECTS``; logits in ``unit``, the typical margin of the true class."""
    clean, both, best, true = found.logits, [found.true, found.predicted], found.together, found.true
    support = np.maximum(found.gains, 0)
    amounts = (
        support.max(), support.sum(), np.maximum(-found.gains, 0).sum(),
        weighted(clean[true] - found.without[:, true], support), log_odds(best)[:, true].max(),
        (best[:, true] - clean[true]).max(), (best[:, true] - best[:, found.predicted]).max(),
    )  # fmt: skip
    kept, drops = log_odds(found.kept)[:, both], clean[both] - found.concepts[:, both]
    scaled = np.concatenate([amounts, kept.ravel(), drops.ravel()]) / max(unit, 1e-6)
    return dict(zip(EFFECTS, map(float, [*places(found), *scaled]), strict=True))


def places(found: Deletions) -> tuple[float, ...]:
    """Where the regions lie that support either class; distances as shares of the photo's longer side."""
    gains = found.gains
    support, against = np.maximum(gains, 0), np.maximum(-gains, 0)
    drops = [np.maximum(found.logits[c] - found.without[:, c], 0) for c in (found.true, found.predicted)]
    middles = centres(found.regions)
    frame = np.array(found.regions.shape[::-1]) / (2 * max(found.regions.shape))

    def middle(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.array([weighted(middles[:, i], weights) for i in range(2)])

    def spread(weights: NDArray[np.float64]) -> float:
        return weighted(((middles - middle(weights)) ** 2).sum(1), weights) ** 0.5

    def apart(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
        return float(np.linalg.norm(a - b))

    prediction = strong(support)[found.regions]
    return (
        apart(middle(support), middle(against)), spread(support), spread(np.abs(gains)),
        apart(middle(np.abs(gains)), frame), apart(middle(support), frame),
        gap(prediction, strong(against)[found.regions]), gap(prediction, strong(drops[0])[found.regions]),
        apart(middle(drops[0]), middle(drops[1])), float(prediction.mean()),
        float(support.sum() / max(np.abs(gains).sum(), 1e-9)),
    )  # fmt: skip


def centres(regions: NDArray[np.int64]) -> NDArray[np.float64]:
    """Centre of mass (x, y) of each region, shares of the photo's longer side, ``[S, 2]``."""
    found = center_of_mass(np.ones(regions.shape), regions, range(regions.max() + 1))
    return (np.array(found)[:, ::-1] + 0.5) / max(regions.shape)


def gap(these: Mask, those: Mask) -> float:
    """Mean distance of the pixels of ``these`` from the nearest of ``those``, share of the longer side; 1: no pixel."""
    if not these.any() or not those.any():
        return 1.0
    return float(distance_transform_edt(~those)[these].mean() / max(those.shape))


def weighted(values: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Weighted mean; 0 where all weights are 0."""
    return float((values * weights).sum() / max(weights.sum(), 1e-9))
