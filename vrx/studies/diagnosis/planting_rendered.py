"""Plants causes into toy vehicles by rendering the scene of a photo again: no paste, no seam."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_dilation, distance_transform_edt
from scipy.ndimage import label as label_pieces

from vrx.data.images import Photo
from vrx.data.sources import CanRender
from vrx.data.toys.models import BUILDERS, model
from vrx.data.toys.stage import ELEVATIONS, VIEW_ANGLE, Pose, axes_of
from vrx.studies.core.exemplars import Mask
from vrx.studies.diagnosis.causes import FALSE_ALARM, SHARED, UNSEEN
from vrx.studies.diagnosis.planting import CLEAR, Change, Planter

GAP = 0.03  # near: nearer than this, share of the frame's side
SEEN = 0.02  # at least this share of the frame must show a distractor
WHOLE = 0.98  # of a vehicle with new parts hangs together
DEPTHS = (5.0, 24.0)  # where a distractor may stand, along the line of sight; the vehicle is at about 12
STEEPEST = ELEVATIONS[-1] + 4 + 12  # degrees: a camera above this is well outside the training arc
Frame = NDArray[np.uint8]
Made = tuple[Frame, int | None]  # the changed frame, label of the class whose parts were used


def can_render(source: Any) -> bool:
    """Whether causes can be planted by rendering: the source renders, and its classes are toys with named parts."""
    return isinstance(source, CanRender) and set(source.class_names) <= set(BUILDERS)  # type: ignore[attr-defined]


class RenderedPlanter(Planter):
    """Plants causes by rendering; ``source``: one that :func:`can_render`."""

    kind = "rendered"
    method = (
        "Errors with a planted cause: the vehicle gets parts of another class, a distractor stands in the background, "
        "or the camera stands where no training photo was taken. The classifier was right before."
    )

    def plant(self, photo: Photo, cause: str, rng: Generator) -> Change | None:
        """A change of one cause."""
        made = {SHARED: self._shared, FALSE_ALARM: self._false_alarm, UNSEEN: self._unseen}[cause](photo, rng)
        return None if made is None else Change(self._explainer.read(Image.fromarray(made[0])), made[1])

    def _scene(self, photo: Photo) -> dict[str, Any]:
        """Arguments of :meth:`ToyVehicles.render` that give the photo again."""
        truth = self._source.truth(photo)
        seed, pose = [int(s) for s in truth["seed"]], (truth["azimuth"], truth["elevation"])
        return {"class_name": truth["class"], "seed": seed, "pose": pose}

    def _shared(self, photo: Photo, rng: Generator) -> Made | None:
        donor = self._source.class_names[label := self._other_class(photo, rng)]
        scene = self._scene(photo)
        own, theirs = list(model(scene["class_name"])), list(model(donor))
        count = int(rng.integers(1, 4))
        replaced: dict[str, tuple[str, str]] = {}
        added: list[tuple[str, str, tuple[float, float, float]]] = []
        for part in rng.choice(theirs, size=min(count, len(theirs)), replace=False).tolist():
            if part in own and rng.random() < 0.8:
                replaced[part] = (donor, part)
            elif part not in own or rng.random() < 0.5:
                added.append((donor, part, (0.0, 0.0, 0.0)))
            else:
                replaced[str(rng.choice(own))] = (donor, part)
        frame, labels = self._source.render(**scene, replace_part=replaced, add_parts=added)
        return (frame, label) if in_one_piece(labels > 0) else None

    def _false_alarm(self, photo: Photo, rng: Generator) -> Made | None:
        donor = self._source.class_names[label := self._other_class(photo, rng)]
        scene = self._scene(photo)
        parts = list(model(donor))
        chosen = rng.choice(parts, size=int(rng.integers(len(parts) // 2, len(parts) + 1)), replace=False).tolist()
        clean = np.asarray(self._source.read(photo))
        vehicle = np.any([np.zeros(clean.shape[:2], bool), *self._source.parts(photo).values()], axis=0)
        camera = self._source.compose(scene["class_name"], scene["seed"], Pose(*scene["pose"])).camera
        corners = np.concatenate([p.triangles.reshape(-1, 3) for part in chosen for p in model(donor)[part]])
        low, high = corners.min(0), corners.max(0)
        place, room = roomiest(vehicle, rng)
        radius = float(np.linalg.norm(high - low)) / 2 * rng.uniform(0.6, 0.9)  # a part seldom fills its sphere
        depth = float(np.clip(radius / (room * np.tan(np.radians(VIEW_ANGLE / 2))), *DEPTHS))
        offset = tuple((point_at(camera, place, depth) - (low + high) / 2).tolist())
        frame, labels = self._source.render(**scene, add_parts=[(donor, part, offset) for part in chosen])
        clear = is_clear(clean, frame, vehicle, (labels > 0) & ~vehicle)
        return (frame, label) if clear else None

    def _unseen(self, photo: Photo, rng: Generator) -> Made | None:
        scene = self._scene(photo)
        azimuth, elevation = scene["pose"]
        unseen = self._source.unseen_azimuths(photo.label)
        if unseen and rng.random() < 0.8:
            azimuth = 45.0 * float(rng.choice(unseen)) + rng.uniform(-12, 12)
        else:
            elevation = rng.uniform(STEEPEST, 86)
        frame, _ = self._source.render(**{**scene, "pose": (azimuth, elevation)})
        return frame, None


def roomiest(vehicle: Mask, rng: Generator) -> tuple[tuple[float, float], float]:
    """A random place of those with about the most room around the vehicle ``[H, W]``.

    Returns:
        The place, right and up from the middle in halves of the frame, in [-1, 1]; and the distance from there to the
        vehicle, in halves of the frame.
    """
    side = vehicle.shape[0]
    room = np.zeros(vehicle.shape)
    if not vehicle.all():
        rim = side // 8  # a distractor's middle is inside the frame
        room[rim:-rim, rim:-rim] = distance_transform_edt(~vehicle)[rim:-rim, rim:-rim]
    places = np.argwhere(room >= 0.85 * room.max())
    row, column = places[int(rng.integers(len(places)))].tolist()
    return (2 * (column + 0.5) / side - 1, 1 - 2 * (row + 0.5) / side), 2 * max(float(room[row, column]), 1.0) / side


def point_at(camera: NDArray[np.float64], place: tuple[float, float], depth: float) -> NDArray[np.float64]:
    """The point ``[3]`` that a camera (position and target, ``[2, 3]``; z is up) sees at a place of the frame.

    The place is right and up from the middle, in halves of the frame; ``depth`` is along the line of sight.
    """
    half = np.tan(np.radians(VIEW_ANGLE / 2))
    ray = np.array([half * place[0], half * place[1], 1.0])  # right, up, ahead
    return np.asarray(camera[0] + depth * ray @ axes_of(camera))


def in_one_piece(vehicle: Mask) -> bool:
    """Whether all but specks of a vehicle hang together in the frame (gaps of a pixel or two are none)."""
    pieces, _ = label_pieces(binary_dilation(vehicle, np.ones((3, 3))), np.ones((3, 3)))
    sizes = np.bincount(pieces[vehicle])[1:]
    return bool(len(sizes) and sizes.max() >= WHOLE * sizes.sum())


def is_clear(clean: Frame, changed: Frame, vehicle: Mask, distractor: Mask) -> bool:
    """Whether a distractor can be seen, leaves the vehicle as it is, and stands clear of it.

    Frames ``[H, W, 3]`` without and with it; pixels ``[H, W]`` of the vehicle without it and of its own.
    """
    differs = np.abs(clean.astype(int) - changed.astype(int)).max(2) > 8
    near = binary_dilation(vehicle, iterations=max(1, round(GAP * len(vehicle))))
    return bool(
        (differs & distractor).mean() >= SEEN
        and (differs & vehicle).sum() <= CLEAR * vehicle.sum()
        and (distractor & near).sum() <= CLEAR * distractor.sum()
    )
