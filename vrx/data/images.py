"""Photos from files: read right whatever their mode, found in folder trees, split without mixing."""

from __future__ import annotations

import hashlib
import logging
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from vrx.errors import VRXError

log = logging.getLogger(__name__)

SPLITS = ("discovery", "train", "val", "test")
SUFFIXES = frozenset([".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"])
MIN_SIDE = 16  # pixels; anything smaller is a broken download, not a photo


@dataclass(frozen=True)
class Photo:
    """A photo of a split. ``label`` counts the classes of interest; ``path`` may end in ``#<view>`` of a sheet."""

    path: str
    label: int
    split: str


def read_image(path: str | Path) -> Image.Image:
    """Read a photo as RGB, upright, over white where it is transparent, 16 bits scaled to 8.

    Raises:
        VRXError: the file is missing, empty, truncated, no image, or smaller than 16 pixels.
    """
    try:
        with Image.open(path) as file:
            file.load()
            image = to_rgb(_upright(file))
    except FileNotFoundError as error:
        raise VRXError(f"There is no file {path}.") from error
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise VRXError(f"{path} cannot be read as an image ({error}): repair or remove it.") from error
    if min(image.size) < MIN_SIDE:
        raise VRXError(f"{path} has {image.width} x {image.height} pixels, fewer than {MIN_SIDE} a side: remove it.")
    return image


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; damaged EXIF data is no reason to lose the photo."""
    try:
        return ImageOps.exif_transpose(image)
    except (OSError, ValueError, SyntaxError, TypeError, KeyError, struct.error):
        return image


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode of PIL -> RGB."""
    if image.mode.startswith("I") or image.mode == "F":
        return _scaled(image).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        colour = image.convert("RGBA")
        white = Image.new("RGBA", colour.size, "white")
        return Image.alpha_composite(white, colour).convert("RGB")
    return image.convert("RGB")


def _scaled(image: Image.Image) -> Image.Image:
    """Greys of more than 8 bits -> 8 bits: 65535 is white, or the maximum where that is larger; floats in [0, 1]."""
    values = np.asarray(image.convert("I") if image.mode.startswith("I;") else image, np.float64)
    peak = float(values.max(initial=0))
    if image.mode.startswith("I;16") or 255 < peak <= 65535:
        white = 65535.0
    elif image.mode == "F" and peak <= 1:
        white = 1.0
    else:
        white = max(peak, 255.0)
    return Image.fromarray((values / white * 255 + 0.5).clip(0, 255).astype(np.uint8))


def shuffled(names: Iterable[str], seed: int) -> list[str]:
    """A fixed order that depends on the seed and the names alone, not on the file system or the files' content."""
    return sorted(names, key=lambda name: (hashlib.sha256(f"{seed}/{name}".encode()).digest(), name))


