import json

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from tests.data.toys.plain import plain
from vrx.data.sources import CanRender, HasDecidingRelations, HasPoses
from vrx.data.toys.arrangements import CLASSES, NO_PAIR, ToyArrangements
from vrx.data.toys.things import BUILDERS
from vrx.errors import VRXError

SMALL = {"size": 64, "discovery": 1, "train": 24, "val": 1, "test": 24}
POSE = (40.0, 35.0)
PARTS = set(BUILDERS)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return ToyArrangements(tmp_path_factory.mktemp("toys"), **SMALL, removal=0.5)


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    return ToyArrangements(tmp_path_factory.mktemp("studio"), size=128)


def middles(masks):
    """(column, row) of what is seen of each part, in [0, 1]."""
    return {name: np.argwhere(mask).mean(0)[::-1] / len(mask) for name, mask in masks.items()}


def test_a_class_is_called_after_the_relation_that_tells_it(source):
    assert isinstance(source, HasDecidingRelations) and isinstance(source, CanRender) and isinstance(source, HasPoses)
    for label, name in enumerate(source.class_names[:-1]):
        part, kind, other = source.deciding_relation(label)
        assert name == f"{part} {kind} {other}" and {part, other} < PARTS
    assert source.class_names[-1] == NO_PAIR and source.deciding_relation(len(CLASSES)) is None
    json.dumps(source.settings())


def test_every_photo_shows_every_part_clearly(source):
    for photo in source.photos("test"):
        parts = source.parts(photo)
        assert parts.keys() == set(source.truth(photo)["parts"].values())
        assert parts.keys() == PARTS or source.class_names[photo.label] == NO_PAIR
        assert min(mask.sum() for mask in parts.values()) > 0.006 * 64**2, "about 10 x 10 pixels of 128 x 128"


def test_the_relation_is_true_in_the_masks(source):
    seen = {name: [] for name in CLASSES}
    for photo in source.photos("test"):
        if source.class_names[photo.label] != NO_PAIR:
            seen[source.class_names[photo.label]].append(middles(source.parts(photo)))
    for name, frames in seen.items():
        part, kind, other = CLASSES[name]
        away = np.array([frame[part] - frame[other] for frame in frames])
        right, down = np.abs(away[:, 0]), away[:, 1]
        if kind == "on":
            assert (down < -0.08).all() and (right < 0.08).all()
        elif kind == "in front of":
            assert (down > 0.08).all() and (right < 0.12).all()
        elif kind == "beside":
            assert (right > 0.15).all() and (right < 0.35).all() and (np.abs(down) < 0.08).all()
        else:
            assert (np.hypot(right, down) > 0.25).all()


def test_without_a_pair_the_drum_or_the_crate_or_both_are_missing_and_nothing_else(source):
    missing = [
        PARTS - source.parts(photo).keys()
        for photo in source.photos("test")
        if source.class_names[photo.label] == NO_PAIR
    ]
    assert {frozenset(parts) for parts in missing} == {
        frozenset({"drum"}),
        frozenset({"crate"}),
        frozenset({"drum", "crate"}),
    }


def test_only_a_pair_that_is_in_front_or_carries_hides_each_other(studio):
    """What is hidden is what rendering a part alone adds to its mask."""
    for label, name in enumerate(CLASSES):
        related = set(CLASSES[name][::2]) | {"drum", "crate"}
        _, labels = plain(studio, name, POSE, seed=label)
        for part, mask in studio.masks(labels).items():
            _, alone = plain(studio, name, POSE, seed=label, omit_parts=sorted(PARTS - {part}))
            shown = mask.sum() / studio.masks(alone)[part].sum()
            assert shown > (0.4 if part in related else 0.99)


def test_idle_parts_are_seen_alike_in_all_classes(source):
    """Mean place and size of an idle part in a class, against its mean in all: a handful of standard errors at most."""
    rows = [(photo.label, middles(source.parts(photo)), source.parts(photo)) for photo in source.photos("test")]
    labels = np.array([label for label, _, _ in rows])
    for part in ("cone", "tyre"):
        values = np.array([[*at[part], np.sqrt(masks[part].mean())] for _, at, masks in rows])
        for label in range(len(CLASSES)):
            own, others = values[labels == label], values[labels != label]
            error = values.std(0) * np.sqrt(1 / len(own) + 1 / len(others))
            assert (np.abs(own.mean(0) - others.mean(0)) < 4 * error).all()


