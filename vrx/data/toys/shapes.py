"""Triangles of simple solids and of the details that toy vehicles share: wheels, lamps, light bars, stars."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Triangles = NDArray[np.float32]  # [T, 3 corners, 3 coordinates]


@dataclass(frozen=True)
class Piece:
    """Triangles of one material; ``role`` is looked up in the palette of a frame (``paint``, ``glass``, ...)."""

    triangles: Triangles
    role: str


def _fan(corners: NDArray[np.float32]) -> Triangles:
    """Triangles of a convex polygon ``[C, 3]``."""
    return np.stack([corners[[0, i, i + 1]] for i in range(1, len(corners) - 1)])


def prism(profile: Sequence[tuple[float, float]], low: float, high: float, axis: str = "y") -> Triangles:
    """A convex outline in the plane across ``axis``, drawn out along it from ``low`` to ``high``.

    Corners in order: (x, z) for axis y, (y, z) for axis x, (x, y) for axis z.
    """
    flat = np.asarray(profile, np.float32)
    where = "xyz".index(axis)

    def at(value: float) -> NDArray[np.float32]:
        return np.insert(flat, where, value, axis=1).astype(np.float32)

    near, far = at(low), at(high)
    after = np.roll(np.arange(len(flat)), -1)
    sides = [_fan(np.stack([near[i], near[j], far[j], far[i]])) for i, j in enumerate(after)]
    return np.concatenate([_fan(near), _fan(far), *sides])


def box(x: tuple[float, float], y: tuple[float, float], z: tuple[float, float]) -> Triangles:
    """A box from its spans."""
    return prism([(x[0], z[0]), (x[1], z[0]), (x[1], z[1]), (x[0], z[1])], *y)


def disc(centre: tuple[float, float], radius: float, low: float, high: float, axis: str, sides: int = 14) -> Triangles:
    """A cylinder along ``axis`` from ``low`` to ``high``; ``centre`` in the plane across it."""
    turn = (np.arange(sides) + 0.5) * 2 * np.pi / sides
    return prism([(centre[0] + radius * np.cos(t), centre[1] + radius * np.sin(t)) for t in turn], low, high, axis)


def lathe(outline: Sequence[tuple[float, float]], turn: tuple[float, float] = (0.0, 1.0), sides: int = 16) -> Triangles:
    """The surface that an outline, corners (radius, z) in order, leaves when it is turned about the z axis.

    ``turn``: where it starts and ends, in full turns, each of so many flat sides.
    """
    steps = 2 * np.pi * np.linspace(*turn, max(1, round(sides * (turn[1] - turn[0]))) + 1)
    r, z = np.asarray(outline, np.float32).T
    rings = np.stack([np.stack([r * np.cos(t), r * np.sin(t), z], 1) for t in steps]).astype(np.float32)
    a, b, c, d = rings[:-1, :-1], rings[:-1, 1:], rings[1:, 1:], rings[1:, :-1]
    return np.concatenate([np.stack([a, b, c], 2).reshape(-1, 3, 3), np.stack([a, c, d], 2).reshape(-1, 3, 3)])


def frustum(
    bottom: tuple[float, float], top: tuple[float, float], middle: float, z: tuple[float, float], cut: float = 0.35
) -> Triangles:
    """An eight-sided tower on half sizes ``bottom``, narrowing to ``top``, around x = ``middle``."""
    ring = np.array([(1, -cut), (1, cut), (cut, 1), (-cut, 1), (-1, cut), (-1, -cut), (-cut, -1), (cut, -1)], float)
    low, high = (np.c_[ring * half + (middle, 0), np.full(8, h)] for half, h in zip((bottom, top), z, strict=True))
    low, high = low.astype(np.float32), high.astype(np.float32)
    after = np.roll(np.arange(8), -1)
    return np.concatenate(
        [_fan(high)] + [_fan(np.stack([low[i], low[j], high[j], high[i]])) for i, j in enumerate(after)]
    )


def both(make: Callable[[float, float], Triangles], inner: float, outer: float) -> Triangles:
    """The same thing on the left and the right side: ``make(low y, high y)``."""
    return np.concatenate([make(inner, outer), make(-outer, -inner)])


def panels(x: tuple[float, float], z: tuple[float, float], half: float, thickness: float = 0.025) -> Triangles:
    """A flat panel on both sides of a body that is ``2 * half`` wide."""
    return both(lambda a, b: box(x, (a, b), z), half, half + thickness)


def row(start: float, stop: float, count: int, gap: float) -> list[tuple[float, float]]:
    """Spans of ``count`` equal things between two places."""
    width = (stop - start - gap * (count - 1)) / count
    return [(start + i * (width + gap), start + i * (width + gap) + width) for i in range(count)]


def discs(centre: tuple[float, float], radius: float, inner: float, outer: float, sides: int) -> Triangles:
    """A wheel-like disc on either side."""
    return both(lambda a, b: disc(centre, radius, a, b, "y", sides), inner, outer)


def wheels(axles: Sequence[float], half: float, radius: float) -> list[Piece]:
    """Tyres and hubs of axles at the given x; ``half``: outer side of the tyres."""
    tyres = [discs((x, radius), radius, half - 0.27, half, 18) for x in axles]
    hubs = [discs((x, radius), radius * 0.55, half, half + 0.04, 10) for x in axles]
    return [Piece(np.concatenate(tyres), "tyre"), Piece(np.concatenate(hubs), "hub")]


def headlights(front: float, z: float, y: float = 0.55, radius: float = 0.12) -> list[Piece]:
    """Two round lamps at x = ``front``."""
    lamps = [disc((s * y, z), radius, front, front + 0.05, "x", 10) for s in (-1, 1)]
    return [Piece(np.concatenate(lamps), "lamp")]


def light_bar(x: tuple[float, float], z: float, half: float = 0.6) -> list[Piece]:
    """A bar of two beacons on a roof at height ``z``."""
    base = Piece(box(x, (-half, half), (z, z + 0.06)), "dark")
    left = Piece(box(x, (0.14, half), (z + 0.06, z + 0.26)), "beacon")
    right = Piece(box(x, (-half, -0.14), (z + 0.06, z + 0.26)), "beacon2")
    return [base, left, right]


def grille(front: float, z: tuple[float, float], half: float = 0.4) -> list[Piece]:
    """Bright bars on dark, at x = ``front``."""
    bars = [box((front, front + 0.04), span, z) for span in row(-half, half, 6, 0.05)]
    return [Piece(box((front, front + 0.02), (-half, half), z), "dark"), Piece(np.concatenate(bars), "hub")]


def cross(place: Callable[[tuple[float, float], tuple[float, float]], Triangles], size: float) -> Triangles:
    """A cross of two bars in the plane that ``place`` puts them in."""
    arm = size / 3
    return np.concatenate([place((-size, size), (-arm, arm)), place((-arm, arm), (-size, size))])


def stars(centre: tuple[float, float], size: float, inner: float, outer: float) -> Triangles:
    """A five-pointed star of five kites on either side."""
    turn = np.pi / 2 + np.arange(10) * np.pi / 5
    x, z = centre
    ring = [(r * np.cos(t) + x, r * np.sin(t) + z) for t, r in zip(turn, [size, size * 0.42] * 5, strict=True)]
    kites = [[centre, ring[i - 1], ring[i], ring[(i + 1) % 10]] for i in range(0, 10, 2)]
    return both(lambda a, b: np.concatenate([prism(kite, a, b) for kite in kites]), inner, outer)


def arch(half: float, low: float, high: float, shoulder: float) -> list[tuple[float, float]]:
    """Outline (y, z) of a body with a rounded roof."""
    turn = np.linspace(0, np.pi, 9)
    roof = [(half * np.cos(t), shoulder + (high - shoulder) * np.sin(t)) for t in turn]
    return [(-half, low), (half, low), *roof]
