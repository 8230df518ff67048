"""Evidence on the cause of an error (4.4), read off the explanation; and the baseline's, read off Grad-CAM.

Every piece of evidence is relative to what is usual for the run: graphs of training photos that F gets right. So it has
no unit of its own, and means the same for another F or another set of concepts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vrx.structures import Explanation

GRAPH = (
    "own concepts found", "other's concepts found", "own match", "other's match", "own nodes", "own edges",
    "other's nodes", "other's edges", "own structure is unusual", "other's structure is unusual", "shared patches",
    "evidence lies apart", "evidence off the object", "spread of what is attended", "patches unlike own class",
    "patches unlike other class", "patches unlike all classes", "margin",
)  # fmt: skip
CAM = ("overlap", "correlation", "own extent", "other's extent", "distance of peaks", "distance of centres")
NEIGHBOURS = 5


@dataclass(frozen=True)
class Looked:
    """A photo as the evidence needs it.

    Args:
        view: its graphs and contributions, edges included.
        nearest: distance of its nearest patch to each concept, in radii of the concept, ``[n, N]``; NaN: no concept.
        attended: centroids of the attended patches, ``[K, 2]`` in [0, 1].
        gradcam: of F for each class, ``[n, h, w]``.
    """

    view: Explanation
    nearest: NDArray[np.float64]
    attended: NDArray[np.float64]
    gradcam: NDArray[np.float64]


class Usual:
    """What graphs of one class look like in training photos that F gets right.

    Args:
        photos: such photos with their labels.
        num_classes: n.
    """

    def __init__(self, photos: Sequence[tuple[int, Looked]], num_classes: int) -> None:
        self._of = [[looked for label, looked in photos if label == c] for c in range(num_classes)]

    def __len__(self) -> int:
        return sum(map(len, self._of))

    def standing(self, value: float, label: int, of: Any) -> float:
        """A value in standard deviations from what it is for the class' own photos, in [-8, 8]; NaN: none known."""
        known = np.array([of(looked) for looked in self._of[label]])
        known = known[np.isfinite(known)]
        if len(known) < 2 or not np.isfinite(value):
            return float("nan")
        return float(np.clip((value - known.mean()) / max(known.std(), 1e-6), -8, 8))

    def structure(self, view: Explanation, label: int) -> float:
        """How far a class' relative concept positions are from those of the nearest of its photos (share of the photo).

        The distance of two photos is the root mean square over pairs of concepts found in both; a pair that only one
        has counts as far as half the photo. NaN: fewer than two concepts found, or no photo to compare with.
        """
        distances = [pair_distance(view, other.view, label) for other in self._of[label]]
        known = [d for d in distances if np.isfinite(d)]
        return nearest_mean(known)

    def novelty(self, looked: Looked, label: int) -> float:
        """How far the photo's match with all concepts of the bank is from that of the nearest photos of a class."""
        known = [
            mean(np.square(looked.nearest - other.nearest)) ** 0.5 for other in self._of[label] if other is not looked
        ]
        return nearest_mean([value for value in known if np.isfinite(value)])


def mean(values: NDArray[np.float64]) -> float:
    """Of the values that are known; NaN: none."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def nearest_mean(distances: Sequence[float]) -> float:
    """Mean of the few smallest; NaN: none."""
    return float(np.mean(np.sort(distances)[:NEIGHBOURS])) if len(distances) else float("nan")


def pair_distance(first: Explanation, second: Explanation, label: int) -> float:
    """Root mean square difference of the relative positions of a class' concepts in two photos; NaN: fewer than two."""
    if first is second:
        return float("nan")
    a, b = first.detected[label], second.detected[label]
    either = a | b
    if a.sum() < 2 or either.sum() < 2:
        return float("nan")
    index = np.flatnonzero(either)
    here, there = first.centroids[label][index], second.centroids[label][index]
    squared = (((here[:, None] - here[None]) - (there[:, None] - there[None])) ** 2).sum(2)
    both = (a & b)[index]
    squared = np.where(both[:, None] & both[None], squared, 0.25)
    upper = np.triu_indices(len(index), 1)
    return float(np.sqrt(squared[upper].mean()))


