"""Visual words made of clusters that are pieces of one thing: wherever both are seen, they lie in the same way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FEW = 3  # photos of a class that show both
ENOUGH_CLASSES = 2  # that show both: in one class alone, different things may always lie in the same way
TOUCH = 0.9  # share of the photos with both in which they touch
TOGETHER = 0.7  # share of the photos with the rarer one that show both
RIGID = 0.9  # of their size: in 90 % of the photos they are no further from their usual offset


@dataclass(frozen=True)
class Neighbours:
    """The words of one photo, w of them: where each lies, and which touch each other."""

    words: NDArray[np.int64]  # [w]
    areas: NDArray[np.float64]  # share of the photo, [w]
    middles: NDArray[np.float64]  # (x, y) in [0, 1], [w, 2]
    border: NDArray[np.bool_]  # [w, w]

    @classmethod
    def of(cls, label: NDArray[np.int16], count: int) -> Neighbours:
        """Of the word of every pixel, ``[H, W]``; from ``count`` on: none."""
        found, place = np.unique(label, return_inverse=True)
        photo, size, some = place.reshape(label.shape), len(found), int((found < count).sum())
        ends = [(photo[:-1], photo[1:]), (photo[:, :-1], photo[:, 1:])]
        flat = np.concatenate([(a * size + b).ravel() for a, b in ends])
        border = np.bincount(flat, minlength=size**2).reshape(size, size)[:some, :some] > 0
        pixels = np.bincount(photo.ravel())
        rows, columns = np.indices(label.shape)
        sums = [np.bincount(photo.ravel(), at.ravel()) for at in (columns / label.shape[1], rows / label.shape[0])]
        middles = np.stack(sums, 1) / pixels[:, None]
        return cls(found[:some].astype(np.int64), pixels[:some] / label.size, middles[:some], border | border.T)

    def joined(self, member: NDArray[np.int64]) -> Neighbours:
        """The same of words that clusters are members of."""
        words, place = np.unique(member[self.words], return_inverse=True)
        of = np.eye(len(words), dtype=np.int64)[place]  # [w, joined]
        areas = self.areas @ of
        middles = of.T @ (self.areas[:, None] * self.middles) / areas[:, None]
        return Neighbours(words, areas, middles, (of.T @ self.border @ of) > 0)


def looseness(classes: Sequence[Sequence[Neighbours]], min_area: float) -> dict[tuple[int, int], float]:
    """How loosely two words lie to each other, for the pairs that may be pieces of one thing.

    Args:
        classes: the photos of each class.
        min_area: what a word covers at least where it counts as seen, share of the photo.

    Returns:
        Of pairs ``(w, v)``, w < v, that touch (:data:`TOUCH`) and come together (:data:`TOGETHER`) in enough classes:
        90 % quantile of the distance between their offset in a photo and their median offset, over their size. The
        size is the root of twice the geometric mean of their areas: a wide ground says nothing of what lies on it.
    """
    seen: dict[int, int] = {}
    found = []  # (w, v, class, offset x, offset y, size ** 2, touch) of each pair of each photo
    for index, photos in enumerate(classes):
        for photo in photos:
            here = np.flatnonzero(photo.areas >= min_area)
            for word in photo.words[here].tolist():
                seen[word] = seen.get(word, 0) + 1
            low, high = (here[ends] for ends in np.triu_indices(len(here), 1))
            ends = np.stack([photo.words[low], photo.words[high], np.full(len(low), index)], 1)
            rest = np.stack([2 * np.sqrt(photo.areas[low] * photo.areas[high]), photo.border[low, high]], 1)
            found.append(np.concatenate([ends, photo.middles[high] - photo.middles[low], rest], 1))
    table = np.concatenate(found) if found else np.zeros((0, 7))
    pairs, place, counts = np.unique(table[:, :2].astype(np.int64), axis=0, return_inverse=True, return_counts=True)
    groups = np.split(np.argsort(place.ravel(), kind="stable"), np.cumsum(counts))[: len(pairs)]
    loose = {}
    for (w, v), rows in zip(pairs.tolist(), groups, strict=True):
        some = table[rows]
        shown = np.unique(some[:, 2], return_counts=True)[1]
        together = len(some) / min(seen[w], seen[v])
        if (shown >= FEW).sum() >= ENOUGH_CLASSES and together >= TOGETHER and some[:, 6].mean() >= TOUCH:
            off = np.linalg.norm(some[:, 3:5] - np.median(some[:, 3:5], 0), axis=1)
            loose[w, v] = float(np.quantile(off, 0.9) / np.sqrt(np.median(some[:, 5])))
    return loose


def joined(classes: Sequence[Sequence[Neighbours]], count: int, min_area: float) -> NDArray[np.int32]:
    """Words made of clusters that are pieces of one thing: they touch, and lie in the same way in whatever class.

    The most rigid pairs are joined first, and how the whole lies to others is asked again.

    Args:
        classes: the photos of each class.
        count: K, of clusters.
        min_area: as of :func:`looseness`.

    Returns:
        Word of each cluster, ``[K]``.
    """
    member = np.arange(count)
    while True:
        loose = looseness([[photo.joined(member) for photo in photos] for photos in classes], min_area)
        rigid = sorted((value, pair) for pair, value in loose.items() if value <= RIGID)
        if not rigid:
            return np.unique(member, return_inverse=True)[1].astype(np.int32)
        free = np.ones(count, bool)
        for _, (w, v) in rigid:
            if free[w] and free[v]:  # each once: with what was joined to it, a word may lie otherwise to others
                member[member == v] = w
                free[[w, v]] = False
