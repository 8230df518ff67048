"""Turns a toy scene into pixels and part labels with NumPy alone: for machines on which VTK finds no OpenGL."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vrx.data.toys.scene import VIEW_ANGLE, Scene, Surface

NEAR = 2.0  # distance of the nearest thing seen


class Rasteriser:
    """Draws as :class:`toy_renderer.Renderer` does, but for the gloss; about five times slower.

    Args:
        size: side of the square frames, pixels.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def __enter__(self) -> Rasteriser:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing to give back."""

    def __call__(self, scene: Scene) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Draw a scene.

        Returns:
            The frame, uint8 ``[size, size, 3]``, and the part label of every pixel, uint8 ``[size, size]``.
        """
        side = 2 * self.size
        lit = [
            _lit(scene.vehicle, scene, scene.ambient),
            _lit(scene.surroundings, scene, 0.6),
            scene.shadow.colours,
        ]
        corners = np.concatenate([s.triangles for s in (scene.vehicle, scene.surroundings, scene.shadow)])
        seen, origin = _before_camera(_to_camera(corners.astype(np.float64), scene.camera))
        winner = _nearest(_to_screen(seen, side), side)
        source = np.where(winner < 0, -1, origin[winner] if len(origin) else -1)
        rise = (np.arange(side)[::-1] + 0.5)[:, None, None] / side
        sky = np.broadcast_to(scene.sky[0] * (1 - rise) + scene.sky[1] * rise, (side, side, 3))
        image = np.where(source[..., None] < 0, sky, np.concatenate([*lit, np.zeros((1, 3))])[source])
        small = image.reshape(self.size, 2, self.size, 2, 3).mean((1, 3))
        vehicle_only = np.concatenate([scene.labels, np.zeros(len(corners) - len(scene.labels) + 1, np.uint8)])
        labels = vehicle_only[source][1::2, 1::2].astype(np.uint8)
        return (small * 255 + 0.5).clip(0, 255).astype(np.uint8), labels


def _lit(surface: Surface, scene: Scene, ambient: float) -> NDArray[np.float64]:
    """Colours under the lamp: Lambert, on the side that faces the camera."""
    t = surface.triangles.astype(np.float64)
    normals = np.cross(t[:, 1] - t[:, 0], t[:, 2] - t[:, 0])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-12)
    facing = np.sign(((scene.camera[0] - t.mean(1)) * normals).sum(1, keepdims=True))
    falling = ((normals * facing) @ scene.light).clip(0)
    return surface.colours * (ambient + (1.05 - ambient) * falling)[:, None]


def _to_camera(corners: NDArray[np.float64], camera: NDArray[np.float64]) -> NDArray[np.float64]:
    """World -> (right, up, depth) from the camera, ``[T, 3, 3]``."""
    ahead = camera[1] - camera[0]
    ahead = ahead / np.linalg.norm(ahead)
    right = np.cross(ahead, (0, 0, 1))
    right /= np.linalg.norm(right)
    return np.asarray((corners - camera[0]) @ np.stack([right, np.cross(right, ahead), ahead], 1))


def _before_camera(triangles: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Cut away what is nearer than ``NEAR``; triangles that are left, and which one each was."""
    behind = triangles[..., 2] < NEAR
    kept = np.flatnonzero(~behind.any(1))
    parts, origin = [triangles[kept]], [kept]
    for index in np.flatnonzero(behind.any(1) & ~behind.all(1)):
        polygon = []
        for a, b in zip(triangles[index], np.roll(triangles[index], -1, axis=0), strict=True):
            if a[2] >= NEAR:
                polygon.append(a)
            if (a[2] < NEAR) != (b[2] < NEAR):
                polygon.append(a + (b - a) * (NEAR - a[2]) / (b[2] - a[2]))
        fan = [[polygon[0], polygon[i], polygon[i + 1]] for i in range(1, len(polygon) - 1)]
        parts.append(np.array(fan))
        origin.append(np.full(len(fan), index))
    return np.concatenate(parts), np.concatenate(origin)


def _to_screen(triangles: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """Camera -> (column, row, 1 / depth) in pixels; the last is linear on the screen."""
    focal = side / 2 / np.tan(np.radians(VIEW_ANGLE / 2))
    inverse = 1 / triangles[..., 2]
    return np.stack(
        [side / 2 + focal * triangles[..., 0] * inverse, side / 2 - focal * triangles[..., 1] * inverse, inverse], -1
    )


def _nearest(triangles: NDArray[np.float64], side: int) -> NDArray[np.int64]:
    """Index of the triangle nearest to the camera at every pixel's centre, -1 for none, ``[side, side]``."""
    winner = np.full(side * side, -1, np.int64)
    low = np.ceil(triangles[..., :2].min(1) - 0.5).clip(0, side).astype(np.int64)
    high = np.floor(triangles[..., :2].max(1) - 0.5).clip(-1, side - 1).astype(np.int64)
    extent = (high - low + 1).clip(0)
    count = extent.prod(1)
    index = np.repeat(np.arange(len(triangles)), count)  # every pixel of every bounding box
    step = np.arange(len(index)) - np.repeat(np.cumsum(count) - count, count)
    column = low[index, 0] + step % extent[index, 0]
    row = low[index, 1] + step // extent[index, 0]
    a, b, c = (triangles[:, k] for k in range(3))
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    safe = np.where(np.abs(area) < 1e-12, np.inf, area)
    x, y = column + 0.5 - a[index, 0], row + 0.5 - a[index, 1]
    u = (x * (c - a)[index, 1] - y * (c - a)[index, 0]) / safe[index]  # weights of b and of c
    v = (y * (b - a)[index, 0] - x * (b - a)[index, 1]) / safe[index]
    inside = (u >= 0) & (v >= 0) & (u + v <= 1) & np.isfinite(safe)[index]
    index, u, v = index[inside], u[inside], v[inside]
    depth = a[index, 2] + u * (b - a)[index, 2] + v * (c - a)[index, 2]
    order = np.argsort(depth, kind="stable")  # far to near: the nearest is written last
    winner[(row[inside] * side + column[inside])[order]] = index[order]
    return winner.reshape(side, side)
