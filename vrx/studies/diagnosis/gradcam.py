"""The baseline of the diagnosis: how the Grad-CAM maps of two classes overlap."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

OVERLAP = (
    "overlap", "correlation", "extent of true class", "extent of predicted class", "distance of peaks",
    "distance of centres",
)  # fmt: skip


def gradcam_overlap(gradcam: NDArray[np.float64], true: int, predicted: int) -> dict[str, float]:
    """A number for each of ``OVERLAP``; distances and extents are shares of the map.

    Args:
        gradcam: ``[n, h, w]``, >= 0.
        true: label.
        predicted: label.
    """
    own, other = (gradcam[c] / max(gradcam[c].max(), 1e-9) for c in (true, predicted))
    inside, there = own > 0.5, other > 0.5
    overlap = (inside & there).sum() / max((inside | there).sum(), 1)
    flat = np.stack([own.ravel(), other.ravel()])
    correlation = 0.0 if (flat.std(1) < 1e-9).any() else float(np.corrcoef(flat)[0, 1])
    height, width = own.shape
    grid = np.stack(np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height), -1)
    peaks = [grid[np.unravel_index(m.argmax(), m.shape)] for m in (own, other)]
    centres = [(grid * m[..., None]).sum((0, 1)) / max(m.sum(), 1e-9) for m in (own, other)]
    values = (
        overlap, correlation, inside.mean(), there.mean(), np.linalg.norm(peaks[0] - peaks[1]),
        np.linalg.norm(centres[0] - centres[1]),
    )  # fmt: skip
    return dict(zip(OVERLAP, map(float, values), strict=True))
