"""What surrounds a toy: ground, clutter, sky, lamp, shadow and the camera on its arc, drawn from seeds."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.random import Generator, SeedSequence, default_rng
from numpy.typing import NDArray

from vrx.data.toys.shapes import Triangles, box

AZIMUTHS = 8  # rotations of the turntable, 45 degrees apart; 0: a vehicle faces the camera
ELEVATIONS = (7.0, 18.0, 30.0, 42.0)  # cameras on the arc, degrees above the ground
VIEW_ANGLE = 26.0  # of the camera, degrees

Colour = NDArray[np.float32]  # RGB in [0, 1]
Offset = tuple[float, float, float]
Camera = NDArray[np.float64]  # position and the point it looks at, [2, 3]; z is up
Seeds = tuple[SeedSequence, SeedSequence, SeedSequence]  # of places, colours and shapes
PaintedPiece = tuple[Triangles, Colour, int]  # the last: label of its part


class Pose(NamedTuple):
    """Where the camera stands, in degrees: turned around the toy, and above the ground."""

    azimuth: float
    elevation: float


@dataclass(frozen=True)
class Surface:
    """Triangles ``[T, 3, 3]`` with a colour in [0, 1] each, ``[T, 3]``."""

    triangles: Triangles
    colours: NDArray[np.float32]


@dataclass(frozen=True)
class Scene:
    """All that a renderer needs."""

    toy: Surface  # what the photo is of
    labels: NDArray[np.uint8]  # part label of each of its triangles, uint8 [T]; i + 1 is the source's part name i
    surroundings: Surface  # ground and things in the background, lit
    shadow: Surface  # of the toy on the ground, unlit
    sky: NDArray[np.float32]  # colours at the lower and the upper edge of the frame, [2, 3]
    camera: NDArray[np.float64]  # position and the point it looks at, [2, 3]; z is up
    light: NDArray[np.float64]  # direction towards the light, unit [3]
    ambient: float  # share of the light that has no direction, in [0, 1]


def hsv(rng: Generator, hue: tuple[float, float], sat: tuple[float, float], value: tuple[float, float]) -> Colour:
    """A colour with hue (degrees), saturation and value from ranges."""
    h, s, v = (rng.uniform(*span) for span in (hue, sat, value))
    return np.array(colorsys.hsv_to_rgb(h / 360 % 1, s, v), np.float32)


def _ground(rng: Generator, size: float = 16.0, cells: int = 16) -> Surface:
    """A square of ground in one of four patterns, a colour a cell."""
    base = hsv(rng, (0, 360), (0.05, 0.45), (0.35, 0.85))
    second = np.clip(base * rng.uniform(0.7, 1.25), 0, 1)
    i, j = np.meshgrid(np.arange(cells), np.arange(cells), indexing="ij")
    pattern = [np.zeros_like(i), (i + j) % 2, i % 2, rng.integers(0, 2, i.shape)][rng.integers(4)]
    grain = rng.uniform(0.94, 1.06, (cells, cells, 1))
    colours = np.clip(np.where(pattern[..., None] > 0, second, base) * grain, 0, 1)
    edge = np.linspace(-size, size, cells + 1)
    x0, y0, x1, y1 = (
        e.ravel() for e in np.broadcast_arrays(edge[:-1, None], edge[None, :-1], edge[1:, None], edge[None, 1:])
    )
    zero = np.zeros_like(x0)
    a, b, c, d = (np.stack(p, 1) for p in ((x0, y0, zero), (x1, y0, zero), (x1, y1, zero), (x0, y1, zero)))
    triangles = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    turn = rng.uniform(0, 2 * np.pi)
    spin = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    return Surface((triangles @ spin.T).astype(np.float32), np.tile(colours.reshape(-1, 3), (2, 1)).astype(np.float32))


def _clutter(rng: Generator, azimuth: float) -> Surface:
    """Up to four blocks behind the toy, as seen from the camera."""
    triangles, colours = [np.zeros((0, 3, 3), np.float32)], [np.zeros((0, 3), np.float32)]
    for _ in range(int(rng.integers(0, 5))):
        turn = np.radians(azimuth + 180 + rng.uniform(-55, 55))
        far = rng.uniform(5.0, 9.0)
        x, y = far * np.cos(turn), far * np.sin(turn)
        half, height = rng.uniform(0.3, 1.1, 2), rng.uniform(0.4, 3.0)
        block = box((x - half[0], x + half[0]), (y - half[1], y + half[1]), (0, height))
        triangles.append(block)
        colours.append(np.tile(hsv(rng, (0, 360), (0.0, 0.6), (0.3, 0.9)), (len(block), 1)))
    return Surface(np.concatenate(triangles), np.concatenate(colours))


def _surroundings(rng: Generator, pose: Pose) -> tuple[Surface, NDArray[np.float32]]:
    """Ground with blocks, and the sky."""
    ground, clutter = _ground(rng), _clutter(rng, pose.azimuth)
    sky = np.stack([hsv(rng, (0, 360), (0.0, 0.35), (0.6, 1.0)), hsv(rng, (180, 260), (0.0, 0.5), (0.5, 1.0))])
    triangles = np.concatenate([ground.triangles, clutter.triangles])
    return Surface(triangles, np.concatenate([ground.colours, clutter.colours])), sky


def _shadow(toy: Triangles, light: NDArray[np.float64], surroundings: Surface) -> Surface:
    """The toy flattened onto the ground along the light."""
    flat = toy - toy[..., 2:] * (light / light[2]).astype(np.float32)
    flat[..., 2] = 0.02
    dark = surroundings.colours[: len(surroundings.colours) // 2].mean(0) * 0.45
    return Surface(flat, np.tile(dark.astype(np.float32), (len(flat), 1)))


def draw_pose(rng: Generator, azimuth: int, elevation: float) -> Pose:
    """A camera near a rotation (0 to 7) and a height (degrees), as a hand would place it."""
    return Pose(45.0 * azimuth + rng.uniform(-12, 12), elevation + rng.uniform(-4, 4))


def random_pose(seed: SeedSequence, elevations: Sequence[float]) -> Pose:
    """Any rotation of the turntable, from any of the cameras on an arc."""
    rng = default_rng(seed)
    return draw_pose(rng, int(rng.integers(AZIMUTHS)), elevations[int(rng.integers(len(elevations)))])


def spun(azimuth: float) -> NDArray[np.float64]:
    """Rotation about the z axis by degrees, ``[3, 3]``, for columns."""
    cos, sin = np.cos(np.radians(azimuth)), np.sin(np.radians(azimuth))
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


def _light(rng: Generator, pose: Pose) -> tuple[NDArray[np.float64], float]:
    """Direction towards a lamp that stands on the camera's half of the scene, and the ambient share."""
    turn = np.radians(pose.azimuth + rng.uniform(-75, 75))
    height = np.radians(rng.uniform(35, 65))
    direction = np.array([np.cos(turn) * np.cos(height), np.sin(turn) * np.cos(height), np.sin(height)])
    return direction, float(rng.uniform(0.3, 0.5))


