import numpy as np
import pytest
from PIL import Image

from vrx.data.ilab20m import ILab20M, pose_of
from vrx.data.images import SPLITS, Photo
from vrx.data.sources import HasPoses
from vrx.errors import VRXError

SIZES = {"discovery": 4, "val": 3, "train": 8, "test": 5}


def plant(root, name, instances, nested=False):
    for i in range(instances):
        for camera in range(3):
            for rotation in range(4):
                folder = root / name / f"i{i}" if nested else root
                folder.mkdir(parents=True, exist_ok=True)
                file = f"{name}-i{i:04d}-b0012-c{camera:02d}-r{rotation:02d}-l0-f1.jpg"
                Image.new("RGB", (20, 20), (i, camera, rotation)).save(folder / file)


@pytest.fixture(params=[False, True], ids=["flat", "nested"])
def root(tmp_path, request):
    for name in ("bus", "mil", "tank", "boat"):
        plant(tmp_path, name, 6, request.param)
    (tmp_path / "readme.txt").write_text("not a photo")
    return tmp_path


def test_no_instance_is_in_two_splits(root):
    source = ILab20M(root, **SIZES)
    assert source.class_names == ["bus", "military", "tank"]
    owner = {}
    for split, size in SIZES.items():
        photos = source.photos(split)
        assert np.bincount([p.label for p in photos]).tolist() == [size] * 3
        for photo in photos:
            name = photo.path.split("/")[-1]
            assert name.startswith(("bus", "mil", "tank")[photo.label])
            assert owner.setdefault(name.split("-b")[0], split) == split
            assert f"-{source.pose_name(photo)}-" in name
    assert isinstance(source, HasPoses)


def test_splits_are_fixed_by_the_seed(root):
    assert ILab20M(root, **SIZES).photos("train") == ILab20M(root, **SIZES).photos("train")
    assert ILab20M(root, **SIZES).photos("train") != ILab20M(root, **SIZES, seed=1).photos("train")


def test_few_instances_are_split_by_view_with_a_warning(tmp_path, caplog):
    for name in ("bus", "tank"):
        plant(tmp_path, name, 2)
    source = ILab20M(tmp_path, ["bus", "tank"], discovery=2, val=2, train=None, test=None)
    paths = [p.path for split in SPLITS for p in source.photos(split)]
    assert len(paths) == len(set(paths)) == 48
    assert "2 instances" in caplog.text


@pytest.fixture(scope="module")
def sheets(tmp_path_factory):
    """Sheets in which view number v has the colour (v // 256, v % 256, instance)."""
    folder = tmp_path_factory.mktemp("sheets")
    numbers = np.arange(44 * 30).reshape(30, 44)
    for name in ("bus", "tank"):
        for instance in range(4):
            views = np.stack([numbers // 256, numbers % 256, np.full_like(numbers, instance)], -1).astype(np.uint8)
            pixels = views.repeat(16, 0).repeat(16, 1)
            Image.fromarray(pixels).save(folder / f"{name}-i{instance:04d}-b0077-cropped.png")
    return folder


def test_views_of_a_sheet(sheets):
    source = ILab20M(sheets, {"bus": "bus", "tank": "tank"}, discovery=5, train=5, val=5, test=5)
    seen = set()
    for split in SPLITS:
        photos = source.photos(split)
        assert len(photos) == 10
        for photo in photos:
            pixels = np.asarray(source.read(photo))
            high, low, instance = pixels[0, 0].tolist()
            assert pixels.shape == (16, 16, 3)
            assert (pixels == pixels[0, 0]).all()
            assert photo.path.endswith(f"#{high * 256 + low}")
            assert f"-i{instance:04d}-" in photo.path
            seen.add((photo.label, instance, split))
    assert len(seen) == 8, "one instance a split and class"


def test_pose_of_a_view_of_a_sheet():
    number = 0
    for camera in range(11):
        for rotation in range(8):
            for _ in range(5 * 3):
                assert pose_of(f"bus-i0008-b0077-cropped.png#{number}") == (camera, rotation)
                number += 1
    assert pose_of("a/mil-i0003-b0012-c10-r03-l0-f1-x.jpg") == (10, 3)


def test_bad_input_is_named(root, sheets):
    with pytest.raises(VRXError, match=r"data\.root"):
        ILab20M(root / "nowhere")
    with pytest.raises(VRXError, match=r"'boot'.*did you mean boat"):
        ILab20M(root, ["bus", "boot"])
    with pytest.raises(VRXError, match="no pose"):
        pose_of("holiday.jpg")
    source = ILab20M(sheets, ["bus", "tank"], discovery=1, train=1, val=1, test=1)
    sheet = source.photos("val")[0].path.split("#")[0]
    with pytest.raises(VRXError, match="views 0 to 1319"):
        source.read(Photo(f"{sheet}#1320", 0, "val"))
    Image.new("RGB", (50, 50)).save(sheets / "odd.png")
    with pytest.raises(VRXError, match="50 x 50 pixels: not a sheet"):
        source.read(Photo(f"{sheets / 'odd.png'}#0", 0, "val"))
