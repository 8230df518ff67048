"""Toy arrangements as a source of photos: the same five things in every class, distinguished by how they lie alone.

A drum, a crate and a ball, and two idle things, on the ground before a camera on an arc. "in front of" and "beside" are
as the camera sees it, from wherever it stands. Where the ball lies on one of the pair, the pair stands in any of the
ways of the other classes. One class more, "no pair", lacks the drum or the crate: what is left of any of the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.random import Generator, default_rng
from numpy.typing import NDArray

from vrx.data.sources import DecidingRelation
from vrx.data.toys.layout import PAIR, Size, Spot, base, layout
from vrx.data.toys.rendered import RENDERED_BY, RenderedToys
from vrx.data.toys.scene import Edits
from vrx.data.toys.shapes import Triangles
from vrx.data.toys.stage import Camera, PaintedPiece, Pose, Seeds, away, spun
from vrx.data.toys.things import BUILDERS, palette, thing
from vrx.errors import VRXError

RELATIONS = [
    DecidingRelation("drum", "on", "crate"),
    DecidingRelation("crate", "on", "drum"),
    DecidingRelation("drum", "in front of", "crate"),
    DecidingRelation("drum", "beside", "crate"),
    DecidingRelation("drum", "far from", "crate"),
    DecidingRelation("ball", "on", "drum"),
    DecidingRelation("ball", "on", "crate"),
]
CLASSES = {" ".join(relation): relation for relation in RELATIONS}
NO_PAIR = "no pair"  # the drum or the crate is missing: nothing is arranged
LACKS = (PAIR[:1], PAIR[1:], PAIR)
Built = list[tuple[Triangles, str]]  # triangles and role of each piece


class ToyArrangements(RenderedToys):
    """Seven arrangements of the same things, and none; arguments: see :class:`~vrx.data.toys.rendered.RenderedToys`.

    ``removal`` leaves out things that do not tell the class alone: without the others a frame does not show it, but
    another class: "no pair" without one of the pair, and without a ball on one of the pair, how the pair stands. So a
    classifier knows what to say of a photo in which a concept was deleted. What is omitted or moved leaves all else
    where it is, in the air too.
    """

    kind = "toy_arrangements"
    noun = "toy arrangement"
    made_by = (*RENDERED_BY, "vrx.data.toys.things", "vrx.data.toys.layout")
    every_class = (*CLASSES, NO_PAIR)
    part_names = tuple(BUILDERS)
    elevations = (28.0, 33.0, 38.0, 43.0)

    def deciding_relation(self, label: int) -> DecidingRelation | None:
        """The relation that decides a class; None: of "no pair"."""
        return CLASSES.get(self._classes[label])

    def parts_of(self, class_name: str) -> tuple[str, ...]:
        """All things: they are in every class; photos of "no pair" lack one or two of them."""
        return self.part_names

    def _removable(self, class_name: str) -> tuple[str, ...]:
        telling = {*PAIR, *CLASSES.get(class_name, PAIR)}
        return tuple(name for name in self.part_names if name not in telling)

    @property
    def alike(self) -> list[str]:
        """All things: their colours tell nothing."""
        return list(self.part_names)

    def _pieces(self, class_name: str, pose: Pose, edits: Edits, seeds: Seeds) -> tuple[list[PaintedPiece], Camera]:
        if class_name not in self.every_class:
            raise VRXError(f"No {self.noun} called {class_name!r}: data.classes may name {', '.join(CLASSES)}.")
        self._check_parts(edits)
        place, paint, shape = seeds
        built = _built(default_rng(shape))
        sizes = {name: _size(pieces) for name, pieces in built.items()}
        rng = default_rng(place)
        relation, missing = CLASSES.get(class_name), list[str]()
        if relation is None:
            relation, missing = RELATIONS[rng.integers(len(RELATIONS))], list(LACKS[rng.integers(len(LACKS))])
        camera_at = _camera(rng, pose.elevation)
        spots = layout(relation, sizes, camera_at, rng)
        shown = _shown(spots, built, sizes, replace(edits, omit=(*edits.omit, *missing)))
        spin, colours = spun(pose.azimuth), palette(default_rng(paint))
        pieces = [
            ((triangles @ spin.T).astype(np.float32), colours[role], self.part_names.index(name) + 1)
            for name, triangles, role in shown
        ]
        return pieces, camera_at @ spin.T

    def _check_parts(self, edits: Edits) -> None:
        named = [*edits.omit, *(edits.move or {}), *(edits.replace or {})]
        named += [part for _, part in (edits.replace or {}).values()] + [part for _, part, _ in edits.add]
        for name in named:
            if name not in self.part_names:
                raise VRXError(f"A {self.noun} has no part {name!r}: its parts are {', '.join(self.part_names)}.")


def _built(rng: Generator) -> dict[str, Built]:
    """Every thing in a size and turn of its own, on the ground at the origin."""
    found = {}
    for name in BUILDERS:
        turned = rng.uniform(0.88, 1.12) * spun(rng.uniform(0, 360)).T
        found[name] = [((p.triangles @ turned).astype(np.float32), p.role) for p in thing(name)]
    return found


def _size(pieces: Built) -> Size:
    """Half depth, half width and height, ``[3]``."""
    corners = np.concatenate([triangles.reshape(-1, 3) for triangles, _ in pieces]).astype(np.float64)
    x, y, _ = np.abs(corners).max(0)
    return np.array([x, y, corners[:, 2].max()])


def _camera(rng: Generator, elevation: float) -> NDArray[np.float64]:
    """Position and target, ``[2, 3]``, of a camera that looks along -x."""
    towards, right = away(Pose(0.0, elevation))
    target = np.array([rng.uniform(-0.3, 0.3), 0.0, 0.4]) + right * rng.uniform(-0.3, 0.3)
    return np.stack([target + towards * rng.uniform(9.4, 10.8), target])


def _shown(
    spots: Mapping[str, Spot], built: Mapping[str, Built], sizes: Mapping[str, Size], edits: Edits
) -> list[tuple[str, Triangles, str]]:
    """Name, triangles and role of every piece where it stands, after the edits."""
    move, instead = edits.move or {}, edits.replace or {}
    at = {name: np.array([*spot.at, base(name, spots, sizes)]) for name, spot in spots.items()}
    kept = [name for name in at if name not in edits.omit]
    stands = [(instead.get(name, ("", name))[1], at[name] + move.get(name, (0, 0, 0))) for name in kept]
    stands += [(name, at.get(name, np.zeros(3)) + offset) for _, name, offset in edits.add]
    return [
        (name, (triangles + where).astype(np.float32), role)
        for name, where in stands
        for triangles, role in built[name]
    ]
