"""Photos as F and the superpixels see them, read by worker processes: where concepts and graphs both start from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vrx.classifier.classifier import Classifier
from vrx.data.images import Photo
from vrx.data.sources import PhotoSource
from vrx.errors import VRXError
from vrx.structures import Patches

Segment = Callable[[NDArray[np.uint8]], Patches]
"""A photo, uint8 ``[H, W, 3]``, to its superpixels (:class:`vrx.concepts.patches.Segmenter`)."""


@dataclass(frozen=True)
class PreparedPhoto:
    """A photo as F sees it, and its superpixels. ``x`` is None when it could not be read: then ``error`` says why."""

    index: int
    x: Tensor | None
    superpixels: Patches | None
    error: str = ""


class PreparedPhotos(Dataset[PreparedPhoto]):
    """Reads, transforms and segments photos; made for worker processes."""

    def __init__(
        self, source: PhotoSource, photos: Sequence[Photo], classifier: Classifier, segmenter: Segment
    ) -> None:
        self.source, self.photos, self.segmenter = source, photos, segmenter
        self.transform, self.mean, self.std = classifier.transform, classifier.mean.cpu(), classifier.std.cpu()

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> PreparedPhoto:
        try:
            x = self.transform(self.source.read(self.photos[index]))
        except (VRXError, OSError) as error:
            return PreparedPhoto(index, None, None, str(error))
        pixels = ((x * self.std + self.mean) * 255).round().clamp(0, 255).to(torch.uint8)
        return PreparedPhoto(index, x, self.segmenter(pixels.permute(1, 2, 0).numpy()))


def prepared(
    source: PhotoSource,
    photos: Sequence[Photo],
    classifier: Classifier,
    segmenter: Segment,
    batch_size: int | Sequence[Sequence[int]],
    workers: int,
) -> DataLoader[PreparedPhoto]:
    """Loader of lists of prepared photos: so many, in order, or those of each batch, by their index."""
    how: dict[str, Any] = {"batch_size" if isinstance(batch_size, int) else "batch_sampler": batch_size}
    return DataLoader(
        PreparedPhotos(source, photos, classifier, segmenter), num_workers=workers, collate_fn=list, **how
    )
