"""Multi-resolution superpixels of a photo, and what lies inside them (3.1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.segmentation import slic
from torch import Tensor

from vrx.errors import VRXError
from vrx.structures import Patches


class Segmenter:
    """SLIC at several resolutions; near-duplicates between the resolutions are dropped.

    Args:
        segments: target number of superpixels at each resolution (ACE: 15, 50, 80).
        max_jaccard: of two patches that overlap by more than this, the finer one is dropped.
        compactness: SLIC's balance of colour (low) and space (high).
        min_area: smaller patches are dropped, share of the photo.
    """

    def __init__(
        self,
        segments: Sequence[int] = (15, 50, 80),
        max_jaccard: float = 0.5,
        compactness: float = 10.0,
        min_area: float = 0.01,
    ) -> None:
        if not segments or min(segments) < 1:
            raise VRXError(f"concepts.segmenter.segments={list(segments)} must be positive numbers of superpixels.")
        self.segments, self.max_jaccard = tuple(segments), max_jaccard
        self.compactness, self.min_area = compactness, min_area

    def settings(self) -> dict[str, object]:
        """What determines the patches, for cache keys."""
        return {**vars(self), "segments": list(self.segments)}

    def __call__(self, image: NDArray[np.uint8]) -> Patches:
        """Segment one photo, uint8 ``[H, W, 3]``."""
        labels = np.zeros((len(self.segments), *image.shape[:2]), np.int16)
        count = 0
        for resolution, number in enumerate(self.segments):
            raw = slic(image, n_segments=number, sigma=1.0, compactness=self.compactness, start_label=0)
            _, dense = np.unique(raw, return_inverse=True)  # every label, the last one too
            labels[resolution] = dense.reshape(raw.shape) + count
            count = int(labels[resolution].max()) + 1
        patches = Patches(labels, _without_duplicates(labels, count, self.max_jaccard))
        return patches.select(patches.areas >= self.min_area)


def _without_duplicates(labels: NDArray[np.int16], count: int, max_jaccard: float) -> NDArray[np.int64]:
    """Ids of the patches to keep, coarse resolutions first; patches of one resolution never overlap."""
    flat = labels.reshape(len(labels), -1).astype(np.int64)
    sizes = np.bincount(flat.ravel(), minlength=count)
    keep = np.ones(count, bool)
    for fine in range(1, len(flat)):
        for coarse in range(fine):
            pairs, shared = np.unique(flat[coarse] * count + flat[fine], return_counts=True)
            a, b = np.divmod(pairs, count)
            twin = keep[a] & (shared > max_jaccard * (sizes[a] + sizes[b] - shared))
            keep[b[twin]] = False
    return np.flatnonzero(keep)


def pool(patches: Patches, maps: Tensor) -> Tensor:
    """Mean of a feature map inside each patch.

    Args:
        maps: ``[D, h, w]``.

    Returns:
        ``[K, D]``.
    """
    counts = torch.from_numpy(patches.cell_counts(*maps.shape[1:])).to(maps.device)
    weights = counts / counts.sum(1, keepdim=True).clamp(min=1)
    return weights @ maps.flatten(1).T
