"""The edits of the sensitivity study: one concept of a photo made worse, or moved to an abnormal place (4.3)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vrx.data.images import Photo
from vrx.data.toys.models import BUILDERS, model
from vrx.data.toys.vehicles import ToyVehicles, part_masks
from vrx.edits import FAR, Editor, far_offset, shifted
from vrx.explain.explainer import Explainer
from vrx.graphs.variants import LARGEST
from vrx.structures import Explanation
from vrx.studies.core.exemplars import Donors, placed_patch

EXPOSED = 0.5  # a concept is touched when this share of its patch changes, or of the change lies in its patch
OFFSETS = ((0.0, 0.0, 1.6), (0.0, 0.0, 1.2), (2.2, 0.0, 0.9), (-2.2, 0.0, 0.9), (0.0, 1.6, 0.8), (0.0, -1.6, 0.8))
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Touch:
    """An edit of one photo.

    Args:
        before: the photo, normalised ``[3, H, W]`` (rendered anew where the edit is rendered).
        after: the edited one.
        touched: concepts of the true class that the edit changed or moved.
        moved: superpixel label -> where its patch is now, bool ``[H, W]``.
        what: in words.
    """

    before: Tensor
    after: Tensor
    touched: tuple[int, ...]
    moved: dict[int, Mask]
    what: str


class Toucher(Protocol):
    """Offers edits of the two kinds, in random order; none when a photo offers none."""

    def appearance(self, photo: Photo, view: Explanation, rng: Generator) -> Iterator[Touch]: ...
    def structure(self, photo: Photo, view: Explanation, rng: Generator) -> Iterator[Touch]: ...


def touched_by(view: Explanation, index: int, changed: Mask) -> tuple[int, ...]:
    """Concepts of a class that a change concerns: half of their patch changes, or half of the change lies in it.

    Args:
        view: of the photo before.
        index: the class.
        changed: pixels, ``[H, W]``.

    Returns:
        Empty when the change, like a stripe across many patches, is not one of any concept.
    """
    found = np.flatnonzero(view.detected[index])
    masks = [view.mask(index, int(k)) for k in found]
    exposure = np.array([changed[mask].mean() for mask in masks])
    held = np.array([(changed & mask).sum() / max(changed.sum(), 1) for mask in masks])
    return tuple(found[(exposure >= EXPOSED) | (held >= EXPOSED)].tolist())


class PastedTouches:
    """Edits by pasting: a worse exemplar of the same concept and class; the patch itself somewhere else.

    Args:
        editor: the run's.
        donors: exemplars of every concept.
    """

    def __init__(self, editor: Editor, donors: Donors) -> None:
        self.editor, self.donors = editor, donors

    def appearance(self, photo: Photo, view: Explanation, rng: Generator) -> Iterator[Touch]:
        """Replace a good concept (positive contribution) by a worse exemplar of the same concept."""
        own = photo.label
        for concept in rng.permutation(np.flatnonzero(view.node_scores[own, own] > 0)).tolist():
            mask = view.mask(own, concept)
            donor = self.donors.bad(own, concept, int(mask.sum()))
            if donor is None or donor.photo == photo or donor.score >= view.node_scores[own, own, concept]:
                continue
            layer, changed = placed_patch(*self.donors.patch(donor), mask)
            after = self.editor.paste(view.x[None], torch.from_numpy(changed)[None], layer[None])[0]
            touched = touched_by(view, own, changed)
            yield Touch(view.x, after, touched, {}, f"concept {concept + 1} replaced by a worse one")

    def structure(self, photo: Photo, view: Explanation, rng: Generator) -> Iterator[Touch]:
        """Move a concept far away, to where it covers the other concepts least; its old place is filled."""
        own = photo.label
        found = np.flatnonzero(view.detected[own])
        masks = {k: view.mask(own, k) for k in found.tolist()}
        for concept in rng.permutation(found).tolist():
            mask = masks[concept]
            if not 0 < mask.mean() <= LARGEST:
                continue
            others = np.any([m for k, m in masks.items() if k != concept] or [np.zeros_like(mask)], axis=0)
            offset = far_offset(mask, others, rng)
            if offset is None:
                continue
            after, place = self.editor.move(view.x[None], torch.from_numpy(mask)[None], torch.tensor([offset]))
            label = int(view.matched[own, concept])
            yield Touch(view.x, after[0], (concept,), {label: place[0].numpy()}, f"concept {concept + 1} moved")


class RenderedTouches:
    """Edits by rendering the toy anew: another class' part of the same name, or the part itself somewhere else.

    No pixel is pasted, so no artefact of pasting can explain the result.

    Args:
        explainer: of the run.
        source: the toys.
    """

    def __init__(self, explainer: Explainer, source: ToyVehicles) -> None:
        self.explainer, self.source = explainer, source

    def appearance(self, photo: Photo, view: Explanation, rng: Generator) -> Iterator[Touch]:
        """Give the toy the part of another class in the place of its own."""
        own = self.source.class_names[photo.label]
        for part in self._parts(photo, view, rng):
            others = [c for c in BUILDERS if c != own and part in model(c)]
            if not others:
                continue
            other = str(rng.choice(others))
            before, _ = self._render(photo)
            after, _ = self._render(photo, replace_part={part: (other, part)})
            touched = touched_by(view, photo.label, self._fitted((before != after).any(2)))
            if self._good(view, photo.label, touched):
                what = f"{part} replaced by the {other}'s"
                yield Touch(view.x, self.explainer.read(Image.fromarray(after)), touched, {}, what)

    def structure(self, photo: Photo, view: Explanation, rng: Generator) -> Iterator[Touch]:
        """Move a part of the toy to where it does not belong."""
        own = photo.label
        for part in self._parts(photo, view, rng):
            _, labels = self._render(photo)
            offset = OFFSETS[int(rng.integers(len(OFFSETS)))]
            after, labels_after = self._render(photo, move_part={part: offset})
            old, new = part_masks(labels).get(part), part_masks(labels_after).get(part)
            if old is None or new is None:
                continue
            old, new = self._fitted(old), self._fitted(new)
            touched = touched_by(view, own, old)
            if not (new.any() and old.any() and self._good(view, own, touched)):
                continue
            way = np.argwhere(new).mean(0) - np.argwhere(old).mean(0)
            if np.hypot(*way) < 0.5 * FAR * max(old.shape):
                continue
            dy, dx = way.round().astype(int).tolist()
            places = {int(view.matched[own, k]): self._shift(view.mask(own, k), dx, dy) for k in touched}
            if all(place.any() for place in places.values()):
                x = self.explainer.read(Image.fromarray(after))
                yield Touch(view.x, x, touched, places, f"{part} moved")

    def _parts(self, photo: Photo, view: Explanation, rng: Generator) -> list[str]:
        return [str(part) for part in rng.permutation(sorted(self.source.parts(photo)))]

    def _render(self, photo: Photo, **edits: object) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        truth, name = self.source.truth(photo), self.source.class_names[photo.label]
        return self.source.render(name, self.source.pose(photo), truth["seed"], **edits)  # type: ignore[arg-type]

    def _fitted(self, mask: Mask) -> Mask:
        """A mask of the frame as F's transform shows it."""
        picture = Image.fromarray(np.repeat(mask[..., None], 3, axis=2).astype(np.uint8) * 255)
        return np.asarray(self.explainer.pixels(self.explainer.read(picture))[..., 0] > 127)

    @staticmethod
    def _shift(mask: Mask, dx: int, dy: int) -> Mask:
        return np.asarray(shifted(torch.from_numpy(mask), dx, dy).numpy())

    @staticmethod
    def _good(view: Explanation, index: int, touched: tuple[int, ...]) -> bool:
        return bool(touched) and any(view.node_scores[index, index, k] > 0 for k in touched)
