"""Where the things of a toy arrangement stand: two or three as their relation asks, the others anywhere clear of them.

Places are seen from the camera: x towards it, y to the right, z up; all that is not the relation is drawn alike for
every relation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from vrx.data.sources import DecidingRelation
from vrx.data.toys.stage import on_plane, on_screen

PAIR = ("drum", "crate")  # what most relations are about
IDLE = ("cone", "tyre")  # in no relation
UNDER_A_BALL = ("beside", "far from")  # how the pair stands where the ball lies on one of it: both are seen
EDGE, CLEAR = 0.03, 0.1  # room to the edge, and between things that are not arranged: halves of the frame
FAR = 2.5  # from the middle, away from the camera: farther off things are too small
PLACES = 64  # tried at once
TRIES = 20  # of an arrangement beside the same idle things

Size = NDArray[np.float64]  # half depth, half width, height


class Spot(NamedTuple):
    """Where a thing stands: towards the camera and to the right of the scene's middle, ``[2]``, and on what."""

    at: NDArray[np.float64]
    on: str | None = None


def layout(
    relation: DecidingRelation, sizes: Mapping[str, Size], camera: NDArray[np.float64], rng: Generator
) -> dict[str, Spot]:
    """Draw a spot for every thing, of half depth, half width and height ``[3]``; none but those arranged hides another.

    The camera, position and target ``[2, 3]``, looks along -x.
    """
    stands = relation.kind if relation.kind != "on" else str(rng.choice(UNDER_A_BALL))
    while True:
        idle = _put(_single(IDLE), {}, sizes, camera, rng)  # first, so that they stand alike in all classes
        for _ in range(TRIES if idle else 0):
            first = _arranged(relation, stands, sizes, rng)
            alone = [name for name in sizes if name not in first and name not in IDLE]
            spots = _put([first, *_single(alone)], idle, sizes, camera, rng)
            if spots:
                return spots


def _single(names: Sequence[str]) -> list[dict[str, Spot]]:
    """Each thing as a group of its own."""
    return [{name: Spot(np.zeros(2))} for name in names]


def _put(
    groups: Sequence[Mapping[str, Spot]],
    spots: Mapping[str, Spot],
    sizes: Mapping[str, Size],
    camera: NDArray[np.float64],
    rng: Generator,
) -> dict[str, Spot]:
    """Spots of some groups beside those that are taken; none where one finds no room."""
    spots = dict(spots)
    for group in groups:
        boxes, moved = _tried(group, sizes, camera, rng)
        clear = (np.abs(boxes) < 1 - EDGE).all((1, 2)) & (moved[:, 0] > -FAR)
        clear &= ~_overlap(boxes, _boxes(*_extents(spots, sizes), camera))
        if not clear.any():
            return {}
        spots |= {name: Spot(spot.at + moved[clear.argmax()], spot.on) for name, spot in group.items()}
    return spots


def base(name: str, spots: Mapping[str, Spot], sizes: Mapping[str, Size]) -> float:
    """Height above the ground at which a thing stands."""
    on = spots[name].on
    return 0.0 if on is None else float(sizes[on][2]) + base(on, spots, sizes)


def _arranged(relation: DecidingRelation, stands: str, sizes: Mapping[str, Size], rng: Generator) -> dict[str, Spot]:
    """The pair, on each other or as it ``stands``, and what lies on one of it, around the origin."""
    part, kind, other = relation
    nudge = rng.uniform(-0.08, 0.08, 2)
    if kind == "on" and part in PAIR:
        return {other: Spot(np.zeros(2)), part: Spot(nudge, other)}
    half = _apart(stands, sizes, rng) / 2
    spots = {PAIR[0]: Spot(half), PAIR[1]: Spot(-half)}
    return spots | ({part: Spot(spots[other].at + nudge, other)} if kind == "on" else {})


def _apart(kind: str, sizes: Mapping[str, Size], rng: Generator) -> NDArray[np.float64]:
    """From the second of the pair to the first, towards the camera and to the right, ``[2]``."""
    depth, width, _ = sizes[PAIR[0]] + sizes[PAIR[1]]
    if kind == "in front of":
        return np.array([depth + rng.uniform(0.2, 0.55), rng.uniform(-0.3, 0.3)])
    if kind == "beside":
        return np.array([rng.uniform(-0.15, 0.15), rng.choice([-1, 1]) * (width + rng.uniform(0.0, 0.2))])
    turn = rng.uniform(-np.pi / 3, np.pi / 3)
    return rng.uniform(2.1, 2.6) * np.array([1.4 * np.sin(turn), rng.choice([-1, 1]) * np.cos(turn)])


def _tried(
    group: Mapping[str, Spot], sizes: Mapping[str, Size], camera: NDArray[np.float64], rng: Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Move a group so that its middle is seen anywhere in the frame.

    Returns:
        Boxes of the things, ``[PLACES, things, 4]``, and by how much the group is moved, ``[PLACES, 2]``.
    """
    low, size = _extents(group, sizes)
    pair = [i for i, name in enumerate(group) if name in PAIR] or [0]
    middle = (low + size * (0, 0, 0.5))[pair].mean(0)
    moved = on_plane(rng.uniform(-1, 1, (PLACES, 2)), middle[2], camera) - middle
    return _boxes(low + moved[:, None] * (1, 1, 0), size, camera), moved[:, :2]


def _extents(spots: Mapping[str, Spot], sizes: Mapping[str, Size]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The middle of the underside of each thing, and its size, both ``[things, 3]``."""
    low = [[*spot.at, base(name, spots, sizes)] for name, spot in spots.items()]
    return np.reshape(low, (-1, 3)), np.reshape([sizes[name] for name in spots], (-1, 3))


def _boxes(low: NDArray[np.float64], size: NDArray[np.float64], camera: NDArray[np.float64]) -> NDArray[np.float64]:
    """What things cover of the frame: left, bottom, right and top in halves of it, ``[..., things, 4]``."""
    corners = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (0, 1)])
    seen = on_screen(low[..., None, :] + corners * size[:, None], camera)
    return np.concatenate([seen.min(-2), seen.max(-2)], -1)


def _overlap(boxes: NDArray[np.float64], taken: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of some groups of boxes ``[N, things, 4]`` come too near any of the boxes ``[M, 4]``."""
    one, other = boxes[:, :, None], taken[None, None]
    apart = (one[..., :2] > other[..., 2:] + CLEAR) | (other[..., :2] > one[..., 2:] + CLEAR)
    return np.asarray(np.any(~np.any(apart, axis=-1), axis=(1, 2)))
