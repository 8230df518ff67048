"""Frames on a plain colour: what an edit of the toy changes, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vrx.data.toys.rendered import RenderedToys
from vrx.data.toys.stage import Scene, Surface, staged

PLAIN = (255, 0, 255)


def bare(*given: Any) -> Scene:
    """A scene without ground, clutter, sky and shadow."""
    scene = staged(*given)
    nothing = Surface(scene.toy.triangles[:0], scene.toy.colours[:0])
    return replace(scene, surroundings=nothing, shadow=nothing, sky=np.full((2, 3), PLAIN, np.float32) / 255)


def plain(source: RenderedToys, *args: Any, **edits: Any) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """:meth:`RenderedToys.render` of the same arguments."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vrx.data.toys.rendered.staged", bare)
        return source.render(*args, **edits)
