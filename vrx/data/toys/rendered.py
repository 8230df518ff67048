"""Toys as a source of photos: rendered on first use, with part masks and poses as ground truth.

Light, colours, distance, place and background vary; everything comes from a seed. What the toys are, a subclass says:
:mod:`vrx.data.toys.vehicles`, :mod:`vrx.data.toys.arrangements`.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.random import SeedSequence, default_rng
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader
from tqdm import tqdm

from vrx.data.images import SPLITS, Photo, read_image
from vrx.data.toys.renderer import draw
from vrx.data.toys.scene import Edits
from vrx.data.toys.stage import (
    AZIMUTHS,
    Camera,
    Offset,
    PaintedPiece,
    Pose,
    Scene,
    Seeds,
    draw_pose,
    random_pose,
    staged,
)
from vrx.errors import VRXError
from vrx.storage import content_key, locked, write_atomically, write_text

RENDERED_BY = tuple(f"vrx.data.toys.{name}" for name in ("rendered", "renderer", "scene", "stage", "shapes", "models"))
MANY = 64  # frames that are worth a process for each thread


@dataclass(frozen=True)
class Frame:
    """One photo to be: where it is kept and all that decides its pixels."""

    path: Path  # of the PNG
    class_name: str  # what it shows
    seed: tuple[int, ...]  # of everything drawn at random
    pose: Pose  # of the camera
    removed: Sequence[str]  # parts that are not there


class RenderedToys(ABC):
    """Renders what is missing when photos are first asked for; what is there is kept.

    Args:
        root: the frames go to ``root/<hash of what decides the pixels>/<split>/<class>/<number>.png``; part masks
            and poses lie beside them in ``truth/``.
        size: side of the square frames, pixels.
        discovery, train, val, test: frames per class.
        classes: some of :attr:`every_class`; None: all.
        poses: split -> class -> the azimuth indices (0 to 7, 45 degrees apart, 0 faces the camera) that may occur;
            what is not named has all. Makes biased training sets.
        removal: share of the training frames in which up to half of the parts, drawn at random, are left out, so that a
            classifier learns what a toy without a part is (FunnyBirds, Hesse et al. 2023); in [0, 1].
        seed: of everything.
    """

    kind: ClassVar[str]  # name of the data set
    noun: ClassVar[str]  # what a class is called in messages
    made_by: ClassVar[tuple[str, ...]] = RENDERED_BY  # modules that decide the pixels
    every_class: ClassVar[tuple[str, ...]]
    part_names: ClassVar[tuple[str, ...]]  # of all classes; label i + 1 of a mask is name i, 0 the background
    elevations: ClassVar[tuple[float, ...]]  # cameras on the arc, degrees above the ground

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
        self._classes = tuple(self.every_class if classes is None else classes)
        self._counts = dict(zip(SPLITS, (discovery, train, val, test), strict=True))
        self._poses = {s: {c: [int(a) for a in v] for c, v in by.items()} for s, by in (poses or {}).items()}
        self._size, self._seed, self._removal = size, seed, removal
        self._check()
        decisive = {"size": size, "seed": seed, "poses": self._poses, "removal": removal}
        self._key = content_key((*self.made_by, type(self).__module__), decisive)
        self.root = Path(root) / self._key[:12]

    def _check(self) -> None:
        for name in self._classes:
            if name not in self.every_class:
                near = get_close_matches(name, self.every_class, 3, 0) or list(self.every_class)
                raise VRXError(f"data.classes names {name!r}, which is no {self.noun}: did you mean {', '.join(near)}?")
        if len(set(self._classes)) != len(self._classes) or len(self._classes) < 2:
            raise VRXError(f"data.classes={list(self._classes)} must be at least two different classes.")
        for split, count in self._counts.items():
            if count < 1:
                raise VRXError(f"data.{split}={count}: at least one frame a class is needed.")
        if self._size < 16:
            raise VRXError(f"data.size={self._size} is too small to show a {self.noun}: use 64 or more.")
        if not 0 <= self._removal <= 1:
            raise VRXError(f"data.removal={self._removal}: use a share of the training frames, in [0, 1].")
        if self._seed < 0:
            raise VRXError(f"data.seed={self._seed}: use a number that is not negative.")
        for split, by_class in self._poses.items():
            self._check_poses(split, by_class)

    def _check_poses(self, split: str, by_class: Mapping[str, Sequence[int]]) -> None:
        if split not in SPLITS or not set(by_class) <= set(self._classes):
            raise VRXError(
                f"data.poses names {split!r}: {sorted(by_class)}; splits are {', '.join(SPLITS)}, "
                f"classes {', '.join(self._classes)}."
            )
        for name, azimuths in by_class.items():
            if not azimuths or not set(azimuths) <= set(range(AZIMUTHS)):
                raise VRXError(f"data.poses.{split}.{name}={azimuths}: give azimuths from 0 to {AZIMUTHS - 1}.")

    def compose(
        self, class_name: str, seed: Sequence[int], pose: Pose | None = None, edits: Edits | None = None
    ) -> Scene:
        """The scene of a frame: independent streams of chance, so that fixing or editing one thing leaves the others.

        ``seed``: of everything that is drawn at random, non-negative integers; the pose too, where it is None.

        Raises:
            VRXError: an unknown class or part.
        """
        place, paint, lamp, ground, camera, shape = SeedSequence(list(seed)).spawn(6)
        pose = random_pose(camera, self.elevations) if pose is None else pose
        pieces, camera_at = self._pieces(class_name, pose, edits or Edits(), (place, paint, shape))
        return staged(pieces, pose, camera_at, lamp, ground)

    @abstractmethod
    def _pieces(self, class_name: str, pose: Pose, edits: Edits, seeds: Seeds) -> tuple[list[PaintedPiece], Camera]:
        """What stands in a frame, and the camera; arguments as of :meth:`compose`."""

    @abstractmethod
    def parts_of(self, class_name: str) -> Sequence[str]:
        """The parts of a class, shown or not."""

    @property
    @abstractmethod
    def alike(self) -> list[str]:
        """The parts that have the same colours in all classes that have them."""

    @property
    def class_names(self) -> list[str]:
        """The classes of interest, in the order of the labels."""
        return list(self._classes)

    def classes_with(self, part: str) -> list[str]:
        """All classes that have a part of this name, shown or not."""
        return [name for name in self.every_class if part in self.parts_of(name)]

    def settings(self) -> dict[str, Any]:
        return {"kind": self.kind, "pixels": self._key, "classes": list(self._classes), "counts": self._counts}

    def _azimuths(self, split: str, class_name: str) -> Sequence[int]:
        """The rotations, 0 to 7, from which a class may be seen."""
        return self._poses.get(split, {}).get(class_name, range(AZIMUTHS))

    def unseen_azimuths(self, label: int) -> list[int]:
        """Rotations (0 to 7) in which no training photo shows a class."""
        seen = self._azimuths("train", self._classes[label])
        return [a for a in range(AZIMUTHS) if a not in seen]

    def _frame(self, split: str, class_name: str, index: int) -> Frame:
        azimuths = self._azimuths(split, class_name)
        turns, azimuth = divmod(index, len(azimuths))
        seed = (self._seed, SPLITS.index(split), self.every_class.index(class_name), index)
        elevation = self.elevations[turns % len(self.elevations)]
        return Frame(
            self.root / split / class_name.replace(" ", "_") / f"{index:05d}.png",
            class_name,
            seed,
            draw_pose(default_rng([*seed, 1]), azimuths[azimuth], elevation),
            self._removed(class_name, seed) if split == "train" else (),
        )

    def _removable(self, class_name: str) -> Sequence[str]:
        """The parts that training frames of a class may lack."""
        return self.parts_of(class_name)

    def _removed(self, class_name: str, seed: Sequence[int]) -> list[str]:
        """Parts of a training frame that are left out, up to half of all."""
        rng = default_rng([*seed, 2])
        if rng.random() >= self._removal:
            return []
        parts = self._removable(class_name)
        most = min(len(parts), len(self.parts_of(class_name)) // 2)
        return sorted(rng.choice(parts, rng.integers(1, most + 1), replace=False).tolist())

    def photos(self, split: str) -> list[Photo]:
        """The photos of ``discovery``, ``train``, ``val`` or ``test``, rendered if they are not there yet."""
        if split not in SPLITS:
            raise VRXError(f"There is no split {split!r}: use {', '.join(SPLITS)}.")
        frames = [self._frame(split, name, i) for name in self._classes for i in range(self._counts[split])]
        if any(not frame.path.exists() for frame in frames):
            with locked(self.root / split):
                self._render_missing([frame for frame in frames if not frame.path.exists()], split)
        return [Photo(str(frame.path), self._classes.index(frame.class_name), split) for frame in frames]

    def _render_missing(self, frames: Sequence[Frame], split: str) -> None:
        if not frames:  # another process was faster
            return
        threads = torch.get_num_threads()
        workers = threads if threads > 1 and len(frames) >= MANY else 0
        how: dict[str, Any] = {"batch_size": None, "collate_fn": self._write}  # of each frame, in whatever process
        made: DataLoader[None] = DataLoader(frames, num_workers=workers, **how)  # type: ignore[arg-type]  # a list
        for _ in tqdm(made, desc=f"rendering {split}", unit="image"):
            pass

    def _write(self, frame: Frame) -> None:
        """Render a frame and store it."""
        scene = self.compose(frame.class_name, frame.seed, frame.pose, Edits(omit=frame.removed))
        image, labels = draw(scene, self._size)
        write_frame(frame, image, labels, self.masks(labels))

    def masks(self, labels: NDArray[np.uint8]) -> dict[str, NDArray[np.bool_]]:
        """Part labels ``[H, W]`` -> a mask for each part that is seen."""
        return {self.part_names[label - 1]: labels == label for label in np.unique(labels).tolist() if label}

    def read(self, photo: Photo) -> Image.Image:
        return read_image(photo.path)

    def truth(self, photo: Photo) -> dict[str, Any]:
        """What was rendered: ``class``, ``seed``, ``azimuth``, ``elevation``, ``parts`` (label -> name),
        ``removed`` (parts that were left out).
        """
        return json.loads(truth_path(Path(photo.path), "json").read_text())

    def has_parts(self, photo: Photo) -> bool:
        """Always: they are rendered with the photo."""
        return True

    def parts(self, photo: Photo) -> dict[str, NDArray[np.bool_]]:
        """Which pixels show which part, bool ``[size, size]`` a part; hidden parts are left out."""
        with Image.open(truth_path(Path(photo.path), "png")) as file:
            return self.masks(np.asarray(file))

    def pose(self, photo: Photo) -> Pose:
        """Azimuth and elevation of the camera, degrees."""
        truth = self.truth(photo)
        return Pose(truth["azimuth"], truth["elevation"])

    def pose_name(self, photo: Photo) -> str:
        """Rotation of the turntable, "0" to "7", in steps of 45 degrees."""
        return str(round(self.pose(photo).azimuth / 45) % AZIMUTHS)

    def render_again(self, photo: Photo, **edits: Any) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.bool_]]]:
        """A photo once more with some parts edited (arguments of :meth:`render`): the frame and its part masks."""
        truth = self.truth(photo)
        edits["omit_parts"] = [*truth["removed"], *edits.get("omit_parts", ())]
        frame, labels = self.render(self.class_names[photo.label], self.pose(photo), truth["seed"], **edits)
        return frame, self.masks(labels)

    def render(
        self,
        class_name: str,
        pose: tuple[float, float] | None = None,
        seed: int | Sequence[int] = 0,
        omit_parts: Sequence[str] = (),
        move_part: Mapping[str, Offset] | None = None,
        replace_part: Mapping[str, tuple[str, str]] | None = None,
        add_parts: Sequence[tuple[str, str, Offset]] = (),
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Render one frame, edited or not; what is not edited keeps its pixels.

        Args:
            pose: azimuth and elevation in degrees; None: drawn from the seed.
            seed: a number; or ``truth(photo)["seed"]``, which with ``pose(photo)`` gives that photo again.
            move_part: part -> (dx, dy, dz), forward, left, up, of a toy that faces the camera at azimuth 0.
            replace_part: part -> (class, part) put in its place.
            add_parts: (class, part, (dx, dy, dz)), moved from where it sits on its own class.

        Returns:
            The frame, uint8 ``[size, size, 3]``, and part labels, uint8 ``[size, size]``: 0 is background,
            i + 1 is ``part_names[i]``.

        Raises:
            VRXError: an unknown class or part.
        """
        entropy = (seed,) if isinstance(seed, int) else tuple(seed)
        edits = Edits(omit_parts, move_part, replace_part, add_parts)
        scene = self.compose(class_name, entropy, None if pose is None else Pose(*pose), edits)
        return draw(scene, self._size)


def truth_path(image: Path, suffix: str) -> Path:
    """Where the ground truth of a frame lies."""
    return image.parent / "truth" / f"{image.stem}.{suffix}"


def write_frame(
    frame: Frame, image: NDArray[np.uint8], labels: NDArray[np.uint8], masks: Mapping[str, NDArray[np.bool_]]
) -> None:
    """Store a frame and its truth; the image comes last, so a frame that is there is whole."""
    parts = {str(labels[mask][0]): name for name, mask in masks.items()}
    truth = {"class": frame.class_name, "seed": frame.seed, **frame.pose._asdict(), "parts": parts}

    def png(pixels: NDArray[np.uint8]) -> Any:
        return lambda path: Image.fromarray(pixels).save(path, format="PNG", compress_level=3)

    write_atomically(truth_path(frame.path, "png"), png(labels))
    write_text(truth_path(frame.path, "json"), json.dumps({**truth, "removed": list(frame.removed)}))
    write_atomically(frame.path, png(image))
