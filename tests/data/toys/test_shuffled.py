import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from tests.data.toys.plain import plain
from vrx.data.sources import CanRender, HasDecidingRelations
from vrx.data.toys.models import BUILDERS, model
from vrx.data.toys.shuffled import ShuffledVehicles
from vrx.errors import VRXError


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return ShuffledVehicles(tmp_path_factory.mktemp("toys"), 96, discovery=1, train=4, val=1, test=12, removal=0.5)


def middles(masks):
    """(column, row) of what is seen of each part, in [0, 1]."""
    return {name: np.argwhere(mask).mean(0)[::-1] / len(mask) for name, mask in masks.items()}


def test_no_relation_tells_a_class(source):
    assert isinstance(source, HasDecidingRelations) and isinstance(source, CanRender)
    assert [source.deciding_relation(label) for label in range(len(BUILDERS))] == [None] * len(BUILDERS)


def test_photos_show_the_parts_of_their_vehicle(source):
    for photo in source.photos("test"):
        own = set(model(source.class_names[photo.label]))
        assert set(source.parts(photo)) <= own and len(source.parts(photo)) >= len(own) - 2
    assert not {p.path for p in source.photos("val")} & {p.path for p in source.photos("test")}


def test_a_part_is_anywhere_in_every_class(source):
    """Wheels and headlights: mean place within the noise of their mean in all classes, spread over the frame."""
    seen = {"wheels": [], "headlights": []}
    for photo in source.photos("test"):
        at = middles(source.parts(photo))
        for name, rows in seen.items():
            if name in at:
                rows.append((photo.label, *at[name]))
    for rows in seen.values():
        labels, places = np.array(rows)[:, 0], np.array(rows)[:, 1:]
        assert (places.std(0) > 0.13).all()
        for label in set(labels):
            own = places[labels == label]
            assert (np.abs(own.mean(0) - places.mean(0)) < 4 * places.std(0) / np.sqrt(len(own))).all()


def test_the_place_of_a_part_tells_nothing_of_another_ones(source):
    pairs = []
    for photo in source.photos("test"):
        at = middles(source.parts(photo))
        if {"wheels", "windshield"} <= at.keys():
            pairs.append((*at["wheels"], *at["windshield"]))
    correlation = np.corrcoef(np.array(pairs).T)[:2, 2:]
    assert (np.abs(correlation) < 4 / np.sqrt(len(pairs))).all()


def test_photos_are_rendered_again_from_their_truth(source):
    photos = source.photos("train")
    assert any(source.truth(photo)["removed"] for photo in photos)
    for photo in photos[::3]:
        frame, masks = source.render_again(photo)
        np.testing.assert_array_equal(frame, source.read(photo))
        assert masks.keys() == source.parts(photo).keys()


def test_edits_leave_the_other_parts_where_they_are(source):
    whole, labels = plain(source, "tank", (40.0, 45.0), seed=3)
    mask = source.masks(labels)["turret"]
    without, left = plain(source, "tank", (40.0, 45.0), seed=3, omit_parts=["turret"])
    assert "turret" not in source.masks(left)
    assert not ((whole != without).any(-1) & ~binary_dilation(mask, np.ones((3, 3)))).any()
    before = middles(source.masks(labels))
    _, borrowed = source.render("tank", (40.0, 45.0), seed=3, replace_part={"gun": ("fire engine", "ladder")})
    assert np.linalg.norm(middles(source.masks(borrowed))["ladder"] - before["gun"]) < 0.05


def test_its_frames_are_no_frames_of_the_whole_vehicles(source):
    assert source.settings()["kind"] == "toy_shuffled"
    with pytest.raises(VRXError, match="no toy vehicle"):
        ShuffledVehicles(source.root, classes=["tank", "tram"])
