"""Matching features of patches: like parts of different photos should lie close together (3.1, 3.2.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vrx.classifier.activations import Activations
from vrx.classifier.classifier import Classifier
from vrx.concepts.patches import pool
from vrx.structures import Patches


class PatchEncoder(Protocol):
    """Turns the patches of a batch of photos into matching features."""

    def settings(self) -> dict[str, object]: ...

    def __call__(
        self, classifier: Classifier, x: Tensor, activations: Activations, patches: Sequence[Patches]
    ) -> Tensor:
        """Features of all patches of a batch, photo after photo.

        Args:
            classifier: F.
            x: normalised photos ``[B, 3, H, W]``.
            activations: of F on ``x``, with the maps of all its layers.
            patches: the patches of each photo.

        Returns:
            ``[sum K, Dm]``, float32.
        """
        ...


class PooledEncoder:
    """A middle layer of F pooled over each patch, minus the photo's mean, L2 normalised: one pass of F per photo."""

    def settings(self) -> dict[str, object]:
        return {}

    def __call__(
        self, classifier: Classifier, x: Tensor, activations: Activations, patches: Sequence[Patches]
    ) -> Tensor:
        maps = activations.maps[classifier.match_layer]
        photos = [pool(p, m) - m.mean((1, 2)) for p, m in zip(patches, maps, strict=True)]
        return F.normalize(torch.cat(photos).float(), dim=1)


class CropEncoder:
    """ACE's and the paper's way: the last layer of F on each patch, cut out and enlarged: one pass of F per patch.

    Args:
        batch_size: crops per pass.
    """

    def __init__(self, batch_size: int = 64) -> None:
        self.batch_size = batch_size

    def settings(self) -> dict[str, object]:
        return {"batch_size": self.batch_size}

    def __call__(
        self, classifier: Classifier, x: Tensor, activations: Activations, patches: Sequence[Patches]
    ) -> Tensor:
        crops = [crop for image, p in zip(x, patches, strict=True) for crop in _crops(image, p)]
        last = classifier.layers[-1].name
        features = [
            classifier.inspect(torch.stack(crops[i : i + self.batch_size]), layers=[last], gradcam=False)
            .maps[last]
            .mean((2, 3))
            for i in range(0, len(crops), self.batch_size)
        ]
        return torch.cat(features).float() if features else torch.zeros(0, classifier.layers[-1].channels)


def _crops(image: Tensor, patches: Patches) -> list[Tensor]:
    """Each patch cut out, its surroundings the photo's mean colour, resized to the photo's size."""
    mean = image.mean((1, 2), keepdim=True)
    crops = []
    for mask in patches.masks:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        inside = torch.from_numpy(mask[box]).to(image.device)
        cut = torch.where(inside, image[:, box[0], box[1]], mean)
        crops.append(
            F.interpolate(cut[None], size=image.shape[1:], mode="bilinear", align_corners=False, antialias=True)[0]
        )
    return crops
