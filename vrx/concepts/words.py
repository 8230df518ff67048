"""Concepts as visual words (3.1): clusters of F's appearance features that all classes share.

F's maps at the depth of parts are cut into words, cell by cell: each cell goes to its nearest cluster of cells of all
classes' photos. A concept of a class is a word that F needs for it, so a wheel is the same concept whatever it is part
of. Its region in a photo is all that shows the word where F looks: no superpixels are needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from vrx.classifier.activations import Activations
from vrx.classifier.classifier import Classifier
from vrx.classifier.responses import maps_alone
from vrx.concepts.matching import kmeans
from vrx.edits import slid
from vrx.structures import Patches

SHARPNESS = 20.0  # of the softmax over cosines: between two cells no third word may win
STATE = ("centre", "scale", "clusters", "presence", "depth", "member")
FINER = 4  # cells of the words' grid, in a row, for one of F's map at the depth of parts
MANY = 256  # words of which those alone are looked for that some coarse cell shows best
LEAST = 0.25  # of the smallest area that is expected of a concept: less is not even "perhaps"


@dataclass(frozen=True)
class Vocabulary:
    """W visual words, each one or several clusters of cells, and how the presence of a word is judged.

    Args:
        centre: mean :func:`appearance` of the cells that F attends to, ``[D]``.
        scale: of each feature, so that all layers count alike, ``[D]``.
        clusters: directions from it, of length 1, ``[K, D]``.
        presence: weights of :func:`traits` and, last, the intercept of a logistic regression, ``[3]``.
        depth: how many layers :func:`appearance` reads, ``[1]``.
        member: which word each cluster belongs to, ``[K]``; empty: each is a word.
        chosen: the words that :meth:`regions` tells apart, sorted, as 0, 1, ...; the last one stands for all others.
            Empty: all.
    """

    centre: NDArray[np.float32]
    scale: NDArray[np.float32]
    clusters: NDArray[np.float32]
    presence: NDArray[np.float32]
    depth: NDArray[np.int32] = field(default_factory=lambda: np.ones(1, np.int32))
    member: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    chosen: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def __post_init__(self) -> None:
        if not len(self.member):
            object.__setattr__(self, "member", np.arange(len(self.clusters), dtype=np.int32))

    @property
    def count(self) -> int:
        """W, how many words there are."""
        return int(self.member.max()) + 1

    def direction(self, word: int) -> NDArray[np.float32]:
        """Mean direction of the clusters of a word, of length 1, ``[D]``."""
        return _unit(self.clusters[self.member == word].mean(0, keepdims=True))[0]

    @classmethod
    def fit(cls, cells: NDArray[np.float32], widths: Sequence[int], count: int, seed: int) -> Vocabulary:
        """Cluster cells of many photos into words (spherical k-means); their presence is not judged yet.

        Args:
            cells: their :func:`appearance`, ``[M, D]``.
            widths: how many of the D values each layer gives.
            count: W.
            seed: of k-means.
        """
        centre = cells.mean(0)
        parts = np.split((cells - centre) ** 2, np.cumsum(widths)[:-1], axis=1)
        lengths = [np.sqrt(max(float(part.sum(1).mean()), 1e-12)) for part in parts]
        scale = np.repeat([1 / length for length in lengths], widths).astype(np.float32)
        directions = _unit((cells - centre) * scale)
        means = kmeans(directions, count, seed, spherical=True, max_points_per_centroid=2**31 // count)
        depth = np.array([len(widths)], np.int32)
        return cls(centre, scale, np.asarray(means.centroids), np.zeros(3, np.float32), depth)

    def posterior(self, maps: Tensor) -> Tensor:
        """How far each cell shows each word, softmax over the words: maps ``[B, D, h, w]`` -> ``[B, W, h, w]``."""
        centre, scale, clusters, word = (
            torch.from_numpy(v).to(maps.device) for v in (self.centre, self.scale, self.clusters, self.member)
        )
        offset = (maps.float() - centre[:, None, None]) * scale[:, None, None]
        shares = (SHARPNESS * torch.einsum("bdhw,kd->bkhw", F.normalize(offset, dim=1), clusters)).softmax(1)
        return shares.new_zeros(len(shares), self.count, *shares.shape[2:]).index_add(1, word.long(), shares)

    @property
    def ids(self) -> NDArray[np.int64]:
        """What :meth:`regions` calls each word, ``[W]``."""
        ids = np.arange(self.count)
        if len(self.chosen):
            ids[:] = len(self.chosen)
            ids[self.chosen] = np.arange(len(self.chosen))
        return ids

    def regions(self, maps: Tensor, attention: Tensor) -> tuple[list[Patches], NDArray[np.float32]]:
        """Where each word is seen.

        Args:
            maps: :func:`appearance` of the photos, ``[B, D, h, w]``.
            attention: 1 where F looks, in the size of the photo, bool ``[B, H, W]``.

        Returns:
            Word of every pixel (its place in :attr:`ids`) as patches, the words that are seen (label W: none), and how
            clearly each word is seen where it is, its mean posterior, ``[B, W]`` in [0, 1].
        """
        count = int(self.ids.max()) + 1
        clarity = np.zeros((len(maps), count), np.float32)
        patches = []
        for photo, looks in enumerate(attention):  # one by one: many words on a fine grid take much memory
            word, share = self._best(maps[photo : photo + 1], (looks.shape[0], looks.shape[1]))
            label = word.where(looks, word.new_full((), count)).cpu().numpy().astype(np.int16)
            sizes = np.bincount(label.ravel(), minlength=count + 1)[:count]
            sums = np.bincount(label.ravel(), share.cpu().numpy().ravel(), minlength=count + 1)[:count]
            clarity[photo] = sums / np.maximum(sizes, 1)
            patches.append(Patches(label[None], np.flatnonzero(sizes)))
        return patches, clarity

    def _best(self, maps: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """What :attr:`ids` calls the word that each pixel of a photo ``[1, D, h, w]`` shows best, and its posterior."""
        vocabulary, kept = self, np.arange(self.count)
        if self.count > MANY:
            coarse = self.posterior(F.avg_pool2d(maps, FINER, ceil_mode=True))
            kept = coarse.argmax(1).unique().cpu().numpy()
            vocabulary = self._of(kept)
        share, word = F.interpolate(vocabulary.posterior(maps), size=size, mode="bilinear", align_corners=False).max(1)
        return torch.from_numpy(self.ids[kept]).to(word.device)[word[0]], share[0]

    def _of(self, words: NDArray[np.int64]) -> Vocabulary:
        """Some words alone, in this order."""
        place = np.full(self.count, -1, np.int32)
        place[words] = np.arange(len(words))
        member = place[self.member]
        return replace(self, clusters=self.clusters[member >= 0], member=member[member >= 0])

    def probability(
        self, areas: NDArray[np.float32], clarity: NDArray[np.float32], least: float
    ) -> NDArray[np.float32]:
        """That a word is present, in [0, 1], for words of these areas (share of the photo) and clarity, any shape."""
        found = traits(areas, clarity, least)
        odds = found @ self.presence[:2] + self.presence[2]
        return np.where(areas >= LEAST * least, 1 / (1 + np.exp(-odds)), 0.0).astype(np.float32)

    def state(self) -> dict[str, NDArray[Any]]:
        """As arrays that a bank keeps."""
        return {name: getattr(self, name) for name in STATE}

    @classmethod
    def of(cls, state: Mapping[str, NDArray[Any]]) -> Vocabulary:
        """The inverse of :meth:`state`."""
        return cls(*(np.asarray(state[name]) for name in STATE))


def appearance(classifier: Classifier, x: Tensor, activations: Activations, depth: int) -> Tensor:
    """What each place of the photos looks like, ``[B, D, h, w]``, on a grid :data:`FINER` times that of F's map.

    F's map at the depth of parts; with ``depth`` 2, beside the map before it. The mean of the photo's and of the photo
    moved by half a cell: where the borders of the cells happen to lie decides less then (``docs/concepts.md``).

    Args:
        classifier: F.
        x: the photos ``[B, 3, H, W]``.
        activations: of F on them.
        depth: how many of F's appearance layers, counted from the last.
    """
    names = classifier.appearance_layers[-depth:]
    rows, columns = activations.maps[classifier.part_layer].shape[2:]
    size = (rows * FINER, columns * FINER)
    half = (x.shape[3] // (2 * columns), x.shape[2] // (2 * rows))
    clean, other = activations.maps, maps_alone(classifier, slid(x, *half), names)
    back = (-FINER // 2, -FINER // 2)
    return torch.cat([(_enlarged(clean[n], size) + slid(_enlarged(other[n], size), *back)) / 2 for n in names], 1)


def _enlarged(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps.float(), size=size, mode="bilinear", align_corners=False)


def traits(areas: NDArray[np.float32], clarity: NDArray[np.float32], least: float) -> NDArray[np.float32]:
    """What the presence of a word is judged by, ``[..., 2]``: log of its area over ``least``, and its clarity."""
    return np.stack([np.log(np.maximum(areas, 1e-6) / least), clarity], axis=-1).astype(np.float32)


def calibrated(found: NDArray[np.float32], stays: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Weights and intercept of a logistic regression of whether a word is found again, ``[3]``.

    Args:
        found: traits of words in photos, ``[M, 2]``.
        stays: whether the same photo, changed so that nobody sees it, shows the word at the same place, ``[M]``.
    """
    if stays.all() or not stays.any():
        return np.array([0, 0, 10.0 if stays.all() else -10.0], np.float32)
    model = LogisticRegression(C=100.0, max_iter=1000).fit(found, stays)
    return np.append(model.coef_[0], model.intercept_).astype(np.float32)


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-12), np.float32)
