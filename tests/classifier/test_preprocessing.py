"""Preprocessing, against timm's and torchvision's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms import transforms as v1

from tests.classifier.toy import INDICES, NAMES, SMALL, Toy, named
from vrx.classifier.classifier import Classifier
from vrx.classifier.loading import load_classifier
from vrx.classifier.preprocessing import Preprocessing
from vrx.errors import VRXError


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


@pytest.mark.parametrize("size", [(90, 130), (301, 200), (224, 224), (50, 40)])
@pytest.mark.parametrize("name", ["legacy_xception", "mobilenetv2_100"])
def test_the_transform_is_timms_own(cached: Callable[[str], Classifier], name: str, size: tuple[int, int]) -> None:
    f = cached(name)
    config = timm.data.resolve_data_config({"input_size": (3, 64, 64)}, model=f.network)
    torch.testing.assert_close(f.transform(picture(*size)), timm.data.create_transform(**config)(picture(*size)))


@pytest.mark.parametrize("size", [(300, 400), (500, 260)])
def test_the_transform_is_torchvisions_own(size: tuple[int, int]) -> None:
    f = load_classifier(named("torchvision/squeezenet1_1"), NAMES, INDICES)
    theirs = torchvision.models.SqueezeNet1_1_Weights.DEFAULT.transforms()
    torch.testing.assert_close(f.transform(picture(*size)), theirs(picture(*size)))


def test_pixels_undo_the_normalisation() -> None:
    f = Classifier(
        Toy(), NAMES, [0, 1, 2], Preprocessing((64, 64), (64, 64), "bilinear", SMALL.mean, SMALL.std, "none")
    )
    image = picture(64, 64)
    x = f.transform(image)[None]
    assert np.array_equal(f.pixels(x)[0], np.asarray(image))
    torch.testing.assert_close(f.normalize(f.pixels(x)), x)
    with pytest.raises(VRXError, match="64 x 65"):
        f.transform(picture(65, 64))


def test_squashing_keeps_the_whole_photo() -> None:
    squash = Preprocessing((64, 48), (73, 73), "bilinear", (0, 0, 0), (1, 1, 1), "squash")
    image = Image.new("RGB", (400, 100))
    image.paste((255, 0, 0), (0, 0, 200, 100))
    x = squash(image)
    assert x.shape == (3, 64, 48)
    assert x[0, :, :20].min() > 0.99 and x[0, :, 28:].max() < 0.01


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA", "P", "1"])
def test_photos_of_any_mode_and_size(mode: str) -> None:
    for size in ((1, 1), (70, 64), (3, 200)):
        x = SMALL(picture(*size, mode))
        assert x.shape == (3, 64, 64) and x.dtype == torch.float32
    with pytest.raises(VRXError, match="elongated"):
        SMALL(picture(1, 500))


# --- of whatever describes it


def test_a_dictionary_a_data_config_and_its_own_settings() -> None:
    made = Preprocessing.of({"input_size": 64, "mean": (0.5, 0.4, 0.3), "std": [0.2, 0.25, 0.3], "crop_pct": 64 / 73})
    assert made == SMALL
    assert Preprocessing.of(SMALL) is SMALL
    assert Preprocessing.of(json.loads(json.dumps(SMALL.settings()))) == SMALL
    assert Preprocessing.of({"input_size": (3, 48, 64)}).input_size == (48, 64)
    config = timm.data.resolve_data_config({}, model=timm.create_model("resnet10t"))
    image = picture(301, 200)
    torch.testing.assert_close(Preprocessing.of(config)(image), timm.data.create_transform(**config)(image))


@pytest.mark.parametrize("size", [(300, 400), (500, 260), (200, 200)])
def test_torchvision_presets_and_composes(size: tuple[int, int]) -> None:
    normalize = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.3)}
    bicubic = InterpolationMode.BICUBIC
    for theirs in (
        torchvision.models.Swin_T_Weights.DEFAULT.transforms(),
        v1.Compose([v1.Resize(80, bicubic), v1.CenterCrop((64, 64)), v1.ToTensor(), v1.Normalize(**normalize)]),
        v1.Compose([v1.Resize((48, 64)), v1.ToTensor()]),
        v2.Compose(
            [
                v2.ToImage(),
                v2.Compose([v2.Resize(72), v2.CenterCrop(64)]),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(**normalize),
            ]
        ),
    ):
        expected = theirs(picture(*size))
        got = Preprocessing.of(theirs)(picture(*size))
        # v2 resizes tensors, PIL images are resized here: the same filter, rounded elsewhere
        atol = 0.05 if isinstance(theirs, v2.Compose) else 1e-6
        torch.testing.assert_close(got, torch.as_tensor(expected), rtol=0, atol=atol)


def test_a_compose_without_resize_wants_photos_of_its_size() -> None:
    assert Preprocessing.of(v1.Compose([v1.CenterCrop(64), v1.ToTensor()])).resize == "none"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda x: x, r"preprocessing=function: give.*dict\(input_size"),
        ({"mean": (0, 0, 0)}, "no input_size"),
        ({"input_size": 64, "means": 0}, "preprocessing has means: its keys are input_size"),
        (v1.Compose([v1.ToTensor()]), "preprocessing has ToTensor"),
        (v1.Compose([v1.Resize(64), v1.ToTensor()]), "add a CenterCrop"),
        (v1.Compose([v1.Resize((70, 70)), v1.CenterCrop(64)]), "leave the CenterCrop out"),
        (v1.Compose([v1.Resize((64, 64)), v1.Grayscale()]), "Grayscale"),
        ({"input_size": 0}, "must be positive"),
    ],
)
def test_what_cannot_be_understood_is_named(value: Any, message: str) -> None:
    with pytest.raises(VRXError, match=message):
        Preprocessing.of(value)
