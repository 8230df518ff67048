"""Part masks: label PNGs beside the photos of a folder, and what concepts show by them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from vrx.classifier.preprocessing import Preprocessing
from vrx.concepts.purity import BACKGROUND, Seen, masks_of
from vrx.data.images import Photo, PhotoFolder
from vrx.data.prepared import prepared
from vrx.data.sources import PhotosWithParts
from vrx.errors import VRXError
from vrx.graphs.scg import SCGBuilder

log = logging.getLogger(__name__)

FOLDER = "parts"  # beside the photos of a class
MOST_PARTS = 255  # values of a byte, less the background
SINGLE_CHANNEL = ("1", "L", "P", "I", "I;16", "I;16B")  # modes of PIL; a palette's numbers are the labels
BATCH = 16


class PhotoFolderWithParts(PhotoFolder):
    """Photos in a folder tree, with label PNGs: the parts of ``<class>/<name>.jpg`` in ``<class>/parts/<name>.png``.

    A label PNG has a single channel and the size of its photo (upright); value 0 is the background, i is the i-th of
    ``part_names``. A photo may go without.

    Args:
        root: the tree, as of :class:`~vrx.data.images.PhotoFolder`.
        part_names: names of the parts, in the order of the labels.
        alike: parts that look alike in every class that has them; None: all.
        settings: of :class:`~vrx.data.images.PhotoFolder`.

    Raises:
        VRXError: bad part names; or as of :class:`~vrx.data.images.PhotoFolder`.
    """

    def __init__(
        self, root: str | Path, part_names: Sequence[str], alike: Sequence[str] | None = None, **settings: Any
    ) -> None:
        super().__init__(root, **settings)
        self.part_names = [str(name) for name in part_names]
        self.alike = None if alike is None else [str(name) for name in alike]
        bad = {"", BACKGROUND} & set(self.part_names)
        if bad or not 0 < len(set(self.part_names)) == len(self.part_names) <= MOST_PARTS:
            raise VRXError(
                f"data.part_names={self.part_names}: give 1 to {MOST_PARTS} names in the order of the labels, each "
                f"once, none empty and none {BACKGROUND!r} (that is label 0)."
            )
        unknown = sorted(set(self.alike or ()) - set(self.part_names))
        if unknown:
            raise VRXError(f"data.alike names {', '.join(unknown)}: use some of {', '.join(self.part_names)}.")

    def has_parts(self, photo: Photo) -> bool:
        """Whether there is a label PNG for the photo."""
        return label_file(photo).is_file()

    def parts(self, photo: Photo) -> dict[str, NDArray[np.bool_]]:
        """Part -> its pixels, bool ``[H, W]``; hidden parts are left out.

        Raises:
            VRXError: no label PNG, or one that does not fit its photo or the names of the parts.
        """
        labels = read_labels(label_file(photo), self.read(photo).size, len(self.part_names))
        return {self.part_names[i - 1]: labels == i for i in np.unique(labels).tolist() if i}


def label_file(photo: Photo) -> Path:
    """Where the label PNG of a photo is, if it has one."""
    path = Path(photo.path)
    return path.parent / FOLDER / f"{path.stem}.png"


def read_labels(file: Path, size: tuple[int, int], most: int) -> NDArray[np.int64]:
    """The labels of the pixels of a photo of this size (width, height), ``[H, W]``, none above ``most``.

    Raises:
        VRXError: the PNG is missing or damaged, has several channels, another size, or a larger label.
    """
    try:
        with Image.open(file) as image:
            mode, labels = image.mode, np.asarray(image)
    except FileNotFoundError as error:
        raise VRXError(f"There is no label PNG {file}.") from error
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise VRXError(f"{file} cannot be read as a label PNG ({error}): repair or remove it.") from error
    if mode not in SINGLE_CHANNEL:
        raise VRXError(
            f"{file} is a picture of mode {mode}, not of a single channel: save the numbers of the parts (0 is the "
            "background) as a grey or a palette PNG, or remove it."
        )
    if labels.shape[::-1] != size:
        raise VRXError(
            f"{file} has {labels.shape[1]} x {labels.shape[0]} pixels, its photo {size[0]} x {size[1]}: give it the "
            "size of the photo, or remove it."
        )
    if labels.max() > most:
        raise VRXError(
            f"{file} has the label {labels.max()}, but data.part_names names {most} parts: add names, or repair it."
        )
    return labels.astype(np.int64)


def in_frame(parts: Mapping[str, NDArray[np.bool_]], geometry: Preprocessing) -> dict[str, NDArray[np.bool_]]:
    """Part masks of a photo ``[H, W]`` as the classifier sees them; parts that the crop cuts off are left out."""
    if not parts:
        return {}
    masks = list(parts.values())
    labels = np.zeros(masks[0].shape, np.uint8)
    for label, mask in enumerate(masks, 1):
        labels[mask] = label
    framed = (geometry(Image.fromarray(labels))[0] * 255).round().to(torch.uint8).numpy()
    return {name: mask for label, name in enumerate(parts, 1) if (mask := framed == label).any()}


def geometry_of(preprocessing: Preprocessing) -> Preprocessing:
    """The same resize and crop, for labels: nothing is mixed or normalised."""
    return replace(preprocessing, interpolation="nearest", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def seen(builder: SCGBuilder, source: PhotosWithParts, split: str, limit_per_class: int = 0) -> list[Seen]:
    """What is found in the photos of a split that have part masks, beside what they show, in the classifier's frame.

    In the order of the split, the first ``limit_per_class`` photos of a class (0: all); photos that cannot be read are
    left out, as everywhere.

    Raises:
        VRXError: part masks that do not fit their photo.
    """
    photos, classifier = _masked(source, split, limit_per_class), builder.classifier
    geometry = geometry_of(classifier.transform)
    found = []
    for batch in prepared(source, photos, classifier, builder.extractor.segmenter, BATCH, 0) if photos else ():
        read = [(photos[p.index], p.x, p.superpixels) for p in batch if p.x is not None and p.superpixels is not None]
        if not read:
            continue
        with torch.no_grad():
            x = torch.stack([x for _, x, _ in read]).to(classifier.device)
            shown = builder.finder(classifier, x, [s for _, _, s in read])
        for (photo, _, _), matched, patches in zip(read, shown.matched, shown.patches, strict=True):
            masks = masks_of(matched, patches.masks)
            found.append(Seen(photo.label, masks, in_frame(source.parts(photo), geometry)))
    return found


def masks_key(source: PhotosWithParts, split: str, limit_per_class: int = 0) -> str:
    """Hash of the part masks of the photos that :func:`seen` reads: masks may change where photos do not."""
    state = hashlib.sha256()
    for photo in _masked(source, split, limit_per_class):
        for name, mask in sorted(source.parts(photo).items()):
            state.update(f"{photo.path} {name} {mask.shape}".encode() + np.packbits(mask).tobytes())
    return state.hexdigest()


def _masked(source: PhotosWithParts, split: str, limit: int) -> list[Photo]:
    """The first photos of each class that have part masks; one line says how many have none."""
    photos = source.photos(split)
    masked = [photo for photo in photos if source.has_parts(photo)]
    if len(masked) < len(photos):
        without = next(photo.path for photo in photos if not source.has_parts(photo))
        log.warning(
            "%d of %d photos of %s have no part masks (%s is one): what concepts show is judged without them.",
            len(photos) - len(masked), len(photos), split, without,
        )  # fmt: skip
    of_class: dict[int, int] = {}
    chosen = []
    for photo in masked:
        of_class[photo.label] = of_class.get(photo.label, 0) + 1
        if not limit or of_class[photo.label] <= limit:
            chosen.append(photo)
    return chosen
