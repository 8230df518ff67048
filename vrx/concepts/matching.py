"""Which patch of a photo shows which concept of the bank (3.2.1)."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from vrx.bank import ConceptBank
from vrx.structures import UNMATCHED


def sees_gpu() -> bool:
    """Whether faiss can compute on a GPU."""
    return bool(getattr(faiss, "get_num_gpus", lambda: 0)())


def kmeans(features: NDArray[np.float32], count: int, seed: int, **options: Any) -> faiss.Kmeans:
    """k-means of ``[M, D]``, the best of three starts; ``options`` of ``faiss.Kmeans`` on top."""
    means = faiss.Kmeans(
        features.shape[1], count, niter=30, nredo=3, seed=seed + 1, min_points_per_centroid=1, gpu=sees_gpu(), **options
    )
    means.train(np.ascontiguousarray(features))
    return means


class ConceptMatcher:
    """Nearest-concept search with faiss: exact L2, on the GPUs when faiss sees any.

    A concept is detected where the distance of a patch is *below* the concept's radius (the paper's "larger" is a
    slip). Within a class each patch serves at most one concept, assigned in order of importance.
    """

    def __init__(self, bank: ConceptBank) -> None:
        self.bank = bank
        n, num, width = bank.centroids.shape
        index: faiss.Index = faiss.IndexFlatL2(width)
        if sees_gpu():
            index = faiss.index_cpu_to_all_gpus(index)
        index.add(np.ascontiguousarray(bank.centroids.reshape(n * num, width)))
        self._index = index

    def distances(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Euclidean distance of each patch to each concept.

        Args:
            features: matching features of any number of photos' patches, ``[K, Dm]``.

        Returns:
            ``[K, n, N]``.
        """
        n, num, _ = self.bank.centroids.shape
        squared, order = self._index.search(np.ascontiguousarray(features, np.float32), n * num)
        table = np.empty_like(squared)
        np.put_along_axis(table, order, squared, axis=1)
        return np.sqrt(np.maximum(table, 0)).reshape(-1, n, num)

    def match(self, distances: NDArray[np.float32]) -> NDArray[np.int64]:
        """Assign the patches of one photo.

        Args:
            distances: ``[K, n, N]`` of this photo's patches.

        Returns:
            Index of the patch that shows each concept, int64 ``[n, N]``; ``UNMATCHED`` where none is near enough.
        """
        n, num = self.bank.radius.shape
        matched = np.full((n, num), UNMATCHED, np.int64)
        near = np.where(distances < self.bank.radius, distances, np.inf)
        for concept in range(num if len(distances) else 0):
            best = near[:, :, concept].argmin(0)
            found = np.isfinite(near[best, np.arange(n), concept])
            matched[found, concept] = best[found]
            near[best[found], np.flatnonzero(found)] = np.inf  # a patch serves one concept of a class
        return matched
