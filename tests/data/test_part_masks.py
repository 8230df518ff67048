"""Label PNGs beside photos: read right, refused with the file's name, framed as the classifier frames the photo."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import planted
from vrx.bank import ConceptBank
from vrx.classifier.classifier import Classifier
from vrx.classifier.preprocessing import Preprocessing
from vrx.concepts.purity import Seen, masks_of, part_names, with_parts
from vrx.data.images import Photo
from vrx.data.part_masks import PhotoFolderWithParts, geometry_of, in_frame, label_file, seen
from vrx.data.sources import HasPartMasks
from vrx.errors import VRXError
from vrx.graphs.scg import SCGBuilder

PARTS = planted.PARTS


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted.with_labels(planted.write_tree(tmp_path_factory.mktemp("parts")))


@pytest.fixture(scope="module")
def masked(tree: Path) -> PhotoFolderWithParts:
    return planted.folder_with_parts(tree)


def test_label_pngs_are_no_photos_and_decide_none(masked: PhotoFolderWithParts, tree: Path) -> None:
    plain = planted.photo_folder(tree)
    assert isinstance(masked, HasPartMasks) and not isinstance(plain, HasPartMasks)
    assert masked.settings() == plain.settings()
    for split in ("discovery", "train", "val", "test"):
        assert masked.photos(split) == plain.photos(split)


def test_each_part_has_the_pixels_of_its_label(masked: PhotoFolderWithParts) -> None:
    for photo in masked.photos("discovery"):
        parts = masked.parts(photo)
        assert masked.has_parts(photo) and list(parts) == list(PARTS)
        np.testing.assert_array_equal(parts["disc"], planted.part_of(photo.path))
        assert 60 < parts["square"].sum() <= 144 and not (parts["disc"] & parts["square"]).any()


def one_photo(folder: Path, size: tuple[int, int] = (40, 30)) -> Photo:
    folder.mkdir(parents=True)
    Image.new("RGB", size).save(folder / "a.jpg")
    (folder / "parts").mkdir()
    return Photo(str(folder / "a.jpg"), 0, "test")


@pytest.fixture
def folder(tmp_path: Path) -> tuple[PhotoFolderWithParts, Photo]:
    """A source of two classes and a photo of one whose labels a test writes."""
    for name in "ab":
        for k in range(4):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.new("RGB", (40, 30)).save(tmp_path / name / f"{k}.png")
    source = PhotoFolderWithParts(tmp_path, PARTS, discovery=1, train=1, val=1, test=1)
    return source, one_photo(tmp_path / "c")


@pytest.mark.parametrize("mode", ["L", "P", "I;16", "1"])
def test_any_png_with_a_single_channel_is_read(folder: tuple[PhotoFolderWithParts, Photo], mode: str) -> None:
    source, photo = folder
    labels = np.zeros((30, 40), np.uint8)
    labels[3:9, 5:20] = 1
    if mode != "1":
        labels[20:, 30:] = 2
    if mode == "P":
        image = Image.fromarray(labels)
        image.putpalette([0, 0, 0, 200, 0, 0, 10, 20, 30])  # the colours count for nothing
    elif mode == "1":
        image = Image.fromarray(labels.astype(bool))
    else:
        image = Image.fromarray(labels.astype(np.uint16 if mode == "I;16" else np.uint8))
    assert image.mode == mode
    image.save(label_file(photo))
    parts = source.parts(photo)
    assert list(parts) == (["disc"] if mode == "1" else list(PARTS))
    for number, mask in enumerate(parts.values(), 1):
        np.testing.assert_array_equal(mask, labels == number)


def colour(labels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.repeat(labels[..., None], 3, axis=2))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda labels: Image.fromarray(labels.T.copy()), r"a\.png has 30 x 40 pixels, its photo 40 x 30: .*or remove"),
        (lambda labels: Image.fromarray(labels + 3), r"a\.png has the label 3, but data\.part_names names 2 parts"),
        (colour, r"a\.png is a picture of mode RGB, not of a single channel: save .* or remove it"),
        (lambda labels: colour(labels).convert("LA"), "of mode LA"),
    ],
    ids=["size", "label", "colours", "transparent"],
)
def test_a_label_png_that_does_not_fit_is_named(
    folder: tuple[PhotoFolderWithParts, Photo], made: Callable[[np.ndarray], Image.Image], message: str
) -> None:
    source, photo = folder
    made(np.zeros((30, 40), np.uint8)).save(label_file(photo))
    with pytest.raises(VRXError, match=message):
        source.parts(photo)


def test_a_damaged_or_a_missing_label_png_is_named(folder: tuple[PhotoFolderWithParts, Photo]) -> None:
    source, photo = folder
    assert not source.has_parts(photo)
    with pytest.raises(VRXError, match=r"no label PNG .*a\.png"):
        source.parts(photo)
    Image.fromarray(np.random.default_rng(0).integers(0, 2, (30, 40), dtype=np.uint8)).save(label_file(photo))
    label_file(photo).write_bytes(label_file(photo).read_bytes()[:90])
    with pytest.raises(VRXError, match=r"a\.png cannot be read as a label PNG .*repair or remove"):
        source.parts(photo)


def test_the_size_is_that_of_the_upright_photo(folder: tuple[PhotoFolderWithParts, Photo]) -> None:
    source, photo = folder
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.new("RGB", (40, 30)).save(photo.path, exif=exif)
    Image.fromarray(np.ones((40, 30), np.uint8)).save(label_file(photo))
    assert source.parts(photo)["disc"].all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"part_names": []}, "1 to 255 names"),
        ({"part_names": ["wheel", "wheel"]}, "each once"),
        ({"part_names": ["wheel", ""]}, "none empty"),
        ({"part_names": ["background", "wheel"]}, "that is label 0"),
        ({"part_names": [f"part {k}" for k in range(256)]}, "1 to 255"),
        ({"part_names": ["wheel"], "alike": ["door"]}, "data.alike names door: use some of wheel"),
    ],
)
def test_bad_settings_are_named(tree: Path, settings: dict, message: str) -> None:
    with pytest.raises(VRXError, match=message):
        PhotoFolderWithParts(tree, **settings)


# --- in the classifier's frame


@pytest.mark.parametrize("size", [(150, 60), (60, 150), (97, 131)], ids=str)
@pytest.mark.parametrize(
    "preprocessing",
    [
        Preprocessing((48, 48), (64, 64), "bilinear", (0.5, 0.4, 0.3), (0.2, 0.3, 0.2)),
        Preprocessing((48, 64), (56, 80), "bicubic", (0, 0, 0), (1, 1, 1)),
        Preprocessing((48, 48), (48, 48), "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "squash"),
    ],
    ids=["shorter", "oblong", "squash"],
)
def test_masks_go_through_the_same_resize_and_crop_as_the_photo(
    preprocessing: Preprocessing, size: tuple[int, int]
) -> None:
    """Each part is painted in a colour of its own; in the frame its mask lies where that colour is."""
    width, height = size
    parts = {name: np.zeros((height, width), bool) for name in ("corner", "left", "middle")}
    parts["corner"][: height // 9, : width // 9] = True
    parts["left"][height // 3 : 2 * height // 3, width // 5 : width * 2 // 5] = True
    parts["middle"][height // 2 :, width // 2 : width * 3 // 4] = True
    pixels = np.zeros((height, width, 3), np.uint8)
    for channel, mask in enumerate(parts.values()):
        pixels[mask, channel] = 255
    plain = replace(preprocessing, mean=(0, 0, 0), std=(1, 1, 1))
    shown = plain(Image.fromarray(pixels))
    masks = in_frame(parts, geometry_of(preprocessing))
    for channel, name in enumerate(parts):
        painted = shown[channel].numpy() > 0.5
        mask = masks.get(name, np.zeros(preprocessing.input_size, bool))
        assert mask.shape == painted.shape
        if painted.sum() < 4:  # cut off by the crop
            assert mask.sum() < 8
            continue
        assert (mask & painted).sum() / (mask | painted).sum() > 0.8, name
        rows, columns = (np.nonzero(m) for m in (mask, painted))
        assert np.abs(np.mean(rows, axis=1) - np.mean(columns, axis=1)).max() < 0.75, "not shifted"


def test_a_part_that_the_crop_cuts_off_is_left_out() -> None:
    parts = {"edge": np.zeros((60, 150), bool), "middle": np.zeros((60, 150), bool)}
    parts["edge"][:, :30], parts["middle"][:, 60:90] = True, True
    crop = Preprocessing((48, 48), (48, 48), "bilinear", (0, 0, 0), (1, 1, 1))
    assert list(in_frame(parts, geometry_of(crop))) == ["middle"]
    assert in_frame({}, geometry_of(crop)) == {}


def test_many_parts_keep_their_names() -> None:
    parts = {f"part {k}": np.zeros((64, 255), bool) for k in range(255)}
    for k, mask in enumerate(parts.values()):
        mask[:, k] = True
    frame = Preprocessing((64, 255), (64, 255), "bilinear", (0, 0, 0), (1, 1, 1), "none")
    framed = in_frame(parts, geometry_of(frame))
    assert list(framed) == list(parts)
    assert all((framed[name] == mask).all() for name, mask in parts.items())


# --- what is found, beside what is there


def test_what_is_seen_is_what_the_graphs_match(builder: SCGBuilder, masked: PhotoFolderWithParts) -> None:
    found = seen(builder, masked, "test")
    photos, f = masked.photos("test"), builder.classifier
    assert [s.label for s in found] == [p.label for p in photos]
    num = builder.bank.num_concepts
    for photo, one in zip(photos, found, strict=True):
        x = f.transform(masked.read(photo))[None]
        graphs = builder(x, [builder.extractor.segmenter(f.pixels(x)[0])])
        assert graphs.matched.shape[2] == num + 1, "the rest of the photo is the last node, and no concept"
        assert one.masks.shape == (3, num, planted.SIDE, planted.SIDE)
        np.testing.assert_array_equal(one.masks, masks_of(graphs.matched[0, :, :num], graphs.patches[0].masks))
        np.testing.assert_array_equal(one.parts["disc"], planted.part_of(photo.path))


def test_the_first_photos_of_each_class_are_enough(builder: SCGBuilder, masked: PhotoFolderWithParts) -> None:
    every, few = seen(builder, masked, "val"), seen(builder, masked, "val", limit_per_class=2)
    assert [s.label for s in few] == [0, 0, 1, 1, 2, 2]
    first = [s for label in range(3) for s in [s for s in every if s.label == label][:2]]
    for one, other in zip(few, first, strict=True):
        np.testing.assert_array_equal(one.masks, other.masks)


def test_photos_without_masks_are_counted_in_one_line(
    builder: SCGBuilder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = planted.with_labels(planted.write_tree(tmp_path / "some", train=9))
    source = PhotoFolderWithParts(root, PARTS, classes=list(planted.CLASSES), discovery=2, train=2, val=3)
    gone = [photo for photo in source.photos("val") if photo.label != 1][:4]
    for photo in gone:
        label_file(photo).unlink()
    with caplog.at_level(logging.WARNING):
        assert len(seen(builder, source, "val")) == 5
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("4 of 9 photos of val have no part masks") and gone[0].path in line
    for photo in source.photos("val"):
        label_file(photo).unlink(missing_ok=True)
    assert seen(builder, source, "val") == []


def test_an_unreadable_photo_is_left_out(builder: SCGBuilder, tmp_path: Path) -> None:
    root = planted.with_labels(planted.write_tree(tmp_path / "torn", train=9))
    source = PhotoFolderWithParts(root, PARTS, classes=list(planted.CLASSES), discovery=2, train=2, val=3)
    Path(source.photos("val")[0].path).write_bytes(b"torn")
    assert len(seen(builder, source, "val")) == 8


# --- names of concepts


def test_the_concept_of_a_class_is_named_after_its_disc(
    builder: SCGBuilder, bank: ConceptBank, masked: PhotoFolderWithParts, colour_f: Classifier
) -> None:
    found = seen(builder, masked, "discovery")
    named = with_parts(bank, found)
    assert [named.name(c, 0) for c in range(3)] == ["disc"] * 3
    assert named.parts == part_names(found, bank.present)
    assert named.digest == bank.digest and not bank.parts
    assert with_parts(bank, []) is bank


def test_what_shows_two_parts_alike_has_the_names_of_both(bank: ConceptBank) -> None:
    masks = np.zeros((3, bank.num_concepts, 4, 4), bool)
    masks[0, 0], masks[0, 1, :, 0] = True, True
    half = {"left": np.zeros((4, 4), bool), "right": np.zeros((4, 4), bool)}
    half["left"][:, :2], half["right"][:, 2:] = True, True
    assert with_parts(bank, [Seen(0, masks, half)]).parts[0][:2] == ["left and right", "left"]
    assert with_parts(bank, [Seen(1, masks, half)]).parts[0][:2] == ["", ""], "photos of another class do not name it"
