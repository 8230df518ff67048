"""From the patches of a class and the concepts found among them to the ConceptBank, with pictures of exemplars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.segmentation import find_boundaries
from torch import Tensor

from vrx.classifiers import Classifier
from vrx.structures import ConceptBank, Patches

THUMBNAIL = 96


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
    height, width = classifier.input_size
    centroids = np.zeros((n, num, sources[0].features.shape[1]), np.float32)
    radius = np.full((n, num), -1, np.float32)
    importance = np.zeros((n, num), np.float32)
    p_value = np.ones((n, num), np.float32)
    thumbnails = np.full((n, num, shown, THUMBNAIL, THUMBNAIL, 3), 255, np.uint8)
    masks = np.zeros((n, num, shown, -(-height * width // 8)), np.uint8)
    paths = [[[""] * shown for _ in range(num)] for _ in range(n)]
    for c, (found, pool) in enumerate(zip(concepts, sources, strict=True)):
        for k, concept in enumerate(found):
            centroids[c, k], radius[c, k] = concept.centroid, concept.radius
            importance[c, k], p_value[c, k] = concept.importance, concept.p_value
            for e, member in enumerate(concept.exemplars[:shown]):
                photo, mask = pool.source(member), pool.mask(member)
                thumbnails[c, k, e] = thumbnail(classifier.pixels(photo.x[None])[0], mask)
                masks[c, k, e] = np.packbits(mask)
                paths[c][k][e] = photo.path
    return ConceptBank(
        tuple(classifier.class_names), centroids, radius, importance, p_value, thumbnails, masks, paths, settings
    )


def thumbnail(image: NDArray[np.uint8], mask: NDArray[np.bool_], size: int = THUMBNAIL) -> NDArray[np.uint8]:
    """A patch in its surroundings, outlined, as a square.

    Args:
        image: the photo, uint8 ``[H, W, 3]``.
        mask: the patch, bool ``[H, W]``.
        size: side of the square in pixels.
    """
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    side = min(int(1.6 * max(np.ptp(rows) + 1, np.ptp(columns) + 1, 0.15 * height)), height, width)
    top = int(np.clip((rows[0] + rows[-1] - side) // 2 + 1, 0, height - side))
    left = int(np.clip((columns[0] + columns[-1] - side) // 2 + 1, 0, width - side))
    box = (slice(top, top + side), slice(left, left + side))
    picture = Image.fromarray(image[box]).resize((size, size), Image.Resampling.BILINEAR)
    inside = np.asarray(Image.fromarray(mask[box]).resize((size, size), Image.Resampling.NEAREST))
    pixels = np.asarray(picture).astype(np.float32)
    pixels[~inside] = 0.55 * pixels[~inside] + 0.45 * 255  # the surroundings stay readable, but step back
    pixels[find_boundaries(np.pad(inside, 1), mode="inner")[1:-1, 1:-1]] = (40, 40, 40)
    return pixels.astype(np.uint8)
