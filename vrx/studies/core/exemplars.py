"""Good and bad exemplars of every concept, from the discovery photos, ranked by their contributions alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from vrx.data.images import Photo
from vrx.data.sources import PhotoSource
from vrx.edits import placed
from vrx.errors import VRXError
from vrx.explain.explainer import Explainer
from vrx.structures import Explanation
from vrx.studies.core.records import Records


@dataclass(frozen=True)
class Donor:
    """A patch of a discovery photo that shows a concept of the photo's own class.

    Args:
        photo: where it is.
        concept: which, of the photo's class.
        label: its superpixel.
        score: its contribution there to the margin of the photo's class.
        area: in pixels.
    """

    photo: Photo
    concept: int
    label: int
    score: float
    area: int


@dataclass(frozen=True)
class Norm:
    """What a class' own graph sums to in discovery photos that F gets right.

    Args:
        nodes: sum of the node contributions to the class, one a photo.
        links: sum of the edge contributions.
    """

    nodes: NDArray[np.float64]
    links: NDArray[np.float64]


def placed_patch(x: Tensor, mask: NDArray[np.bool_], hole: NDArray[np.bool_]) -> tuple[Tensor, NDArray[np.bool_]]:
    """A patch of another photo in the place of a hole, :func:`vrx.edits.placed`: what shows, and where."""
    layer, changed = placed(x, torch.from_numpy(mask), torch.from_numpy(hole))
    return layer, changed.numpy()


def sums(view: Explanation, index: int) -> tuple[float, float]:
    """Contributions of all nodes, and of all edges, of a class' own graph to the class."""
    return float(view.node_scores[index, index].sum()), float(view.edge_scores[index, index].sum())


class Donors:
    """All donors of a run: looked up once, kept in the study's records, read again when they are used.

    Args:
        explainer: of the run.
        source: its photos; ``discovery`` is used.
        records: where what was found is kept.
    """

    def __init__(self, explainer: Explainer, source: PhotoSource, records: Records) -> None:
        self._explainer, self._source = explainer, source
        self._photos = source.photos("discovery")
        found = []
        for photo in tqdm(self._photos, desc="explaining the discovery photos", unit="photo"):
            name = f"discovery {photo.path}"
            if name not in records:
                records.add(name, self._look(photo))
            found.append((photo, records[name]))
        self._by_concept = _by_concept(found)
        self._norms = _norms(found, len(source.class_names))
        self._patches = lru_cache(maxsize=64)(self._read)

    def _look(self, photo: Photo) -> dict[str, Any]:
        try:
            x = self._explainer.read(self._source.read(photo))
        except (VRXError, OSError) as error:
            return {"right": False, "error": str(error)}
        view = self._explainer.explain_input(x)
        own = photo.label
        nodes, links = sums(view, own)
        return {
            "right": view.predicted == own,
            "labels": view.matched[own],
            "areas": [
                int(view.mask(own, k).sum()) if view.detected[own, k] else 0 for k in range(len(view.matched[own]))
            ],
            "scores": view.node_scores[own, own],
            "nodes": nodes,
            "links": links,
        }

    def of(self, index: int, concept: int) -> Sequence[Donor]:
        """Patches of a concept in photos that F gets right, the highest contribution first."""
        return self._by_concept.get((index, concept), [])

    def best_of_photos(self) -> list[Donor]:
        """Of every discovery photo that F gets right, the patch that speaks most for its class."""
        best: dict[Photo, Donor] = {}
        for donor in (d for ranked in self._by_concept.values() for d in ranked):
            if donor.photo not in best or donor.score > best[donor.photo].score:
                best[donor.photo] = donor
        return list(best.values())

    def norm(self, index: int) -> Norm:
        """Of a class."""
        return self._norms[index]

    def good(self, index: int, concept: int, among: int = 5) -> Sequence[Donor]:
        """Good exemplars: the highest contributions, of those that speak for the class if any does."""
        ranked = self.of(index, concept)
        return [d for d in ranked[:among] if d.score > 0] or ranked[:1]

    def bad(self, index: int, concept: int, area: int, among: int = 5) -> Donor | None:
        """A bad exemplar of the same class: of the ``among`` lowest contributions the one whose area is nearest."""
        return min(self.of(index, concept)[-among:], key=lambda d: abs(np.log(d.area / max(area, 1))), default=None)

    def patch(self, donor: Donor) -> tuple[Tensor, NDArray[np.bool_]]:
        """The donor's photo, normalised ``[3, H, W]``, and its mask ``[H, W]``."""
        x, labels = self._patches(donor.photo)
        return x, np.asarray((labels == donor.label).any(0))

    def random(
        self, area: int, rng: np.random.Generator, without: int, among: int = 5
    ) -> tuple[Tensor, NDArray[np.bool_]]:
        """A random patch, of about this area, of a random discovery photo of any class but ``without``."""
        photos = [p for p in self._photos if p.label != without]
        x, labels = self._patches(photos[int(rng.integers(len(photos)))])
        names, sizes = np.unique(labels, return_counts=True)
        nearest = np.argsort(np.abs(np.log(sizes / max(area, 1))), kind="stable")[:among]
        return x, np.asarray((labels == names[rng.choice(nearest)]).any(0))

    def _read(self, photo: Photo) -> tuple[Tensor, NDArray[np.int16]]:
        x = self._explainer.read(self._source.read(photo))
        return x, self._explainer.superpixels(x).labels


def _by_concept(found: Sequence[tuple[Photo, dict[str, Any]]]) -> dict[tuple[int, int], list[Donor]]:
    donors: dict[tuple[int, int], list[Donor]] = {}
    for photo, record in found:
        if not record["right"]:
            continue
        rows = zip(record["labels"], record["scores"], record["areas"], strict=True)
        for concept, (label, score, area) in enumerate(rows):
            if label >= 0:
                donors.setdefault((photo.label, concept), []).append(Donor(photo, concept, label, score, area))
    return {key: sorted(value, key=lambda d: -d.score) for key, value in donors.items()}


def _norms(found: Sequence[tuple[Photo, dict[str, Any]]], classes: int) -> list[Norm]:
    right = [(p.label, r["nodes"], r["links"]) for p, r in found if r["right"]]
    rows = [np.array([(n, e) for label, n, e in right if label == c]).reshape(-1, 2) for c in range(classes)]
    return [Norm(row[:, 0], row[:, 1]) for row in rows]
