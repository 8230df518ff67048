"""A classifier from settings: any class or function, its weights, and what a saved run reopens."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import timm
import torch
from PIL import Image
from torch import nn

from tests.classifier.toy import INDICES, NAMES, Toy, named, photos, random_classifier, toy
from vrx.classifier.loading import load_classifier, reopen_classifier
from vrx.classifier.preprocessing import Preprocessing
from vrx.errors import VRXError


@pytest.mark.parametrize("name", ["torchvision/googlenet", "resnet10t"])
def test_a_saved_classifier_comes_back_the_same(name: str, tmp_path: Path) -> None:
    f = random_classifier(name)
    f.save_weights(tmp_path / "w.safetensors")
    torch.save(f.network.state_dict(), tmp_path / "w.pt")
    fitted = {"network." + k: v for k, v in f.network.state_dict().items()}
    torch.save({"state_dict": {**fitted, "criterion.weight": torch.ones(3)}, "epoch": 3}, tmp_path / "w.ckpt")
    for file in ("w.safetensors", "w.pt", "w.ckpt"):
        settings = {**named(name, num_classes=10, input_size=64), "pretrained": True, "checkpoint": tmp_path / file}
        again = load_classifier(settings, NAMES, INDICES)
        assert again.fingerprint == f.fingerprint
        assert torch.equal(again(photos()), f(photos()))


class _Evil:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, ...]]:
        return os.system, ("true",)


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    def load(file: str) -> None:
        load_classifier(named("resnet10t", checkpoint=str(tmp_path / file)), NAMES)

    network = timm.create_model("resnet10t", num_classes=10)
    torch.save(network.state_dict(), tmp_path / "head.pt")
    torch.save({k: v for k, v in network.state_dict().items() if "layer3" not in k}, tmp_path / "part.pt")
    torch.save(timm.create_model("vit_tiny_patch16_224", depth=1).state_dict(), tmp_path / "vit.pt")
    torch.save({"a": _Evil()}, tmp_path / "evil.pt")
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    (tmp_path / "noise.safetensors").write_bytes(b"\x00" * 100)
    (tmp_path / "noise.pt").write_bytes(b"no weights at all")
    (tmp_path / "zero.pt").write_bytes(b"")
    for file, message in {
        "head.pt": r"2 of another shape \(fc\.weight \(10, 512\) for \(3, 512\), fc\.bias",
        "part.pt": r"missing \(layer3\.0\.conv1\.weight, .*\.\.\.\)",
        "vit.pt": r"unknown \(cls_token",
        "evil.pt": "cannot be read as weights",
        "empty.pt": "no state dict",
        "noise.safetensors": "cannot be read as weights",
        "noise.pt": "cannot be read as weights",
        "zero.pt": "cannot be read as weights",
        "absent.pt": "no such file",
    }.items():
        with pytest.raises(VRXError, match=message):
            load(file)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"model_kwargs": {"colour": "red"}}, "model_kwargs"),
        ({"precision": "fp8"}, "precision"),
        ({"resize": "stretch"}, "resize"),
        ({"crop_pct": 1.5}, "crop_pct"),
        ({"std": [1, 1, 0]}, "std"),
        ({"interpolation": "nearly"}, "interpolation"),
    ],
)
def test_wrong_options(kwargs: dict[str, object], message: str) -> None:
    with pytest.raises(VRXError, match=message):
        load_classifier(named("resnet10t", input_size=64, **kwargs), NAMES)


# --- your own network


def my_net(width: int = 6, num_classes: int = 4) -> nn.Module:
    """A factory as a user writes one."""
    torch.manual_seed(3)
    network = Toy(num_classes)
    assert width == 6 or width == 5
    return nn.Sequential(network, nn.Identity()) if width == 5 else network


def own(name: str = "my_net", **settings: Any) -> dict[str, Any]:
    return {"_target_": f"{__name__}.{name}", "input_size": 64, **settings}


def test_your_own_function_is_called_with_its_arguments_and_the_number_of_classes() -> None:
    f = load_classifier(own(width=5, mean=[0.1, 0.2, 0.3], std=None, resize="squash", fit=None), NAMES)
    assert isinstance(f.network, nn.Sequential) and f.network[0].head.out_features == 3
    assert f.transform == Preprocessing((64, 64), (64, 64), "bilinear", (0.1, 0.2, 0.3), (1.0, 1.0, 1.0), "squash")
    assert load_classifier(own(num_classes=None), ["a", "b"], [3, 1]).network.head.out_features == 4
    assert load_classifier(own(num_classes=7), ["a", "b"], [6, 1]).network.head.out_features == 7


class Sized(Toy):
    """A class that names settings of VRX's: it is given them."""

    seen: ClassVar[dict[str, Any]] = {}

    def __init__(
        self, input_size: int, num_classes: int, pretrained: bool = True, checkpoint: str | None = None
    ) -> None:
        super().__init__(num_classes)
        Sized.seen = {"input_size": input_size, "pretrained": pretrained, "checkpoint": checkpoint}


