"""F's answers on many photos, asked once and kept in the study's records."""

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
from vrx.scores import margins
from vrx.studies.core.records import Records

T = TypeVar("T")


def margin(logits: NDArray[np.float64], index: int) -> float:
    """Log-odds of one class; :func:`vrx.scores.margins` has them all."""
    return float(margins(torch.from_numpy(logits))[index])


def predictions(
    explainer: Explainer,
    source: PhotoSource,
    photos: Sequence[Photo],
    records: Records,
    batch_size: int = 32,
) -> list[tuple[Photo, NDArray[np.float64]]]:
    """F's logits of the photos that can be read, with a progress bar.

    Args:
        explainer: of the run.
        source: reads the photos.
        photos: to ask about.
        records: of the study: no photo is asked about twice.
        batch_size: photos F is asked about at once.
    """
    known: dict[Photo, list[float] | None] = {
        photo: records[name]["logits"] for photo in photos if (name := f"F {photo.path}") in records
    }
    missing = [photo for photo in photos if photo not in known]
    with tqdm(total=len(missing), desc="asking F", unit="photo", disable=not missing) as bar:
        for start in range(0, len(missing), batch_size):
            for photo, logits in _predicted(explainer, source, missing[start : start + batch_size]).items():
                known[photo] = logits
                records.add(f"F {photo.path}", {"logits": logits})
                bar.update()
    return [(photo, np.array(logits)) for photo in photos if (logits := known[photo]) is not None]


def _predicted(explainer: Explainer, source: PhotoSource, photos: Sequence[Photo]) -> dict[Photo, list[float] | None]:
    """F's logits; None for a photo that cannot be read."""
    ready: dict[Photo, Tensor] = {}
    for photo in photos:
        with contextlib.suppress(VRXError, OSError):
            ready[photo] = explainer.read(source.read(photo))
    logits = explainer.logits(torch.stack(list(ready.values()))).tolist() if ready else []
    return dict.fromkeys(photos) | dict(zip(ready, logits, strict=True))


def spaced(items: Sequence[T], count: int) -> list[T]:
    """``count`` of the items, evenly spaced, so that no class of a sorted list is left out; all if they are fewer."""
    return [items[i * len(items) // count] for i in range(count)] if count < len(items) else list(items)
