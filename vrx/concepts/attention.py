"""Where a classifier looks: which superpixels of a photo may be concepts (3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from vrx.classifier.activations import Activations
from vrx.errors import VRXError
from vrx.structures import Patches


class Attention(Protocol):
    """Chooses superpixels by what a classifier looks at, the same way for every class and whatever the label."""

    def settings(self) -> dict[str, object]: ...
    def __call__(self, activations: Activations, superpixels: Sequence[Patches]) -> list[Patches]: ...


class GradCAMAttention:
    """Patches on which the maximum, over the classes of interest, of Grad-CAM is high.

    One map and one set of patches for all hypotheses, so nothing about the true (or predicted) class leaks into the
    choice of patches.

    Args:
        tau: share of the map's maximum above which a pixel is foreground, in [0, 1]; 0 keeps every patch.
        share: a patch is kept when at least this share of it is foreground.

    Raises:
        VRXError: tau out of range.
    """

    def __init__(self, tau: float = 0.3, share: float = 0.5) -> None:
        if not 0 <= tau <= 1:
            raise VRXError(f"concepts.attention.tau={tau} is out of range: use a share of the maximum in [0, 1].")
        self.tau, self.share = tau, share

    def settings(self) -> dict[str, object]:
        return {"tau": self.tau, "share": self.share}

    def __call__(self, activations: Activations, superpixels: Sequence[Patches]) -> list[Patches]:
        """The attended patches of each photo of a batch."""
        maps = activations.gradcam.amax(1)
        return [attended(p, m, self.tau, self.share) for p, m in zip(superpixels, maps, strict=True)]


def attended(patches: Patches, attention: Tensor, threshold: float, share: float = 0.5) -> Patches:
    """The patches that lie on the foreground of an attention map.

    Args:
        patches: of one photo.
        attention: ``[h, w]``, values >= 0; all patches are kept where it is 0 everywhere.
        threshold: tau, share of the map's maximum above which a pixel is foreground, in [0, 1].
        share: a patch is kept when at least this share of it is foreground.
    """
    full = F.interpolate(attention[None, None].float(), size=patches.shape, mode="bilinear", align_corners=False)[0, 0]
    peak = float(full.max())
    if peak <= 0:
        return patches
    foreground = (full >= threshold * peak).cpu().numpy()
    return patches.select(patches.mean_of(foreground.astype(np.float32)) >= share)
