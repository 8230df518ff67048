"""The things of the toy arrangements: a drum, a crate, a ball, a traffic cone, a tyre.

Each stands on the ground (z = 0) with its middle above the origin and is about 0.9 wide.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.random import Generator

from vrx.data.toys.shapes import Piece, box, lathe, row
from vrx.data.toys.stage import Colour, hsv

Thing = list[Piece]


def drum() -> Thing:
    """A steel drum with two ribs, bright rims and a white band."""
    ribs = [lathe([(0.4, z), (0.43, z + 0.03), (0.4, z + 0.06)]) for z in (0.28, 0.6)]
    rims = [lathe([(0.4, z), (0.43, z), (0.43, z + 0.05), (0.4, z + 0.05)]) for z in (0.0, 0.87)]
    return [
        Piece(lathe([(0.4, 0.0), (0.4, 0.34)]), "steel"),
        Piece(lathe([(0.402, 0.34), (0.402, 0.6)]), "band"),
        Piece(np.concatenate([lathe([(0.4, 0.6), (0.4, 0.9)]), *ribs]), "steel"),
        Piece(np.concatenate([*rims, lathe([(0.12, 0.895), (0.0, 0.9)], sides=8)]), "rim"),
        Piece(lathe([(0.4, 0.88), (0.0, 0.88)]), "lid"),
    ]


def crate() -> Thing:
    """A wooden box of planks in a darker frame."""
    half, beam = 0.42, 0.1
    planks = np.concatenate([box((-0.4, 0.4), (-0.4, 0.4), span) for span in row(0.06, 0.8, 4, 0.03)])
    top = np.concatenate([box((-0.4, 0.4), span, (0.78, 0.83)) for span in row(-0.4, 0.4, 4, 0.03)])
    rails = [
        box(x, y, z)
        for z in ((0.0, beam), (0.86 - beam, 0.86))
        for x, y in (
            ((-half, half), (-half, -half + beam)), ((-half, half), (half - beam, half)),
            ((-half, -half + beam), (-half, half)), ((half - beam, half), (-half, half)),
        )
    ]  # fmt: skip
    ends = ((-half, -half + beam), (half - beam, half))
    posts = [box(x, y, (0.0, 0.86)) for x in ends for y in ends]
    return [
        Piece(box((-0.38, 0.38), (-0.38, 0.38), (0.03, 0.8)), "gap"),
        Piece(np.concatenate([planks, top]), "plank"),
        Piece(np.concatenate(rails + posts), "beam"),
    ]


def ball() -> Thing:
    """A beach ball of six wedges, every other one white."""
    turn = np.linspace(-np.pi / 2, np.pi / 2, 11)
    outline = [(0.39 * np.cos(t), 0.39 + 0.39 * np.sin(t)) for t in turn]
    roles = ("red", "white", "yellow", "white", "blue", "white")
    return [Piece(lathe(outline, (i / 6, (i + 1) / 6), 18), role) for i, role in enumerate(roles)]


def cone() -> Thing:
    """A traffic cone with two white bands on a square foot."""

    def ring(low: float, high: float) -> Piece:
        slope = [(0.3 - 0.27 * z / 0.9, z + 0.05) for z in (low, high)]
        return Piece(lathe(slope), "white" if low in (0.25, 0.6) else "orange")

    cuts = (0.0, 0.25, 0.42, 0.6, 0.72, 0.9)
    foot = Piece(box((-0.38, 0.38), (-0.38, 0.38), (0.0, 0.06)), "orange")
    return [foot, *[ring(low, high) for low, high in pairwise(cuts)]]


def tyre() -> Thing:
    """A tyre that lies on its side, with a bright rim inside."""
    turn = np.linspace(0, 2 * np.pi, 11)
    tread = [(0.33 + 0.13 * np.cos(t), 0.15 + 0.15 * np.sin(t)) for t in turn]
    return [Piece(lathe(tread), "rubber"), Piece(lathe([(0.24, 0.2), (0.08, 0.14), (0.0, 0.14)]), "hub")]


BUILDERS: dict[str, Callable[[], Thing]] = {"drum": drum, "crate": crate, "ball": ball, "cone": cone, "tyre": tyre}


@cache
def thing(name: str) -> Thing:
    """A thing, built once; do not change the arrays."""
    return BUILDERS[name]()


def palette(rng: Generator) -> dict[str, Colour]:
    """Colours of the roles of all pieces, each within what leaves its thing unmistakable."""
    wood = hsv(rng, (26, 38), (0.45, 0.62), (0.62, 0.82))
    steel = hsv(rng, (205, 225), (0.7, 0.9), (0.5, 0.75))
    return {
        "steel": steel,
        "lid": steel * np.float32(0.8),
        "rim": hsv(rng, (200, 220), (0.05, 0.2), (0.7, 0.85)),
        "band": hsv(rng, (40, 60), (0.0, 0.12), (0.85, 1.0)),
        "plank": wood,
        "beam": wood * np.float32(0.72),
        "gap": wood * np.float32(0.4),
        "red": hsv(rng, (-6, 8), (0.75, 0.95), (0.8, 0.95)),
        "yellow": hsv(rng, (46, 56), (0.8, 0.95), (0.9, 1.0)),
        "blue": hsv(rng, (150, 175), (0.6, 0.8), (0.6, 0.8)),
        "white": hsv(rng, (40, 60), (0.0, 0.08), (0.92, 1.0)),
        "orange": hsv(rng, (14, 24), (0.85, 1.0), (0.88, 1.0)),
        "rubber": hsv(rng, (200, 240), (0.0, 0.1), (0.1, 0.18)),
        "hub": hsv(rng, (200, 240), (0.0, 0.1), (0.6, 0.8)),
    }
