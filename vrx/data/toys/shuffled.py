"""Toy vehicles taken to pieces: the parts of each class strewn over the ground, in every class alike.

Parts alone tell the classes; how they lie to each other means nothing. The control world of the toy arrangements.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.random import Generator, default_rng
from numpy.typing import NDArray

from vrx.data.sources import DecidingRelation
from vrx.data.toys.models import Model, model
from vrx.data.toys.rendered import RENDERED_BY
from vrx.data.toys.scene import Edits, edited_parts, painted
from vrx.data.toys.shapes import Piece
from vrx.data.toys.stage import Camera, PaintedPiece, Pose, Seeds, away, spun
from vrx.data.toys.vehicles import ToyVehicles

ROWS, COLUMNS = 3, 4  # places: one for each part of the vehicle that has most
DEPTH, WIDTH = 1.8, 1.3  # of a place
LARGEST = 1.25  # side of a part, but none is drawn at less than SMALLEST of its size
SMALLEST, BIGGEST = 0.4, 1.2  # scales of parts


class ShuffledVehicles(ToyVehicles):
    """Six vehicles in pieces; arguments: see :class:`~vrx.data.toys.rendered.RenderedToys`.

    Every part keeps its turn to the camera, and changes its size where it is larger than its place or very small.
    """

    kind = "toy_shuffled"
    made_by = (*RENDERED_BY, "vrx.data.toys.vehicles")
    elevations = (34.0, 40.0, 46.0, 52.0)

    def deciding_relation(self, label: int) -> DecidingRelation | None:
        """None: places are drawn at random, so no relation decides a class."""
        return None

    def _pieces(self, class_name: str, pose: Pose, edits: Edits, seeds: Seeds) -> tuple[list[PaintedPiece], Camera]:
        place, paint, shape = seeds
        places = _places(default_rng(shape)) @ spun(pose.azimuth).T
        parts = edited_parts(class_name, edits, partial(_strewn, places=places))
        return painted(parts, paint), _camera(default_rng(place), pose)


def _places(rng: Generator) -> NDArray[np.float64]:
    """Places of parts in random order, towards the camera and to its right, on the ground, ``[12, 3]``."""
    rows, columns = np.divmod(rng.permutation(ROWS * COLUMNS), COLUMNS)
    x = (rows - (ROWS - 1) / 2 + rng.uniform(-0.15, 0.15, rows.shape)) * DEPTH
    y = (columns - (COLUMNS - 1) / 2 + rng.uniform(-0.15, 0.15, rows.shape)) * WIDTH
    return np.stack([x, y, np.zeros(len(rows))], 1)


def _strewn(class_name: str, places: NDArray[np.float64]) -> Model:
    """The parts of a vehicle, each standing on the ground at a place of its own."""
    found = {}
    for (name, pieces), place in zip(model(class_name).items(), places, strict=False):
        corners = np.concatenate([piece.triangles.reshape(-1, 3) for piece in pieces])
        low, high = corners.min(0), corners.max(0)
        foot = np.array([*(low + high)[:2] / 2, low[2]])
        scale = np.clip(LARGEST / (high - low).max(), SMALLEST, BIGGEST)
        found[name] = [Piece(((p.triangles - foot) * scale + place).astype(np.float32), p.role) for p in pieces]
    return found


def _camera(rng: Generator, pose: Pose) -> NDArray[np.float64]:
    """Position and target, ``[2, 3]``, of a camera that sees all places."""
    towards, right = away(pose)
    target = np.array([0.0, 0.0, 0.2]) + right * rng.uniform(-0.2, 0.2)
    return np.stack([target + towards * rng.uniform(13.4, 14.4), target])
