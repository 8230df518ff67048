import json
import pickle

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation, binary_erosion
from torch.utils.data import DataLoader

from tests.data.toys.plain import PLAIN, plain
from vrx.data.images import SPLITS
from vrx.data.sources import CanRender, HasPartMasks, HasPoses
from vrx.data.toys import rendered
from vrx.data.toys.models import BUILDERS, model, part_names, parts_alike
from vrx.data.toys.vehicles import ToyVehicles
from vrx.errors import VRXError

SMALL = {"size": 48, "discovery": 2, "train": 3, "val": 1, "test": 2, "classes": ["tank", "ambulance"]}
POSE = (40.0, 25.0)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    made = ToyVehicles(tmp_path_factory.mktemp("toys"), **SMALL)
    for split in SPLITS:
        made.photos(split)
    return made


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    return ToyVehicles(tmp_path_factory.mktemp("studio"), size=128)


def pixels(source, photo):
    return np.asarray(source.read(photo))


def test_photos_are_what_was_asked_for(source):
    assert source.class_names == ["tank", "ambulance"]
    for split in SPLITS:
        photos = source.photos(split)
        assert [p.label for p in photos] == [0] * SMALL[split] + [1] * SMALL[split]
        assert all(p.split == split and pixels(source, p).shape == (48, 48, 3) for p in photos)
    json.dumps(source.settings())


def test_no_two_photos_of_any_splits_are_the_same(source):
    every = [p for split in SPLITS for p in source.photos(split)]
    assert len({pixels(source, p).tobytes() for p in every}) == len({p.path for p in every}) == 16


def test_the_same_settings_give_the_same_pixels_and_another_seed_others(source, tmp_path):
    again, other = ToyVehicles(tmp_path / "a", **SMALL), ToyVehicles(tmp_path / "b", **SMALL, seed=1)
    for old, new, different in zip(source.photos("val"), again.photos("val"), other.photos("val"), strict=True):
        np.testing.assert_array_equal(pixels(source, old), pixels(again, new))
        assert source.parts(old).keys() == again.parts(new).keys()
        assert (pixels(source, old) != pixels(other, different)).mean() > 0.3
    assert source.settings() == again.settings() != other.settings()
    assert source.root.name == again.root.name != other.root.name


def test_a_photo_can_be_rendered_again_from_its_truth(source):
    for photo in source.photos("test"):
        truth = source.truth(photo)
        image, labels = source.render(truth["class"], source.pose(photo), truth["seed"])
        np.testing.assert_array_equal(image, pixels(source, photo))
        masks = source.masks(labels)
        assert masks.keys() == set(truth["parts"].values())
        assert all((source.parts(photo)[name] == mask).all() for name, mask in masks.items())


