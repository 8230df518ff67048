"""What all studies do with photos: read, predict, choose some of them."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vrx.data.images import Photo
from vrx.data.sources import PhotoSource
from vrx.errors import VRXError
from vrx.explain.explainer import Explainer
from vrx.studies.core.records import Records

T = TypeVar("T")
BATCH = 32  # photos a forward pass


def predictions(
    explainer: Explainer, source: PhotoSource, photos: Sequence[Photo], records: Records
) -> list[tuple[Photo, int]]:
    """Every photo that can be read with the class that is predicted; no photo of the records is predicted twice."""
    names = {photo: f"prediction {photo.path}" for photo in photos}
    missing = [photo for photo in photos if names[photo] not in records]
    starts = range(0, len(missing), BATCH)
    for part in tqdm([missing[start : start + BATCH] for start in starts], desc="predicting", disable=not missing):
        x = {photo: read for photo in part if (read := readable(explainer, source, photo)) is not None}
        logits = explainer.logits(torch.stack(list(x.values()))).tolist() if x else []
        found = dict(zip(x, logits, strict=True))
        for photo in part:
            records.add(names[photo], {"logits": found.get(photo)})
    known = [(photo, records[names[photo]]["logits"]) for photo in photos]
    return [(photo, int(np.argmax(logits))) for photo, logits in known if logits is not None]


def readable(explainer: Explainer, source: PhotoSource, photo: Photo) -> Tensor | None:
    """A photo as the classifier sees it, normalised ``[3, H, W]``; None when it cannot be read."""
    try:
        return explainer.read(source.read(photo))
    except (VRXError, OSError):
        return None


def spaced(items: Sequence[T], count: int | None) -> list[T]:
    """``count`` of the items, evenly spaced, so that no class of a sorted list is left out; all if fewer, or None."""
    if count is None or count >= len(items):
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]


def rng_of(photo: Photo, *seeds: int) -> np.random.Generator:
    """Random numbers of one photo, by its file's name: which other photos are studied does not matter."""
    return np.random.default_rng([*seeds, zlib.crc32(photo.path.rsplit("/", 1)[-1].encode())])