def test_the_same_settings_give_the_same_pixels(source, tmp_path):
    again, other = ToyArrangements(tmp_path / "a", **SMALL), ToyArrangements(tmp_path / "b", **SMALL, seed=1)
    for old, new, different in zip(source.photos("val"), again.photos("val"), other.photos("val"), strict=True):
        np.testing.assert_array_equal(source.read(old), again.read(new))
        assert (np.asarray(source.read(old)) != np.asarray(other.read(different))).mean() > 0.3


def test_photos_are_rendered_again_from_their_truth(source):
    photos = source.photos("train")[::12] + source.photos("test")[::24]
    assert any(source.truth(photo)["removed"] for photo in photos)
    for photo in photos:
        frame, masks = source.render_again(photo)
        np.testing.assert_array_equal(frame, source.read(photo))
        assert masks.keys() == source.parts(photo).keys()
        if source.class_names[photo.label] != NO_PAIR:
            assert masks.keys() == PARTS - set(source.truth(photo)["removed"])


def test_an_omitted_part_changes_its_pixels_alone(studio):
    whole, labels = plain(studio, "drum on crate", POSE, seed=5)
    without, left = plain(studio, "drum on crate", POSE, seed=5, omit_parts=["crate"])
    mask = studio.masks(labels)["crate"]
    assert studio.masks(left).keys() == PARTS - {"crate"}
    assert not ((whole != without).any(-1) & ~binary_dilation(mask, np.ones((3, 3)))).any()


def test_training_frames_lack_only_parts_that_do_not_tell_the_class(source):
    photos = source.photos("train")
    removed = [source.truth(photo)["removed"] for photo in photos]
    assert {name for names in removed for name in names} == {"ball", "cone", "tyre"}
    for photo, names in zip(photos, removed, strict=True):
        assert "ball" not in names or "ball" not in source.class_names[photo.label]
    assert abs(np.mean([bool(names) for names in removed]) - 0.5) < 3 * 0.5 / np.sqrt(len(removed))


def test_a_moved_part_goes_where_the_camera_sees_it_go(studio):
    for pose in (POSE, (160.0, 35.0)):
        _, before = studio.render("drum beside crate", pose, seed=1)
        at = middles(studio.masks(before))["ball"]
        for offset, way in (((0, 0, 0.5), (0, -1)), ((0, 0.5, 0), (1, 0)), ((0.5, 0, 0), (0, 1))):
            _, after = plain(studio, "drum beside crate", pose, seed=1, move_part={"ball": offset})
            moved = middles(studio.masks(after))["ball"] - at
            assert moved @ way > 0.03 and abs(moved @ way[::-1]) < 0.03


def test_parts_can_be_replaced_and_added(studio):
    _, replaced = studio.render("ball on drum", POSE, replace_part={"ball": ("ball on drum", "cone")})
    assert studio.masks(replaced).keys() == PARTS - {"ball"}
    _, one = plain(studio, "ball on drum", POSE)
    _, two = plain(studio, "ball on drum", POSE, add_parts=[("ball on drum", "tyre", (0, 0, 1))])
    assert studio.masks(two)["tyre"].sum() > 1.5 * studio.masks(one)["tyre"].sum()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": ["drum on crate", "drum on the crate"]}, "did you mean drum on crate"),
        ({"classes": ["drum on crate"]}, "at least two"),
        ({"removal": -1}, r"data\.removal=-1"),
    ],
)
def test_bad_settings_are_named(tmp_path, arguments, message):
    with pytest.raises(VRXError, match=message):
        ToyArrangements(tmp_path, **arguments)


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ({"omit_parts": ["wheel"]}, "no part 'wheel'"),
        ({"replace_part": {"drum": ("drum on crate", "barrel")}}, "drum, crate, ball, cone, tyre"),
    ],
)
def test_unknown_parts_are_named(studio, edits, message):
    with pytest.raises(VRXError, match=message):
        studio.render("drum on crate", **edits)


def test_an_unknown_class_is_named(studio):
    with pytest.raises(VRXError, match="called 'crate on crate'"):
        studio.render("crate on crate")