def evidence(looked: Looked, true: int, predicted: int, usual: Usual) -> dict[str, float]:
    """What the graphs say of one error, a number for each of ``GRAPH``; NaN where it cannot be had."""
    view = looked.view

    def nodes(label: int) -> Any:
        return lambda one: float(one.view.node_scores[label, label].sum())

    def links(label: int) -> Any:
        return lambda one: float(one.view.edge_scores[label, label].sum())

    def match(label: int) -> Any:
        return lambda one: mean(one.nearest[label])

    def found(label: int) -> Any:
        return lambda one: float(one.view.detected[label].mean())

    def standing(of: Any, label: int) -> float:
        return usual.standing(of(looked), label, of)

    apart, off = apartness(view, true, predicted)
    novelty = [usual.novelty(looked, c) for c in range(len(looked.nearest))]
    known = [v for v in novelty if np.isfinite(v)]
    ordered = np.sort(view.logits)
    values = (
        found(true)(looked), found(predicted)(looked), standing(match(true), true),
        standing(match(predicted), predicted),
        standing(nodes(true), true), standing(links(true), true), standing(nodes(predicted), predicted),
        standing(links(predicted), predicted), usual.structure(view, true), usual.structure(view, predicted),
        shared_evidence(view, true, predicted), apart, off,
        usual.standing(spread(looked), true, spread), novelty[true], novelty[predicted],
        min(known) if known else float("nan"), float(ordered[-1] - ordered[-2]),
    )  # fmt: skip
    return dict(zip(GRAPH, values, strict=True))


def spread(looked: Looked) -> float:
    """Root mean square distance of the attended patches from their middle, share of the photo; NaN: none attended."""
    points = looked.attended
    return float(np.sqrt(((points - points.mean(0)) ** 2).sum(1).mean())) if len(points) else float("nan")


def shared_evidence(view: Explanation, true: int, predicted: int) -> float:
    """Share of what speaks for the predicted class that lies in patches in which the true class is found too.

    In [0, 1]; NaN: no concept of the predicted class speaks for it.
    """
    weight = np.maximum(view.node_scores[predicted, predicted], 0) * view.detected[predicted]
    if weight.sum() <= 0:
        return float("nan")
    own = [view.mask(true, int(k)) for k in np.flatnonzero(view.detected[true])]
    if not own:
        return 0.0
    covered = np.any(own, axis=0)
    inside = np.array([covered[view.mask(predicted, k)].mean() if w > 0 else 0 for k, w in enumerate(weight)])
    return float((weight * inside).sum() / weight.sum())


def apartness(view: Explanation, true: int, predicted: int) -> tuple[float, float]:
    """Where the predicted class' strongest concept lies.

    Returns:
        Its distance from the nearest concept of the true class, and from the middle of all those (share of the photo);
        NaN where either class has no concept found.
    """
    if not view.detected[true].any() or not view.detected[predicted].any():
        return float("nan"), float("nan")
    scores = np.where(view.detected[predicted], view.node_scores[predicted, predicted], -np.inf)
    place = view.centroids[predicted, int(scores.argmax())]
    own = view.centroids[true][view.detected[true]]
    return float(np.linalg.norm(own - place, axis=1).min()), float(np.linalg.norm(own.mean(0) - place))


def cam_evidence(gradcam: NDArray[np.float64], true: int, predicted: int) -> dict[str, float]:
    """What Grad-CAM alone says of an error: how the maps of the two classes overlap. The baseline.

    Args:
        gradcam: ``[n, h, w]``, >= 0.
        true: label.
        predicted: F's answer.
    """
    own, other = (gradcam[c] / max(gradcam[c].max(), 1e-9) for c in (true, predicted))
    inside, there = own > 0.5, other > 0.5
    overlap = (inside & there).sum() / max((inside | there).sum(), 1)
    flat = np.stack([own.ravel(), other.ravel()])
    correlation = 0.0 if (flat.std(1) < 1e-9).any() else float(np.corrcoef(flat)[0, 1])
    height, width = own.shape
    grid = np.stack(np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height), -1)
    peaks = [grid[np.unravel_index(m.argmax(), m.shape)] for m in (own, other)]
    centres = [(grid * m[..., None]).sum((0, 1)) / max(m.sum(), 1e-9) for m in (own, other)]
    values = (
        float(overlap), correlation, float(inside.mean()), float(there.mean()),
        float(np.linalg.norm(peaks[0] - peaks[1])), float(np.linalg.norm(centres[0] - centres[1])),
    )  # fmt: skip
    return dict(zip(CAM, values, strict=True))
