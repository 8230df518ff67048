"""Photos at hand: paths, PIL images and tensors give the same pixels, and the key follows them."""

import numpy as np
import pytest
import torch
from PIL import Image

from vrx.data.images import SPLITS
from vrx.data.memory import MemoryPhotos
from vrx.data.sources import stamps
from vrx.errors import VRXError


def pixels(seed, side=20):
    return np.random.default_rng(seed).integers(0, 256, (side, side + 4, 3), dtype=np.uint8)


def by_class(count=12):
    return {name: [Image.fromarray(pixels(100 * k + i)) for i in range(count)] for k, name in enumerate(("cat", "dog"))}


def read(source, split):
    return [np.asarray(source.read(photo)) for photo in source.photos(split)]


def test_every_photo_is_in_one_split_under_its_own_class():
    source = MemoryPhotos(by_class())
    assert source.class_names == ["cat", "dog"]
    found = {}
    for split in SPLITS:
        for photo, shown in zip(source.photos(split), read(source, split), strict=True):
            assert photo.split == split
            found[shown.tobytes()] = photo.label
    assert found == {pixels(100 * k + i).tobytes(): k for k in (0, 1) for i in range(12)}
    sizes = {split: len(source.photos(split)) // 2 for split in SPLITS}
    assert sizes == {"discovery": 3, "train": 6, "val": 1, "test": 2}


def test_paths_images_and_tensors_are_the_same_photo(tmp_path):
    image = Image.fromarray(pixels(0))
    image.save(tmp_path / "a.png")
    tensor = torch.from_numpy(pixels(0)).permute(2, 0, 1)
    items = [image, tmp_path / "a.png", str(tmp_path / "a.png"), tensor, tensor / 255, (tensor / 255).double()]
    one = {split: {"a": items, "b": items} for split in SPLITS}
    assert all((shown == pixels(0)).all() for split in SPLITS for shown in read(MemoryPhotos(one), split))
    grey = {split: {"a": [tensor[:1]], "b": [Image.fromarray(pixels(0)[..., 0])]} for split in SPLITS}
    for shown in read(MemoryPhotos(grey), "test"):
        assert (shown == pixels(0)[..., :1]).all()


def test_paths_are_stamped_and_other_content_is_another_key(tmp_path):
    photos = by_class()
    photos["cat"][3].save(tmp_path / "3.png")
    photos["cat"][3] = tmp_path / "3.png"
    source = MemoryPhotos(photos)
    (stamp,) = [s for split in SPLITS for s in stamps(source.photos(split)) if s[0].endswith("3.png")]
    assert stamp[2] == (tmp_path / "3.png").stat().st_size
    assert MemoryPhotos(by_class()).settings() == MemoryPhotos(by_class()).settings()
    keys = [MemoryPhotos(by_class()).settings(), MemoryPhotos(by_class(13)).settings(), source.settings()]
    touched = by_class()
    touched["dog"][7].putpixel((3, 4), (1, 2, 3))
    keys.append(MemoryPhotos(touched).settings())
    swapped = dict(reversed(by_class().items()))
    keys.append(MemoryPhotos(swapped).settings())
    assert len({str(key) for key in keys}) == len(keys)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(4, 20, 20), r"tensor \[4, 20, 20\]"),
        (torch.full((3, 20, 20), 1.5), "from 1.5 to 1.5: floats must be in"),
        (torch.full((3, 20, 20), float("nan")), "floats must be in"),
        (torch.zeros(3, 20, 20, dtype=torch.int64), "int64"),
        (np.zeros((20, 20, 3)), "is a ndarray"),
        (Image.new("RGB", (4, 20)), "4 x 20 pixels"),
    ],
)
def test_a_bad_photo_is_named_by_class_and_index(bad, message):
    photos = by_class()
    photos["dog"][5] = bad
    with pytest.raises(VRXError, match=rf"photos\['dog'\], number 5, .*{message}"):
        MemoryPhotos(photos)
    splits = {split: by_class(2) for split in SPLITS}
    splits["val"]["cat"][1] = bad
    with pytest.raises(VRXError, match=rf"photos\['cat'\], number val/1, .*{message}"):
        MemoryPhotos(splits)


@pytest.mark.parametrize(
    ("photos", "message"),
    [
        ({}, "mapping of class names"),
        ([1], "mapping of class names"),
        ({"cat": by_class()["cat"]}, "at least two"),
        ({**by_class(), "cow": by_class(2)["cat"]}, "'cow' has 2 photos.*at least 4"),
        ({"train": by_class(), "test": by_class()}, "discovery, train, val, test"),
        ({split: by_class(split != "val") for split in SPLITS}, "none in val/cat, val/dog"),
    ],
)
def test_bad_mappings_are_named(photos, message):
    with pytest.raises(VRXError, match=message):
        MemoryPhotos(photos)
