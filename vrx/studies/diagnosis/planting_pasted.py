"""Plants causes into real photos: exemplars of another class pasted on or clear of its concepts, and turned photos.

The counterpart of :class:`~vrx.studies.diagnosis.planting_rendered.RenderedPlanter` where no scene can be rendered
again. A pasted cause is artificial: *shared* and *false alarm* differ in nothing but where the same exemplars are put,
but *unseen* differs from both in that nothing is pasted.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation
from scipy.signal import fftconvolve
from torch import Tensor

from vrx.data.images import Photo
from vrx.data.sources import PhotoSource
from vrx.edits import Editor, gaussian_blur, shifted
from vrx.explain.explainer import Explainer
from vrx.studies.core.exemplars import Donors, Mask, placed_patch
from vrx.studies.diagnosis.causes import FALSE_ALARM, UNSEEN
from vrx.studies.diagnosis.planting import CLEAR, Change, Planter

ON = 0.5  # a paste is on a patch when at least this share of the smaller of the two lies in both
PASTES = 3  # exemplars pasted at most
SMALL = 3  # a photo seen from far away has this fraction of its side
LAYOUTS = (
    "turned by 90 degrees", "turned by 180 degrees", "turned by 270 degrees", "upside down", "far away",
    "sheared to the left", "sheared to the right",
)  # fmt: skip


class PastedPlanter(Planter):
    """Plants causes by pasting good exemplars of another class, and by layouts that no training photo has."""

    kind = "pasted"
    method = (
        "Errors with a planted cause: good exemplars of another class are pasted on a patch that speaks for the true "
        "class (shared) or clear of all such patches (false alarm), or the photo is turned, sheared or made small "
        "(unseen). The classifier was right before. Such causes are artificial: the numbers vouch for errors of these "
        "kinds, not for the causes of the real errors."
    )

    def __init__(self, explainer: Explainer, source: PhotoSource, donors: Donors, seed: int = 0) -> None:
        super().__init__(explainer, source, seed)
        self._donors, self._editor = donors, explainer.editor
        self._speaking = lru_cache(maxsize=4096)(self._speaking_patches)

    def plant(self, photo: Photo, cause: str, rng: Generator) -> Change | None:
        """A change of one cause."""
        x = self._read(photo)
        if cause == UNSEEN:
            return Change(relaid(x, str(rng.choice(LAYOUTS)), self._editor), None)
        return self._paste(x, photo, cause, rng)

    def _speaking_patches(self, photo: Photo) -> tuple[Mask, ...]:
        """The patches, each once, of the concepts of a photo's class that speak for it, each ``[H, W]``."""
        found, own = self._explainer.explain_input(self._read(photo), relations=False), photo.label
        concepts = found.detected[own] & (found.node_scores[own, own] > 0)
        masks = [found.label_mask(int(label)) for label in np.unique(found.matched[own][concepts])]
        return tuple(mask for mask in masks if mask.any())

    def _paste(self, x: Tensor, photo: Photo, cause: str, rng: Generator) -> Change | None:
        """Exemplars of one other class, one to ``PASTES`` of them; None where not even the first finds a place."""
        own = self._speaking(photo)
        label = self._other_class(photo, rng)
        stock = self._stock(label)
        if not own or not stock:
            return None
        wanted = int(rng.integers(1, PASTES + 1))
        taken = np.zeros(x.shape[1:], bool)
        for concept in rng.permutation(stock)[:wanted].tolist():
            good = self._donors.good(label, concept)
            other, patch = self._donors.patch(good[int(rng.integers(len(good)))])
            place = self._place(cause, patch, own, taken, rng)
            if place is not None:
                layer, changed = placed_patch(other, patch, place)
                x = self._editor.paste(x[None], torch.from_numpy(changed)[None], layer[None])[0]
                taken |= changed
        return Change(x, label) if taken.any() else None

    def _stock(self, label: int) -> list[int]:
        """Concepts of a class that have an exemplar which speaks for the class; any exemplar if none has."""
        concepts = [k for k in range(self._explainer.bank.num_concepts) if self._donors.of(label, k)]
        return [k for k in concepts if self._donors.good(label, k)[0].score > 0] or concepts

    def _place(self, cause: str, patch: Mask, own: Sequence[Mask], taken: Mask, rng: Generator) -> Mask | None:
        """Where an exemplar goes, ``[H, W]``; never on one pasted before."""
        if cause != FALSE_ALARM:
            return place_on(patch, own[int(rng.integers(len(own)))], taken, rng)
        reach = 1 + round(self._editor.margin * max(taken.shape))  # the soft edge touches nothing either
        return clear_place(patch, binary_dilation(np.any(own, axis=0), np.ones((2 * reach + 1,) * 2)), taken, rng)


