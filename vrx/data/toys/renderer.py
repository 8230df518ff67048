"""Turns a toy scene into pixels and part labels with pyvista, off screen and without a display."""

from __future__ import annotations

import functools
import logging
import os
import subprocess
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vrx.data.toys.rasteriser import NEAR, Rasteriser
from vrx.data.toys.scene import VIEW_ANGLE, Scene, Surface

log = logging.getLogger(__name__)

CLIPPING = (NEAR, 40.0)  # nearest and farthest thing seen
_WINDOW = "VTK_DEFAULT_OPENGL_WINDOW"
_PROBE = "import pyvista as p; q = p.Plotter(off_screen=True, window_size=(8, 8)); q.add_mesh(p.Cube()); q.screenshot()"


@functools.cache
def graphics() -> bool:
    """Whether VTK can draw here, and how: each way is tried in a process of its own, since a failing one may crash."""
    ways: list[str | None] = [os.environ.get(_WINDOW)]
    if sys.platform == "linux" and ways == [None]:
        ways = ["vtkEGLRenderWindow", "vtkOSOpenGLRenderWindow"]
        if os.environ.get("DISPLAY"):
            ways.insert(0, None)
    for way in ways:
        chosen = {_WINDOW: way} if way else {}
        try:
            command = [sys.executable, "-c", _PROBE]
            subprocess.run(command, env=os.environ | chosen, capture_output=True, timeout=120, check=True)
        except subprocess.SubprocessError:
            continue
        os.environ.update(chosen)
        return True
    return False


def make_renderer(size: int) -> Renderer | Rasteriser:
    """A renderer that works on this machine."""
    if graphics():
        return Renderer(size)
    log.warning(
        "VTK finds no OpenGL: the toy vehicles are drawn with NumPy, more slowly (for speed on Debian or Ubuntu: "
        "apt-get install libegl1 libgl1-mesa-dri)."
    )
    return Rasteriser(size)


class Renderer:
    """One off-screen window, reused for every frame, in the process that made it (see :func:`make_renderer`).

    Args:
        size: side of the square frames, pixels.
    """

    def __init__(self, size: int) -> None:
        os.environ.setdefault("LP_NUM_THREADS", "0")  # Mesa draws in this thread: faster for small frames
        import pyvista
        from vtkmodules.util.numpy_support import vtk_to_numpy
        from vtkmodules.vtkCommonCore import vtkUnsignedCharArray

        self._buffer, self._as_numpy = vtkUnsignedCharArray(), vtk_to_numpy
        self.size = size
        plotter: Any = pyvista.Plotter
        self._plotter = plotter(off_screen=True, window_size=[2 * size, 2 * size], lighting="none")
        self._plotter.disable_anti_aliasing()  # the image is averaged from 2 x 2, labels must not blend
        self._window = self._plotter.ren_win
        self._window.SetMultiSamples(0)
        self._plotter.camera.view_angle = VIEW_ANGLE
        self._lamp = pyvista.Light(light_type="scene light")
        self._plotter.add_light(self._lamp)
        self._actors: dict[str, Any] = {}

    def __enter__(self) -> Renderer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the window back."""
        self._plotter.close()

    def __call__(self, scene: Scene) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Draw a scene.

        Returns:
            The frame, uint8 ``[size, size, 3]``, and the part label of every pixel, uint8 ``[size, size]``.
        """
        return self._image(scene), self._labels()

    def _image(self, scene: Scene) -> NDArray[np.uint8]:
        self._plotter.camera.position, self._plotter.camera.focal_point = map(tuple, scene.camera)
        self._plotter.camera.up = (0, 0, 1)
        self._plotter.camera.clipping_range = CLIPPING
        self._lamp.position, self._lamp.focal_point = tuple(scene.light * 20), (0, 0, 0)
        self._plotter.set_background(scene.sky[0].tolist(), top=scene.sky[1].tolist())
        self._show("vehicle", scene.vehicle, scene.ambient, scene.labels)
        self._show("surroundings", scene.surroundings, 0.6)
        self._show("shadow", scene.shadow, None)
        return _halved(self._pixels())

    def _labels(self) -> NDArray[np.uint8]:
        """The same window, flat and without surroundings: the red of a pixel is its label."""
        self._plotter.set_background([0, 0, 0])
        vehicle = self._actors["vehicle"]
        vehicle.mapper.SelectColorArray("label")
        vehicle.prop.lighting = False
        vehicle.prop.ambient, vehicle.prop.diffuse, vehicle.prop.specular = 1.0, 0.0, 0.0  # unlit: their sum x colour
        for name in ("surroundings", "shadow"):
            self._actors[name].visibility = False
        return np.ascontiguousarray(self._pixels()[1::2, 1::2, 0])

    def _pixels(self) -> NDArray[np.uint8]:
        """Draw, and read the window: uint8 ``[2 * size, 2 * size, 3]``."""
        self._window.Render()
        side = 2 * self.size
        self._window.GetPixelData(0, 0, side - 1, side - 1, 0, self._buffer, 0)
        return self._as_numpy(self._buffer).reshape(side, side, 3)[::-1]

    def _show(
        self, name: str, surface: Surface, ambient: float | None, labels: NDArray[np.uint8] | None = None
    ) -> None:
        """Put a surface into the window; ``ambient`` None: flat colours, no light."""
        mesh = _mesh(surface, labels)
        if name not in self._actors:
            self._actors[name] = self._plotter.add_mesh(
                mesh,
                scalars="colour",
                rgb=True,
                show_scalar_bar=False,
                copy_mesh=False,
                reset_camera=False,
                render=False,
            )
            self._actors[name].mapper.SetScalarModeToUseCellFieldData()
        actor = self._actors[name]
        actor.mapper.SetInputData(mesh)
        actor.mapper.SelectColorArray("colour")
        actor.visibility = len(surface.triangles) > 0
        actor.prop.lighting = ambient is not None
        if ambient is not None:
            actor.prop.ambient, actor.prop.diffuse = ambient, 1.05 - ambient
            actor.prop.specular, actor.prop.specular_power = (0.15, 12.0) if name == "vehicle" else (0.0, 1.0)


