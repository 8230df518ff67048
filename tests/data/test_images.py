import logging
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image

from vrx.data.images import SPLITS, PhotoFolder, allot, read_image
from vrx.errors import VRXError

RAMP = np.tile(np.linspace(0, 65535, 20), (20, 1)).round().astype(np.uint16)


def save(image, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def plant(folder, count, colour=(200, 30, 30)):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("RGB", (20, 20), colour).save(folder / f"{i:03d}.jpg")


# Reading ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "colour", "name", "expected"),
    [
        ("L", 90, "a.png", (90, 90, 90)),
        ("1", 1, "a.png", (255, 255, 255)),
        ("RGB", (10, 20, 30), "a.bmp", (10, 20, 30)),
        ("CMYK", (0, 255, 255, 0), "a.tif", (255, 0, 0)),
        ("RGBA", (255, 0, 0, 0), "a.png", (255, 255, 255)),
        ("RGBA", (0, 0, 255, 51), "a.png", (204, 204, 255)),
        ("LA", (100, 255), "a.png", (100, 100, 100)),
        ("LA", (0, 0), "a.png", (255, 255, 255)),
        ("F", 0.5, "a.tif", (128, 128, 128)),
        ("I", 65535, "a.tif", (255, 255, 255)),
        ("I", 32768, "a.tif", (128, 128, 128)),
    ],
)
def test_every_mode_becomes_the_right_rgb(tmp_path, mode, colour, name, expected):
    image = read_image(save(Image.new(mode, (20, 24), colour), tmp_path / name))
    assert (image.mode, image.size) == ("RGB", (20, 24))
    assert np.asarray(image).reshape(-1, 3).tolist() == [list(expected)] * 480


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path, name):
    image = read_image(save(Image.fromarray(RAMP), tmp_path / name))
    expected = np.linspace(0, 255, 20)
    assert np.abs(np.asarray(image)[0, :, 0] - expected).max() <= 0.51


