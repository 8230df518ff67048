"""Errors whose cause is known, because it was planted: a photo that F gets right is changed until F gets it wrong.

The three causes of section 4.4, each planted by one change alone, and nothing else of the photo is touched:

* ``shared``: the vehicle itself gets parts of another class, added or in place of its own; F answers that class,
* ``false alarm``: parts of another class stand in the background, clear of the vehicle; F answers that class,
* ``unseen``: the vehicle is whole, but seen from where no training photo was taken; F answers any wrong class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from vrx.data.images import Photo
from vrx.data.toy_models import BUILDERS, model
from vrx.data.toy_scene import AZIMUTHS, ELEVATIONS
from vrx.data.toy_vehicles import ToyVehicles
from vrx.structures import VRXError

CAUSES = ("shared", "false alarm", "unseen")
SHARED, FALSE_ALARM, UNSEEN = CAUSES
CLEAR = 0.1  # of a distractor's pixels at most this share may hide or touch the vehicle
SEEN = 0.01  # and at least this share of the frame must show it
STEEPEST = ELEVATIONS[-1] + 4 + 12  # degrees: a camera above this is well outside the training arc


@dataclass(frozen=True)
class Attempt:
    """One change of one photo.

    Args:
        name: unique.
        photo: what was changed.
        cause: one of ``CAUSES``.
        donor: label of the class whose parts were used; None for ``unseen``: any wrong answer will do.
        pixels: the changed frame, uint8 ``[H, W, 3]``.
        detail: what was done, in words.
    """

    name: str
    photo: Photo
    cause: str
    donor: int | None
    pixels: NDArray[np.uint8]
    detail: str

    def succeeded(self, predicted: int) -> bool:
        """Whether F, right about the untouched photo, now makes the error that the change is to cause."""
        return predicted != self.photo.label and self.donor in (None, predicted)


class RenderedPlanter:
    """Plants causes into toy vehicles by rendering the photo's own scene again: no paste, no seam.

    Args:
        source: the toy vehicles.
        seed: of every choice.

    Raises:
        VRXError: another source of photos.
    """

    def __init__(self, source: Any, seed: int = 0) -> None:
        if not isinstance(source, ToyVehicles):
            raise VRXError(
                "Causes can be planted into toy_vehicles only: this study renders the photos again with a part more, "
                "a distractor, another camera. Set study.plant=false to diagnose real errors with the built-in rule."
            )
        self._source, self._seed = source, seed

    def attempts(self, photos: Sequence[Photo], cause: str, trials: int) -> Iterator[Attempt]:
        """Changes of one cause: every photo once, then every photo again, up to ``trials`` times."""
        plant: Callable[[Photo, Generator], tuple[NDArray[np.uint8], int | None, str] | None] = {
            SHARED: self._shared,
            FALSE_ALARM: self._false_alarm,
            UNSEEN: self._unseen,
        }[cause]
        for trial in range(trials):
            for number, photo in enumerate(photos):
                rng = np.random.default_rng([self._seed, CAUSES.index(cause), trial, number])
                made = plant(photo, rng)
                if made is not None:
                    name = f"{photo.split} {photo.label} {photo.path.rsplit('/', 1)[-1]} {cause} {trial}"
                    yield Attempt(name, photo, cause, made[1], made[0], made[2])

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

    def _shared(self, photo: Photo, rng: Generator) -> tuple[NDArray[np.uint8], int, str]:
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
        pixels, _ = self._source.render(
            **scene, replace_part=replaced, add_parts=[(donor, part, (0.0, 0.0, 0.0)) for part in added]
        )
        done = [f"{old} -> {part}" for old, (_, part) in replaced.items()] + [f"+ {part}" for part in added]
        return pixels, label, f"{donor}'s {', '.join(done)}"

    def _false_alarm(self, photo: Photo, rng: Generator) -> tuple[NDArray[np.uint8], int, str] | None:
        label, donor = self._donor(photo, rng)
        scene = self._scene(photo)
        parts = list(model(donor))
        chosen = rng.choice(parts, size=min(int(rng.integers(1, 5)), len(parts)), replace=False).tolist()
        clean, labels = self._source.render(**scene)
        turn = np.radians(scene["pose"][0])
        right, behind = np.array([-np.sin(turn), np.cos(turn)]), -np.array([np.cos(turn), np.sin(turn)])
        for _ in range(6):
            x, y = right * rng.uniform(1.8, 3.6) * rng.choice((-1, 1)) + behind * rng.uniform(1.5, 5.0)
            offset = (float(x), float(y), float(rng.uniform(0, 1.2)))
            pixels, _ = self._source.render(**scene, add_parts=[(donor, part, offset) for part in chosen])
            if is_clear(clean, pixels, labels > 0):
                return pixels, label, f"{donor}'s {', '.join(chosen)} in the background"
        return None

    def _unseen(self, photo: Photo, rng: Generator) -> tuple[NDArray[np.uint8], None, str]:
        scene = self._scene(photo)
        azimuth, elevation = scene["pose"]
        unseen = unseen_azimuths(self._source, photo.label)
        if unseen and rng.random() < 0.8:
            azimuth = 45.0 * float(rng.choice(unseen)) + rng.uniform(-12, 12)
        else:
            elevation = rng.uniform(STEEPEST, 86)
        pixels, _ = self._source.render(**{**scene, "pose": (azimuth, elevation)})
        return pixels, None, f"seen from azimuth {azimuth:.0f}, elevation {elevation:.0f} degrees"


def is_clear(clean: NDArray[np.uint8], changed: NDArray[np.uint8], vehicle: NDArray[np.bool_]) -> bool:
    """Whether a distractor can be seen and leaves the vehicle alone.

    Args:
        clean: the frame without it, ``[H, W, 3]``.
        changed: with it.
        vehicle: the vehicle's pixels, ``[H, W]``.
    """
    touched = np.abs(clean.astype(int) - changed.astype(int)).max(2) > 8
    return bool(touched.mean() >= SEEN and (touched & vehicle).sum() <= CLEAR * touched.sum())


def unseen_azimuths(source: ToyVehicles, label: int) -> list[int]:
    """Rotations (0 to 7) in which no training photo shows a class, by the source's settings."""
    poses = source.settings()["poses"].get("train", {}).get(source.class_names[label])
    return [a for a in range(AZIMUTHS) if a not in poses] if poses else []


def is_toy(source: Any) -> bool:
    """Whether causes can be planted into the photos of a source."""
    return isinstance(source, ToyVehicles) and set(source.class_names) <= set(BUILDERS)
