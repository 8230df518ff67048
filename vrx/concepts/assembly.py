"""From the patches of a class and the concepts found among them to the ConceptBank, with pictures of exemplars."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.measure import label as components
from torch import Tensor

from vrx.bank import ConceptBank
from vrx.classifier.classifier import Classifier
from vrx.edits import Editor, Fill
from vrx.scores import margins
from vrx.structures import Patches
from vrx.thumbnails import THUMBNAIL, thumbnail

CUTOUTS = 3  # typical patches of each concept that are kept at their own size
AROUND = 0.05  # of what surrounds them, share of the photo's side
FEATURELESS: tuple[Fill, ...] = ("blur", "mean", "grey")  # inpainting needs something to start from


Edit = tuple[Tensor, NDArray[np.bool_]]
"""A normalised photo ``[3, H, W]``, and what to delete of it, bool ``[H, W]``."""


def logits_after(classifier: Classifier, editor: Editor, edits: Sequence[Edit], step: int = 64) -> NDArray[np.float64]:
    """F's logits of interest after each deletion, ``[M, n]``; ``step`` photos a pass."""
    found = [np.zeros((0, len(classifier.class_names)))]
    for part in (edits[i : i + step] for i in range(0, len(edits), step)):
        x = torch.stack([photo for photo, _ in part]).to(classifier.device)
        with torch.inference_mode():
            logits = classifier(editor.delete(x, torch.from_numpy(np.stack([mask for _, mask in part]))))
        found.append(logits.double().cpu().numpy())
    return np.concatenate(found)


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

    @classmethod
    def of(
        cls,
        photos: Sequence[DiscoveryPhoto],
        patches: list[Patches],
        margin: Sequence[NDArray[np.float64]],
        features: Sequence[NDArray[np.float32]],
    ) -> ClassPatches:
        """From the patches of each photo; ``margin`` and ``features`` batch by batch, in their order."""
        counts = [len(p) for p in patches]
        photo = np.repeat(np.arange(len(patches)), counts)
        patch = np.concatenate([np.arange(c) for c in counts])
        return cls(photos, patches, np.concatenate(margin), np.concatenate(features), photo, patch)

    def falls(
        self,
        classifier: Classifier,
        editor: Editor,
        members: NDArray[np.int64],
        masks: Callable[[int], NDArray[np.bool_]],
        index: int,
        step: int,
    ) -> NDArray[np.float64]:
        """Fall of F's margin of class ``index`` when the mask of each member is deleted from its photo, ``[M]``."""
        logits = logits_after(classifier, editor, [(self.source(m).x, masks(m)) for m in members], step)
        return np.asarray(self.margin[self.photo[members]] - margins(torch.from_numpy(logits))[:, index].numpy())

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
    state: dict[str, NDArray[Any]] | None = None,
    blank: dict[str, list[float]] | None = None,
    notes: dict[str, str] | None = None,
) -> ConceptBank:
    """Put the concepts of all classes into one bank.

    Args:
        classifier: F.
        concepts: at most ``num`` of each class, the most important first.
        sources: the patches that they were found among.
        num: N, places per class; those left over are never detected.
        shown: E, exemplars kept of each concept.
        settings: all that the bank was made with.
        state: what else finding them needs.
        blank: from :func:`featureless`.
        notes: why a class has fewer than ``num``.
    """
    n = len(concepts)
    width = next(concept.centroid.size for found in concepts for concept in found)
    centroids = np.zeros((n, num, width), np.float32)
    radius = np.full((n, num), -1, np.float32)
    importance = np.zeros((n, num), np.float32)
    p_value = np.ones((n, num), np.float32)
    thumbnails = np.full((n, num, shown, THUMBNAIL, THUMBNAIL, 3), 255, np.uint8)
    cutouts: dict[str, NDArray[np.uint8]] = {}
    paths = [[[""] * shown for _ in range(num)] for _ in range(n)]
    for c, (found, pool) in enumerate(zip(concepts, sources, strict=True)):
        for k, concept in enumerate(found):
            centroids[c, k], radius[c, k] = concept.centroid, concept.radius
            importance[c, k], p_value[c, k] = concept.importance, concept.p_value
            for e, member in enumerate(concept.exemplars[:shown]):
                photo, mask = pool.source(member), pool.mask(member)
                pixels = classifier.pixels(photo.x[None])[0]
                thumbnails[c, k, e] = thumbnail(pixels, largest_piece(mask))
                if e < CUTOUTS:
                    cutouts[f"{c}.{k}.{e}"] = cutout(pixels, mask)
                paths[c][k][e] = photo.path
    return ConceptBank(
        tuple(classifier.class_names),
        centroids,
        radius,
        importance,
        p_value,
        thumbnails,
        paths,
        settings,
        state or {},
        cutouts,
        blank or {},
        notes or {},
    )


def featureless(classifier: Classifier, margin: float, x: Tensor, batch_size: int = 16) -> dict[str, list[float]]:
    """What F predicts for photos without any detail.

    Args:
        classifier: F.
        margin: of the edits, see :class:`vrx.edits.Editor`.
        x: normalised photos ``[B, 3, H, W]``.

    Returns:
        Fill -> mean probability of each class of interest over the photos, all of their pixels deleted, ``[n]``.
    """
    everything = np.ones(x.shape[2:], bool)
    found: dict[str, list[float]] = {}
    for fill in FEATURELESS:
        logits = logits_after(classifier, Editor(fill, margin), [(photo, everything) for photo in x], batch_size)
        found[fill] = torch.from_numpy(logits).float().softmax(1).mean(0).tolist()
    return found


def cutout(pixels: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """A patch of a photo, uint8 ``[H, W, 3]``, with a little of what surrounds it: uint8 ``[h, w, 4]``."""
    pad = round(AROUND * max(mask.shape))
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    box = tuple(slice(max(int(v[0]) - pad, 0), int(v[-1]) + 1 + pad) for v in (rows, columns))
    return np.dstack([pixels[box], np.where(mask[box], 255, 0).astype(np.uint8)])


def largest_piece(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest connected piece of a mask, bool ``[H, W]``: one of two wheels."""
    pieces = components(mask, connectivity=1)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return np.asarray(pieces == sizes.argmax()) if len(sizes) > 1 else mask
