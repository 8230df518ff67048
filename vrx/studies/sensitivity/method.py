"""The edits of the sensitivity study: one concept of a photo made worse, or moved to an abnormal place (4.3)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vrx.data.images import Photo
from vrx.data.sources import CanRender
from vrx.edits import FAR, Editor, far_offset, shifted
from vrx.explain.explainer import Explainer
from vrx.explanation import Explanation
from vrx.report.phrases import called
from vrx.scores import centred
from vrx.structures import UNMATCHED
from vrx.studies.core.exemplars import Donors, Mask, placed_patch

EXPOSED = 0.5  # a concept is edited when this share of its patch changes, or of the change lies in its patch
OFFSETS = ((0.0, 0.0, 1.6), (0.0, 0.0, 1.2), (2.2, 0.0, 0.9), (-2.2, 0.0, 0.9), (0.0, 1.6, 0.8), (0.0, -1.6, 0.8))
"""Where rendered parts move to, (forward, left, up); a toy is about 4.5 long."""


@dataclass(frozen=True)
class EditedPhoto:
    """A photo after one edit."""

    x: Tensor  # normalised [3, H, W]
    concepts: tuple[int, ...]  # those of the true class that the edit changed or moved
    what: str  # the edit in words
    moved: dict[int, Mask] = field(default_factory=dict)  # superpixel label -> where its patch is now, [H, W]


class ConceptEditor(Protocol):
    """Offers edits of both kinds in random order; none when a photo offers none."""

    def appearance(self, photo: Photo, before: Explanation, rng: Generator) -> Iterator[EditedPhoto]: ...
    def structure(self, photo: Photo, before: Explanation, rng: Generator) -> Iterator[EditedPhoto]: ...


def edited_concepts(before: Explanation, index: int, changed: Mask) -> tuple[int, ...]:
    """Concepts of a class that a change ``[H, W]`` concerns: half of their patch changes, or half of it lies in them.

    Empty when the change, like a stripe across many patches, is not one of any concept.
    """
    masks = {int(k): before.mask(index, int(k)) for k in np.flatnonzero(before.detected[index])}
    least = {k: EXPOSED * min(mask.sum(), max(changed.sum(), 1)) for k, mask in masks.items()}
    return tuple(k for k, mask in masks.items() if (changed & mask).sum() >= least[k])


def partners(explainer: Explainer, before: Explanation, edited: EditedPhoto, own: int) -> dict[str, Any]:
    """Because of which other concepts the place of the moved one counts for its class.

    Returns:
        ``partners``: of each other concept, predicted: the placement effect in the explanation of the photo before the
        move; and measured: the fall of the class's centred logit by the move, less the fall where the other concept is
        deleted. Nothing where nothing moved, or with fewer than two others.
    """
    relations, label = before.relations, int(before.matched[own, edited.concepts[0]]) if edited.concepts else UNMATCHED
    if relations is None or label not in edited.moved:
        return {}
    other = relations.labels != label
    predicted = relations.placed[other][:, ~other, own].ravel()
    if len(predicted) < 2 or np.isnan(predicted).any():
        return {}
    masks = torch.stack([torch.from_numpy(before.label_mask(int(k))) for k in relations.labels[other]])
    photos = [torch.cat([x[None], explainer.editor.delete(x[None], masks)]) for x in (before.x, edited.x)]
    clean, after = (centred(torch.from_numpy(explainer.logits(x)))[:, own].numpy() for x in photos)
    cost = clean - after
    return {"partners": [predicted, cost[0] - cost[1:]]}


@dataclass(frozen=True)
class PastedEdits:
    """Edits by pasting: a worse exemplar of the same concept and class; the patch itself somewhere else."""

    editor: Editor
    donors: Donors

    def appearance(self, photo: Photo, before: Explanation, rng: Generator) -> Iterator[EditedPhoto]:
        """Replace a good concept (positive contribution) by a worse exemplar of the same concept."""
        own = photo.label
        scores = before.node_scores[own, own]
        for concept in rng.permutation(np.flatnonzero(scores > 0)).tolist():
            mask = before.mask(own, concept)
            donor = self.donors.bad(own, concept, int(mask.sum()))
            if donor is None or donor.photo == photo or donor.score >= scores[concept]:
                continue
            layer, changed = placed_patch(*self.donors.patch(donor), mask)
            x = self.editor.paste(before.x[None], torch.from_numpy(changed)[None], layer[None])[0]
            concepts = edited_concepts(before, own, changed)
            yield EditedPhoto(x, concepts, f"concept {called(before, own, concept)} replaced by a worse one")

    def structure(self, photo: Photo, before: Explanation, rng: Generator) -> Iterator[EditedPhoto]:
        """Move a concept far away, to where it covers the other concepts least; its old place is filled."""
        own = photo.label
        masks = {k: before.mask(own, k) for k in np.flatnonzero(before.detected[own]).tolist()}
        for concept in rng.permutation(list(masks)).tolist():
            mask = masks[concept]
            others = np.any([np.zeros_like(mask), *(m for k, m in masks.items() if k != concept)], axis=0)
            offset = far_offset(mask, others, rng)
            if offset is not None:
                x, place = self.editor.move(before.x[None], torch.from_numpy(mask)[None], torch.tensor([offset]))
                moved = {int(before.matched[own, concept]): place[0].numpy()}
                yield EditedPhoto(x[0], (concept,), f"concept {called(before, own, concept)} moved", moved)


@dataclass(frozen=True)
class RenderedEdits:
    """Edits by rendering the photo again: another class' part of the same name, or the part itself somewhere else.

    No pixel is pasted, so no artefact of pasting can explain the result. Edits of parts that no concept with a positive
    contribution shows are passed over.
    """

    explainer: Explainer
    source: CanRender

    def appearance(self, photo: Photo, before: Explanation, rng: Generator) -> Iterator[EditedPhoto]:
        """Give the object the part of another class in the place of its own."""
        own = photo.label
        clean, parts = self.source.render_again(photo)
        for part in rng.permutation(sorted(parts)).tolist():
            others = [name for name in self.source.classes_with(part) if name != before.class_names[own]]
            if not others:
                continue
            other = str(rng.choice(others))
            frame, _ = self.source.render_again(photo, replace_part={part: (other, part)})
            concepts = edited_concepts(before, own, self._as_read((clean != frame).any(2)))
            if _any_good(before, own, concepts):
                yield EditedPhoto(self._read(frame), concepts, f"{part} replaced by the {other}'s")

    def structure(self, photo: Photo, before: Explanation, rng: Generator) -> Iterator[EditedPhoto]:
        """Move a part of the object to where it does not belong."""
        own = photo.label
        _, parts = self.source.render_again(photo)
        for part in rng.permutation(sorted(parts)).tolist():
            offset = OFFSETS[int(rng.integers(len(OFFSETS)))]
            frame, parts_after = self.source.render_again(photo, move_part={part: offset})
            if part not in parts_after:  # hidden now
                continue
            old, new = self._as_read(parts[part]), self._as_read(parts_after[part])
            concepts = edited_concepts(before, own, old)
            if not (old.any() and new.any() and _any_good(before, own, concepts)):
                continue
            way = np.argwhere(new).mean(0) - np.argwhere(old).mean(0)
            dy, dx = way.round().astype(int).tolist()
            patches = {int(before.matched[own, k]): torch.from_numpy(before.mask(own, k)) for k in concepts}
            moved = {label: shifted(patch, dx, dy).numpy() for label, patch in patches.items()}
            far = np.hypot(*way) >= 0.5 * FAR * max(old.shape)
            if far and all(place.any() for place in moved.values()):
                yield EditedPhoto(self._read(frame), concepts, f"{part} moved", moved)

    def _read(self, frame: NDArray[np.uint8]) -> Tensor:
        return self.explainer.read(Image.fromarray(frame))

    def _as_read(self, mask: Mask) -> Mask:
        """A mask of the frame as the classifier's preprocessing shows it."""
        frame = np.repeat(mask[..., None], 3, axis=2).astype(np.uint8) * 255
        return np.asarray(self.explainer.pixels(self._read(frame))[..., 0] > 127)


def _any_good(before: Explanation, index: int, concepts: tuple[int, ...]) -> bool:
    return any(before.node_scores[index, index, k] > 0 for k in concepts)