def test_a_dark_sixteen_bit_photo_stays_dark(tmp_path):
    image = read_image(save(Image.fromarray(RAMP // 300), tmp_path / "dark.png"))
    assert np.asarray(image).max() <= 1


def test_cmyk_jpeg_is_not_inverted(tmp_path):
    image = read_image(save(Image.new("CMYK", (32, 32), (255, 0, 0, 0)), tmp_path / "a.jpg", quality=95))
    red, green, blue = np.asarray(image)[16, 16].tolist()
    assert red < 30
    assert min(green, blue) > 220


def test_transparent_palette_is_shown_over_white(tmp_path):
    image = Image.new("P", (20, 20), 1)
    image.putpalette([0, 0, 0, 10, 200, 10])
    image.paste(0, (0, 0, 10, 20))
    pixels = np.asarray(read_image(save(image, tmp_path / "a.png", transparency=0)))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[0, 19].tolist() == [10, 200, 10]


def test_exif_orientation_is_applied(tmp_path):
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, :20] = 255  # stored: white on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise: white on top
    image = read_image(save(Image.fromarray(pixels), tmp_path / "a.png", exif=exif))
    assert image.size == (20, 40)
    turned = np.asarray(image)
    assert turned[:20].min() == 255
    assert turned[20:].max() == 0


def _truncated(path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    save(Image.fromarray(noise), path)
    path.write_bytes(path.read_bytes()[:-800])


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("empty.jpg", lambda p: p.write_bytes(b"")),
        ("text.png", lambda p: p.write_text("no image")),
        ("head.png", lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0")),
        ("cut.jpg", _truncated),
        ("cut.png", _truncated),
        ("dot.png", lambda p: save(Image.new("RGB", (1, 1)), p)),
        ("thin.png", lambda p: save(Image.new("RGB", (200, 15)), p)),
        ("missing.png", lambda p: None),
        ("folder.png", lambda p: p.mkdir()),
    ],
)
def test_broken_files_are_named(tmp_path, name, make):
    make(tmp_path / name)
    with pytest.raises(VRXError, match=name):
        read_image(tmp_path / name)


# Splits -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("available", "wanted", "expected"),
    [
        (100, {"discovery": 10, "val": 20, "train": None}, [10, 20, 70]),
        (100, {"discovery": 10, "val": 20, "train": 30}, [10, 20, 30]),
        (30, {"discovery": 10, "val": 20, "train": 30}, [5, 10, 15]),
        (100, {"discovery": 10, "val": 10, "train": None, "test": None}, [10, 10, 60, 20]),
        (40, {"discovery": 20, "val": 20, "train": None}, [10, 10, 20]),
        (3, {"discovery": 100, "val": 1, "train": 50}, [1, 1, 1]),
        (4, {"discovery": 50, "val": 50, "train": None, "test": None}, [1, 1, 1, 1]),
        (22, {"discovery": 10, "val": 10, "train": None, "test": None}, [10, 10, 1, 1]),
    ],
)
def test_allot(available, wanted, expected):
    assert list(allot(available, wanted).values()) == expected


@pytest.fixture
def imagenet(tmp_path):
    for name, train, val in (("n01", 30, 6), ("n02", 40, 8), ("n03", 5, 5)):
        plant(tmp_path / "train" / name, train)
        plant(tmp_path / "val" / name, val)
    return tmp_path


def files(source, split):
    return {p.path for p in source.photos(split)}


def test_imagenet_layout(imagenet):
    (imagenet / "train" / "n01" / "notes.txt").write_text("not a photo")
    classes = {"n02": "jeep", "n01": "ambulance"}
    source = PhotoFolder(imagenet, classes, class_indices=[609, 407], discovery=5, val=4, train=10, test=6)
    assert source.class_names == ["jeep", "ambulance"]
    assert source.class_indices == [609, 407]
    for split, count in {"discovery": 5, "val": 4, "train": 10, "test": 6}.items():
        photos = source.photos(split)
        assert [p.label for p in photos] == [0] * count + [1] * count
        top = "val" if split == "test" else "train"
        assert all(p.path.startswith(str(imagenet / top / ("n02", "n01")[p.label])) for p in photos)
    assert sum(len(files(source, s)) for s in SPLITS) == len(set().union(*(files(source, s) for s in SPLITS))) == 50
    assert source.read(source.photos("test")[0]).size == (20, 20)


def test_all_that_are_left(imagenet):
    source = PhotoFolder(imagenet, ["n01", "n02"], discovery=5, val=4)
    assert len(source.photos("train")) == 30 + 40 - 2 * 9
    assert len(source.photos("test")) == 14


@pytest.mark.parametrize("nested", ["", "train"])
def test_flat_layout(tmp_path, nested):
    for name in ("cats", "dogs"):
        plant(tmp_path / nested / name, 40)
    source = PhotoFolder(tmp_path, discovery=8, val=8)
    assert source.class_names == ["cats", "dogs"]
    assert [len(source.photos(s)) for s in SPLITS] == [16, 36, 16, 12]
    assert len(set().union(*(files(source, s) for s in SPLITS))) == 80


def test_a_class_may_be_called_train(tmp_path):
    plant(tmp_path / "train", 8)
    plant(tmp_path / "bus", 8)
    assert PhotoFolder(tmp_path, discovery=1, val=1).class_names == ["bus", "train"]


def test_splits_depend_on_names_and_seed_alone(tmp_path):
    for root, order in (("a", range(30)), ("b", reversed(range(30)))):
        for i in order:
            for name in ("x", "y"):
                colour = (i if root == "a" else 99, 0, 0)
                save(Image.new("RGB", (16, 16), colour), tmp_path / root / name / f"{i}.png")

    def names(root, **options):
        source = PhotoFolder(tmp_path / root, discovery=5, val=5, **options)
        return {s: [p.path.split(f"/{root}/")[1] for p in source.photos(s)] for s in SPLITS}

    assert names("a") == names("b")
    assert names("a")["val"] != names("a", seed=1)["val"]


def test_fewer_than_asked_shrinks_with_a_warning(imagenet, caplog):
    with caplog.at_level(logging.WARNING):
        source = PhotoFolder(imagenet, ["n01", "n02"], discovery=10, val=10, train=40, test=7)
    sizes = {s: np.bincount([p.label for p in source.photos(s)]).tolist() for s in SPLITS}
    assert sizes == {"discovery": [5, 6], "val": [5, 6], "train": [20, 26], "test": [6, 7]}
    assert "n01 has only 30 photos" in caplog.text
    assert "only 6 photos" in caplog.text
    assert "train 20 (wanted 40)" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": ["n01", "n2"]}, "did you mean n02"),
        ({"classes": ["n01"]}, "at least two"),
        ({"classes": {"n01": "car", "n02": "car"}}, "named once"),
        ({"class_indices": [1, 2]}, "2 entries for 3 classes"),
        ({"val": 0}, "data.val=0"),
    ],
)
def test_bad_settings_are_named(imagenet, arguments, message):
    with pytest.raises(VRXError, match=message):
        PhotoFolder(imagenet, **{"discovery": 1, "val": 1, **arguments})


