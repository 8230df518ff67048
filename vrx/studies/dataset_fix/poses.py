"""Pools to draw photos by class and pose from."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from vrx.data.images import Photo
from vrx.data.sources import CanRender, HasPoses, PhotoSource
from vrx.data.toys.vehicles import ToyVehicles
from vrx.errors import VRXError

TOY_POSES = {"city bus": "0", "military truck": "1", "tank": "2"}  # rotations, 45 degrees apart
RESERVE = 2  # toy frames to draw training photos from, in multiples of what one draw takes
ILAB_POSES = {"bus": "c03-r02", "military": "c05-r00", "tank": "c07-r05"}


class PosedSource(PhotoSource, HasPoses, Protocol):
    """Photos whose pose is known."""


@runtime_checkable
class HasMore(Protocol):
    """A source that may list fewer photos than there are."""

    def whole(self) -> PosedSource:
        """All of them."""
        ...


@dataclass(frozen=True)
class Sizes:
    """How many photos the study needs."""

    train: int  # of each class in its own pose
    added: int  # that may be added, of any class and pose
    probe: int  # of each class in each pose, to find errors on
    test: int  # of each class in each pose, to measure accuracy on
    side: int  # of the frames, where they are rendered, pixels


class PosePool:
    """Photos of three roles, by class and pose: ``train`` to add from, ``probe`` to find errors on, ``test``.

    Args:
        source: reads the photos and knows their poses; where it renders, the one biased in training.
        own: the one pose in which training shows each class, by label.
        photos: role -> photos, of the poses of ``own`` alone or of more: others are left out.
    """

    def __init__(self, source: PosedSource, own: Sequence[str], photos: Mapping[str, Sequence[Photo]]) -> None:
        self.source, self.class_names, self.own = source, tuple(source.class_names), tuple(own)
        self.poses = sorted(set(self.own))
        self._photos: dict[tuple[str, int, str], list[Photo]] = {}
        for role, listed in photos.items():
            for photo in listed:
                self._photos.setdefault((role, photo.label, source.pose_name(photo)), []).append(photo)

    def of(self, role: str, label: int, pose: str) -> Sequence[Photo]:
        """Photos of one class and pose."""
        return self._photos.get((role, label, pose), [])

    def draw(self, role: str, label: int, pose: str, count: int, rng: np.random.Generator) -> list[Photo]:
        """Photos of one class and pose, drawn without replacement."""
        known = self.of(role, label, pose)
        if len(known) < count:
            raise VRXError(
                f"{self.class_names[label]} in pose {pose}: {len(known)} {role} photos, {count} wanted. Lower "
                "study.train, study.added, study.probe or study.test, or choose other study.poses."
            )
        return [known[i] for i in rng.permutation(len(known))[:count]]

    def even(self, role: str, count: int, rng: np.random.Generator) -> list[Photo]:
        """``count`` photos of every class in every pose."""
        pairs = itertools.product(range(len(self.class_names)), self.poses)
        return [photo for label, pose in pairs for photo in self.draw(role, label, pose, count, rng)]


def pool_of(source: Any, sizes: Sizes, seed: int, poses: Mapping[str, Any] | None = None) -> PosePool:
    """Photos in the poses of the study: rendered where the source renders, else chosen among those that there are.

    ``poses``: class -> its one pose in training; None: ``TOY_POSES`` or ``ILAB_POSES``.
    """
    if type(source) is ToyVehicles:  # of other rendered worlds the study knows no poses
        return rendered_pool(source.root.parent, sizes, seed, poses)
    if isinstance(source, HasPoses) and not isinstance(source, CanRender):
        return listed_pool(source.whole() if isinstance(source, HasMore) else source, poses)  # type: ignore[arg-type]
    raise VRXError(
        "dataset_fix needs photos whose pose is known: give a run of toy_vehicles, or of ilab20m "
        "(python train.py experiment=resnet18_ilab20m data.root=<folder>)."
    )


def rendered_pool(root: Path, sizes: Sizes, seed: int, poses: Mapping[str, Any] | None = None) -> PosePool:
    """Toy vehicles in the poses of the study, rendered under ``root`` where they are not there yet."""
    own = {name: str(pose) for name, pose in (TOY_POSES if poses is None else poses).items()}
    if not all(pose.isdigit() for pose in own.values()):
        raise VRXError(f"study.poses={list(own.values())}: poses of toy vehicles are rotations from 0 to 7.")
    names, alone = list(own), {name: [int(pose)] for name, pose in own.items()}
    every = sorted({pose for (pose,) in alone.values()})
    others = {name: [pose for pose in every if pose not in alone[name]] or every for name in names}
    num, train = len(every), RESERVE * (sizes.train + sizes.added)
    biased = ToyVehicles(
        root, sizes.side, discovery=1, train=train, val=1, test=1, classes=names, poses={"train": alone}, seed=seed
    )
    full = ToyVehicles(
        root, sizes.side, discovery=1, train=max(1, num - 1) * sizes.added, val=num * sizes.probe,
        test=num * sizes.test, classes=names,
        poses={"train": others, **{split: dict.fromkeys(names, every) for split in ("val", "test")}}, seed=seed + 1,
    )  # fmt: skip
    photos = {"train": biased.photos("train") + full.photos("train"), "probe": full.photos("val")}
    return PosePool(biased, list(own.values()), {**photos, "test": full.photos("test")})


def listed_pool(source: PosedSource, poses: Mapping[str, Any] | None = None) -> PosePool:
    """The photos that a source lists; no object is in two roles where there are enough of them.

    The test photos are probe photos and test photos in turn: by object, or photo by photo where objects are few.
    """
    views = source.photos("test")
    toys = ["-".join(Path(p.path).name.split("-")[:2]) for p in views]  # in an iLab-20M name: <class>-<instance>
    objects = sorted(set(toys))
    by_object = set(objects[::2]) if len(objects) >= 2 * len(source.class_names) else None
    probe = [p for i, p in enumerate(views) if (i % 2 == 0 if by_object is None else toys[i] in by_object)]
    chosen = set(probe)
    roles = {"train": source.photos("train"), "probe": probe, "test": [p for p in views if p not in chosen]}
    poses, names = ILAB_POSES if poses is None else poses, source.class_names
    if set(poses) != set(names):
        raise VRXError(
            f"study.poses names {', '.join(poses) or 'nothing'}: give a pose for each of {', '.join(names)}."
        )
    return PosePool(source, [str(poses[name]) for name in names], roles)
