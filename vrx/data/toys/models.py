"""Six toy vehicles, each built of named parts: triangles alone, no colours, no camera.

A vehicle stands on the ground (z = 0) with its middle at the origin, looks along +x, has its left side at +y, and is
about 4.5 long and 1.6 wide. Parts of the same kind have the same name in every class.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from vrx.data.toys.shapes import (
    Piece,
    arch,
    both,
    box,
    cross,
    disc,
    discs,
    frustum,
    grille,
    headlights,
    light_bar,
    panels,
    prism,
    row,
    stars,
    wheels,
)
from vrx.errors import VRXError

Model = dict[str, list[Piece]]  # part name -> its pieces
OF_THE_CLASS = frozenset(("paint", "paint2", "hub2", "canvas", "canvas2"))  # roles whose colours depend on the class


def fire_engine() -> Model:
    """Red cab and body, shutters, a long white ladder on a turntable, light bar."""
    rails = [(-2.75, 1.62), (1.0, 1.98), (1.0, 2.1), (-2.75, 1.74)]  # side view of the tilted ladder

    def height(x: float) -> float:
        return 1.62 + (x + 2.75) * 0.36 / 3.75

    rungs = [
        prism([(x, height(x)), (x + 0.11, height(x)), (x + 0.11, height(x) + 0.1), (x, height(x) + 0.1)], -0.3, 0.3)
        for x in np.arange(-2.6, 1.0, 0.36)
    ]
    ladder = np.concatenate([both(lambda a, b: prism(rails, a, b), 0.28, 0.4), *rungs])
    shutters = np.concatenate([panels(span, (0.72, 1.28), 0.8) for span in row(-2.05, 0.55, 3, 0.12)])
    return {
        "body": [Piece(box((-2.25, 0.75), (-0.8, 0.8), (0.35, 1.42)), "paint")],
        "cab": [Piece(prism([(0.75, 0.35), (2.2, 0.35), (2.2, 1.0), (2.05, 1.68), (0.75, 1.68)], -0.8, 0.8), "paint")],
        "windshield": [Piece(prism([(2.215, 1.02), (2.235, 1.02), (2.09, 1.6), (2.07, 1.6)], -0.7, 0.7), "glass")],
        "windows": [Piece(np.concatenate([panels(s, (1.05, 1.55), 0.8) for s in row(0.85, 1.95, 2, 0.1)]), "glass")],
        "shutters": [Piece(shutters, "metal")],
        "stripe": [Piece(panels((-2.25, 2.2), (0.5, 0.64), 0.8, 0.03), "stripe")],
        "ladder": [Piece(ladder, "ladder"), Piece(disc((-0.6, 0), 0.45, 1.42, 1.75, "z"), "metal")],
        "light bar": light_bar((1.5, 1.85), 1.68),
        "headlights": headlights(2.2, 0.75),
        "grille": grille(2.2, (0.62, 0.9), 0.35),
        "bumper": [Piece(box((2.2, 2.36), (-0.82, 0.82), (0.3, 0.5)), "bumper")],
        "wheels": wheels((-1.35, 1.4), 0.86, 0.42),
    }


def ambulance() -> Model:
    """White van with a tall box, coloured stripe, crosses on all sides, light bar."""
    side = both(
        lambda a, b: cross(lambda x, z: box((x[0] - 0.75, x[1] - 0.75), (a, b), (z[0] + 1.4, z[1] + 1.4)), 0.36),
        0.82,
        0.86,
    )
    rear = cross(lambda y, z: box((-2.19, -2.15), y, (z[0] + 1.4, z[1] + 1.4)), 0.36)
    roof = cross(lambda x, y: box((x[0] - 1.0, x[1] - 1.0), y, (2.0, 2.03)), 0.5)
    hood = [(0.75, 0.38), (2.2, 0.38), (2.2, 0.85), (1.75, 1.02), (1.2, 1.62), (0.75, 1.62)]
    slope = [(1.79, 1.03), (1.81, 1.04), (1.27, 1.6), (1.25, 1.59)]
    window = [(0.85, 1.02), (1.66, 1.02), (1.2, 1.52), (0.85, 1.52)]
    sides = panels((-2.15, 0.75), (0.72, 0.92), 0.82), panels((0.75, 2.1), (0.66, 0.8), 0.76)
    return {
        "body": [Piece(box((-2.15, 0.75), (-0.82, 0.82), (0.38, 2.0)), "paint")],
        "cab": [Piece(prism(hood, -0.76, 0.76), "paint")],
        "windshield": [Piece(prism(slope, -0.68, 0.68), "glass")],
        "windows": [Piece(both(lambda a, b: prism(window, a, b), 0.76, 0.79), "glass")],
        "cross": [Piece(np.concatenate([side, rear, roof]), "mark")],
        "stripe": [Piece(np.concatenate([*sides, box((-2.18, -2.15), (-0.82, 0.82), (0.72, 0.92))]), "mark")],
        "light bar": light_bar((0.3, 0.65), 2.0),
        "headlights": headlights(2.2, 0.68),
        "grille": grille(2.2, (0.55, 0.78), 0.32),
        "bumper": [Piece(box((2.2, 2.34), (-0.78, 0.78), (0.28, 0.46)), "bumper")],
        "wheels": wheels((-1.3, 1.45), 0.84, 0.4),
    }


def school_bus() -> Model:
    """Yellow, with a hood, a row of windows, black rub rails, a stop sign held out and warning lamps."""
    sign = disc((1.18, 1.15), 0.36, 0.52, 0.55, "x", 8)
    rim = disc((1.18, 1.15), 0.42, 0.525, 0.545, "x", 8)
    bar = np.concatenate([box((x, x + 0.02), (0.95, 1.41), (1.08, 1.22)) for x in (0.505, 0.545)])
    arm = box((0.52, 0.55), (0.8, 0.85), (1.0, 1.3))
    rails = np.concatenate([panels((-2.3, 1.15), (z, z + 0.08), 0.8, 0.04) for z in (0.56, 0.86)])
    windows = np.concatenate([panels(span, (1.12, 1.52), 0.8) for span in row(-2.15, 0.7, 6, 0.1)])
    rear = box((-2.33, -2.3), (-0.55, 0.55), (1.1, 1.55))
    lamps = [disc((s * y, 1.72), 0.09, 1.15, 1.2, "x", 8) for s in (-1, 1) for y in (0.32, 0.56)]
    return {
        "body": [Piece(prism(arch(0.8, 0.38, 1.9, 1.62), -2.3, 1.15, "x"), "paint")],
        "hood": [Piece(prism([(1.15, 0.38), (2.15, 0.38), (2.15, 0.95), (1.15, 1.1)], -0.64, 0.64), "paint")],
        "windshield": [
            Piece(np.concatenate([box((1.15, 1.18), s, (1.16, 1.6)) for s in row(-0.7, 0.7, 2, 0.06)]), "glass")
        ],
        "windows": [Piece(np.concatenate([windows, panels((0.8, 1.08), (1.12, 1.52), 0.8), rear]), "glass")],
        "rub rails": [Piece(rails, "dark")],
        "stop sign": [Piece(sign, "sign"), Piece(rim, "white"), Piece(bar, "white"), Piece(arm, "dark")],
        "warning lamps": [Piece(np.concatenate(lamps), "warning")],
        "headlights": headlights(2.15, 0.72, 0.48),
        "grille": grille(2.15, (0.52, 0.86), 0.3),
        "bumper": [
            Piece(box((2.15, 2.3), (-0.8, 0.8), (0.28, 0.46)), "dark"),
            Piece(box((-2.42, -2.3), (-0.8, 0.8), (0.3, 0.46)), "dark"),
        ],
        "wheels": wheels((-1.4, 1.55), 0.84, 0.4),
    }


def tank() -> Model:
    """Tracks with road wheels, a low sloped hull, turret with hatch, a long gun."""
    outline = [(-2.05, 0.25), (-1.7, 0.0), (1.7, 0.0), (2.15, 0.35)]
    outline += [(2.15, 0.6), (1.9, 0.78), (-1.9, 0.78), (-2.15, 0.55)]
    road = [discs((x, 0.3), 0.24, 0.95, 1.0, 12) for x in np.linspace(-1.5, 1.5, 6)]
    cleats = [panels((x, x + 0.1), (0.77, 0.82), 0.5, 0.46) for x in np.arange(-1.85, 1.8, 0.24)]
    hull = [(-2.0, 0.45), (2.0, 0.35), (2.25, 0.7), (1.55, 1.0), (-2.05, 1.0)]
    gun = disc((0.0, 1.3), 0.1, 0.6, 2.95, "x", 10)
    muzzle = disc((0.0, 1.3), 0.15, 2.75, 3.05, "x", 10)
    mantlet = box((0.5, 0.95), (-0.22, 0.22), (1.12, 1.48))
    return {
        "tracks": [
            Piece(np.concatenate([both(lambda a, b: prism(outline, a, b), 0.5, 0.95), *cleats]), "tyre"),
            Piece(np.concatenate(road), "hub2"),
        ],
        "hull": [
            Piece(prism(hull, -0.62, 0.62), "paint"),
            Piece(both(lambda a, b: box((-2.1, 1.95), (a, b), (0.84, 0.92)), 0.6, 1.0), "paint"),
        ],
        "turret": [Piece(frustum((1.05, 0.78), (0.78, 0.56), -0.2, (1.0, 1.58)), "paint2")],
        "gun": [Piece(gun, "paint2"), Piece(muzzle, "dark"), Piece(mantlet, "paint2")],
        "hatch": [Piece(disc((-0.4, 0.22), 0.24, 1.58, 1.72, "z", 10), "paint")],
        "star": [Piece(stars((-0.2, 1.26), 0.22, 0.72, 0.79), "star")],
        "headlights": headlights(2.1, 0.86, 0.42, 0.1),
    }


def military_truck() -> Model:
    """Hooded cab, cargo bed under an arched canvas with ribs, three axles of big wheels, spare wheel."""
    ribs = [prism(arch(0.84, 1.0, 2.0, 1.5), x, x + 0.07, "x") for x in np.linspace(-2.2, 0.13, 5)]
    hood = prism([(1.1, 0.55), (2.15, 0.55), (2.15, 1.05), (1.1, 1.18)], -0.55, 0.55)
    fenders = both(lambda a, b: prism([(1.05, 0.8), (2.2, 0.8), (2.1, 0.95), (1.2, 0.95)], a, b), 0.5, 0.85)
    slats = np.concatenate([panels((-2.25, 0.25), (z, z + 0.1), 0.8, 0.03) for z in (0.72, 0.9)])
    return {
        "bed": [Piece(box((-2.25, 0.25), (-0.8, 0.8), (0.6, 1.04)), "paint"), Piece(slats, "paint2")],
        "canvas": [
            Piece(prism(arch(0.8, 1.0, 1.96, 1.5), -2.25, 0.25, "x"), "canvas"),
            Piece(np.concatenate(ribs), "canvas2"),
        ],
        "cab": [
            Piece(prism([(0.32, 0.5), (1.15, 0.5), (1.15, 1.15), (1.05, 1.68), (0.32, 1.68)], -0.72, 0.72), "paint")
        ],
        "hood": [Piece(np.concatenate([hood, fenders]), "paint")],
        "windshield": [Piece(prism([(1.16, 1.2), (1.18, 1.2), (1.09, 1.6), (1.07, 1.6)], -0.62, 0.62), "glass")],
        "windows": [Piece(panels((0.42, 0.98), (1.18, 1.56), 0.72), "glass")],
        "star": [Piece(stars((0.72, 0.88), 0.24, 0.72, 0.76), "star")],
        "headlights": headlights(2.15, 0.86, 0.68, 0.11),
        "grille": grille(2.15, (0.65, 1.0), 0.38),
        "bumper": [Piece(box((2.2, 2.34), (-0.84, 0.84), (0.42, 0.58)), "paint2")],
        "wheels": wheels((-1.75, -0.75, 1.6), 0.88, 0.46),
    }


def city_bus() -> Model:
    """One long low box: a band of glass, doors, a destination board, roof unit."""
    doors = [box(span, (-0.87, -0.82), (0.34, 1.5)) for span in (*row(1.45, 2.05, 2, 0.06), *row(-0.25, 0.4, 2, 0.06))]
    frames = [box(s, (-0.85, -0.82), (0.28, 1.56)) for s in ((1.38, 2.12), (-0.32, 0.47))]
    band = np.concatenate([panels(span, (0.98, 1.5), 0.82) for span in row(-2.2, 2.2, 5, 0.07)])
    return {
        "body": [
            Piece(prism([(-2.35, 0.24), (2.35, 0.24), (2.35, 1.0), (2.25, 1.8), (-2.35, 1.8)], -0.82, 0.82), "paint"),
            Piece(panels((-2.35, 2.33), (0.24, 0.55), 0.82, 0.015), "paint2"),
        ],
        "windshield": [
            Piece(prism([(2.37, 0.78), (2.39, 1.0), (2.33, 1.5), (2.31, 1.5), (2.35, 0.78)], -0.74, 0.74), "glass")
        ],
        "windows": [Piece(np.concatenate([band, box((-2.38, -2.35), (-0.65, 0.65), (1.05, 1.5))]), "glass")],
        "doors": [Piece(np.concatenate(frames), "doors"), Piece(np.concatenate(doors), "glass2")],
        "destination board": [
            Piece(prism([(2.31, 1.54), (2.345, 1.54), (2.315, 1.76), (2.28, 1.76)], -0.62, 0.62), "dark"),
            Piece(prism([(2.345, 1.59), (2.355, 1.59), (2.335, 1.71), (2.325, 1.71)], -0.5, 0.5), "board"),
        ],
        "roof unit": [
            Piece(box((-1.6, -0.4), (-0.5, 0.5), (1.8, 2.02)), "metal"),
            Piece(box((0.5, 1.3), (-0.42, 0.42), (1.8, 1.92)), "metal"),
        ],
        "headlights": headlights(2.35, 0.5, 0.6, 0.1),
        "bumper": [Piece(box((2.35, 2.45), (-0.8, 0.8), (0.22, 0.38)), "dark")],
        "wheels": wheels((-1.4, 1.0), 0.86, 0.36),
    }


BUILDERS: dict[str, Callable[[], Model]] = {
    "fire engine": fire_engine,
    "ambulance": ambulance,
    "school bus": school_bus,
    "tank": tank,
    "military truck": military_truck,
    "city bus": city_bus,
}


@cache
def model(class_name: str) -> Model:
    """The parts of a vehicle, built once; do not change the arrays.

    Raises:
        VRXError: no such class.
    """
    if class_name not in BUILDERS:
        raise VRXError(f"No toy vehicle called {class_name!r}: data.classes may name {', '.join(BUILDERS)}.")
    return BUILDERS[class_name]()


@cache
def part_names() -> tuple[str, ...]:
    """Every part name of every class, once. Label i + 1 of a part mask is name i; label 0 is the background."""
    return tuple(dict.fromkeys(name for class_name in BUILDERS for name in model(class_name)))


def parts_alike(class_names: Sequence[str]) -> list[str]:
    """The parts that look alike in all of some classes that have them: pieces of the same roles, none in its paint."""
    found = []
    for name in part_names():
        roles = {frozenset(p.role for p in model(c)[name]) for c in class_names if name in model(c)}
        if len(roles) == 1 and not OF_THE_CLASS & roles.pop():
            found.append(name)
    return found
