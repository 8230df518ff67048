"""The renderer against a second one that casts a ray through every pixel."""

import numpy as np
import pytest

from tests.data.toys.plain import PLAIN, plain
from vrx.data.toys.models import BUILDERS
from vrx.data.toys.renderer import NEAR, draw
from vrx.data.toys.stage import VIEW_ANGLE, Pose, Scene, Surface
from vrx.data.toys.vehicles import ToyVehicles

SIZE = 24


def rays(camera, side):
    """Directions through the pixels' centres, ``[side * side, 3]``; along the axis of the camera their length is 1."""
    ahead = (camera[1] - camera[0]) / np.linalg.norm(camera[1] - camera[0])
    right = np.cross(ahead, (0, 0, 1))
    right /= np.linalg.norm(right)
    up = np.cross(right, ahead)
    half = np.tan(np.radians(VIEW_ANGLE) / 2)
    at = ((np.arange(side) + 0.5) / side * 2 - 1) * half
    return (ahead - at[:, None, None] * up + at[None, :, None] * right).reshape(-1, 3)


def first_hit(triangles, eye, direction):
    """The triangle that a ray meets first, -1 for none, and whether another is as near (Moeller-Trumbore)."""
    a, e, f = triangles[:, 0], triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
    p = np.cross(direction, f)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = 1 / (e * p).sum(1)
        u = ((eye - a) * p).sum(1) * scale
        q = np.cross(eye - a, e)
        v = (q @ direction) * scale
        t = (f * q).sum(1) * scale
    hit = np.flatnonzero((u >= 0) & (v >= 0) & (u + v <= 1) & (t >= NEAR))
    if not len(hit):
        return -1, False
    order = hit[np.argsort(t[hit])]
    return order[0], len(order) > 1 and t[order[1]] - t[order[0]] < 1e-4


def lambert(surface, scene, ambient):
    colours = []
    for (a, b, c), colour in zip(surface.triangles.astype(float), surface.colours, strict=True):
        normal = np.cross(b - a, c - a)
        normal /= max(np.linalg.norm(normal), 1e-12)
        if normal @ (scene.camera[0] - (a + b + c) / 3) < 0:
            normal = -normal
        colours.append(colour * (ambient + (1.05 - ambient) * max(0, normal @ scene.light)))
    return np.reshape(colours, (-1, 3))


@pytest.mark.parametrize("class_name", list(BUILDERS)[:4])
def test_frames_equal_those_of_cast_rays(class_name, tmp_path):
    scene = ToyVehicles(tmp_path).compose(class_name, [11], Pose(40.0, 25.0))
    image, labels = draw(scene, SIZE)
    parts = (scene.toy, scene.surroundings, scene.shadow)
    triangles = np.concatenate([s.triangles for s in parts]).astype(float)
    colours = np.concatenate(
        [lambert(scene.toy, scene, scene.ambient), lambert(scene.surroundings, scene, 0.6), scene.shadow.colours]
    )
    side, sky = 2 * SIZE, scene.sky
    expected, found, clear = np.zeros((side, side, 3)), np.zeros((side, side), int), np.ones((side, side), bool)
    for pixel, direction in enumerate(rays(scene.camera, side)):
        row, column = divmod(pixel, side)
        nearest, tied = first_hit(triangles, scene.camera[0], direction)
        rise = 1 - (row + 0.5) / side
        expected[row, column] = colours[nearest] if nearest >= 0 else sky[0] * (1 - rise) + sky[1] * rise
        found[row, column] = scene.labels[nearest] if 0 <= nearest < len(scene.labels) else 0
        clear[row, column] = not tied
    whole = clear.reshape(SIZE, 2, SIZE, 2).all((1, 3))
    assert whole.mean() > 0.9
    mean = (expected.reshape(SIZE, 2, SIZE, 2, 3).mean((1, 3)) * 255).clip(0, 255)
    off = np.abs(mean - image).max(-1)
    assert (off[whole] > 1).sum() <= 2  # a centre that lies on an edge
    assert (found[1::2, 1::2] != labels)[whole].sum() <= 1
    assert (labels > 0).mean() > 0.08


def test_what_reaches_behind_the_camera_is_cut_off():
    floor = np.array([[[-50, -50, 0], [50, -50, 0], [0, 80, 0]]], np.float32)
    nothing = Surface(np.zeros((0, 3, 3), np.float32), np.zeros((0, 3), np.float32))
    camera = np.array([[10.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    sky = np.array([[0.0, 0.0, 1.0]] * 2, np.float32)
    ground = Surface(floor, np.ones((1, 3), np.float32))
    scene = Scene(nothing, np.zeros(0, np.uint8), ground, nothing, sky, camera, np.array([0.0, 0.0, 1.0]), 0.5)
    image, labels = draw(scene, 16)
    assert (image[10:] == 255).all()  # the floor, lit from above, as far as the lower edge
    assert (image[:6] == (0, 0, 255)).all()
    assert not labels.any()


def test_an_empty_scene_is_its_sky(tmp_path):
    parts = list(BUILDERS["tank"]())
    image, labels = plain(ToyVehicles(tmp_path, size=16), "tank", (0.0, 10.0), seed=1, omit_parts=parts)
    assert (image == PLAIN).all()
    assert not labels.any()
