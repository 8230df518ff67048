"""Turns a toy scene into pixels and part labels with NumPy alone: no graphics library, the same everywhere."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vrx.data.toys.stage import VIEW_ANGLE, Scene, Surface, axes_of

NEAR = 2.0  # distance of the nearest thing seen


def draw(scene: Scene, size: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw a scene; every pixel is the mean of 2 x 2, labels are not mixed.

    Returns:
        The frame, uint8 ``[size, size, 3]``, and the part label of every pixel, uint8 ``[size, size]``.
    """
    side = 2 * size
    colours = [_lit(scene.toy, scene, scene.ambient), _lit(scene.surroundings, scene, 0.6), scene.shadow.colours]
    corners = np.concatenate([s.triangles for s in (scene.toy, scene.surroundings, scene.shadow)])
    placed = (corners - scene.camera[0]) @ axes_of(scene.camera).T  # right, up, depth from the camera
    seen, origin = _before_camera(placed)
    source = np.append(origin, -1)[_nearest(_to_screen(seen, side), side)]
    rise = (np.arange(side)[::-1] + 0.5)[:, None, None] / side
    sky = np.broadcast_to(scene.sky[0] * (1 - rise) + scene.sky[1] * rise, (side, side, 3))
    image = np.where(source[..., None] < 0, sky, np.concatenate([*colours, np.zeros((1, 3))])[source])
    small = image.reshape(size, 2, size, 2, 3).mean((1, 3))
    toy_only = np.concatenate([scene.labels, np.zeros(len(corners) - len(scene.labels) + 1, np.uint8)])
    labels = toy_only[source][1::2, 1::2].astype(np.uint8)
    return (small * 255 + 0.5).clip(0, 255).astype(np.uint8), labels


def _lit(surface: Surface, scene: Scene, ambient: float) -> NDArray[np.float64]:
    """Colours under the lamp: Lambert, on the side that faces the camera."""
    t = surface.triangles.astype(np.float64)
    normals = np.cross(t[:, 1] - t[:, 0], t[:, 2] - t[:, 0])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-12)
    facing = np.sign(((scene.camera[0] - t.mean(1)) * normals).sum(1, keepdims=True))
    falling = ((normals * facing) @ scene.light).clip(0)
    return surface.colours * (ambient + (1.05 - ambient) * falling)[:, None]


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
    triangle, row, left, right = _spans(triangles, side)
    a, ab, ac = triangles[:, 0], triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
    area = ab[:, 0] * ac[:, 1] - ab[:, 1] * ac[:, 0]
    area[np.abs(area) < 1e-12] = np.inf
    per_column = (ab[:, 2] * ac[:, 1] - ac[:, 2] * ab[:, 1]) / area  # 1 / depth is linear on the screen
    per_row = (ac[:, 2] * ab[:, 0] - ab[:, 2] * ac[:, 0]) / area
    count = right - left + 1
    first = np.cumsum(count) - count
    column = np.arange(count.sum()) + np.repeat(left - first, count)
    offset = a[triangle, 2] + (row + 0.5 - a[triangle, 1]) * per_row[triangle]
    offset -= (a[triangle, 0] - 0.5) * per_column[triangle]
    depth = np.repeat(offset, count) + column * np.repeat(per_column[triangle], count)
    pixel = np.repeat(row * side, count) + column
    nearest = np.zeros(side * side)
    np.maximum.at(nearest, pixel, depth)
    winner = np.full(side * side, -1, np.int64)
    seen = np.flatnonzero(depth == nearest[pixel])  # where two are equally near, the later one
    winner[pixel[seen]] = np.repeat(triangle, count)[seen]
    return winner.reshape(side, side)


def _spans(triangles: NDArray[np.float64], side: int) -> tuple[NDArray[np.int64], ...]:
    """Triangle, row, first and last column of every run of pixels whose centres lie in a triangle."""
    low = np.ceil(triangles[..., 1].min(1) - 0.5).clip(0, side).astype(np.int64)
    high = np.floor(triangles[..., 1].max(1) - 0.5).clip(-1, side - 1).astype(np.int64)
    rows = (high - low + 1).clip(0)
    triangle = np.repeat(np.arange(len(triangles)), rows)
    row = np.arange(len(triangle)) + np.repeat(low - (np.cumsum(rows) - rows), rows)
    start, end = triangles[triangle], np.roll(triangles, -1, axis=1)[triangle]  # [S, 3 edges, 3]
    rise = end[..., 1] - start[..., 1]
    share = (row[:, None] + 0.5 - start[..., 1]) / np.where(rise == 0, np.inf, rise)
    crossed = (rise != 0) & (share >= 0) & (share <= 1)
    at = start[..., 0] + share * (end[..., 0] - start[..., 0])
    left = np.ceil(np.where(crossed, at, np.inf).min(1).clip(0, side) - 0.5 - 1e-9).astype(np.int64)
    right = np.floor(np.where(crossed, at, -np.inf).max(1).clip(-1, side) - 0.5 + 1e-9).astype(np.int64)
    kept = right >= left
    return triangle[kept], row[kept], left[kept], right[kept]
