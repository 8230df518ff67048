"""What concept discovery and the graphs both start from: the attended patches of photos, with their features (3.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from vrx.classifier.classifier import Activations, Classifier
from vrx.concepts.attention import Attention
from vrx.concepts.encoders import PatchEncoder
from vrx.concepts.patches import Segmenter
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

    Args:
        segmenter: photo -> superpixels.
        attention: which of them may be concepts.
        encoder: patches -> matching features.
    """

    def __init__(self, segmenter: Segmenter, attention: Attention, encoder: PatchEncoder) -> None:
        self.segmenter, self.attention, self.encoder = segmenter, attention, encoder

    def settings(self) -> dict[str, object]:
        return {"segmenter": self.segmenter, "attention": self.attention, "encoder": self.encoder}

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
        patches = self.attention(activations, superpixels)
        return Candidates(activations, patches, self.encoder(classifier, x, activations, patches))
