"""Plants causes into toy vehicles by rendering the scene of a photo again: no paste, no seam."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, distance_transform_edt
from scipy.ndimage import label as label_pieces

from vrx.data.images import Photo
from vrx.data.sources import CanRender
from vrx.data.toys.models import BUILDERS, model
from vrx.data.toys.scene import ELEVATIONS, VIEW_ANGLE, Pose, compose
from vrx.errors import VRXError
from vrx.studies.diagnosis.causes import ERROR_CAUSES, FALSE_ALARM, SHARED, UNSEEN
from vrx.studies.diagnosis.planting import CLEAR, Attempt, Skip

GAP = 0.03  # near: nearer than this, share of the frame's side
SEEN = 0.02  # at least this share of the frame must show a distractor
WHOLE = 0.98  # of a vehicle with new parts hangs together
DEPTHS = (5.0, 24.0)  # where a distractor may stand, along the line of sight; the vehicle is at about 12
STEEPEST = ELEVATIONS[-1] + 4 + 12  # degrees: a camera above this is well outside the training arc
Frame = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def can_render(source: Any) -> bool:
    """Whether causes can be planted by rendering: the source renders, and its classes are toys with named parts."""
    return isinstance(source, CanRender) and set(source.class_names) <= set(BUILDERS)  # type: ignore[attr-defined]


class RenderedPlanter:
    """Plants causes by rendering.

    Args:
        source: of toy photos.
        seed: of every choice.

    Raises:
        VRXError: a source that cannot render its photos again.
    """

    method = (
        "Errors with a planted cause: the vehicle gets parts of another class, a distractor stands in the background, "
        "or the camera stands where no training photo was taken. F was right before."
    )

    def __init__(self, source: Any, seed: int = 0) -> None:
        if not can_render(source):
            raise VRXError(
                "Only toy vehicles can be rendered again with a part more, a distractor, another camera: "
                "use PastedPlanter for other photos."
            )
        self._source, self._seed = source, seed

    def attempts(
        self, photos: Sequence[Photo], cause: str, trials: int, skip: Skip = lambda name: False
    ) -> Iterator[Attempt]:
        """See :meth:`vrx.studies.diagnosis.planting.Planter.attempts`."""
        plant = {SHARED: self._shared, FALSE_ALARM: self._false_alarm, UNSEEN: self._unseen}[cause]
        for trial in range(trials):
            for number, photo in enumerate(photos):
                name = f"{photo.split} {photo.label} {photo.path.rsplit('/', 1)[-1]} {cause} {trial}"
                rng = np.random.default_rng([self._seed, ERROR_CAUSES.index(cause), trial, number])
                made = None if skip(name) else plant(photo, rng)
                if made is not None:
                    pixels, donor, detail = made
                    yield Attempt(name, photo, donor, pixels, detail)

    def _scene(self, photo: Photo) -> dict[str, Any]:
        """Arguments of :meth:`ToyVehicles.render` that give the photo again."""
        truth = self._source.truth(photo)
        return {
            "class_name": truth["class"],
            "seed": [int(s) for s in truth["seed"]],
            "pose": (truth["azimuth"], truth["elevation"]),
        }

    def _donor(self, photo: Photo, rng: Generator) -> tuple[int, str]:
        others = [i for i in range(len(self._source.class_names)) if i != photo.label]
        chosen = int(rng.choice(others))
        return chosen, self._source.class_names[chosen]

    def _shared(self, photo: Photo, rng: Generator) -> tuple[Frame, int | None, str] | None:
        label, donor = self._donor(photo, rng)
        scene = self._scene(photo)
        own, theirs = list(model(scene["class_name"])), list(model(donor))
        count = int(rng.integers(1, 4))
        replaced: dict[str, tuple[str, str]] = {}
        added: list[str] = []
        for part in rng.choice(theirs, size=min(count, len(theirs)), replace=False).tolist():
            if part in own and rng.random() < 0.8:
                replaced[part] = (donor, part)
            elif part not in own or rng.random() < 0.5:
                added.append(part)
            else:
                replaced[str(rng.choice(own))] = (donor, part)
        pixels, labels = self._source.render(
            **scene, replace_part=replaced, add_parts=[(donor, part, (0.0, 0.0, 0.0)) for part in added]
        )
        if not in_one_piece(labels > 0):
            return None
        done = [f"{old} -> {part}" for old, (_, part) in replaced.items()] + [f"+ {part}" for part in added]
        return pixels, label, f"{donor}'s {', '.join(done)}"

    def _false_alarm(self, photo: Photo, rng: Generator) -> tuple[Frame, int | None, str] | None:
        label, donor = self._donor(photo, rng)
        scene = self._scene(photo)
        parts = list(model(donor))
        chosen = rng.choice(parts, size=int(rng.integers(len(parts) // 2, len(parts) + 1)), replace=False).tolist()
        clean = np.asarray(self._source.read(photo))
        vehicle = np.any([np.zeros(clean.shape[:2], bool), *self._source.parts(photo).values()], axis=0)
        camera = compose(scene["class_name"], scene["seed"], Pose(*scene["pose"])).camera
        corners = np.concatenate([p.triangles.reshape(-1, 3) for part in chosen for p in model(donor)[part]])
        low, high = corners.min(0), corners.max(0)
        place, room = roomiest(vehicle, rng)
        radius = float(np.linalg.norm(high - low)) / 2 * rng.uniform(0.6, 0.9)  # a part seldom fills its sphere
        depth = float(np.clip(radius / (room * np.tan(np.radians(VIEW_ANGLE / 2))), *DEPTHS))
        offset = point_at(camera, place, depth) - (low + high) / 2
        x, y, z = (float(v) for v in offset)
        pixels, labels = self._source.render(**scene, add_parts=[(donor, part, (x, y, z)) for part in chosen])
        if not is_clear(clean, pixels, vehicle, (labels > 0) & ~vehicle):
            return None
        return pixels, label, f"{donor}'s {', '.join(chosen)} in the background"

    def _unseen(self, photo: Photo, rng: Generator) -> tuple[Frame, int | None, str] | None:
        scene = self._scene(photo)
        azimuth, elevation = scene["pose"]
        unseen = self._source.unseen_azimuths(photo.label)
        if unseen and rng.random() < 0.8:
            azimuth = 45.0 * float(rng.choice(unseen)) + rng.uniform(-12, 12)
        else:
            elevation = rng.uniform(STEEPEST, 86)
        pixels, _ = self._source.render(**{**scene, "pose": (azimuth, elevation)})
        return pixels, None, f"seen from azimuth {azimuth:.0f}, elevation {elevation:.0f} degrees"


def roomiest(vehicle: Mask, rng: Generator) -> tuple[tuple[float, float], float]:
    """A place in the frame with about the most room around it.

    Args:
        vehicle: its pixels, ``[H, W]``.
        rng: chooses among the roomy places.

    Returns:
        The place, right and up from the middle in halves of the frame, in [-1, 1]; and the distance from there to the
        vehicle, in halves of the frame.
    """
    side = vehicle.shape[0]
    room = distance_transform_edt(~vehicle) if not vehicle.all() else np.zeros(vehicle.shape)
    rim = side // 8  # a distractor's middle is inside the frame
    inner = np.zeros_like(vehicle)
    inner[rim:-rim, rim:-rim] = True
    room = np.where(inner, room, 0)
    rows, columns = np.nonzero(room >= 0.85 * room.max())
    k = int(rng.integers(len(rows)))
    row, column = int(rows[k]), int(columns[k])
    return (2 * (column + 0.5) / side - 1, 1 - 2 * (row + 0.5) / side), 2 * max(float(room[row, column]), 1.0) / side


def point_at(camera: NDArray[np.float64], place: tuple[float, float], depth: float) -> NDArray[np.float64]:
    """The point that a camera sees at a place of the frame.

    Args:
        camera: position and target, ``[2, 3]``; z is up.
        place: right and up from the middle, in halves of the frame.
        depth: distance along the line of sight.

    Returns:
        ``[3]``.
    """
    ahead = (camera[1] - camera[0]) / np.linalg.norm(camera[1] - camera[0])
    right = np.cross(ahead, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    half = depth * np.tan(np.radians(VIEW_ANGLE / 2))
    return np.asarray(camera[0] + depth * ahead + half * (place[0] * right + place[1] * np.cross(right, ahead)))


def in_one_piece(vehicle: Mask) -> bool:
    """Whether all but specks of a vehicle hang together in the frame (gaps of a pixel or two are none)."""
    pieces, _ = label_pieces(binary_dilation(vehicle, np.ones((3, 3))), np.ones((3, 3)))
    sizes = np.bincount(pieces[vehicle])[1:]
    return bool(len(sizes) and sizes.max() >= WHOLE * sizes.sum())


def is_clear(clean: Frame, changed: Frame, vehicle: Mask, distractor: Mask) -> bool:
    """Whether a distractor can be seen, leaves the vehicle as it is, and stands clear of it.

    Args:
        clean: the frame without it, ``[H, W, 3]``.
        changed: with it.
        vehicle: the vehicle's pixels without it, ``[H, W]``.
        distractor: its own pixels, ``[H, W]``.
    """
    differs = np.abs(clean.astype(int) - changed.astype(int)).max(2) > 8
    near = binary_dilation(vehicle, iterations=max(1, round(GAP * len(vehicle))))
    return bool(
        (differs & distractor).mean() >= SEEN
        and (differs & vehicle).sum() <= CLEAR * vehicle.sum()
        and (distractor & near).sum() <= CLEAR * distractor.sum()
    )
