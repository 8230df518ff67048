"""Good and bad exemplars of every concept, from the discovery photos, ranked by their contributions alone."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from vrx.data.images import Photo
from vrx.edits import placed
from vrx.studies.core.context import StudyContext
from vrx.studies.core.photos import readable
from vrx.studies.core.records import Records
from vrx.studies.core.relations import sums

Mask = NDArray[np.bool_]
AMONG = 5  # exemplars that count as good, or as bad; patches of the nearest area that one is drawn from


@dataclass(frozen=True)
class Donor:
    """A patch of a discovery photo that shows a concept of the photo's own class."""

    photo: Photo
    label: int  # its superpixel
    score: float  # its contribution there to the photo's class
    area: int  # in pixels


def placed_patch(x: Tensor, mask: Mask, hole: Mask) -> tuple[Tensor, Mask]:
    """A patch of another photo in the place of a hole, :func:`vrx.edits.placed`: what shows, and where."""
    layer, changed = placed(x, torch.from_numpy(mask), torch.from_numpy(hole))
    return layer, changed.numpy()


class Donors:
    """The exemplars of a run: every discovery photo is explained once and kept in the study's records.

    Photos that the classifier gets wrong have none.
    """

    def __init__(self, context: StudyContext, records: Records) -> None:
        self._explainer, self._source = context.explainer, context.source
        self._photos = context.source.photos("discovery")
        self._ranked: dict[tuple[int, int], list[Donor]] = {}
        self._sums: dict[int, list[tuple[float, float]]] = {}
        for photo in tqdm(self._photos, desc="explaining the discovery photos", unit="photo"):
            record = records.once(f"discovery {photo.path}", self._explained, photo)
            if record["right"]:
                self._add(photo, record)
        for ranked in self._ranked.values():
            ranked.sort(key=lambda donor: -donor.score)
        self._patches = lru_cache(maxsize=256)(self._read)

    def _explained(self, photo: Photo) -> dict[str, Any]:
        x, own = readable(self._explainer, self._source, photo), photo.label
        if x is None or (explanation := self._explainer.explain_input(x)).predicted != own:
            return {"right": False}
        return {
            "right": True,
            "labels": explanation.matched[own],
            "areas": [int(explanation.mask(own, k).sum()) for k in range(len(explanation.matched[own]))],
            "scores": explanation.node_scores[own, own],
            "sums": sums(explanation, own),
        }

    def _add(self, photo: Photo, record: Mapping[str, Any]) -> None:
        self._sums.setdefault(photo.label, []).append(tuple(record["sums"]))
        rows = zip(record["labels"], record["scores"], record["areas"], strict=True)
        for concept, (label, score, area) in enumerate(rows):
            if label >= 0:
                self._ranked.setdefault((photo.label, concept), []).append(Donor(photo, label, score, area))

    def of(self, index: int, concept: int) -> Sequence[Donor]:
        """Exemplars of a concept of a class, the highest contribution first."""
        return self._ranked.get((index, concept), [])

    def best_of_photos(self) -> list[Donor]:
        """Of every photo, the patch that contributes most to its class."""
        best: dict[Photo, Donor] = {}
        for donor in itertools.chain(*self._ranked.values()):
            best[donor.photo] = max(best.get(donor.photo, donor), donor, key=lambda one: one.score)
        return list(best.values())

    def class_sums(self, index: int) -> NDArray[np.float64]:
        """:func:`sums` of each photo of a class, ``[M, 2]``: what is normal for it."""
        return np.array(self._sums.get(index, [])).reshape(-1, 2)

    def good(self, index: int, concept: int) -> Sequence[Donor]:
        """Good exemplars: the highest contributions, of those that speak for the class if any does."""
        ranked = self.of(index, concept)
        return [d for d in ranked[:AMONG] if d.score > 0] or ranked[:1]

    def bad(self, index: int, concept: int, area: int) -> Donor | None:
        """A bad exemplar of the same class: of the lowest contributions the one whose area is nearest."""
        ranked = self.of(index, concept)[-AMONG:]
        return min(ranked, key=lambda d: abs(np.log(d.area / max(area, 1))), default=None)

    def random(self, area: int, rng: np.random.Generator, without: int) -> tuple[Tensor, Mask]:
        """A random patch, of about this area, of a random discovery photo of any class but ``without``."""
        photos = [p for p in self._photos if p.label != without]
        x, labels = self._patches(photos[int(rng.integers(len(photos)))])
        names, sizes = np.unique(labels, return_counts=True)
        nearest = np.argsort(np.abs(np.log(sizes / max(area, 1))), kind="stable")[:AMONG]
        return x, np.asarray((labels == names[rng.choice(nearest)]).any(0))

    def patch(self, donor: Donor) -> tuple[Tensor, Mask]:
        """The donor's photo, normalised ``[3, H, W]``, and its mask ``[H, W]``."""
        x, labels = self._patches(donor.photo)
        return x, np.asarray((labels == donor.label).any(0))

    def _read(self, photo: Photo) -> tuple[Tensor, NDArray[np.int16]]:
        x = self._explainer.read(self._source.read(photo))
        return x, self._explainer.explain_input(x, relations=False).superpixels.labels
