"""How new a photo is to the classifier: distance of its features to the nearest training photos, in typical distances.

Deep k-nearest neighbours (Sun et al., ICML 2022) at several depths: early layers notice another layout of the frame
(no horizon, another camera), the last one another object.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
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

    Normalised photos ``[B, 3, H, W]`` -> ``DEPTHS`` arrays ``[B, 2 D]``, D the channels there.
    """
    names = depths(classifier)
    maps = classifier.inspect(x, layers=list(dict.fromkeys(names)), gradcam=False).maps
    pooled = {name: torch.cat([m.mean((2, 3)), m.amax((2, 3))], 1).double().cpu().numpy() for name, m in maps.items()}
    return [pooled[name] for name in names]


class Novelty:
    """How far a photo is from the training photos: their ``features``, ``DEPTHS`` arrays ``[P, 2 D]``."""

    def __init__(self, features: Sequence[Features], labels: NDArray[np.int64]) -> None:
        self._scaling = [(f.mean(0), np.maximum(f.std(0), 1e-6) * f.shape[1] ** 0.5) for f in features]
        scaled = [(f - mean) / scale for f, (mean, scale) in zip(features, self._scaling, strict=True)]
        chosen = {c: labels == c for c in np.unique(labels).tolist()} | {None: np.ones(len(labels), bool)}
        self._known: dict[int | None, list[Features]] = {c: [f[own] for f in scaled] for c, own in chosen.items()}
        self._typical = {c: [_typical(own) for own in known] for c, known in self._known.items()}

    def __call__(self, features: Sequence[Features], label: int | None = None) -> NDArray[np.float64]:
        """How new a photo with these features, ``DEPTHS`` arrays ``[2 D]``, is to a class (None: to all).

        Returns:
            Logarithm of the distance over the typical one, ``[DEPTHS]``: 0 is typical, 0.7 twice as far; NaN: unknown.
        """
        found = np.full(len(features), np.nan)
        for depth, (values, (mean, scale)) in enumerate(zip(features, self._scaling, strict=True)):
            if label in self._known and (typical := self._typical[label][depth]) > 0:
                distance = _nearest(cdist([(values - mean) / scale], self._known[label][depth]))[0]
                found[depth] = np.log(max(distance, 1e-9) / typical)
        return found


def _typical(own: Features) -> float:
    """Median over photos ``[P, D]`` of the distance to the nearest others; NaN: fewer than two."""
    if len(own) < 2:
        return float("nan")
    others = cdist(own, own)[~np.eye(len(own), dtype=bool)].reshape(len(own), -1)
    return float(np.median(_nearest(others)))


def _nearest(distances: Features) -> Features:
    """Mean of the few smallest of each row."""
    return np.asarray(np.sort(distances)[:, :NEIGHBOURS].mean(1))
