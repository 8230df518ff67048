"""Toy vehicles as a source of photos.

Six classes of 3-D toys built of named parts (:mod:`vrx.data.toys.models`), photographed on a turntable from cameras on
an arc, as iLab-20M was.
"""

from __future__ import annotations

from numpy.random import default_rng

from vrx.data.toys.models import BUILDERS, model, part_names, parts_alike
from vrx.data.toys.rendered import RenderedToys
from vrx.data.toys.scene import Edits, camera_near, edited_parts, painted
from vrx.data.toys.stage import ELEVATIONS, Camera, PaintedPiece, Pose, Seeds


class ToyVehicles(RenderedToys):
    """Six vehicles; arguments: see :class:`~vrx.data.toys.rendered.RenderedToys`."""

    kind = "toy_vehicles"
    noun = "toy vehicle"
    every_class = tuple(BUILDERS)
    part_names = part_names()
    elevations = ELEVATIONS

    def _pieces(self, class_name: str, pose: Pose, edits: Edits, seeds: Seeds) -> tuple[list[PaintedPiece], Camera]:
        place, paint, _ = seeds
        return painted(edited_parts(class_name, edits), paint), camera_near(default_rng(place), pose)

    def parts_of(self, class_name: str) -> list[str]:
        """The parts of a vehicle, shown or not."""
        return list(model(class_name))

    @property
    def alike(self) -> list[str]:
        """The parts that have the same colours in all classes that have them."""
        return parts_alike(self.class_names)
