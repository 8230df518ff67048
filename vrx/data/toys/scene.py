"""A toy vehicle in front of the camera: its parts, edited or not, and its paint, drawn from a seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.random import Generator, SeedSequence, default_rng
from numpy.typing import NDArray

from vrx.data.toys.models import Model, model, part_names
from vrx.data.toys.shapes import Piece
from vrx.data.toys.stage import VIEW_ANGLE, Colour, Offset, PaintedPiece, Pose, away, hsv
from vrx.errors import VRXError


@dataclass(frozen=True)
class Edits:
    """Changes to a vehicle's parts; what is drawn at random stays the same."""

    omit: Sequence[str] = ()  # parts that are left out
    move: Mapping[str, Offset] | None = None  # part -> (dx, dy, dz), forward, left and up; a vehicle is about 4.5 long
    replace: Mapping[str, tuple[str, str]] | None = None  # part -> (class, part) that takes its place, centre on centre
    add: Sequence[tuple[str, str, Offset]] = ()  # class and part, moved from where it sits there


_ARMY = (
    ((75, 100), (0.35, 0.55), (0.3, 0.45)),
    ((36, 46), (0.3, 0.5), (0.55, 0.75)),
    ((90, 160), (0.05, 0.2), (0.35, 0.5)),
)


def palette(class_name: str, rng: Generator) -> dict[str, Colour]:
    """Colours of the roles of a class's pieces, within what is plausible for it."""
    grey = {
        role: hsv(rng, (200, 240), (0, 0.1), span)
        for role, span in {
            "tyre": (0.1, 0.18),
            "dark": (0.08, 0.18),
            "hub": (0.6, 0.85),
            "metal": (0.6, 0.8),
            "bumper": (0.7, 0.9),
            "white": (0.92, 1.0),
            "ladder": (0.85, 1.0),
            "stripe": (0.9, 1.0),
        }.items()
    }
    common = grey | {
        "glass": hsv(rng, (195, 215), (0.25, 0.5), (0.25, 0.4)),
        "glass2": hsv(rng, (195, 215), (0.15, 0.35), (0.5, 0.65)),
        "lamp": hsv(rng, (45, 60), (0.1, 0.3), (0.95, 1.0)),
        "beacon": hsv(rng, (225, 240), (0.8, 1.0), (0.9, 1.0)),
        "beacon2": hsv(rng, (225, 240), (0.8, 1.0), (0.9, 1.0)),
        "sign": hsv(rng, (-4, 4), (0.85, 1.0), (0.75, 0.9)),
        "warning": hsv(rng, (-4, 20), (0.9, 1.0), (0.85, 1.0)),
        "mark": hsv(rng, (-6, 6), (0.8, 0.95), (0.75, 0.95)),
        "star": hsv(rng, (45, 60), (0.0, 0.1), (0.88, 1.0)),
        "board": hsv(rng, (35, 48), (0.8, 1.0), (0.95, 1.0)),
        "doors": hsv(rng, (0, 360), (0.0, 0.25), (0.75, 0.95)),
    }
    if class_name == "fire engine":
        paint = hsv(rng, (-10, 8), (0.8, 1.0), (0.65, 0.92))
    elif class_name == "ambulance":
        common["beacon2"] = common["mark"]
        paint = hsv(rng, (30, 70), (0.0, 0.1), (0.88, 1.0))
    elif class_name == "school bus":
        paint = hsv(rng, (38, 50), (0.85, 1.0), (0.88, 1.0))
    elif class_name == "city bus":
        paint = hsv(rng, (150, 300), (0.3, 0.75), (0.5, 0.9))
    else:
        paint = hsv(rng, *_ARMY[rng.integers(len(_ARMY))])
    shade = paint * rng.uniform(0.72, 0.88)
    if class_name == "city bus":
        shade = hsv(rng, (150, 300), (0.0, 0.9), (0.3, 1.0))
    canvas = hsv(rng, (36, 70), (0.2, 0.45), (0.45, 0.75))
    return common | {
        "paint": paint,
        "paint2": shade.astype(np.float32),
        "hub2": paint * np.float32(0.6),
        "canvas": canvas,
        "canvas2": canvas * np.float32(0.75),
    }


def _centre(pieces: Sequence[Piece]) -> NDArray[np.float32]:
    corners = np.concatenate([p.triangles.reshape(-1, 3) for p in pieces])
    return (corners.min(0) + corners.max(0)) / 2


def _part(parts: Model, class_name: str, name: str) -> list[Piece]:
    if name not in parts:
        raise VRXError(f"A toy {class_name} has no part {name!r}: its parts are {', '.join(parts)}.")
    return parts[name]


def _moved(pieces: Sequence[Piece], offset: Sequence[float] | NDArray[np.float32]) -> list[Piece]:
    return [Piece(p.triangles + np.asarray(offset, np.float32), p.role) for p in pieces]


class ShownPart(NamedTuple):
    """A part as it appears in a frame; ``owner`` is the class whose colours it wears."""

    name: str
    owner: str
    pieces: list[Piece]


def edited_parts(class_name: str, edits: Edits, build: Callable[[str], Model] = model) -> list[ShownPart]:
    """The parts of a vehicle after omitting, moving, replacing and adding some; ``build``: class -> its parts.

    Raises:
        VRXError: a part that the class does not have.
    """

    def part(owner: str, name: str) -> list[Piece]:
        return _part(build(owner), owner, name)

    move, replaced = edits.move or {}, edits.replace or {}
    for name in (*edits.omit, *move, *replaced):
        part(class_name, name)
    found: list[ShownPart] = []
    for name, pieces in build(class_name).items():
        if name in edits.omit:
            continue
        owner, shown = replaced.get(name, (class_name, name))
        if name in replaced:
            new = part(owner, shown)
            pieces = _moved(new, _centre(pieces) - _centre(new))
        found.append(ShownPart(shown, owner, _moved(pieces, move.get(name, (0, 0, 0)))))
    return found + [ShownPart(name, owner, _moved(part(owner, name), offset)) for owner, name, offset in edits.add]


def camera_near(rng: Generator, pose: Pose) -> NDArray[np.float64]:
    """Position and target of the camera, ``[2, 3]``: near enough for the vehicle to fill the frame from any side."""
    (turn, _), (towards, right) = np.radians(pose), away(pose)
    target = np.array([0.1, 0.0, 0.9]) + right * rng.uniform(-0.35, 0.35) + [0, 0, rng.uniform(-0.3, 0.3)]
    wide = 4.9 * abs(np.sin(turn)) + 1.8 * abs(np.cos(turn))  # as seen from here
    near = max(7.0, wide / (2 * np.tan(np.radians(VIEW_ANGLE / 2))))
    return np.stack([target + towards * near * rng.uniform(1.02, 1.2), target])


def painted(parts: Sequence[ShownPart], paint: SeedSequence) -> list[PaintedPiece]:
    """Triangles, colour and part label of every piece."""
    colour_of = {owner: palette(owner, default_rng(paint)) for owner in {part.owner for part in parts}}
    names = part_names()
    return [
        (p.triangles, colour_of[part.owner][p.role], names.index(part.name) + 1) for part in parts for p in part.pieces
    ]
