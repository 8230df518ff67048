"""What one frame shows: a toy vehicle's triangles, paint, light, camera and background, drawn from a seed."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.random import Generator, SeedSequence, default_rng
from numpy.typing import NDArray

from vrx.data.toys.models import model, part_names
from vrx.data.toys.shapes import Piece, Triangles, box
from vrx.errors import VRXError

AZIMUTHS = 8  # rotations of the turntable, 45 degrees apart; 0: the vehicle faces the camera
ELEVATIONS = (7.0, 18.0, 30.0, 42.0)  # cameras on the arc, degrees above the ground
VIEW_ANGLE = 26.0  # of the camera, degrees

Colour = NDArray[np.float32]  # RGB in [0, 1]
Offset = tuple[float, float, float]
Background = int | tuple[int, int, int]


class Pose(NamedTuple):
    """Where the camera stands, in degrees: turned around the vehicle, and above the ground."""

    azimuth: float
    elevation: float


@dataclass(frozen=True)
class Edits:
    """Changes to a vehicle's parts; what is drawn at random stays the same.

    Args:
        omit: parts that are left out.
        move: part -> (dx, dy, dz), forward, left and up; a vehicle is about 4.5 long.
        replace: part -> (class, part) that takes its place, centre on centre.
        add: (class, part, (dx, dy, dz)): parts of other classes, moved from where they sit there.
    """

    omit: Sequence[str] = ()
    move: Mapping[str, Offset] | None = None
    replace: Mapping[str, tuple[str, str]] | None = None
    add: Sequence[tuple[str, str, Offset]] = ()


@dataclass(frozen=True)
class Surface:
    """Triangles ``[T, 3, 3]`` with a colour in [0, 1] each, ``[T, 3]``."""

    triangles: Triangles
    colours: NDArray[np.float32]


@dataclass(frozen=True)
class Scene:
    """All that a renderer needs.

    Args:
        vehicle: the vehicle.
        labels: part label of each of its triangles, uint8 ``[T]`` (see :func:`~vrx.data.toys.models.part_names`).
        surroundings: ground and things beside the road, lit.
        shadow: of the vehicle on the ground, unlit.
        sky: colours at the lower and the upper edge of the frame, ``[2, 3]``.
        camera: position and the point it looks at, ``[2, 3]``; z is up.
        light: direction towards the light, unit ``[3]``.
        ambient: share of the light that has no direction, in [0, 1].
    """

    vehicle: Surface
    labels: NDArray[np.uint8]
    surroundings: Surface
    shadow: Surface
    sky: NDArray[np.float32]
    camera: NDArray[np.float64]
    light: NDArray[np.float64]
    ambient: float


def _hsv(rng: Generator, hue: tuple[float, float], sat: tuple[float, float], value: tuple[float, float]) -> Colour:
    """A colour with hue (degrees), saturation and value from ranges."""
    h, s, v = (rng.uniform(*span) for span in (hue, sat, value))
    return np.array(colorsys.hsv_to_rgb(h / 360 % 1, s, v), np.float32)


_ARMY = (
    ((75, 100), (0.35, 0.55), (0.3, 0.45)),
    ((36, 46), (0.3, 0.5), (0.55, 0.75)),
    ((90, 160), (0.05, 0.2), (0.35, 0.5)),
)


def palette(class_name: str, rng: Generator) -> dict[str, Colour]:
    """Colours of the roles of a class's pieces, within what is plausible for it."""
    grey = {
        role: _hsv(rng, (200, 240), (0, 0.1), span)
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
        "glass": _hsv(rng, (195, 215), (0.25, 0.5), (0.25, 0.4)),
        "glass2": _hsv(rng, (195, 215), (0.15, 0.35), (0.5, 0.65)),
        "lamp": _hsv(rng, (45, 60), (0.1, 0.3), (0.95, 1.0)),
        "beacon": _hsv(rng, (225, 240), (0.8, 1.0), (0.9, 1.0)),
        "beacon2": _hsv(rng, (225, 240), (0.8, 1.0), (0.9, 1.0)),
        "sign": _hsv(rng, (-4, 4), (0.85, 1.0), (0.75, 0.9)),
        "warning": _hsv(rng, (-4, 20), (0.9, 1.0), (0.85, 1.0)),
        "mark": _hsv(rng, (-6, 6), (0.8, 0.95), (0.75, 0.95)),
        "star": _hsv(rng, (45, 60), (0.0, 0.1), (0.88, 1.0)),
        "board": _hsv(rng, (35, 48), (0.8, 1.0), (0.95, 1.0)),
        "doors": _hsv(rng, (0, 360), (0.0, 0.25), (0.75, 0.95)),
    }
    if class_name == "fire engine":
        paint = _hsv(rng, (-10, 8), (0.8, 1.0), (0.65, 0.92))
    elif class_name == "ambulance":
        common["beacon2"] = common["mark"]
        paint = _hsv(rng, (30, 70), (0.0, 0.1), (0.88, 1.0))
    elif class_name == "school bus":
        paint = _hsv(rng, (38, 50), (0.85, 1.0), (0.88, 1.0))
    elif class_name == "city bus":
        paint = _hsv(rng, (150, 300), (0.3, 0.75), (0.5, 0.9))
    else:
        paint = _hsv(rng, *_ARMY[rng.integers(len(_ARMY))])
    shade = paint * rng.uniform(0.72, 0.88)
    if class_name == "city bus":
        shade = _hsv(rng, (150, 300), (0.0, 0.9), (0.3, 1.0))
    canvas = _hsv(rng, (36, 70), (0.2, 0.45), (0.45, 0.75))
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


