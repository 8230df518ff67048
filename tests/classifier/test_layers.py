"""Which layers are read."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
from torch import Tensor, nn

from tests.classifier.toy import INDICES, NAMES, SMALL, Toy, named, photos, toy
from vrx.classifier.classifier import Classifier
from vrx.classifier.loading import load_classifier
from vrx.errors import VRXError


@pytest.mark.parametrize(
    ("name", "expected", "match"),
    [
        ("resnet18", {"layer1": (4, 64), "layer2": (8, 128), "layer3": (16, 256), "layer4": (32, 512)}, "layer3"),
        (
            "mobilenetv2_100",
            {"blocks.1": (4, 24), "blocks.2": (8, 32), "blocks.4": (16, 96), "bn2": (32, 1280)},
            "blocks.4",
        ),
        (
            "torchvision/googlenet",
            {"conv3": (4, 192), "inception3b": (8, 480), "inception4e": (16, 832), "inception5b": (32, 1024)},
            "inception4e",
        ),
        (
            "legacy_xception",
            {"block1": (4, 128), "block2": (8, 256), "block11": (16, 728), "act4": (32, 2048)},
            "block11",
        ),
        (
            "vit_tiny_patch16_224",
            {"blocks.2": (16, 192), "blocks.5": (16, 192), "blocks.8": (16, 192), "blocks.11.norm1": (16, 192)},
            "blocks.8",
        ),
    ],
)
def test_layers_are_found(
    cached: Callable[[str], Classifier], name: str, expected: dict[str, tuple[int, int]], match: str
) -> None:
    f = cached(name)
    assert {layer.name: (layer.reduction, layer.channels) for layer in f.layers} == expected
    assert list(expected) == [layer.name for layer in f.layers]
    assert f.match_layer == match
    maps = f.inspect(photos(), gradcam=False).maps
    assert {k: (m.shape[1], *m.shape[2:]) for k, m in maps.items()} == {
        layer.name: (layer.channels, *layer.grid) for layer in f.layers
    }


def test_a_skip_around_a_layer_disqualifies_it() -> None:
    class Skipping(Toy):
        def __init__(self) -> None:
            super().__init__()
            self.side = nn.Conv2d(6, 6, 1)

        def forward(self, x: Tensor) -> Tensor:
            features = self.features(x)
            return self.head(self.pool(features + self.side(features)).flatten(1))

    f = Classifier(Skipping(), NAMES, [0, 1, 2], SMALL)
    assert [layer.name for layer in f.layers] == ["features.2", "features"]


@pytest.mark.parametrize("name", ["torchvision/vit_b_16", "deit_tiny_distilled_patch16_224"])
def test_the_grid_of_patch_tokens_is_inferred(name: str) -> None:
    f = load_classifier(named(name, num_classes=10, input_size=96), NAMES, INDICES)
    assert {layer.grid for layer in f.layers} == {(6, 6)}
    assert {layer.prefix for layer in f.layers} == {2 if name.startswith("deit") else 1}


def test_the_last_layer_of_a_transformer_that_averages_its_patches_is_its_last_block() -> None:
    f = load_classifier(
        named("vit_tiny_patch16_224", num_classes=10, input_size=64, model_kwargs={"global_pool": "avg", "depth": 4}),
        NAMES,
        INDICES,
    )
    assert [layer.name for layer in f.layers] == ["blocks.0", "blocks.1", "blocks.2", "blocks.3"]


def test_channels_last_maps_are_turned() -> None:
    f = load_classifier(named("torchvision/swin_t", num_classes=10, input_size=64), NAMES, INDICES)
    assert [(layer.reduction, layer.channels) for layer in f.layers] == [(4, 96), (8, 192), (16, 384), (32, 768)]
    assert [m.shape[1] for m in f.inspect(photos(1)).maps.values()] == [96, 192, 384, 768]


def test_layers_can_be_named_and_run_in_their_own_order() -> None:
    f = toy(layers=["features.4", "features.1"])
    assert [layer.name for layer in f.layers] == ["features.1", "features.4"]
    with pytest.raises(VRXError, match=r"features\.11.*Did you mean.*features\.1"):
        toy(layers=["features.11"])


def test_too_small_an_input_is_refused() -> None:
    with pytest.raises(VRXError, match="input_size"):
        load_classifier(named("resnet18", num_classes=10, input_size=32), NAMES, INDICES)


class Wrapped(nn.Module):
    """A network that normalises its input itself and calls another one, as users' own often do."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.normalize, self.model = nn.BatchNorm2d(3), nn.Sequential(inner, nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        return self.model(self.normalize(x))


def test_the_layers_of_a_network_inside_another_one_are_its_own() -> None:
    plain = Classifier(Toy(), NAMES, [0, 1, 2], SMALL)
    inside = Classifier(Wrapped(Toy()), NAMES, [0, 1, 2], SMALL)
    assert [layer.name for layer in inside.layers] == [f"model.0.{layer.name}" for layer in plain.layers]
    vit = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=4)
    names = [layer.name for layer in Classifier(Wrapped(vit), NAMES, [0, 1, 2], SMALL).layers]
    assert names == ["model.0.blocks.2", "model.0.blocks.5", "model.0.blocks.8", "model.0.blocks.11.norm1"]