def test_a_resumed_render_redoes_nothing(tmp_path, monkeypatch):
    real, written = rendered.write_frame, []

    def interrupted(frame, *content):
        if len(written) == 4:
            raise KeyboardInterrupt
        written.append(frame.path)
        real(frame, *content)

    monkeypatch.setattr(rendered, "write_frame", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ToyVehicles(tmp_path, **SMALL).photos("train")
    first, stamps = list(written), [p.stat().st_mtime_ns for p in written]
    assert not list(tmp_path.rglob("*.part"))

    written.clear()
    photos = ToyVehicles(tmp_path, **SMALL).photos("train")
    assert len(written) == 2
    assert {str(p) for p in first + written} == {p.path for p in photos}
    assert [p.stat().st_mtime_ns for p in first] == stamps

    written.clear()
    more = ToyVehicles(tmp_path, **{**SMALL, "train": 4}).photos("train")
    assert len(written) == 2, "more frames keep those that are there"
    assert {p.path for p in photos} < {p.path for p in more}


def test_frames_can_be_read_in_worker_processes(source):
    photos = source.photos("train")
    copy = pickle.loads(pickle.dumps(source))
    loader = DataLoader(
        [p.path for p in photos], num_workers=1, collate_fn=lambda rows: [copy.read(photos[0]).size for _ in rows]
    )
    assert list(loader) == [[(48, 48)]] * 6


def test_frames_that_several_processes_render_are_the_same(source, tmp_path, monkeypatch):
    monkeypatch.setattr(rendered, "MANY", 2)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        again = ToyVehicles(tmp_path, **SMALL)
        for split in ("train", "val"):
            for one, other in zip(source.photos(split), again.photos(split), strict=True):
                np.testing.assert_array_equal(pixels(source, one), pixels(again, other))
                assert source.truth(one) == again.truth(other)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("class_name", BUILDERS)
def test_masks_cover_the_vehicle_and_nothing_else(studio, class_name):
    image, labels = plain(studio, class_name, POSE, seed=3)
    vehicle = (image != PLAIN).any(-1)
    assert vehicle.mean() > 0.08
    assert not ((labels > 0) & ~vehicle).any()
    assert not (binary_erosion(vehicle) & ~binary_dilation(labels > 0)).any()
    assert {part_names()[label - 1] for label in np.unique(labels) if label} <= set(model(class_name))


@pytest.mark.parametrize(
    ("class_name", "part"),
    [
        ("fire engine", "ladder"), ("ambulance", "cross"), ("school bus", "stop sign"), ("tank", "turret"),
        ("tank", "gun"), ("military truck", "canvas"), ("city bus", "doors"), ("city bus", "wheels"),
    ],
)  # fmt: skip
def test_leaving_a_part_out_changes_its_pixels_alone(studio, class_name, part):
    pose = (-POSE[0], POSE[1]) if part == "doors" else POSE
    whole, labels = plain(studio, class_name, pose, seed=5)
    without, left = plain(studio, class_name, pose, seed=5, omit_parts=[part])
    mask = studio.masks(labels)[part]
    changed = (whole != without).any(-1)
    assert mask.sum() > 50
    assert part not in studio.masks(left)
    assert (changed & mask).sum() > 0.9 * mask.sum()
    assert not (changed & ~binary_dilation(mask, np.ones((3, 3)))).any()


def test_a_part_that_is_moved_up_is_seen_higher(studio):
    _, before = studio.render("fire engine", POSE, seed=1)
    _, after = studio.render("fire engine", POSE, seed=1, move_part={"ladder": (0, 0, 0.5)})
    rows = [np.nonzero(studio.masks(labels)["ladder"])[0].mean() for labels in (before, after)]
    assert 3 < rows[0] - rows[1] < 15
    np.testing.assert_array_equal(before == part_names().index("wheels") + 1, after == part_names().index("wheels") + 1)


def test_parts_can_be_replaced_and_planted(studio):
    _, swapped = studio.render("tank", POSE, replace_part={"turret": ("fire engine", "ladder")})
    assert "ladder" in studio.masks(swapped)
    assert "turret" not in studio.masks(swapped)
    image, planted = studio.render("city bus", POSE, add_parts=[("ambulance", "light bar", (0, 0, 0.1))])
    assert "light bar" in studio.masks(planted)
    beacons = image[studio.masks(planted)["light bar"]].astype(int)
    assert (beacons[:, 0] - beacons[:, 1:].max(1)).max() > 60, "an ambulance has a red beacon"


def test_poses_follow_the_turntable_and_can_be_biased(tmp_path, source):
    azimuths = [source.pose(p).azimuth for p in source.photos("train") if p.label == 0]
    assert all(abs(a - 45 * i) <= 12 for i, a in enumerate(azimuths))
    assert isinstance(source, HasPoses) and isinstance(source, CanRender)
    assert [source.pose_name(p) for p in source.photos("train")] == ["0", "1", "2"] * 2
    biased = ToyVehicles(tmp_path, **SMALL, poses={"train": {"tank": [6]}})
    poses = [[biased.pose(p) for p in biased.photos("train") if p.label == label] for label in (0, 1)]
    assert all(abs(p.azimuth - 270) <= 12 for p in poses[0])
    assert {biased.pose_name(p) for p in biased.photos("train") if p.label == 0} == {"6"}
    assert max(p.azimuth for p in poses[1]) - min(p.azimuth for p in poses[1]) > 60
    assert len({round(p.elevation / 6) for p in poses[0]}) == 3


def test_the_left_side_comes_into_view_at_90_degrees(studio):
    _, left = studio.render("school bus", (90.0, 10.0))
    _, right = studio.render("city bus", (270.0, 10.0))
    _, other = studio.render("city bus", (90.0, 10.0))
    front, rear = (np.nonzero(studio.masks(left)[part])[1].mean() for part in ("hood", "body"))
    assert front < rear, "seen from its left a vehicle looks to the left"
    assert "doors" in studio.masks(right)
    assert "doors" not in studio.masks(other)


@pytest.fixture(scope="module")
def removing(tmp_path_factory):
    """Frames of which 40 % (training) lack up to half of their parts."""
    return ToyVehicles(tmp_path_factory.mktemp("removing"), **{**SMALL, "train": 60, "val": 6, "removal": 0.4})


def test_the_asked_share_of_training_frames_lacks_parts(removing):
    photos = removing.photos("train")
    removed = [removing.truth(photo)["removed"] for photo in photos]
    share = np.mean([bool(names) for names in removed])
    assert abs(share - 0.4) < 3 * np.sqrt(0.4 * 0.6 / len(photos))
    for photo, names in zip(photos, removed, strict=True):
        parts = set(model(removing.class_names[photo.label]))
        assert set(names) <= parts and len(set(names)) == len(names) <= len(parts) // 2
    every = {name for photo, names in zip(photos, removed, strict=True) for name in names if photo.label == 0}
    assert every == set(model("tank")), "any part may be missing"


def test_a_removed_part_is_in_no_mask(removing):
    for photo in removing.photos("train"):
        truth = removing.truth(photo)
        shown = set(removing.parts(photo))
        assert not shown & set(truth["removed"])
        assert shown == set(truth["parts"].values())


def test_frames_of_the_other_splits_are_whole(removing, tmp_path):
    for split in ("discovery", "val", "test"):
        assert all(removing.truth(photo)["removed"] == [] for photo in removing.photos(split))
    whole = ToyVehicles(tmp_path, **{**SMALL, "val": 6})
    for one, other in zip(removing.photos("val"), whole.photos("val"), strict=True):
        np.testing.assert_array_equal(pixels(removing, one), pixels(whole, other))
    assert removing.root.name != whole.root.name, "frames with and without parts never mix"


def test_a_frame_without_parts_is_the_whole_one_rendered_without_them(removing, tmp_path):
    whole = ToyVehicles(tmp_path, **{**SMALL, "train": 10})
    pairs = list(zip(removing.photos("train")[:10], whole.photos("train")[:10], strict=True))
    assert {bool(removing.truth(photo)["removed"]) for photo, _ in pairs} == {True, False}
    for photo, complete in pairs:
        truth = removing.truth(photo)
        frame, masks = whole.render_again(complete, omit_parts=truth["removed"])
        np.testing.assert_array_equal(frame, pixels(removing, photo))
        assert masks.keys() == removing.parts(photo).keys()


def test_a_frame_without_parts_is_rendered_again_without_them(removing):
    photos = [photo for photo in removing.photos("train") if removing.truth(photo)["removed"]][:5]
    for photo in photos:
        frame, masks = removing.render_again(photo)
        np.testing.assert_array_equal(frame, pixels(removing, photo))
        assert all((mask == masks[name]).all() for name, mask in removing.parts(photo).items())
        first = next(iter(masks))
        _, fewer = removing.render_again(photo, omit_parts=[first])
        assert first not in fewer and not set(fewer) & set(removing.truth(photo)["removed"])


@pytest.mark.parametrize(("removal", "missing"), [(0.0, False), (1.0, True)])
def test_none_or_all_frames_lack_parts(tmp_path, removal, missing):
    source = ToyVehicles(tmp_path, **{**SMALL, "train": 4, "removal": removal})
    assert all(bool(source.truth(photo)["removed"]) is missing for photo in source.photos("train"))


def test_parts_that_look_alike(source, studio):
    """Wheels are tyres and hubs everywhere; a body has its class's paint; bumpers are bright or dark."""
    assert isinstance(source, HasPartMasks) and source.has_parts(source.photos("test")[0])
    assert "wheels" in studio.alike and not {"body", "cab", "canvas", "turret", "tracks", "bumper"} & set(studio.alike)
    assert {"windshield", "headlights", "light bar", "ladder"} <= set(studio.alike)
    assert "bumper" in parts_alike(["school bus", "city bus"]), "in these classes both are dark"
    assert set(parts_alike(["tank", "ambulance"])) <= set(model("tank")) | set(model("ambulance"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": ["tank", "ambulanz"]}, "ambulance"),
        ({"classes": ["tank", "tank"]}, "different"),
        ({"classes": ["tank"]}, "at least two"),
        ({"train": 0}, "data.train=0"),
        ({"size": 4}, "data.size=4"),
        ({"seed": -1}, "data.seed=-1"),
        ({"removal": 1.5}, r"data\.removal=1\.5"),
        ({"poses": {"trian": {"tank": [0]}}}, "trian"),
        ({"poses": {"train": {"tank": [8]}}}, "0 to 7"),
    ],
)
def test_bad_settings_are_named(tmp_path, arguments, message):
    with pytest.raises(VRXError, match=message):
        ToyVehicles(tmp_path, **{**SMALL, **arguments})


def test_unknown_names_are_named(source, studio):
    with pytest.raises(VRXError, match="split 'holdout'"):
        source.photos("holdout")
    with pytest.raises(VRXError, match="no part 'ladder'"):
        studio.render("tank", omit_parts=["ladder"])
    with pytest.raises(VRXError, match="called 'tram'"):
        studio.render("tram")


def test_frames_made_by_other_code_are_not_served(source, tmp_path, monkeypatch):
    assert ToyVehicles(source.root.parent, **SMALL).root == source.root
    monkeypatch.setattr("vrx.storage.code_version", lambda name: f"another {name}")
    edited = ToyVehicles(source.root.parent, **SMALL)
    assert edited.root != source.root
    assert edited.settings() != source.settings()