def _part(class_name: str, name: str) -> list[Piece]:
    parts = model(class_name)
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


def edited_parts(class_name: str, edits: Edits) -> list[ShownPart]:
    """The parts of a vehicle after omitting, moving, replacing and adding some.

    Raises:
        VRXError: a part that the class does not have.
    """
    move, replace = edits.move or {}, edits.replace or {}
    for name in (*edits.omit, *move, *replace):
        _part(class_name, name)
    found: list[ShownPart] = []
    for name, pieces in model(class_name).items():
        if name in edits.omit:
            continue
        owner, shown = replace.get(name, (class_name, name))
        if name in replace:
            new = _part(owner, shown)
            pieces = _moved(new, _centre(pieces) - _centre(new))
        found.append(ShownPart(shown, owner, _moved(pieces, move.get(name, (0, 0, 0)))))
    return found + [ShownPart(name, owner, _moved(_part(owner, name), offset)) for owner, name, offset in edits.add]


def _ground(rng: Generator, size: float = 16.0, cells: int = 16) -> Surface:
    """A square of ground in one of four patterns, a colour a cell."""
    base = _hsv(rng, (0, 360), (0.05, 0.45), (0.35, 0.85))
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
    """Up to four blocks behind the vehicle, as seen from the camera."""
    triangles, colours = [np.zeros((0, 3, 3), np.float32)], [np.zeros((0, 3), np.float32)]
    for _ in range(int(rng.integers(0, 5))):
        turn = np.radians(azimuth + 180 + rng.uniform(-55, 55))
        far = rng.uniform(5.0, 9.0)
        x, y = far * np.cos(turn), far * np.sin(turn)
        half, height = rng.uniform(0.3, 1.1, 2), rng.uniform(0.4, 3.0)
        block = box((x - half[0], x + half[0]), (y - half[1], y + half[1]), (0, height))
        triangles.append(block)
        colours.append(np.tile(_hsv(rng, (0, 360), (0.0, 0.6), (0.3, 0.9)), (len(block), 1)))
    return Surface(np.concatenate(triangles), np.concatenate(colours))


def _surroundings(seed: SeedSequence, pose: Pose, background: Background | None) -> tuple[Surface, NDArray[np.float32]]:
    """Ground with blocks, and the sky; a colour (RGB, 0 to 255) makes both plain."""
    if isinstance(background, tuple):
        plain = np.asarray(background, np.float32) / 255
        return Surface(np.zeros((0, 3, 3), np.float32), np.zeros((0, 3), np.float32)), np.stack([plain, plain])
    rng = default_rng(seed if background is None else background)
    ground, clutter = _ground(rng), _clutter(rng, pose.azimuth)
    sky = np.stack([_hsv(rng, (0, 360), (0.0, 0.35), (0.6, 1.0)), _hsv(rng, (180, 260), (0.0, 0.5), (0.5, 1.0))])
    return Surface(
        *(
            np.concatenate(p)
            for p in zip((ground.triangles, ground.colours), (clutter.triangles, clutter.colours), strict=True)
        )
    ), sky