def test_a_target_that_names_a_setting_is_given_it() -> None:
    load_classifier(own("Sized", pretrained=True), NAMES)
    assert Sized.seen == {"input_size": 64, "pretrained": True, "checkpoint": None}
    load_classifier(own("Sized", pretrained=False, checkpoint="my.weights"), NAMES)  # the target's to load: no error
    assert Sized.seen == {"input_size": 64, "pretrained": False, "checkpoint": "my.weights"}


def test_values_in_zero_one_are_assumed_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    f = load_classifier(own(), NAMES)
    assert "values in [0, 1]" in caplog.text
    white = f.transform(Image.new("RGB", (64, 64), "white"))
    assert torch.equal(white, torch.ones(3, 64, 64))


def test_your_own_network_with_weights_is_saved_and_reopened(tmp_path: Path) -> None:
    torch.manual_seed(8)
    trained = Toy(3)
    torch.save(trained.state_dict(), tmp_path / "trained.pt")
    f = load_classifier(own(checkpoint=str(tmp_path / "trained.pt"), layers=["features.2", "features"]), NAMES)
    assert torch.equal(f.network.head.weight, trained.head.weight)
    f.save_weights(tmp_path / "saved.safetensors")
    (tmp_path / "trained.pt").unlink()
    again = reopen_classifier(json.loads(json.dumps(f.spec)), tmp_path / "saved.safetensors")
    assert again.fingerprint == f.fingerprint and again.spec == f.spec
    assert torch.equal(again(photos()), f(photos()))


def test_a_named_network_is_reopened_without_a_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    f = random_classifier("torchvision/googlenet", resize="squash")
    f.save_weights(tmp_path / "saved.safetensors")
    monkeypatch.setattr(socket, "getaddrinfo", None)
    again = reopen_classifier(json.loads(json.dumps(f.spec)), tmp_path / "saved.safetensors")
    assert again.fingerprint == f.fingerprint and again.transform == f.transform


def test_a_network_given_as_an_object_is_needed_again(tmp_path: Path) -> None:
    f = toy()
    f.save_weights(tmp_path / "saved.safetensors")
    with pytest.raises(VRXError, match="network="):
        reopen_classifier(f.spec, tmp_path / "saved.safetensors")
    again = reopen_classifier(f.spec, tmp_path / "saved.safetensors", network=Toy())
    assert again.fingerprint == f.fingerprint
    with pytest.raises(VRXError, match="another shape"):
        reopen_classifier(f.spec, tmp_path / "saved.safetensors", network=Toy(9))


def no_network() -> str:
    return "no network"


def broken(colour: str) -> nn.Module:
    raise OSError(f"no {colour} here")


A_NUMBER = 7


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"_target_": "my_missing_package.net"}, r"_target_=my_missing_package\.net.*import"),
        ({"_target_": "torch.nn.Moduel"}, r"_target_=torch\.nn\.Moduel"),
        ({"_target_": None}, "_target_ is not given"),
        (own("A_NUMBER"), "is a int"),
        (own("no_network"), r"no_network returns str.*torch\.nn\.Module"),
        (own("broken", colour="red"), r"broken failed with \(colour='red'\): OSError: no red here"),
        (own("my_net", colour="red"), r"unexpected keyword argument 'colour'"),
        (own("my_net", input_size=None), r"Toy does not say how it reads a photo: give classifier\.input_size"),
        (own("my_net", num_classes=9), "9 outputs and there are 3 classes"),
    ],
)
def test_what_is_wrong_with_a_target_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(VRXError, match=message):
        load_classifier(settings, NAMES)


def test_edited_code_of_your_own_network_misses_the_cache_and_its_run_opens_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = load_classifier(own(), NAMES)
    before.save_weights(tmp_path / "saved.safetensors")
    spec = json.loads(json.dumps(before.spec))
    assert load_classifier(own(), NAMES).version == before.version
    reopen_classifier(spec, tmp_path / "saved.safetensors")
    assert "code" not in caplog.text
    monkeypatch.setattr("vrx.classifier.classifier.code_of", lambda kind: f"another {kind.__name__}")
    assert load_classifier(own(), NAMES).version != before.version
    again = reopen_classifier(spec, tmp_path / "saved.safetensors")
    assert again.fingerprint == before.fingerprint and "Toy: its code is not that of the run" in caplog.text