KNOWN = {"n03": ["beach wagon", 436], "n01": ["ambulance", 407]}


@pytest.mark.parametrize(
    ("classes", "names", "indices"),
    [
        (None, ["beach wagon", "ambulance"], [436, 407]),
        (["n01", "n03"], ["ambulance", "beach wagon"], [407, 436]),
        ({"n01": "van", "n03": "beach wagon"}, ["van", "beach wagon"], [407, 436]),
    ],
)
def test_known_classes_bring_their_names_and_outputs(imagenet, classes, names, indices):
    source = PhotoFolder(imagenet, classes, discovery=1, val=1, known=KNOWN)
    assert (source.class_names, source.class_indices) == (names, indices)
    assert PhotoFolder(imagenet, classes, [7, 2], discovery=1, val=1, known=KNOWN).class_indices == [7, 2]


def test_outputs_of_other_classes_must_be_given(imagenet):
    source = PhotoFolder(imagenet, ["n02", "n01"], discovery=1, val=1, known=KNOWN)
    assert source.class_names == ["n02", "ambulance"]
    with pytest.raises(
        VRXError, match=r"data\.classes has n02.*data\.class_indices=\[\.\.\.\], one per class \(n02, n01\)"
    ):
        source.class_indices  # noqa: B018
    assert PhotoFolder(imagenet, discovery=1, val=1).class_indices is None


CONF = Path(__file__).parents[2] / "conf"


@pytest.mark.parametrize(
    ("override", "names", "indices"),
    [
        ("data.classes=[n03,n01]", ["n03", "n01"], [5, 6]),
        ("data.classes={n03: bus, n01: tram}", ["bus", "tram"], [5, 6]),
    ],
)
@pytest.mark.parametrize("experiment", ["imagenette", "xception_vehicles"])
def test_other_classes_from_the_command_line(imagenet, experiment, override, names, indices):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        overrides = [f"experiment={experiment}", f"data.root={imagenet}", "data.class_indices=[5,6]", override]
        source = instantiate(compose("train", overrides).data, _convert_="all")
    assert (source.class_names, source.class_indices) == (names, indices)


def test_some_of_an_experiments_classes_from_the_command_line(tmp_path):
    for folder in ("n03028079", "n03417042"):
        plant(tmp_path / "train" / folder, 4)
        plant(tmp_path / "val" / folder, 1)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        overrides = ["experiment=imagenette", f"data.root={tmp_path}", "data.classes=[n03028079,n03417042]"]
        source = instantiate(compose("train", overrides).data, _convert_="all")
    assert (source.class_names, source.class_indices) == (["church", "garbage truck"], [497, 569])


def test_missing_things_are_named(tmp_path, imagenet):
    with pytest.raises(VRXError, match=r"nowhere: set data\.root="):
        PhotoFolder(tmp_path / "nowhere")
    plant(tmp_path / "train" / "n04", 2)
    plant(tmp_path / "val" / "n04", 0)
    with pytest.raises(VRXError, match=r"2 photos.*at least 3"):
        PhotoFolder(imagenet, ["n01", "n04"], discovery=1, val=1)
    plant(tmp_path / "train" / "n04", 9)
    with pytest.raises(VRXError, match=r"0 photos.*at least 1"):
        PhotoFolder(imagenet, ["n01", "n04"], discovery=1, val=1)
    with pytest.raises(VRXError, match="split 'holdout'"):
        PhotoFolder(imagenet, ["n01", "n02"], discovery=1, val=1).photos("holdout")


def test_settings_tell_what_determines_the_photos(imagenet):
    def settings(**options):
        return PhotoFolder(imagenet, **{"classes": ["n01", "n02"], "discovery": 1, "val": 1, **options}).settings()

    base = settings()
    for change in ({"val": 2}, {"seed": 1}, {"classes": ["n02", "n01"]}, {"train": 3}, {"discovery": 2}, {"test": 1}):
        assert str(settings(**change)) != str(base)
    assert settings() == base
