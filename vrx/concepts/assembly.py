"""From the patches of a class and the concepts found among them to the ConceptBank, with pictures of exemplars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vrx.classifier.classifier import Classifier
from vrx.structures import ConceptBank, Patches
from vrx.thumbnails import THUMBNAIL, thumbnail


@dataclass(frozen=True)
class DiscoveryPhoto:
    """One photo to discover concepts on: its path, normalised pixels ``[3, H, W]`` and superpixels."""

    path: str
    x: Tensor
    superpixels: Patches


@dataclass(frozen=True)
class ClassPatches:
    """All attended patches of the photos of a class, flat: member m is patch ``patch[m]`` of photo ``photo[m]``.

    Args:
        photos: of the class.
        patches: the attended patches of each photo.
        margin: F's log-odds of the class for each photo, ``[P]``.
        features: matching features, ``[M, Dm]``.
        photo: index of each member's photo, ``[M]``.
        patch: index of each member among the patches of its photo, ``[M]``.
    """

    photos: Sequence[DiscoveryPhoto]
    patches: list[Patches]
    margin: NDArray[np.float64]
    features: NDArray[np.float32]
    photo: NDArray[np.int64]
    patch: NDArray[np.int64]

    def source(self, member: int) -> DiscoveryPhoto:
        """The photo of a member."""
        return self.photos[self.photo[member]]

    def mask(self, member: int) -> NDArray[np.bool_]:
        """Pixels of a member, bool ``[H, W]``."""
        return self.patches[self.photo[member]].select(self.patch[member : member + 1]).masks[0]


@dataclass(frozen=True)
class Concept:
    """One concept of a class; ``exemplars`` are members of its :class:`ClassPatches`, the most typical first."""

    centroid: NDArray[np.float32]
    radius: float
    exemplars: NDArray[np.int64]
    importance: float
    p_value: float


def make_bank(
    classifier: Classifier,
    concepts: list[list[Concept]],
    sources: list[ClassPatches],
    num: int,
    shown: int,
    settings: dict[str, Any],
) -> ConceptBank:
    """Put the concepts of all classes into one bank.

    Args:
        classifier: F.
        concepts: at most ``num`` of each class, the most important first.
        sources: the patches that they were found among.
        num: N, places a class; those left over are never detected.
        shown: E, exemplars kept of each concept.
        settings: all that the bank was made with.
    """
    n = len(concepts)
    centroids = np.zeros((n, num, sources[0].features.shape[1]), np.float32)
    radius = np.full((n, num), -1, np.float32)
    importance = np.zeros((n, num), np.float32)
    p_value = np.ones((n, num), np.float32)
    thumbnails = np.full((n, num, shown, THUMBNAIL, THUMBNAIL, 3), 255, np.uint8)
    paths = [[[""] * shown for _ in range(num)] for _ in range(n)]
    for c, (found, pool) in enumerate(zip(concepts, sources, strict=True)):
        for k, concept in enumerate(found):
            centroids[c, k], radius[c, k] = concept.centroid, concept.radius
            importance[c, k], p_value[c, k] = concept.importance, concept.p_value
            for e, member in enumerate(concept.exemplars[:shown]):
                photo, mask = pool.source(member), pool.mask(member)
                thumbnails[c, k, e] = thumbnail(classifier.pixels(photo.x[None])[0], mask)
                paths[c][k][e] = photo.path
    return ConceptBank(
        tuple(classifier.class_names), centroids, radius, importance, p_value, thumbnails, paths, settings
    )
