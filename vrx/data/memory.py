"""Photos from Python: paths, PIL images and tensors, by class, or by split and class."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vrx.data.images import MIN_SIDE, SPLITS, Photo, chosen_classes, divide, photos_of, read_image, shuffled, to_rgb
from vrx.errors import VRXError

Item = str | Path | Image.Image | Tensor
ByClass = Mapping[str, Sequence[Item]]


class MemoryPhotos:
    """Photos that are already at hand.

    Args:
        photos: class -> photos, cut into splits by their position: .3 for discovery and .15 for val, but no more than
            50 of a class, and a quarter of what is left for test; or split (``discovery``, ``train``,
            ``val``, ``test``) -> class -> photos. A photo is a path, a PIL image, or a tensor ``[3, H, W]`` or
            ``[1, H, W]``, uint8 or floats in [0, 1].

    Raises:
        VRXError: fewer than two classes, too few photos in one, or something that is no photo; names class and index.
    """

    def __init__(self, photos: ByClass | Mapping[str, ByClass]) -> None:
        self._items, self._hashes = dict[str, Item](), list[str]()
        by_split = self._by_split(photos)
        self.class_names = list(by_split["train"])
        chosen_classes(self.class_names, {}, "photos")
        self._photos = {
            split: [
                Photo(self._keep(item, name, number), label, split)
                for label, name in enumerate(self.class_names)
                for number, item in by_split[split][name]
            ]
            for split in SPLITS
        }

    def _by_split(self, photos: Any) -> dict[str, dict[str, list[tuple[str, Item]]]]:
        """Split -> class -> photos, each with what names it in messages."""
        if not isinstance(photos, Mapping) or not photos:
            raise VRXError(f"photos={type(photos).__name__}: give a mapping of class names to photos.")
        if all(isinstance(by_class, Mapping) for by_class in photos.values()):
            if set(photos) != set(SPLITS) or len({tuple(by_class) for by_class in photos.values()}) != 1:
                raise VRXError(
                    f"photos has the splits {', '.join(map(str, photos))}: give {', '.join(SPLITS)}, each with photos "
                    "of the same classes in the same order; or class -> photos, to be split here."
                )
            empty = [f"{split}/{name}" for split in SPLITS for name, items in photos[split].items() if not len(items)]
            if empty:
                raise VRXError(f"photos has none in {', '.join(empty)}: give at least one photo per split and class.")
            return {
                split: {name: [(f"{split}/{i}", item) for i, item in enumerate(items)] for name, items in given.items()}
                for split, given in photos.items()
            }
        found: dict[str, dict[str, list[tuple[str, Item]]]] = {split: {} for split in SPLITS}
        for name, items in photos.items():
            order = {f"{name}/{i}": i for i in range(len(items))}
            some, few = (min(50, max(1, int(share * len(items)))) for share in (0.3, 0.15))
            counts = {"discovery": some, "val": few, "train": None, "test": None}
            for split, names in divide(shuffled(order, seed=0), counts, name, "photos").items():
                found[split][name] = [(str(order[key]), items[order[key]]) for key in names]
        return found

    def _keep(self, item: Item, name: str, number: str) -> str:
        """Check a photo and keep it under the path that is returned."""
        title = f"photos[{name!r}], number {number}"
        if isinstance(item, (str, Path)):
            self._hashes.append(str(item))
            return str(item)
        if not isinstance(item, (Image.Image, Tensor)):
            raise VRXError(f"{title}, is a {type(item).__name__}: give a path, a PIL image or a tensor.")
        image = to_rgb(item) if isinstance(item, Image.Image) else _picture(item, title)
        if min(image.size) < MIN_SIDE:
            raise VRXError(f"{title}, has {image.width} x {image.height} pixels, fewer than {MIN_SIDE} a side.")
        self._hashes.append(hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest())
        path = f"{name}/{number}"
        self._items[path] = item
        return path

    def photos(self, split: str) -> list[Photo]:
        return photos_of(self._photos, split)

    def read(self, photo: Photo) -> Image.Image:
        item = self._items.get(photo.path)
        if item is None:
            return read_image(photo.path)
        return to_rgb(item) if isinstance(item, Image.Image) else _picture(item, photo.path)  # type: ignore[arg-type]

    def settings(self) -> dict[str, Any]:
        """All that determines the photos, for cache keys: their content too."""
        return {
            "kind": "memory",
            "classes": self.class_names,
            "content": hashlib.sha256("\n".join(self._hashes).encode()).hexdigest(),
            "counts": {split: len(photos) for split, photos in self._photos.items()},
        }


def _picture(x: Tensor, title: str) -> Image.Image:
    """A tensor as a PIL image.

    Raises:
        VRXError: another shape or type, or floats outside [0, 1].
    """
    if x.ndim != 3 or len(x) not in (1, 3):
        raise VRXError(f"{title}, is a tensor {list(x.shape)}: give [3, H, W] or [1, H, W].")
    values = x.detach().cpu()
    if values.is_floating_point():
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 1):
            raise VRXError(
                f"{title}, has values from {low:.3g} to {high:.3g}: floats must be in [0, 1], not normalised."
            )
        values = (values.float() * 255).round().to(torch.uint8)
    if values.dtype != torch.uint8:
        raise VRXError(f"{title}, is a tensor of {x.dtype}: give uint8, or floats in [0, 1].")
    pixels: np.ndarray = values.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(pixels)