def _halved(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Every pixel the mean of 2 x 2."""
    wide = pixels.astype(np.uint16)
    total = wide[::2, ::2] + wide[::2, 1::2] + wide[1::2, ::2] + wide[1::2, 1::2]
    return ((total + 2) >> 2).astype(np.uint8)


def _mesh(surface: Surface, labels: NDArray[np.uint8] | None = None) -> Any:
    """Triangles that share no corner, flat normals, a colour (and a label) a triangle, as plain ``vtkPolyData``."""
    from vtkmodules.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray
    from vtkmodules.vtkCommonCore import vtkPoints
    from vtkmodules.vtkCommonDataModel import vtkCellArray, vtkPolyData

    if not len(surface.triangles):  # VTK wants something to draw
        return _mesh(Surface(np.zeros((1, 3, 3), np.float32), np.zeros((1, 3), np.float32)), np.zeros(1, np.uint8))
    corners = np.ascontiguousarray(surface.triangles, np.float32)
    points, cells, mesh = vtkPoints(), vtkCellArray(), vtkPolyData()
    points.SetData(numpy_to_vtk(corners.reshape(-1, 3), deep=True))
    cells.SetData(3, numpy_to_vtkIdTypeArray(np.arange(3 * len(corners), dtype=np.int64), deep=True))
    mesh.SetPoints(points)
    mesh.SetPolys(cells)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.sqrt((normals**2).sum(1, keepdims=True)).clip(1e-12)
    mesh.GetPointData().SetNormals(numpy_to_vtk(normals.repeat(3, axis=0), deep=True))
    by_triangle = {"colour": (surface.colours * 255 + 0.5).clip(0, 255).astype(np.uint8)}
    if labels is not None:
        by_triangle["label"] = labels.repeat(3).reshape(-1, 3)
    for name, values in by_triangle.items():
        array = numpy_to_vtk(np.ascontiguousarray(values), deep=True)
        array.SetName(name)
        mesh.GetCellData().AddArray(array)
    return mesh
