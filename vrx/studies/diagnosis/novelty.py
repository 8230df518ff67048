"""How new a photo is to the classifier: distance of its features to the nearest training photos, in typical distances.

Deep k-nearest neighbours (Sun et al., ICML 2022) at several depths: early layers notice another layout of the frame
(no horizon, another camera), the last one another object.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vrx.classifier.classifier import Classifier

DEPTHS = 4  # layers that are read, evenly spread, the last one among them
NEIGHBOURS = 5
NOVELTY = tuple(
    f"novelty to {whom} at depth {d + 1}" for whom in ("true class", "predicted class", "all classes")
    for d in range(DEPTHS)
)  # fmt: skip
Features = NDArray[np.float64]


def depths(classifier: Classifier) -> list[str]:
    """Names of the layers that are read, in the order in which they run; ``DEPTHS`` of them, some twice if few."""
    names = [layer.name for layer in classifier.layers]
    return [names[round((i + 1) * len(names) / DEPTHS) - 1] for i in range(DEPTHS)]


def features_of(classifier: Classifier, x: Tensor) -> list[Features]:
    """Mean and maximum over the frame of the classifier's maps at each depth.

    Args:
        classifier: F.
        x: normalised photos, ``[B, 3, H, W]``.

    Returns:
        ``DEPTHS`` arrays ``[B, 2 D]``, D the channels there.
    """
    names = depths(classifier)
    maps = classifier.inspect(x, layers=list(dict.fromkeys(names)), gradcam=False).maps
    pooled = {name: torch.cat([m.mean((2, 3)), m.amax((2, 3))], 1).double().cpu().numpy() for name, m in maps.items()}
    return [pooled[name] for name in names]


class Novelty:
    """How far a photo is from the training photos.

    Args:
        features: of the training photos, ``DEPTHS`` arrays ``[P, 2 D]``.
        labels: of the training photos, int ``[P]``.
    """

    def __init__(self, features: Sequence[Features], labels: NDArray[np.int64]) -> None:
        self._labels = np.asarray(labels)
        self._mean = [f.mean(0) for f in features]
        self._scale = [np.maximum(f.std(0), 1e-6) for f in features]
        self._known = [(f - m) / s for f, m, s in zip(features, self._mean, self._scale, strict=True)]
        classes: list[int | None] = [None, *np.unique(self._labels).tolist()]
        self._typical = {c: [self._typical_distance(depth, c) for depth in range(len(features))] for c in classes}

    def _typical_distance(self, depth: int, label: int | None) -> float:
        """Median over the photos of a class of the distance to the nearest others of it; NaN: fewer than two."""
        own = self._known[depth][self._of(label)]
        if len(own) < 2:
            return float("nan")
        return float(np.median([_nearest(np.delete(own, i, 0), one) for i, one in enumerate(own)]))

    def _of(self, label: int | None) -> NDArray[np.bool_]:
        return np.ones(len(self._labels), bool) if label is None else self._labels == label

    def __call__(self, features: Sequence[Features], label: int | None = None) -> NDArray[np.float64]:
        """How new a photo is at each depth.

        Args:
            features: of the photo, ``DEPTHS`` arrays ``[2 D]``.
            label: the class whose training photos it is compared with; None: all.

        Returns:
            Logarithm of the distance over the typical one, ``[DEPTHS]``: 0 is typical, 0.7 twice as far; NaN: unknown.
        """
        found = np.full(len(features), np.nan)
        for depth, values in enumerate(features):
            own, typical = self._known[depth][self._of(label)], self._typical.get(label, [np.nan] * len(features))
            if len(own) and typical[depth] > 0:
                place = (values - self._mean[depth]) / self._scale[depth]
                found[depth] = np.log(max(_nearest(own, place), 1e-9) / typical[depth])
        return found


def _nearest(known: Features, place: Features) -> float:
    """Mean root-mean-square distance of the nearest few of ``[P, D]`` from ``[D]``."""
    distances = np.sqrt(((known - place) ** 2).mean(1))
    return float(np.sort(distances)[:NEIGHBOURS].mean())
