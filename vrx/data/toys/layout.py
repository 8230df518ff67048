"""Where the things of a toy arrangement stand: two or three as their relation asks, the others anywhere clear of them.

Places are seen from the camera: x towards it, y to the right, z up; all that is not the relation is drawn alike for
every relation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from vrx.data.sources import DecidingRelation
from vrx.data.toys.stage import on_plane, on_screen

PAIR = ("drum", "crate")  # what most relations are about
UNDER_A_BALL = ("beside", "far from")  # how the pair stands where the ball lies on one of it: both are seen
EDGE, CLEAR = 0.03, 0.1  # room to the edge, and between things that are not arranged: halves of the frame
FAR = 2.5  # from the middle, away from the camera: farther off things are too small
TRIES = 64  # places tried at once

Size = NDArray[np.float64]  # half depth, half width, height


class Spot(NamedTuple):
    """Where a thing stands: towards the camera and to the right of the scene's middle, ``[2]``, and on what."""

    at: NDArray[np.float64]
    on: str | None = None


def layout(
    relation: DecidingRelation, sizes: Mapping[str, Size], camera: NDArray[np.float64], rng: Generator
) -> dict[str, Spot]:
    """Draw a spot for every thing; none but those arranged hides another.

    Args:
        relation: what the arrangement must show.
        sizes: thing -> half depth, half width and height, ``[3]``.
        camera: position and target, ``[2, 3]``, looking along -x.
        rng: of everything.
    """
    while True:
        first = _arranged(relation, sizes, rng)
        groups = [first, *({name: Spot(np.zeros(2))} for name in sizes if name not in first)]
        spots: dict[str, Spot] = {}
        taken = np.zeros((0, 4))
        for group in groups:
            boxes, moved = _tried(group, sizes, camera, rng)
            clear = (np.abs(boxes) < 1 - EDGE).all((1, 2)) & ~_overlap(boxes, taken) & (moved[:, 0] > -FAR)
            if not clear.any():
                break
            chosen = int(clear.argmax())
            taken = np.concatenate([taken, boxes[chosen]])
            spots |= {name: Spot(spot.at + moved[chosen], spot.on) for name, spot in group.items()}
        else:
            return spots


def base(name: str, spots: Mapping[str, Spot], sizes: Mapping[str, Size]) -> float:
    """Height above the ground at which a thing stands."""
    on = spots[name].on
    return 0.0 if on is None else float(sizes[on][2]) + base(on, spots, sizes)


def _arranged(relation: DecidingRelation, sizes: Mapping[str, Size], rng: Generator) -> dict[str, Spot]:
    """The pair, and what lies on one of it, around the origin."""
    part, kind, other = relation
    nudge = rng.uniform(-0.08, 0.08, 2)
    if kind == "on" and part in PAIR:
        return {other: Spot(np.zeros(2)), part: Spot(nudge, other)}
    half = _apart(kind if kind != "on" else str(rng.choice(UNDER_A_BALL)), sizes, rng) / 2
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
        What each thing covers, left, bottom, right and top in halves of the frame, ``[TRIES, things, 4]``; and by how
        much the group is moved, ``[TRIES, 2]``.
    """
    low = np.array([[*spot.at, base(name, group, sizes)] for name, spot in group.items()])
    size = np.stack([sizes[name] for name in group])
    pair = [i for i, name in enumerate(group) if name in PAIR] or [0]
    middle = (low + size * (0, 0, 0.5))[pair].mean(0)
    moved = on_plane(rng.uniform(-1, 1, (TRIES, 2)), middle[2], camera) - middle
    corners = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (0, 1)])
    seen = on_screen(low[:, None] + corners * size[:, None] + moved[:, None, None] * (1, 1, 0), camera)
    return np.concatenate([seen.min(2), seen.max(2)], -1), moved[:, :2]


def _overlap(boxes: NDArray[np.float64], taken: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of some groups of boxes ``[N, things, 4]`` come too near any of the boxes ``[M, 4]``."""
    one, other = boxes[:, :, None], taken[None, None]
    apart = (one[..., :2] > other[..., 2:] + CLEAR) | (other[..., :2] > one[..., 2:] + CLEAR)
    return np.asarray(np.any(~np.any(apart, axis=-1), axis=(1, 2)))
