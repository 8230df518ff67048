"""Edits by rendering, on real toy frames: what changes, where a moved part lies, which concepts are edited."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from tests.studies.planted import PlantedExplainer, explanation_of
from vrx.data.images import Photo
from vrx.data.sources import CanRender
from vrx.data.toys.models import BUILDERS, model
from vrx.data.toys.stage import VIEW_ANGLE
from vrx.data.toys.vehicles import ToyVehicles
from vrx.edits import FAR
from vrx.explanation import Explanation
from vrx.structures import UNMATCHED, Patches
from vrx.studies.sensitivity.method import OFFSETS, EditedPhoto, RenderedEdits

SIDE = 64


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ToyVehicles:
    classes = ["fire engine", "school bus", "military truck"]
    return ToyVehicles(tmp_path_factory.mktemp("toys"), SIDE, 1, 1, 1, 3, classes=classes)


@pytest.fixture(scope="module")
def photos(source: ToyVehicles) -> list[Photo]:
    return source.photos("test")


def explained(source: ToyVehicles, photo: Photo, good: bool = True) -> tuple[Explanation, list[str]]:
    """An explanation in which concept k of the photo's class is its k-th part in view, with the part names."""
    parts = source.parts(photo)
    names, n = sorted(parts), len(source.class_names)
    labels = np.full((SIDE, SIDE), len(names), np.int16)
    for k, name in enumerate(names):
        labels[parts[name]] = k
    matched = np.full((n, len(names)), UNMATCHED)
    matched[photo.label] = np.arange(len(names))
    nodes = np.zeros((n, n, len(names)))
    nodes[photo.label, photo.label] = 1.0 if good else -1.0
    image, patches = source.read(photo), Patches(labels[None], np.arange(len(names), dtype=np.int64))
    x, pixels = PlantedExplainer().read(image), np.asarray(image)
    found = explanation_of(pixels, x, np.zeros(n), nodes, matched, patches, class_names=tuple(source.class_names))
    return found, names


def edits(
    source: ToyVehicles, photo: Photo, kind: str, good: bool = True, seed: int = 0
) -> tuple[Explanation, list[str], list[EditedPhoto]]:
    before, names = explained(source, photo, good)
    editor = RenderedEdits(PlantedExplainer(), source)  # type: ignore[arg-type]
    return before, names, list(getattr(editor, kind)(photo, before, np.random.default_rng(seed)))


def frame(x: torch.Tensor) -> NDArray[np.uint8]:
    return (x * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def test_the_toys_can_be_rendered_again(source: ToyVehicles, photos: list[Photo]) -> None:
    assert isinstance(source, CanRender)
    for photo in photos[::4]:
        pixels, parts = source.render_again(photo)
        np.testing.assert_array_equal(pixels, np.asarray(source.read(photo)))
        assert {k: m.sum() for k, m in parts.items()} == {k: m.sum() for k, m in source.parts(photo).items()}
    assert source.classes_with("canvas") == ["military truck"]
    assert set(source.classes_with("wheels")) == set(BUILDERS) - {"tank"}


def test_a_replaced_part_changes_itself_and_no_other_part(source: ToyVehicles, photos: list[Photo]) -> None:
    counts = []
    for photo in photos:
        own = source.class_names[photo.label]
        before, _, found = edits(source, photo, "appearance")
        clean = source.parts(photo)
        for edit in found:
            part, other = edit.what.removesuffix("'s").split(" replaced by the ")
            assert other != own and part in model(other) and part in model(own)
            parts = source.render_again(photo, replace_part={part: (other, part)})[1]
            changed = (frame(edit.x) != before.image).any(2)
            assert changed.any()
            empty = np.zeros((SIDE, SIDE), bool)
            own_pixels = binary_dilation(clean[part] | parts.get(part, empty), iterations=2)  # with its smooth edge
            others = np.any([m & parts.get(name, empty) for name, m in clean.items() if name != part], axis=0)
            counts.append(((changed & others & ~own_pixels).sum(), changed.sum()))
    leaked, total = np.sum(counts, axis=0)
    assert len(counts) >= len(photos) and leaked < 0.01 * total  # slivers narrower than a pixel have no label


def test_edited_concepts_are_those_whose_patch_changed(source: ToyVehicles, photos: list[Photo]) -> None:
    for photo in photos[::2]:
        before, names, found = edits(source, photo, "appearance")
        parts = source.parts(photo)
        assert found
        for edit in found:
            changed = {tuple(p) for p in np.argwhere((frame(edit.x) != before.image).any(2)).tolist()}
            expected = []
            for k, name in enumerate(names):
                patch = {tuple(p) for p in np.argwhere(parts[name]).tolist()}
                if 2 * len(patch & changed) >= min(len(patch), len(changed)):
                    expected.append(k)
            assert list(edit.concepts) == expected and expected and not edit.moved


def test_a_moved_part_lies_where_the_offset_says(
    source: ToyVehicles, photos: list[Photo], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a pinhole camera: where the middle of a part that nothing hides is projected to, before and after."""
    seen, offsets = 0, {}
    render_again = source.render_again

    def noting(photo: Photo, **edits: Any) -> Any:
        offsets.update(edits.get("move_part", {}))
        return render_again(photo, **edits)

    monkeypatch.setattr(source, "render_again", noting)
    for photo, seed in itertools.product(photos, range(3)):
        truth, (before, names, found) = source.truth(photo), edits(source, photo, "structure", seed=seed)
        camera = source.compose(truth["class"], truth["seed"], source.pose(photo)).camera
        for edit in found:
            part = edit.what.removesuffix(" moved")
            if part not in ("ladder", "light bar", "canvas") or names.index(part) not in edit.concepts:
                continue
            old, new = before.mask(photo.label, names.index(part)), edit.moved[names.index(part)]
            if new.sum() < old.sum():  # it leaves the frame in part
                continue
            corners = np.concatenate([piece.triangles.reshape(-1, 3) for piece in model(truth["class"])[part]])
            middle = (corners.min(0) + corners.max(0)) / 2
            assert offsets[part] in OFFSETS
            expected = project(middle + offsets[part], camera) - project(middle, camera)
            way = (np.argwhere(new).mean(0) - np.argwhere(old).mean(0))[::-1]
            assert np.hypot(*way) >= 0.5 * FAR * SIDE - 1
            assert np.hypot(*(way - expected)) < 0.3 * np.hypot(*way) + 2, (edit.what, way, expected)
            assert (frame(edit.x) != before.image).any(2)[new].mean() > 0.5, "it is shown there"
            seen += 1
    assert seen >= 5


def project(point: NDArray[np.float64], camera: NDArray[np.float64]) -> NDArray[np.float64]:
    """(x, y) in pixels, y downwards."""
    ahead = (camera[1] - camera[0]) / np.linalg.norm(camera[1] - camera[0])
    right = np.cross(ahead, (0, 0, 1))
    right /= np.linalg.norm(right)
    up, ray = np.cross(right, ahead), point - camera[0]
    focal = SIDE / 2 / np.tan(np.radians(VIEW_ANGLE / 2))
    return np.array([ray @ right, -(ray @ up)]) * focal / (ray @ ahead)


def test_parts_that_speak_against_the_class_are_not_edited(source: ToyVehicles, photos: list[Photo]) -> None:
    for kind in ("appearance", "structure"):
        assert edits(source, photos[0], kind, good=False)[2] == []
