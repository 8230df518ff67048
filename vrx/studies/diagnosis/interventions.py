"""Ask F again: what a wrong answer rests on, found by editing parts of the photo away (4.2's check, turned on errors).

Every region of the photo is edited away by itself; a region *holds the answer* when the true class gains on the answer
without it, and *holds the true class* when it loses. Then the regions that hold the answer go together, and so do the
patches of the concepts that the explanation names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from vrx.explain.explainer import Explainer
from vrx.scores import margins
from vrx.structures import Explanation

Logits = NDArray[np.float64]
Mask = NDArray[np.bool_]

TOGETHER = 10  # regions that go together, at most
STRONG = 0.3  # of the strongest effect: regions above it count as holding an answer
CONCEPTS = ("own concepts", "other's concepts", "own concepts alone", "other's concepts alone", "both")
KEPT = ("answer's regions kept", "own regions kept", "answer's regions gone")
PLACES = (
    "holds: distance of centres", "holds: answer's spread", "holds: spread", "holds: from the middle",
    "holds: answer's from the middle", "holds: gap", "holds: gap to own evidence", "holds: own evidence apart",
    "holds: answer's area", "holds: answer's share",
)  # fmt: skip
AMOUNTS = (
    "gone: strongest region", "gone: all gains", "gone: all losses", "gone: own falls at answer's regions",
    "gone: best margin", "gone: best rise of own", "gone: best gain",
)  # fmt: skip
EFFECTS = (
    *PLACES, *AMOUNTS, *(f"{name}: margin of {whose}" for name in KEPT for whose in ("own", "answer")),
    *(f"{name} gone: {whose} falls" for name in CONCEPTS for whose in ("own", "answer")),
)  # fmt: skip


@dataclass(frozen=True)
class Interventions:
    """F's answers to one photo with parts of it edited away.

    Args:
        regions: a partition of the photo, ``[H, W]``, 0 to S - 1.
        logits: of the photo as it is, ``[n]``.
        without: each region gone, ``[S, n]``.
        together: the 1, 2, ... regions gone that hold the answer most, ``[min(S, TOGETHER), n]``.
        kept: nothing but the regions that hold the answer; nothing but those that hold the true class; all but those
            that hold the answer, ``[3, n]``.
        concepts: patches gone of the concepts of the true class, of the answer, of each alone, of both, ``[5, n]``.
    """

    regions: NDArray[np.int64]
    logits: Logits
    without: Logits
    together: Logits
    kept: Logits
    concepts: Logits

    def gains(self, true: int, predicted: int) -> NDArray[np.float64]:
        """How much the true class gains on the answer without each region, in logits ``[S]``."""
        clean = self.logits[true] - self.logits[predicted]
        return np.asarray(self.without[:, true] - self.without[:, predicted] - clean)


def intervene(
    explainer: Explainer, view: Explanation, true: int, predicted: int, batch_size: int = 32
) -> Interventions:
    """Edit a photo part by part and ask F.

    Args:
        explainer: of the run.
        view: of the photo.
        true: label.
        predicted: F's answer.
        batch_size: edited photos at a time.
    """
    layers = view.superpixels.labels
    _, flat = np.unique(layers[len(layers) // 2], return_inverse=True)
    regions = flat.reshape(layers.shape[1:]).astype(np.int64)

    def ask(masks: Sequence[Mask]) -> Logits:
        stacked = torch.from_numpy(np.stack(masks))
        parts = [explainer.logits(explainer.editor.delete(view.x[None], part)) for part in stacked.split(batch_size)]
        return np.concatenate(parts)

    without = ask([regions == s for s in range(regions.max() + 1)])
    gains = (without[:, true] - without[:, predicted]) - (view.logits[true] - view.logits[predicted])
    order = np.argsort(-gains, kind="stable")
    together = ask([np.isin(regions, order[:k]) for k in range(1, min(len(order), TOGETHER) + 1)])
    answer, own = strong(gains)[regions], strong(-gains)[regions]
    a, b = concept_mask(view, true), concept_mask(view, predicted)
    return Interventions(
        regions, view.logits, without, together, ask([~answer, ~own, answer]), ask([a, b, a & ~b, b & ~a, a | b])
    )


def strong(values: NDArray[np.float64]) -> Mask:
    """Which values are positive and not far below the largest."""
    return np.asarray((values > STRONG * values.max()) & (values > 0))


def concept_mask(view: Explanation, label: int) -> Mask:
    """Patches of the concepts of a class that speak for it, ``[H, W]``."""
    speaking = np.flatnonzero(view.detected[label] & (view.node_scores[label, label] > 0))
    masks = [view.mask(label, int(k)) for k in speaking]
    return np.any([np.zeros(view.superpixels.shape, bool), *masks], axis=0)


def effects(found: Interventions, true: int, predicted: int, unit: float = 1.0) -> dict[str, float]:
    """The evidence, a number for each of ``EFFECTS``.

    Args:
        found: of the photo.
        true: label.
        predicted: F's answer.
        unit: what logits are measured in: the usual margin of the true class.
    """
    clean, both = found.logits, [true, predicted]
    gains = found.gains(true, predicted)
    holds, against = np.maximum(gains, 0), np.maximum(-gains, 0)
    falls = clean[true] - found.without[:, true]
    best = found.together
    margin = margins(torch.from_numpy(best)).numpy()[:, true]
    amounts = (
        holds.max(), holds.sum(), against.sum(), weighted(falls, holds), margin.max(),
        (best[:, true] - clean[true]).max(), (best[:, true] - best[:, predicted]).max(),
    )  # fmt: skip
    kept = margins(torch.from_numpy(found.kept)).numpy()[:, both]
    concepts = clean[both] - found.concepts[:, both]
    scaled = np.concatenate([amounts, kept.ravel(), concepts.ravel()]) / max(unit, 1e-6)
    values = [*places(found, true, predicted), *scaled.tolist()]
    return dict(zip(EFFECTS, (float(v) for v in values), strict=True))


def places(found: Interventions, true: int, predicted: int) -> tuple[float, ...]:
    """Where the regions lie that hold the answer and the true class; distances as shares of the photo's longer side."""
    gains = found.gains(true, predicted)
    holds, against = np.maximum(gains, 0), np.maximum(-gains, 0)
    falls = [np.maximum(found.logits[c] - found.without[:, c], 0) for c in (true, predicted)]
    middles = centres(found.regions)
    frame = np.array(found.regions.shape[::-1]) / (2 * max(found.regions.shape))

    def middle(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.array([weighted(middles[:, i], weights) for i in range(2)])

    def spread(weights: NDArray[np.float64]) -> float:
        return weighted(((middles - middle(weights)) ** 2).sum(1), weights) ** 0.5

    answer = strong(holds)[found.regions]
    return (
        float(np.linalg.norm(middle(holds) - middle(against))), spread(holds), spread(np.abs(gains)),
        float(np.linalg.norm(middle(np.abs(gains)) - frame)), float(np.linalg.norm(middle(holds) - frame)),
        gap(answer, strong(against)[found.regions]), gap(answer, strong(falls[0])[found.regions]),
        float(np.linalg.norm(middle(falls[0]) - middle(falls[1]))), float(answer.mean()),
        float(holds.sum() / max(np.abs(gains).sum(), 1e-9)),
    )  # fmt: skip


def centres(regions: NDArray[np.int64]) -> NDArray[np.float64]:
    """Centre of mass (x, y) of each region, shares of the photo's longer side, ``[S, 2]``."""
    height, width = regions.shape
    y, x = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
    counts = np.bincount(regions.ravel())
    sums = [np.bincount(regions.ravel(), v.ravel()) for v in (x, y)]
    return np.stack(sums, 1) / counts[:, None] / max(height, width)


def gap(these: Mask, those: Mask) -> float:
    """Mean distance of the pixels of ``these`` from the nearest of ``those``, share of the longer side; 1: no pixel."""
    if not these.any() or not those.any():
        return 1.0
    return float(distance_transform_edt(~those)[these].mean() / max(those.shape))


def weighted(values: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Weighted mean; 0 where all weights are 0."""
    return float((values * weights).sum() / max(weights.sum(), 1e-9))
