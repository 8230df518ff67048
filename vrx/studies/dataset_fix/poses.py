"""Poses of photos, where the data know them, as short names, and pools to draw photos by pose from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vrx.data.ilab20m import ILab20M
from vrx.data.images import Photo
from vrx.data.toys.vehicles import ToyVehicles
from vrx.errors import VRXError

TOY_POSES = {"city bus": "0", "military truck": "1", "tank": "2"}  # rotations, 45 degrees apart
RESERVE = 2  # toy frames to draw training photos from, in multiples of what one draw takes
ILAB_POSES = {"bus": "c03-r02", "military": "c05-r00", "tank": "c07-r05"}


def pose_name(source: Any, photo: Photo) -> str | None:
    """The pose of a photo; None where the data do not know it.

    toy_vehicles: the rotation of the turntable, 0 to 7, in steps of 45 degrees. iLab-20M: camera and rotation,
    ``c03-r02``.
    """
    if isinstance(source, ToyVehicles):
        return f"{round(source.pose(photo).azimuth / 45) % 8}"
    if isinstance(source, ILab20M):
        camera, rotation = source.pose(photo)
        return f"c{camera:02d}-r{rotation:02d}"
    return None


class PosePool:
    """Photos of three roles, by class and pose: ``train`` to add from, ``probe`` to find errors on, ``test``.

    Args:
        source: reads the photos and knows their poses; for toy vehicles, the one biased in training.
        class_names: of the labels.
        own: the one pose in which training shows each class, by label.
        photos: role -> photos, of the poses of ``own`` alone or of more: others are left out.
    """

    def __init__(
        self, source: Any, class_names: Sequence[str], own: Sequence[str], photos: Mapping[str, Sequence[Photo]]
    ) -> None:
        self.source, self.class_names, self.own = source, tuple(class_names), tuple(own)
        self._photos: dict[tuple[str, int, str], list[Photo]] = {}
        for role, listed in photos.items():
            for photo in listed:
                pose = pose_name(source, photo)
                if pose in self.own:
                    self._photos.setdefault((role, photo.label, str(pose)), []).append(photo)

    @property
    def poses(self) -> list[str]:
        """All poses, each once."""
        return sorted(set(self.own))

    def draw(self, role: str, label: int, pose: str, count: int, rng: np.random.Generator) -> list[Photo]:
        """Photos of one class and pose, drawn without replacement.

        Raises:
            VRXError: fewer than wanted.
        """
        known = self._photos.get((role, label, pose), [])
        if len(known) < count:
            raise VRXError(
                f"{self.class_names[label]} in pose {pose}: {len(known)} {role} photos, {count} wanted. Lower "
                "study.train, study.added, study.probe or study.test, or choose other study.poses."
            )
        return [known[i] for i in rng.permutation(len(known))[:count]]

    def even(self, role: str, count: int, rng: np.random.Generator) -> list[Photo]:
        """``count`` photos of every class in every pose."""
        return [
            photo
            for label in range(len(self.class_names))
            for pose in self.poses
            for photo in self.draw(role, label, pose, count, rng)
        ]


def _own(poses: Mapping[str, Any] | None, default: Mapping[str, str], names: Sequence[str]) -> list[str]:
    chosen = dict(default if poses is None else poses)
    if set(chosen) != set(names):
        raise VRXError(
            f"study.poses names {', '.join(chosen) or 'nothing'}: give one pose for each of {', '.join(names)}."
        )
    return [str(chosen[name]) for name in names]


def toy_pool(
    root: Path,
    size: int,
    seed: int,
    train: int,
    added: int,
    probe: int,
    test: int,
    poses: Mapping[str, Any] | None = None,
) -> PosePool:
    """Toy vehicles in the poses of the study, rendered where they are not there yet.

    Args:
        root: of the frames.
        size: of the frames, pixels.
        seed: of the frames.
        train: photos a class that one draw needs in its own pose, beside ``added``; ``RESERVE`` times as many are made.
        added: photos that may be added, of any class and pose.
        probe: photos of each class in each pose.
        test: the same.
        poses: class -> rotation; None: ``TOY_POSES``.
    """
    names = list(TOY_POSES if poses is None else poses)
    own = _own(poses, TOY_POSES, names)
    if not all(pose.isdigit() for pose in own):
        raise VRXError(f"study.poses={own}: poses of toy vehicles are rotations from 0 to 7.")
    every = sorted({int(p) for p in own})
    alone = {name: [int(pose)] for name, pose in zip(names, own, strict=True)}
    others = {name: [p for p in every if p != alone[name][0]] or every for name in names}
    biased = ToyVehicles(
        root, size, discovery=1, train=RESERVE * (train + added), val=1, test=1, classes=names,
        poses={"train": alone}, seed=seed,
    )  # fmt: skip
    num = len(every)
    full = ToyVehicles(
        root, size, discovery=1, train=max(1, num - 1) * added, val=num * probe, test=num * test, classes=names,
        poses={"train": others, **{split: dict.fromkeys(names, every) for split in ("val", "test")}}, seed=seed + 1,
    )  # fmt: skip
    train_photos = biased.photos("train") + full.photos("train")
    return PosePool(
        biased, names, own, {"train": train_photos, "probe": full.photos("val"), "test": full.photos("test")}
    )


def ilab_pool(source: ILab20M, poses: Mapping[str, Any] | None = None) -> PosePool:
    """All views of iLab-20M in the poses of the study; no toy is in two roles where there are enough of them.

    Args:
        source: of a run.
        poses: class -> ``c<camera>-r<rotation>``; None: ``ILAB_POSES``.
    """
    settings = source.settings()
    every = ILab20M(settings["root"], settings["classes"], 1, None, 1, None, settings["seed"])
    views = every.photos("test")
    toys = sorted({_toy(p) for p in views})
    probing = set(toys[::2]) if len(toys) >= 2 * len(every.class_names) else None
    probe = [p for i, p in enumerate(views) if (_toy(p) in probing if probing is not None else i % 2 == 0)]
    chosen = set(probe)
    roles = {"train": every.photos("train"), "probe": probe, "test": [p for p in views if p not in chosen]}
    return PosePool(every, every.class_names, _own(poses, ILAB_POSES, every.class_names), roles)


def _toy(photo: Photo) -> str:
    return "-".join(Path(photo.path).name.split("-")[:2])
