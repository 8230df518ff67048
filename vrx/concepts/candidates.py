"""What concept discovery and the graphs both start from: the attended patches of photos, with their features (3.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from vrx.classifier.classifier import Activations, Classifier
from vrx.concepts.patches import PatchEncoder, Segmenter, attended
from vrx.errors import VRXError
from vrx.structures import Patches


@dataclass(frozen=True)
class Candidates:
    """The concept candidates of a batch of B photos.

    Args:
        activations: of F on the photos: logits, feature maps, Grad-CAM.
        patches: the attended patches of each photo.
        features: matching features of all patches, photo after photo, float32 ``[sum K, Dm]``.
    """

    activations: Activations
    patches: list[Patches]
    features: Tensor

    def split(self, values: np.ndarray) -> list[np.ndarray]:
        """Cut an array over all patches ``[sum K, ...]`` into one a photo."""
        return np.split(values, np.cumsum([len(p) for p in self.patches])[:-1])


class CandidateExtractor:
    """Turns photos into concept candidates, the same way for every class and whatever the label.

    The attention of a photo is the maximum, over the classes of interest, of F's Grad-CAM: one map and one set of
    patches for all hypotheses, so nothing about the true (or predicted) class leaks into the choice of patches.

    Args:
        segmenter: photo -> superpixels.
        encoder: patches -> matching features.
        tau: Grad-CAM threshold, share of the photo's maximum, in [0, 1]; 0 keeps every patch.
    """

    def __init__(self, segmenter: Segmenter, encoder: PatchEncoder, tau: float = 0.3) -> None:
        if not 0 <= tau <= 1:
            raise VRXError(f"concepts.tau={tau} is out of range: use a share of Grad-CAM's maximum in [0, 1].")
        self.segmenter = segmenter
        self.encoder = encoder
        self.tau = tau

    def settings(self) -> dict[str, object]:
        """What determines the candidates, for cache keys."""
        return {"segmenter": self.segmenter.settings(), "encoder": self.encoder.settings(), "tau": self.tau}

    def __call__(
        self,
        classifier: Classifier,
        x: Tensor,
        superpixels: Sequence[Patches],
        gradients: Sequence[str] = (),
        reference: Mapping[str, Tensor] | None = None,
    ) -> Candidates:
        """Extract the candidates of a batch.

        Args:
            classifier: F.
            x: normalised photos ``[B, 3, H, W]``.
            superpixels: what ``segmenter`` made of each photo.
            gradients: layers whose gradient x activation (of each class' margin) is wanted too.
            reference: maps of a reference photo, for gradients times the difference to it.
        """
        activations = classifier.inspect(x, gradients=gradients, target="margin", reference=reference)
        attention = activations.gradcam.amax(1)
        patches = [attended(p, a, self.tau) for p, a in zip(superpixels, attention, strict=True)]
        return Candidates(activations, patches, self.encoder(classifier, x, activations, patches))
