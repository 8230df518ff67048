"""The classifier's predictions on many photos, computed once and kept in the study's records."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from vrx.data.images import Photo
from vrx.data.sources import PhotoSource
from vrx.errors import VRXError
from vrx.explain.explainer import Explainer
from vrx.studies.core.records import Records

T = TypeVar("T")


def predictions(
    explainer: Explainer, source: PhotoSource, photos: Sequence[Photo], records: Records, batch_size: int = 32
) -> list[tuple[Photo, NDArray[np.float64]]]:
    """The classifier's logits ``[n]`` of every photo that can be read, with a progress bar.

    Args:
        explainer: of the run.
        source: reads the photos.
        photos: to predict.
        records: of the study: no photo is predicted twice.
        batch_size: photos a forward pass.
    """
    names = {photo: f"prediction {photo.path}" for photo in photos}
    missing = [photo for photo in photos if names[photo] not in records]
    with tqdm(total=len(missing), desc="predicting", unit="photo", disable=not missing) as bar:
        for start in range(0, len(missing), batch_size):
            for photo, logits in _logits(explainer, source, missing[start : start + batch_size]).items():
                records.add(names[photo], {"logits": logits})
                bar.update()
    found = [(photo, records[names[photo]]["logits"]) for photo in photos]
    return [(photo, np.array(logits)) for photo, logits in found if logits is not None]


def _logits(explainer: Explainer, source: PhotoSource, photos: Sequence[Photo]) -> dict[Photo, list[float] | None]:
    """None for a photo that cannot be read."""
    ready: dict[Photo, Tensor] = {}
    for photo in photos:
        with contextlib.suppress(VRXError, OSError):
            ready[photo] = explainer.read(source.read(photo))
    logits = explainer.logits(torch.stack(list(ready.values()))).tolist() if ready else []
    return dict.fromkeys(photos) | dict(zip(ready, logits, strict=True))


def spaced(items: Sequence[T], count: int | None) -> list[T]:
    """``count`` of the items, evenly spaced, so that no class of a sorted list is left out; all if fewer, or None."""
    if count is None or count >= len(items):
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]