def away(pose: Pose) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Unit vectors ``[3]`` from the toy to the camera, and to the right of who looks through it."""
    turn, height = np.radians(pose)
    towards = np.array([np.cos(turn) * np.cos(height), np.sin(turn) * np.cos(height), np.sin(height)])
    return towards, np.array([-np.sin(turn), np.cos(turn), 0.0])


def staged(
    pieces: Sequence[PaintedPiece], pose: Pose, camera: NDArray[np.float64], lamp: SeedSequence, ground: SeedSequence
) -> Scene:
    """The scene of some pieces, with the lamp and what is in the background as seen from the pose.

    ``camera``: position and target, ``[2, 3]``; ``lamp``, ``ground``: seeds of the light and of the surroundings.
    """
    sizes = [len(triangles) for triangles, _, _ in pieces]
    triangles = np.concatenate([t for t, _, _ in pieces] or [np.zeros((0, 3, 3), np.float32)])
    colours = np.repeat(np.reshape([c for _, c, _ in pieces], (-1, 3)), sizes, axis=0).astype(np.float32)
    labels = np.repeat([label for _, _, label in pieces], sizes).astype(np.uint8)
    light, ambient = _light(default_rng(lamp), pose)
    surroundings, sky = _surroundings(default_rng(ground), pose)
    shadow = _shadow(triangles, light, surroundings)
    return Scene(Surface(triangles, colours), labels, surroundings, shadow, sky, camera, light, ambient)


def axes_of(camera: NDArray[np.float64]) -> NDArray[np.float64]:
    """Unit vectors to the right, up and ahead of a camera, ``[3, 3]``."""
    ahead = camera[1] - camera[0]
    ahead = ahead / np.linalg.norm(ahead)
    right = np.cross(ahead, (0, 0, 1))
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(right, ahead), ahead])


def on_screen(points: NDArray[np.float64], camera: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where a camera sees points ``[..., 3]``: right and up of the middle in halves of the frame, ``[..., 2]``."""
    seen = (points - camera[0]) @ axes_of(camera).T
    return np.asarray(seen[..., :2] / seen[..., 2:] / np.tan(np.radians(VIEW_ANGLE / 2)))


def on_plane(places: NDArray[np.float64], height: float, camera: NDArray[np.float64]) -> NDArray[np.float64]:
    """The points ``[N, 3]`` at a height above the ground that a camera, above them, sees at places ``[N, 2]``."""
    half = np.tan(np.radians(VIEW_ANGLE / 2))
    rays = np.concatenate([places * half, np.ones((len(places), 1))], 1) @ axes_of(camera)
    return np.asarray(camera[0] + rays * ((height - camera[0, 2]) / rays[:, 2:]))
