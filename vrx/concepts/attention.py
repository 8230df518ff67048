"""Where a classifier looks: which regions of a photo may be concepts (3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from vrx.classifier.activations import Activations
from vrx.classifier.classifier import Classifier
from vrx.errors import VRXError
from vrx.structures import Patches


class Attention(Protocol):
    """What a classifier looks at, the same for every class and whatever the label.

    One map for all hypotheses, so nothing about the true (or predicted) class leaks into the choice of regions.
    """

    tau: float

    def settings(self) -> dict[str, object]: ...

    def gradients(self, classifier: Classifier) -> tuple[str, ...]:
        """Layers whose gradient x activation it reads."""
        ...

    def maps(self, classifier: Classifier, activations: Activations) -> Tensor:
        """Values >= 0, ``[B, h, w]``."""
        ...


class GradCAMAttention:
    """The maximum, over the classes of interest, of Grad-CAM: the paper's way.

    Args:
        tau: share of the map's maximum above which a pixel is foreground, in [0, 1]; 0 keeps everything.
        share: a superpixel is kept when at least this share of it is foreground.

    Raises:
        VRXError: tau out of range.
    """

    def __init__(self, tau: float = 0.3, share: float = 0.5) -> None:
        if not 0 <= tau <= 1:
            raise VRXError(f"concepts.attention.tau={tau} is out of range: use a share of the maximum in [0, 1].")
        self.tau, self.share = tau, share

    def settings(self) -> dict[str, object]:
        return {"tau": self.tau, "share": self.share}

    def gradients(self, classifier: Classifier) -> tuple[str, ...]:
        return ()

    def maps(self, classifier: Classifier, activations: Activations) -> Tensor:
        return activations.gradcam.amax(1)


class GradientAttention(GradCAMAttention):
    """The maximum, over the classes of interest, of positive gradient x activation at a middle layer.

    It keeps the object and leaves the background out, where the last layer's grid is too coarse for either
    (``docs/concepts.md``).
    """

    def gradients(self, classifier: Classifier) -> tuple[str, ...]:
        return (classifier.part_layer,)

    def maps(self, classifier: Classifier, activations: Activations) -> Tensor:
        return activations.grad_act_positive[classifier.part_layer].amax(1)


def relative(maps: Tensor, shape: tuple[int, int]) -> Tensor:
    """Attention maps ``[B, h, w]`` enlarged to ``shape``, as shares of each photo's maximum; 1 where a map is 0."""
    full = F.interpolate(maps[:, None].float(), size=shape, mode="bilinear", align_corners=False)[:, 0]
    peak = full.amax((1, 2), keepdim=True)
    return (full / peak.clamp(min=1e-12)).where(peak > 0, full.new_ones(()))


def attend(
    attention: Attention, classifier: Classifier, activations: Activations, found: Sequence[Patches]
) -> list[Patches]:
    """The superpixels of each photo on which the attention is high."""
    maps, share = attention.maps(classifier, activations), getattr(attention, "share", 0.5)
    return [attended(p, m, attention.tau, share) for p, m in zip(found, maps, strict=True)]


def attended(patches: Patches, attention: Tensor, threshold: float, share: float = 0.5) -> Patches:
    """The patches that lie on the foreground of an attention map.

    Args:
        patches: of one photo.
        attention: ``[h, w]``, values >= 0; all patches are kept where it is 0 everywhere.
        threshold: tau, share of the map's maximum above which a pixel is foreground, in [0, 1].
        share: a patch is kept when at least this share of it is foreground.
    """
    foreground = (relative(attention[None], patches.shape)[0] >= threshold).cpu().numpy()
    return patches.select(patches.mean_of(foreground.astype(np.float32)) >= share)
