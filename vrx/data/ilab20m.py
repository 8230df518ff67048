"""iLab-20M by its own file names: single views, or sheets of 44 x 30 views."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vrx.data.images import (
    SPLITS,
    Photo,
    allot,
    check_counts,
    chosen_classes,
    divide,
    is_image,
    photos_of,
    read_image,
    shuffled,
)
from vrx.errors import VRXError

log = logging.getLogger(__name__)

CAMERAS, ROTATIONS, LIGHTS, FOCI = 11, 8, 5, 3
VIEWS = CAMERAS * ROTATIONS * LIGHTS * FOCI  # of a sheet: 1320 = 44 x 30
COLUMNS, ROWS = 44, 30

_NAME = re.compile(r"(?P<name>[a-z0-9]+)-i(?P<instance>\d+)-b\d+(-c(?P<camera>\d+)-r(?P<rotation>\d+)-l\d+-f\d+)?"
                   r"(-[^.]*)?\.\w+")  # fmt: skip
"""Of a view, or of a sheet: without camera, rotation, light and focus."""


class ILab20M:
    """Photos of iLab-20M; no instance (one toy car) is in two splits where a class has at least four.

    A view of a sheet is addressed as ``<sheet>#<number>``, numbered by camera, rotation, light, focus (the last one
    runs fastest). Photos are listed sheet by sheet, since a sheet is decoded whole.

    Args:
        root: the files, flat or in folders.
        classes: class in the file names -> display name, or a list; None: bus, military, tank.
        discovery, val: photos per class.
        train, test: photos per class; None: all views of the instances for training, for testing.
        seed: of the splits.

    Raises:
        VRXError: no such root, no files of a class, or too few.
    """

    def __init__(
        self,
        root: str | Path,
        classes: Mapping[str, str] | Sequence[str] | None = None,
        discovery: int = 50,
        train: int | None = 1000,
        val: int = 100,
        test: int | None = 300,
        seed: int = 0,
    ) -> None:
        self.root, self._seed = Path(root), seed
        self._counts: dict[str, int | None] = {"discovery": discovery, "val": val, "train": train, "test": test}
        check_counts(self._counts)
        self._classes = chosen_classes(classes, {"bus": "bus", "mil": "military", "tank": "tank"}, str(self.root))
        self.class_names = list(self._classes.values())  # display names, in the order of the labels
        found = self._scan()
        self._photos: dict[str, list[Photo]] = {split: [] for split in SPLITS}
        for label, name in enumerate(self._classes):
            for split, views in self._divide(name, found[name]).items():
                ordered = sorted(views, key=lambda view: (view.split("#")[0], int(view.partition("#")[2] or 0)))
                self._photos[split] += [Photo(str(self.root / view), label, split) for view in ordered]

    def _scan(self) -> dict[str, dict[str, list[str]]]:
        """Class -> instance -> files and views of sheets, relative to the root."""
        if not self.root.is_dir():
            raise VRXError(f"There is no folder {self.root}: set data.root=<iLab-20M folder>.")
        found: dict[str, dict[str, list[str]]] = {}
        for file in self.root.rglob("*"):
            match = _NAME.fullmatch(file.name)
            if match is None or not is_image(file):
                continue
            path = str(file.relative_to(self.root))
            views = found.setdefault(match["name"], {}).setdefault(match["instance"], [])
            views += [path] if match["camera"] else [f"{path}#{number}" for number in range(VIEWS)]
        for name in self._classes:
            if name not in found:
                near = get_close_matches(name, found, 3, 0.4) or sorted(found)[:5]
                there = f"did you mean {', '.join(near)}?" if near else "no file there has iLab-20M's naming."
                raise VRXError(f"No photo of class {name!r} in {self.root}: {there}")
        return found

    def _divide(self, name: str, instances: dict[str, list[str]]) -> dict[str, list[str]]:
        """Views of one class by split: first the instances are dealt out, then views are drawn."""
        title = self._classes[name]
        if len(instances) < len(SPLITS):
            log.warning(
                "Class %s has %d instances in %s, fewer than splits: the same toy is in several splits.",
                title, len(instances), self.root,
            )  # fmt: skip
            every = [view for views in instances.values() for view in views]
            return divide(shuffled(every, self._seed), self._counts, title, str(self.root))
        order = shuffled((f"{name}-i{instance}" for instance in instances), self._seed)
        most = max(count for count in self._counts.values() if count is not None)
        weights = {split: (count or most) * len(order) for split, count in self._counts.items()}
        split_views: dict[str, list[str]] = {}
        for split, share in allot(len(order), weights).items():
            own, order = order[:share], order[share:]
            views = [view for key in own for view in instances[key.split("-i")[1]]]
            wanted = {split: self._counts[split]}
            split_views |= divide(shuffled(views, self._seed), wanted, title, f"{self.root} ({split})")
        return split_views

    def photos(self, split: str) -> list[Photo]:
        return photos_of(self._photos, split)

    def read(self, photo: Photo) -> Image.Image:
        """The pixels of a photo, or of one view of a sheet, RGB."""
        path, _, number = photo.path.partition("#")
        return _cut(path, int(number)) if number else read_image(path)

    def pose_name(self, photo: Photo) -> str:
        """Camera and rotation as in the file names: ``c03-r02``."""
        return "c{:02d}-r{:02d}".format(*pose_of(photo.path))

    def settings(self) -> dict[str, Any]:
        return {
            "kind": "ilab20m",
            "root": str(self.root.resolve()),
            "classes": dict(self._classes),
            "counts": dict(self._counts),
            "seed": self._seed,
        }

    def whole(self) -> ILab20M:
        """The same views without limits on how many of a class are listed for training and test."""
        return ILab20M(self.root, self._classes, 1, None, 1, None, self._seed)


def pose_of(path: str) -> tuple[int, int]:
    """Camera (0 to 10) and rotation (0 to 7), from the name of a view or the number of a view of a sheet.

    Raises:
        VRXError: the name is not iLab-20M's.
    """
    file, _, number = path.partition("#")
    if number:
        camera, rotation, _, _ = np.unravel_index(int(number), (CAMERAS, ROTATIONS, LIGHTS, FOCI))
        return int(camera), int(rotation)
    match = _NAME.fullmatch(Path(file).name)
    if match is None or match["camera"] is None:
        raise VRXError(f"{path} has no pose in its name: <class>-i..-b..-c<camera>-r<rotation>-l..-f.. is expected.")
    return int(match["camera"]), int(match["rotation"])


@functools.lru_cache(maxsize=1)
def _sheet(path: str, _stamp: int) -> Image.Image:
    image = read_image(path)
    if image.width % COLUMNS or image.height % ROWS:
        raise VRXError(f"{path} has {image.width} x {image.height} pixels: not a sheet of {COLUMNS} x {ROWS} views.")
    return image


def _cut(path: str, number: int) -> Image.Image:
    """View ``number`` of a sheet: row by row, 44 a row."""
    if not 0 <= number < VIEWS:
        raise VRXError(f"{path}#{number}: a sheet has views 0 to {VIEWS - 1}.")
    file = Path(path)
    sheet = _sheet(path, file.stat().st_mtime_ns if file.exists() else 0)
    width, height = sheet.width // COLUMNS, sheet.height // ROWS
    row, column = divmod(number, COLUMNS)
    return sheet.crop((column * width, row * height, (column + 1) * width, (row + 1) * height))