def _shadow(vehicle: Triangles, light: NDArray[np.float64], surroundings: Surface) -> Surface:
    """The vehicle flattened onto the ground along the light."""
    if not len(surroundings.triangles):
        return Surface(vehicle[:0], np.zeros((0, 3), np.float32))
    flat = vehicle - vehicle[..., 2:] * (light / light[2]).astype(np.float32)
    flat[..., 2] = 0.02
    dark = surroundings.colours[: len(surroundings.colours) // 2].mean(0) * 0.45
    return Surface(flat, np.tile(dark.astype(np.float32), (len(flat), 1)))


def draw_pose(rng: Generator, azimuth: int, elevation: int) -> Pose:
    """A camera near the given rotation and height, as a hand would place it."""
    return Pose(45.0 * azimuth + rng.uniform(-12, 12), ELEVATIONS[elevation] + rng.uniform(-4, 4))


def _light(rng: Generator, pose: Pose) -> tuple[NDArray[np.float64], float]:
    """Direction towards a lamp that stands on the camera's half of the scene, and the ambient share."""
    turn = np.radians(pose.azimuth + rng.uniform(-75, 75))
    height = np.radians(rng.uniform(35, 65))
    direction = np.array([np.cos(turn) * np.cos(height), np.sin(turn) * np.cos(height), np.sin(height)])
    return direction, float(rng.uniform(0.3, 0.5))


def _camera(rng: Generator, pose: Pose) -> NDArray[np.float64]:
    """Position and target of the camera, ``[2, 3]``: near enough for the vehicle to fill the frame from any side."""
    turn, height = np.radians(pose)
    away = np.array([np.cos(turn) * np.cos(height), np.sin(turn) * np.cos(height), np.sin(height)])
    right = np.array([-np.sin(turn), np.cos(turn), 0.0])
    target = np.array([0.1, 0.0, 0.9]) + right * rng.uniform(-0.35, 0.35) + [0, 0, rng.uniform(-0.3, 0.3)]
    wide = 4.9 * abs(np.sin(turn)) + 1.8 * abs(np.cos(turn))  # as seen from here
    near = max(7.0, wide / (2 * np.tan(np.radians(VIEW_ANGLE / 2))))
    return np.stack([target + away * near * rng.uniform(1.02, 1.2), target])


def compose(
    class_name: str,
    seed: Sequence[int],
    pose: Pose | None = None,
    edits: Edits | None = None,
    background: Background | None = None,
) -> Scene:
    """Draw a frame: five independent streams of chance, so that fixing or editing one thing leaves the others.

    Args:
        class_name: one of :data:`~vrx.data.toys.models.BUILDERS`.
        seed: non-negative integers.
        pose: None: drawn.
        edits: changes to the parts.
        background: None: drawn from ``seed``; an int: drawn from that; (r, g, b): plain, no ground and no shadow.
    """
    parts = edited_parts(class_name, edits or Edits())
    place, paint, lamp, ground, camera = SeedSequence(list(seed)).spawn(5)
    rng = default_rng(camera)
    drawn = draw_pose(rng, int(rng.integers(AZIMUTHS)), int(rng.integers(len(ELEVATIONS))))
    pose = drawn if pose is None else Pose(*pose)
    colour_of = {owner: palette(owner, default_rng(paint)) for owner in {part.owner for part in parts}}
    names = part_names()
    shown = [
        (p.triangles, colour_of[part.owner][p.role], names.index(part.name) + 1) for part in parts for p in part.pieces
    ]
    sizes = [len(triangles) for triangles, _, _ in shown]
    triangles = np.concatenate([t for t, _, _ in shown] or [np.zeros((0, 3, 3), np.float32)])
    colours = np.repeat(np.reshape([c for _, c, _ in shown], (-1, 3)), sizes, axis=0).astype(np.float32)
    labels = np.repeat([label for _, _, label in shown], sizes).astype(np.uint8)
    light, ambient = _light(default_rng(lamp), pose)
    surroundings, sky = _surroundings(ground, pose, background)
    shadow = _shadow(triangles, light, surroundings)
    camera_at = _camera(default_rng(place), pose)
    return Scene(Surface(triangles, colours), labels, surroundings, shadow, sky, camera_at, light, ambient)
