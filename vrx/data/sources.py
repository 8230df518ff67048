"""Where photos come from, and what a source may know of them beside the pixels.

A source needs no base class: it has these methods. Whoever needs more than photos asks for the ability by its protocol
(``isinstance(source, HasPoses)``), never for a class by name, so that any data set can have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from vrx.data.images import Photo
from vrx.storage import code_of


class PhotoSource(Protocol):
    """Photos by split: a folder tree, a renderer, photos in memory.

    ``class_names``: in the order of the labels. ``photos``: those of ``discovery``, ``train``, ``val`` or ``test``.
    ``read``: the pixels of a photo, RGB. ``settings``: all that determines the photos, for cache keys.
    """

    @property
    def class_names(self) -> Sequence[str]: ...
    def photos(self, split: str) -> list[Photo]: ...
    def read(self, photo: Photo) -> Image: ...
    def settings(self) -> dict[str, Any]: ...


@runtime_checkable
class HasPoses(Protocol):
    """A source that knows from where each photo was taken."""

    def pose_name(self, photo: Photo) -> str:
        """Short name of the pose, the same for all photos taken from there."""
        ...


@runtime_checkable
class HasPartMasks(Protocol):
    """A source that knows which pixels show which part of the object, in some of its photos at least."""

    @property
    def alike(self) -> Sequence[str] | None:
        """Parts that look alike in every class that has them, so that a concept of one is one of all; None: all."""
        ...

    def has_parts(self, photo: Photo) -> bool:
        """Whether the parts of this photo are known."""
        ...

    def parts(self, photo: Photo) -> dict[str, NDArray[np.bool_]]:
        """Part -> its pixels, bool ``[H, W]`` in the photo's size, no pixel twice; hidden parts are left out."""
        ...


class PhotosWithParts(PhotoSource, HasPartMasks, Protocol):
    """Photos of which some have part masks."""


@runtime_checkable
class CanRender(HasPartMasks, Protocol):
    """A source that can render its own photos again, edited."""

    def truth(self, photo: Photo) -> dict[str, Any]:
        """What was rendered: ``class``, ``seed``, ``azimuth``, ``elevation``, ``parts``, ``removed``."""
        ...

    def render(self, class_name: str, **scene: Any) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The frame, uint8 ``[H, W, 3]``, and its part labels, uint8 ``[H, W]``; 0 is background."""
        ...

    def render_again(self, photo: Photo, **edits: Any) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.bool_]]]:
        """A photo once more with some parts edited (arguments of ``render``): the frame and its part masks."""
        ...

    def classes_with(self, part: str) -> list[str]:
        """Classes that can lend a part of this name (``replace_part={part: (class, part)}``)."""
        ...


class DecidingRelation(NamedTuple):
    """What distinguishes a class: one part lies so to another one ("drum", "in front of", "crate")."""

    part: str
    kind: str
    other: str


@runtime_checkable
class HasDecidingRelations(HasPartMasks, Protocol):
    """A source whose classes are known to differ by how parts lie to each other, or known not to."""

    def deciding_relation(self, label: int) -> DecidingRelation | None:
        """The relation that decides a class; None: none does, the parts alone decide."""
        ...


def photos_key(source: PhotoSource, splits: Sequence[str]) -> dict[str, Any]:
    """All that decides what a source gives for some splits, its code too: for cache keys."""
    return {
        "code": code_of(type(source)),
        "data": source.settings(),
        "photos": [stamps(source.photos(split)) for split in splits],
    }


def stamps(photos: Sequence[Photo]) -> list[tuple[str, int, int, int]]:
    """Path, label, size and time of change of every photo: a file that changes misses the cache."""
    found = []
    for photo in photos:
        file = Path(photo.path.split("#")[0])
        stat = file.stat() if file.exists() else None
        found.append((photo.path, photo.label, stat.st_size if stat else 0, stat.st_mtime_ns if stat else 0))
    return found
