"""Some photos of a source, in other splits than its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL.Image import Image

from vrx.data.images import Photo
from vrx.data.sources import PhotoSource, stamps
from vrx.storage import digest


@dataclass(frozen=True)
class PhotoSelection:
    """A source of chosen photos."""

    source: PhotoSource  # reads the photos
    splits: Mapping[str, Sequence[Photo]]  # split -> photos; any other split is empty

    @property
    def class_names(self) -> Sequence[str]:
        return self.source.class_names

    def photos(self, split: str) -> list[Photo]:
        return list(self.splits.get(split, ()))

    def read(self, photo: Photo) -> Image:
        return self.source.read(photo)

    def settings(self) -> dict[str, Any]:
        photos = {split: stamps(photos) for split, photos in self.splits.items()}
        return {"kind": "selection", "of": self.source.settings(), "photos": digest(photos)}