def overlaps(patch: Mask, region: Mask) -> NDArray[np.int64]:
    """Pixels of a patch that lie in a region, both ``[H, W]``, for every place of the patch inside the frame.

    ``[H - h + 1, W - w + 1]``, by the top left corner of the patch's h x w box; the patch is not empty.
    """
    rows, columns = np.flatnonzero(patch.any(1)), np.flatnonzero(patch.any(0))
    shape = patch[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.asarray(fftconvolve(region.astype(float), shape[::-1, ::-1].astype(float), "valid").round(), np.int64)


def place_on(patch: Mask, target: Mask, taken: Mask, rng: Generator) -> Mask | None:
    """A random place at which a patch lies on a target, and at most ``CLEAR`` of it on what is taken; None: no such."""
    enough = overlaps(patch, target) >= ON * min(patch.sum(), target.sum())
    return _drawn(patch, enough & (overlaps(patch, taken) <= CLEAR * patch.sum()), rng)


def clear_place(patch: Mask, near: Mask, taken: Mask, rng: Generator) -> Mask | None:
    """A random place at which at most ``CLEAR`` of a patch is near what it must not touch, or taken; None: no such."""
    return _drawn(patch, overlaps(patch, near | taken) <= CLEAR * patch.sum(), rng)


def _drawn(patch: Mask, allowed: Mask, rng: Generator) -> Mask | None:
    corners = np.argwhere(allowed)
    if not len(corners):
        return None
    top, left = corners[int(rng.integers(len(corners)))].tolist()
    dy, dx = top - int(np.flatnonzero(patch.any(1))[0]), left - int(np.flatnonzero(patch.any(0))[0])
    return np.asarray(shifted(torch.from_numpy(patch), dx, dy).numpy())


def relaid(x: Tensor, layout: str, editor: Editor) -> Tensor:
    """A normalised photo ``[3, H, W]`` in one of ``LAYOUTS``; the editor feathers the border of one made small."""
    shape = (x.shape[1], x.shape[2])
    if layout.startswith("turned by"):
        return _resized(torch.rot90(x, int(layout.split()[2]) // 90, (1, 2)), shape)
    if layout == "upside down":
        return x.flip(1)
    behind = gaussian_blur(x[None], 0.1 * max(shape))
    if layout == "far away":
        height, width = shape[0] // SMALL, shape[1] // SMALL
        top, left = (shape[0] - height) // 2, (shape[1] - width) // 2
        edge = (left, shape[1] - width - left, top, shape[0] - height - top)
        layer = F.pad(_resized(x, (height, width))[None], edge, mode="replicate")
        place = F.pad(torch.ones(1, height, width, dtype=torch.bool), edge)
        return editor.paste(behind, place, layer)[0]
    lean = 1.0 if layout == "sheared to the left" else -1.0  # the top goes to that side, the bottom to the other
    grid = F.affine_grid(x.new_tensor([[[2.0, -lean, 0.0], [0.0, 1.0, 0.0]]]), [1, *x.shape], align_corners=False)
    narrow = _resized(x, (shape[0], max(1, shape[1] // 2)))[None]  # as wide as it comes out: no aliasing
    inside = F.grid_sample(torch.ones_like(narrow[:, :1]), grid, align_corners=False)
    layer = F.grid_sample(narrow, grid, padding_mode="border", align_corners=False)
    return (inside * layer + (1 - inside) * behind)[0]


def _resized(x: Tensor, shape: tuple[int, int]) -> Tensor:
    if x.shape[1:] == shape:
        return x
    return F.interpolate(x[None], size=shape, mode="bilinear", antialias=True, align_corners=False)[0]
