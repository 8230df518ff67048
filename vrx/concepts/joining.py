"""Visual words made of clusters that are pieces of one thing: they lie side by side wherever they are seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FEW = 3  # photos of a class that show a word, of which a share is taken
TOGETHER = 0.9  # share of a cluster's photos, in every class, in which it touches what it is a piece of
BACK = 0.9  # the same of that one's photos, mean over classes: the ground beside all things is no piece of any
ENOUGH_CLASSES = 3  # that must show a cluster: of what comes in one alone nothing tells a piece from a part


@dataclass(frozen=True)
class Neighbours:
    """The words of one photo, w of them, and which touch each other."""

    words: NDArray[np.int64]  # [w]
    areas: NDArray[np.float64]  # share of the photo, [w]
    border: NDArray[np.bool_]  # [w, w]

    @classmethod
    def of(cls, label: NDArray[np.int16], count: int) -> Neighbours:
        """Of the word of every pixel, ``[H, W]``; from ``count`` on: none."""
        found, place = np.unique(label, return_inverse=True)
        photo, size, some = place.reshape(label.shape), len(found), int((found < count).sum())
        ends = [(photo[:-1], photo[1:]), (photo[:, :-1], photo[:, 1:])]
        flat = np.concatenate([(a * size + b).ravel() for a, b in ends])
        border = np.bincount(flat, minlength=size**2).reshape(size, size)[:some, :some] > 0
        return cls(found[:some].astype(np.int64), np.bincount(photo.ravel())[:some] / label.size, border | border.T)

    def joined(self, member: NDArray[np.int64]) -> Neighbours:
        """The same of words that clusters are members of."""
        words, place = np.unique(member[self.words], return_inverse=True)
        of = np.eye(len(words), dtype=np.int64)[place]  # [w, joined]
        return Neighbours(words, self.areas @ of, (of.T @ self.border @ of) > 0)


def side_by_side(photos: Sequence[Neighbours], count: int, min_area: float) -> NDArray[np.float64]:
    """How often a word has another one beside it, where it is seen.

    Args:
        photos: of a class.
        count: W, of words.
        min_area: what a word covers at least where it counts as seen, share of the photo.

    Returns:
        ``[W, W]``: share of the photos that show word w in which it touches word v; NaN where too few show it.
    """
    seen, touch = np.zeros(count), np.zeros((count, count))
    for photo in photos:
        here = photo.areas >= min_area
        seen[photo.words] += here
        touch[np.ix_(photo.words, photo.words)] += here[:, None] & photo.border
    return np.where(seen[:, None] >= FEW, touch / np.maximum(seen, 1)[:, None], np.nan)


def joined(classes: Sequence[Sequence[Neighbours]], count: int, min_area: float) -> NDArray[np.int32]:
    """Words made of clusters that are pieces of one thing: in every class that shows one, it touches the other.

    The pairs that are most often side by side are joined first, and what lies beside the whole is asked again.

    Args:
        classes: the photos of each class.
        count: K, of clusters.
        min_area: as of :func:`side_by_side`.

    Returns:
        Word of each cluster, ``[K]``.
    """
    member = np.arange(count)
    while True:
        least, total, known = np.full((count, count), np.inf), np.zeros((count, count)), np.zeros((count, count))
        for photos in classes:  # one after the other: of many classes and words all at once would take much memory
            share = side_by_side([photo.joined(member) for photo in photos], count, min_area)
            finite = np.isfinite(share)
            least, known = np.minimum(least, np.where(finite, share, np.inf)), known + finite
            total += np.where(finite, share, 0)
        usual = total / np.maximum(known, 1)
        piece = (least >= TOGETHER) & (known >= ENOUGH_CLASSES) & (usual.T >= BACK)  # w is one of v
        np.fill_diagonal(piece, False)
        if not piece.any():
            return np.unique(member, return_inverse=True)[1].astype(np.int32)
        free = np.ones(count, bool)
        pieces, wholes = np.nonzero(piece)
        for i in np.argsort(-(least + usual.T)[piece], kind="stable"):
            w, v = int(pieces[i]), int(wholes[i])
            if free[w] and free[v]:  # each once: with what was joined to it, a word may have other neighbours
                member[member == max(w, v)] = min(w, v)
                free[[w, v]] = False