def allot(available: int, wanted: Mapping[str, int | None]) -> dict[str, int]:
    """How many of ``available`` things each split gets: what it wants, or a proportional share when there are too few.

    None wants all that is left; two of them share it, ``test`` a quarter. Every split gets at least one.

    Raises:
        ValueError: fewer things than splits.
    """
    if available < len(wanted):
        raise ValueError(f"{available} things for {len(wanted)} splits")
    fixed = {split: count for split, count in wanted.items() if count is not None}
    open_splits = [split for split in wanted if split not in fixed]
    left = available - sum(fixed.values())
    if left >= len(open_splits):
        shares = dict.fromkeys(open_splits, left)
        if len(open_splits) > 1:
            shares["test"] = max(1, left // 4)
            shares |= {split: left - shares["test"] for split in open_splits if split != "test"}
        return {split: fixed.get(split, shares.get(split, 0)) for split in wanted}
    weights = {split: fixed.get(split, max(1, sum(fixed.values()))) for split in wanted}
    total = sum(weights.values())
    shares = {split: max(1, available * weight // total) for split, weight in weights.items()}
    while sum(shares.values()) > available:
        shares[max(shares, key=lambda split: shares[split])] -= 1
    return shares


def check_counts(counts: Mapping[str, int | None]) -> None:
    """Refuse splits without photos.

    Raises:
        VRXError: a count below 1.
    """
    for split, count in counts.items():
        if count is not None and count < 1:
            raise VRXError(f"data.{split}={count}: at least one photo a class is needed (null: all that are left).")


def divide(names: Sequence[str], wanted: Mapping[str, int | None], title: str, where: str) -> dict[str, list[str]]:
    """Cut an ordered list into splits, with a warning when there are fewer than wanted.

    Raises:
        VRXError: fewer names than splits.
    """
    least = len(wanted)
    if len(names) < least:
        raise VRXError(
            f"Class {title!r} has {len(names)} photos in {where}; at least {least} are needed "
            f"({', '.join(wanted)} one each): add photos, or leave it out of data.classes."
        )
    counts = allot(len(names), wanted)
    if any(count is not None and counts[split] < count for split, count in wanted.items()):
        got = ", ".join(f"{split} {counts[split]} (wanted {wanted[split] or 'the rest'})" for split in wanted)
        log.warning("Class %s has only %d photos in %s: %s.", title, len(names), where, got)
    ends = np.cumsum(list(counts.values())).tolist()
    starts = [0, *ends[:-1]]
    return {split: list(names[a:b]) for split, a, b in zip(counts, starts, ends, strict=True)}


class PhotoFolder:
    """Photos in a folder tree: ``root/train/<class>/*`` with ``root/val/<class>/*``, or ``root/<class>/*``.

    Discovery, train and val come from ``train``, test from ``val`` (or ``test``). Without such folders all four come
    from the one tree. Which photo goes where depends on its name and the seed alone.

    Args:
        root: the tree.
        classes: folder -> display name, or a list of folders; None: those of ``known``, or every folder.
        class_indices: outputs of F that are the classes of interest, in the same order; None: those of ``known``, or
            all of them.
        discovery: photos per class for concept discovery.
        train: photos per class; None: all that are left.
        val: photos per class.
        test: photos per class; None: all of ``root/val``, or a quarter of what is left.
        seed: of the splits.
        known: folder -> display name and output of F, for the classes that the data set is known for.

    Raises:
        VRXError: no such root or class folder, or too few photos in one.
    """

    def __init__(
        self,
        root: str | Path,
        classes: Mapping[str, str] | Sequence[str] | None = None,
        class_indices: Sequence[int] | None = None,
        discovery: int = 50,
        train: int | None = None,
        val: int = 50,
        test: int | None = None,
        seed: int = 0,
        known: Mapping[str, tuple[str, int]] | None = None,
    ) -> None:
        self.root, self._seed = Path(root), seed
        self._counts: dict[str, int | None] = {"discovery": discovery, "val": val, "train": train, "test": test}
        check_counts(self._counts)
        self._pool, self._test_pool = _layout(self.root)
        self._known = dict(known or {})
        self._classes = _class_folders(self._pool, classes, {folder: name for folder, (name, _) in self._known.items()})
        self._indices = None if class_indices is None else [int(i) for i in class_indices]
        if self._indices is not None and len(self._indices) != len(self._classes):
            raise VRXError(
                f"data.class_indices has {len(self._indices)} entries for {len(self._classes)} classes "
                f"({', '.join(self._classes.values())}): give one output of the network per class, in the same order."
            )
        self._photos: dict[str, list[Photo]] = {split: [] for split in SPLITS}
        for label, folder in enumerate(self._classes):
            for split, paths in self._divide(folder).items():
                self._photos[split] += [Photo(path, label, split) for path in paths]

    def _divide(self, folder: str) -> dict[str, list[str]]:
        """Paths of one class by split."""
        title = self._classes[folder]
        if self._test_pool is None:
            return divide(self._files(self._pool, folder), self._counts, title, str(self._pool / folder))
        own = {split: count for split, count in self._counts.items() if split != "test"}
        where, wanted = self._test_pool / folder, self._counts["test"]
        test = self._files(self._test_pool, folder)
        if wanted and len(test) < wanted:
            message = "Class %s has only %d photos in %s: test uses them all (wanted %d)."
            log.warning(message, title, len(test), where, wanted)
        test = test[:wanted]
        return divide(self._files(self._pool, folder), own, title, str(self._pool / folder)) | divide(
            test, {"test": len(test)}, title, str(where)
        )

    def _files(self, pool: Path, folder: str) -> list[str]:
        """Image files of a class in the order of the splits."""
        if not (pool / folder).is_dir():
            raise _no_folder(pool, folder)
        names = [f.name for f in (pool / folder).iterdir() if is_image(f)]
        return [str(pool / folder / Path(name).name) for name in shuffled((f"{folder}/{n}" for n in names), self._seed)]

    @property
    def class_names(self) -> list[str]:
        """Display names, in the order of the labels."""
        return list(self._classes.values())

    @property
    def class_indices(self) -> list[int] | None:
        """Outputs of F that are the classes, in the order of the labels; None: all of them.

        Raises:
            VRXError: none is given, and one of the classes is not ``known``.
        """
        if self._indices is not None or not self._known:
            return self._indices
        unknown = [folder for folder in self._classes if folder not in self._known]
        if unknown:
            raise VRXError(
                f"data.classes has {', '.join(unknown)}, of which the network's output is not known: give "
                f"data.class_indices=[...], one per class ({', '.join(self._classes)}), or data.known=null where it "
                "has these classes alone."
            )
        return [int(self._known[folder][1]) for folder in self._classes]

    def photos(self, split: str) -> list[Photo]:
        return photos_of(self._photos, split)

    def read(self, photo: Photo) -> Image.Image:
        return read_image(photo.path)

    def settings(self) -> dict[str, Any]:
        return {
            "kind": "folder",
            "root": str(self.root.resolve()),
            "classes": dict(self._classes),
            "counts": dict(self._counts),
            "seed": self._seed,
        }


def is_image(file: Path) -> bool:
    """Whether a path looks like a photo's, by its name."""
    return file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()


def _layout(root: Path) -> tuple[Path, Path | None]:
    """Where discovery, train and val photos are, and where test photos are (None: in the same place)."""
    if not root.is_dir():
        raise VRXError(f"There is no folder {root}: set data.root=<folder of your photos>.")
    if not (root / "train").is_dir():
        return root, None
    for name in ("val", "test", "validation"):
        if (root / name).is_dir():
            return root / "train", root / name
    holds_photos = any(is_image(f) for f in (root / "train").iterdir())  # then it is a class: trains
    return (root, None) if holds_photos else (root / "train", None)


def chosen_classes(
    classes: Mapping[str, str] | Sequence[str] | None, names: Mapping[str, str], where: str
) -> dict[str, str]:
    """Key -> display name of the classes that are asked for.

    Args:
        classes: key -> display name, or a list of keys; None: all of ``names``.
        names: key -> display name, where they are known.

    Raises:
        VRXError: fewer than two classes, or a name twice.
    """
    if isinstance(classes, Mapping):
        chosen = {str(k): str(v) for k, v in classes.items()}
    else:
        chosen = {str(c): names.get(str(c), str(c)) for c in (names if classes is None else classes)}
    if len(set(chosen.values())) < max(2, len(names if classes is None else classes)):
        raise VRXError(f"data.classes={list(chosen.values())} (in {where}) must be at least two, each named once.")
    return chosen


def photos_of(by_split: Mapping[str, Sequence[Photo]], split: str) -> list[Photo]:
    """The photos of one split.

    Raises:
        VRXError: no such split.
    """
    if split not in SPLITS:
        raise VRXError(f"There is no split {split!r}: use {', '.join(SPLITS)}.")
    return list(by_split[split])


def _class_folders(
    pool: Path, classes: Mapping[str, str] | Sequence[str] | None, names: Mapping[str, str]
) -> dict[str, str]:
    """Folder -> display name, every folder there."""
    there = sorted(f.name for f in pool.iterdir() if f.is_dir() and not f.name.startswith("."))
    chosen = chosen_classes(classes, names or {folder: folder for folder in there}, str(pool))
    for folder in chosen:
        if folder not in there:
            raise _no_folder(pool, folder)
    return chosen


def _no_folder(pool: Path, folder: str) -> VRXError:
    there = sorted(f.name for f in pool.iterdir() if f.is_dir() and not f.name.startswith("."))
    near = get_close_matches(folder, there, 3, 0.4) or there[:5]
    offer = f"did you mean {', '.join(near)}?" if near else "it holds no folders at all; is data.root right?"
    return VRXError(f"There is no class folder {folder!r} in {pool}: {offer}")
