"""Toy vehicles as a source of photos: rendered on first use, with part masks and poses as ground truth.

Six classes of 3-D toys built of named parts (:mod:`vrx.data.toys.models`), photographed on a turntable from cameras on
an arc, as iLab-20M was; light, colours, distance, place and background vary. Everything comes from a seed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import default_rng
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from vrx.data.images import SPLITS, Photo, read_image
from vrx.data.toys.models import BUILDERS, model, part_names, parts_alike
from vrx.data.toys.renderer import draw
from vrx.data.toys.scene import AZIMUTHS, ELEVATIONS, Background, Edits, Offset, Pose, compose, draw_pose
from vrx.errors import VRXError
from vrx.storage import content_key, locked, write_atomically, write_text


@dataclass(frozen=True)
class _Frame:
    """One photo to be: where it is kept and all that decides its pixels."""

    path: Path
    class_name: str
    seed: tuple[int, ...]
    azimuth: int
    elevation: int

    removal: float = 0.0

    @property
    def pose(self) -> Pose:
        return draw_pose(default_rng([*self.seed, 1]), self.azimuth, self.elevation)

    @property
    def removed(self) -> list[str]:
        """The parts that are left out, up to half of them; none in most splits."""
        rng = default_rng([*self.seed, 2])
        if rng.random() >= self.removal:
            return []
        parts = list(model(self.class_name))
        return sorted(rng.choice(parts, rng.integers(1, len(parts) // 2 + 1), replace=False).tolist())


class ToyVehicles:
    """Renders what is missing when photos are first asked for; what is there is kept.

    Args:
        root: the frames go to ``root/<hash of what decides the pixels>/<split>/<class>/<number>.png``; part masks
            and poses lie beside them in ``truth/``.
        size: side of the square frames, pixels.
        discovery: frames per class for concept discovery.
        train: frames per class.
        val: frames per class.
        test: frames per class.
        classes: some of :data:`~vrx.data.toys.models.BUILDERS`; None: all six.
        poses: split -> class -> the azimuth indices (0 to 7, 45 degrees apart, 0 faces the camera) that may occur;
            what is not named has all. Makes biased training sets.
        removal: share of the training frames in which up to half of the parts, drawn at random, are left out, so that a
            classifier learns what a vehicle without a part is (FunnyBirds, Hesse et al. 2023); in [0, 1].
        seed: of everything.
    """

    class_indices: list[int] | None = None

    def __init__(
        self,
        root: str | Path,
        size: int = 128,
        discovery: int = 40,
        train: int = 130,
        val: int = 30,
        test: int = 50,
        classes: Sequence[str] | None = None,
        poses: Mapping[str, Mapping[str, Sequence[int]]] | None = None,
        removal: float = 0.0,
        seed: int = 0,
    ) -> None:
        self._classes = tuple(BUILDERS if classes is None else classes)
        self._counts = dict(zip(SPLITS, (discovery, train, val, test), strict=True))
        self._poses = {s: {c: [int(a) for a in v] for c, v in by.items()} for s, by in (poses or {}).items()}
        self._size, self._seed, self._removal = size, seed, removal
        self._check()
        decisive = {"size": size, "seed": seed, "poses": self._poses, "removal": removal}
        self._key = content_key(("vrx.data.toys",), decisive)
        self.root = Path(root) / self._key[:12]

    def _check(self) -> None:
        for name in self._classes:
            if name not in BUILDERS:
                near = get_close_matches(name, BUILDERS, 3, 0) or list(BUILDERS)
                raise VRXError(f"data.classes names {name!r}, which is no toy vehicle: did you mean {', '.join(near)}?")
        if len(set(self._classes)) != len(self._classes) or len(self._classes) < 2:
            raise VRXError(f"data.classes={list(self._classes)} must be at least two different vehicles.")
        for split, count in self._counts.items():
            if count < 1:
                raise VRXError(f"data.{split}={count}: at least one frame a class is needed.")
        if self._size < 16:
            raise VRXError(f"data.size={self._size} is too small to show a vehicle: use 64 or more.")
        if not 0 <= self._removal <= 1:
            raise VRXError(f"data.removal={self._removal}: use a share of the training frames, in [0, 1].")
        if self._seed < 0:
            raise VRXError(f"data.seed={self._seed}: use a number that is not negative.")
        for split, by_class in self._poses.items():
            if split not in SPLITS or not set(by_class) <= set(self._classes):
                raise VRXError(
                    f"data.poses names {split!r}: {sorted(by_class)}; splits are {', '.join(SPLITS)}, "
                    f"classes {', '.join(self._classes)}."
                )
            for name, azimuths in by_class.items():
                if not azimuths or not set(azimuths) <= set(range(AZIMUTHS)):
                    raise VRXError(f"data.poses.{split}.{name}={azimuths}: give azimuths from 0 to {AZIMUTHS - 1}.")

    @property
    def class_names(self) -> list[str]:
        """The classes of interest, in the order of the labels."""
        return list(self._classes)

    def settings(self) -> dict[str, Any]:
        """All that determines the photos, for cache keys."""
        return {
            "kind": "toy_vehicles",
            "pixels": self._key,
            "classes": list(self._classes),
            "counts": self._counts,
        }

    def _frame(self, split: str, class_name: str, index: int) -> _Frame:
        azimuths = self._poses.get(split, {}).get(class_name, range(AZIMUTHS))
        turns, azimuth = divmod(index, len(azimuths))
        return _Frame(
            self.root / split / class_name.replace(" ", "_") / f"{index:05d}.png",
            class_name,
            (self._seed, SPLITS.index(split), list(BUILDERS).index(class_name), index),
            azimuths[azimuth],
            turns % len(ELEVATIONS),
            self._removal if split == "train" else 0.0,
        )

    def photos(self, split: str) -> list[Photo]:
        """The photos of ``discovery``, ``train``, ``val`` or ``test``, rendered if they are not there yet."""
        if split not in SPLITS:
            raise VRXError(f"There is no split {split!r}: use {', '.join(SPLITS)}.")
        frames = [self._frame(split, name, i) for name in self._classes for i in range(self._counts[split])]
        if any(not frame.path.exists() for frame in frames):
            with locked(self.root / split):
                self._render_missing([frame for frame in frames if not frame.path.exists()], split)
        return [Photo(str(frame.path), self._classes.index(frame.class_name), split) for frame in frames]

    def _render_missing(self, frames: Sequence[_Frame], split: str) -> None:
        if not frames:  # another process was faster
            return
        for frame in tqdm(frames, desc=f"rendering {split}", unit="image"):
            edits = Edits(omit=frame.removed)
            _write(frame, *draw(compose(frame.class_name, frame.seed, frame.pose, edits), self._size))

    def read(self, photo: Photo) -> Image.Image:
        """The pixels of a photo, RGB."""
        return read_image(photo.path)

    def truth(self, photo: Photo) -> dict[str, Any]:
        """What was rendered: ``class``, ``seed``, ``azimuth``, ``elevation``, ``parts`` (label -> name),
        ``removed`` (parts that were left out).
        """
        return json.loads(_truth(Path(photo.path), "json").read_text())

    @property
    def alike(self) -> list[str]:
        """The parts that have the same colours in all classes that have them."""
        return parts_alike(self._classes)

    def has_parts(self, photo: Photo) -> bool:
        """Always: they are rendered with the photo."""
        return True

    def parts(self, photo: Photo) -> dict[str, NDArray[np.bool_]]:
        """Which pixels show which part, bool ``[size, size]`` a part; hidden parts are left out."""
        with Image.open(_truth(Path(photo.path), "png")) as file:
            labels = np.asarray(file)
        return part_masks(labels)

    def render_again(self, photo: Photo, **edits: Any) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.bool_]]]:
        """A photo once more with some parts edited (arguments of :meth:`render`): the frame and its part masks."""
        truth = self.truth(photo)
        edits["omit_parts"] = [*truth["removed"], *edits.get("omit_parts", ())]
        frame, labels = self.render(self.class_names[photo.label], self.pose(photo), truth["seed"], **edits)
        return frame, part_masks(labels)

    def classes_with(self, part: str) -> list[str]:
        """All classes that have a part of this name, shown or not."""
        return [name for name in BUILDERS if part in model(name)]

    def pose(self, photo: Photo) -> Pose:
        """Azimuth and elevation of the camera, degrees."""
        truth = self.truth(photo)
        return Pose(truth["azimuth"], truth["elevation"])

    def pose_name(self, photo: Photo) -> str:
        """Rotation of the turntable, "0" to "7", in steps of 45 degrees."""
        return str(round(self.pose(photo).azimuth / 45) % AZIMUTHS)

    def unseen_azimuths(self, label: int) -> list[int]:
        """Rotations (0 to 7) in which no training photo shows a class."""
        poses = self._poses.get("train", {}).get(self._classes[label], range(AZIMUTHS))
        return [a for a in range(AZIMUTHS) if a not in poses]

    def render(
        self,
        class_name: str,
        pose: tuple[float, float] | None = None,
        seed: int | Sequence[int] = 0,
        omit_parts: Sequence[str] = (),
        move_part: Mapping[str, Offset] | None = None,
        replace_part: Mapping[str, tuple[str, str]] | None = None,
        add_parts: Sequence[tuple[str, str, Offset]] = (),
        background: Background | None = None,
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Render one frame, edited or not; what is not edited keeps its pixels.

        Args:
            class_name: one of :data:`~vrx.data.toys.models.BUILDERS`.
            pose: azimuth and elevation in degrees; None: drawn from the seed.
            seed: a number; or ``truth(photo)["seed"]``, which with ``pose(photo)`` gives that photo again.
            omit_parts: parts left out.
            move_part: part -> (dx, dy, dz), forward, left, up; a vehicle is about 4.5 long.
            replace_part: part -> (class, part) put in its place.
            add_parts: (class, part, (dx, dy, dz)), moved from where it sits on its own class.
            background: None: drawn from ``seed``; an int: drawn from that; (r, g, b) from 0 to 255: plain.

        Returns:
            The frame, uint8 ``[size, size, 3]``, and part labels, uint8 ``[size, size]``: 0 is background,
            i + 1 is ``part_names()[i]``.

        Raises:
            VRXError: an unknown class or part.
        """
        entropy = (seed,) if isinstance(seed, int) else tuple(seed)
        edits = Edits(omit_parts, move_part, replace_part, add_parts)
        scene = compose(class_name, entropy, None if pose is None else Pose(*pose), edits, background)
        return draw(scene, self._size)


def part_masks(labels: NDArray[np.uint8]) -> dict[str, NDArray[np.bool_]]:
    """Part labels ``[H, W]`` -> a mask for each part that is seen."""
    names = part_names()
    return {names[label - 1]: labels == label for label in np.unique(labels).tolist() if label}


def _truth(image: Path, suffix: str) -> Path:
    return image.parent / "truth" / f"{image.stem}.{suffix}"


def _write(frame: _Frame, image: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
    """Store a frame; the image comes last, so a frame that is there is whole."""
    names = {str(label): part_names()[label - 1] for label in np.unique(labels).tolist() if label}
    text = json.dumps(
        {
            "class": frame.class_name,
            "seed": frame.seed,
            **frame.pose._asdict(),
            "parts": names,
            "removed": frame.removed,
        }
    )

    def png(pixels: NDArray[np.uint8]) -> Any:
        return lambda path: Image.fromarray(pixels).save(path, format="PNG", compress_level=3)

    write_atomically(_truth(frame.path, "png"), png(labels))
    write_text(_truth(frame.path, "json"), text)
    write_atomically(frame.path, png(image))
