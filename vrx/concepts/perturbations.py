"""Changes of a photo that nobody sees and that an explanation must survive."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vrx.classifier.classifier import Classifier
from vrx.edits import shifted, slid

SHIFT = 2  # pixels, right and down
JPEG_QUALITY = 90
BRIGHTER = 1.02


def as_jpeg(classifier: Classifier, x: Tensor) -> Tensor:
    """Photos ``[B, 3, H, W]`` as they come back from a JPEG file of quality 90."""

    def coded(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=JPEG_QUALITY)
        return np.asarray(Image.open(file))

    return classifier.normalize(np.stack([coded(pixels) for pixels in classifier.pixels(x)]))


def brighter(classifier: Classifier, x: Tensor) -> Tensor:
    """All values 2 % larger, as far as a file can hold them."""
    pixels = classifier.pixels(x).astype(np.float32) * BRIGHTER
    return classifier.normalize(pixels.round().clip(0, 255).astype(np.uint8))


def moved_by_two(classifier: Classifier, x: Tensor) -> Tensor:
    """Two pixels to the right and down; the border's pixels go on."""
    return slid(x, SHIFT, SHIFT)


PERTURBATIONS: dict[str, Callable[[Classifier, Tensor], Tensor]] = {
    "jpeg": as_jpeg,
    "brighter": brighter,
    "shifted": moved_by_two,
}


def moved_back(name: str, labels: NDArray[np.int16], nothing: int) -> NDArray[np.int16]:
    """Label maps ``[..., H, W]`` of changed photos in the places of the clean ones; ``nothing`` enters at a border."""
    if name != "shifted":
        return labels
    back = shifted(torch.from_numpy(labels.astype(np.int32)) - nothing, -SHIFT, -SHIFT) + nothing
    return np.asarray(back.numpy().astype(np.int16))
