"""Networks by name: what is offered for wrong ones, and real weights on real photos."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.classifier.toy import INDICES, NAMES, named
from vrx.classifier.loading import load_classifier
from vrx.errors import VRXError


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("resnet81", "resnet18"),
        ("gogolenet", "googlenet"),
        ("timm/googlenet", "torchvision/googlenet"),
        ("vit_tiny_patch16", "vit_tiny"),
    ],
)
def test_unknown_names_offer_the_nearest(name: str, near: str) -> None:
    with pytest.raises(VRXError, match=f"Unknown network.*{near}"):
        load_classifier(named(name), NAMES, INDICES)


@pytest.mark.parametrize("name", ["timm/resnet10t", "torchvision/squeezenet1_1"])
def test_weights_that_cannot_be_downloaded(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    with pytest.raises(VRXError, match=rf"{name.split('/')[1]}.*classifier\.checkpoint=<file>"):
        load_classifier({**named(name), "pretrained": True}, NAMES, INDICES)


def imagenette() -> Path:
    root = Path(os.environ.get("VRX_IMAGENETTE", Path(__file__).parents[3] / "shared" / "imagenette"))
    if not (root / "mobilenetv2_100.safetensors").exists():
        pytest.skip("needs real photos and weights: set VRX_IMAGENETTE to their folder")
    return root


@pytest.mark.parametrize(("name", "least"), [("mobilenetv2_100", 0.9), ("mobilenetv1_025", 0.6)])
def test_real_weights_tell_real_photos_apart(name: str, least: float) -> None:
    root = imagenette()
    classes = {
        "n03417042": 569,
        "n03425413": 571,
        "n03028079": 497,
        "n02979186": 482,
        "n03394916": 566,
        "n03000684": 491,
    }
    f = load_classifier(
        named(
            name,
            checkpoint=root / f"{name}.safetensors",
            input_size=224 if name == "mobilenetv2_100" else 128,
            mean=[0.5] * 3,
            std=[0.5] * 3,
            resize="squash",
            model_kwargs={"pad_type": "same"},
        ),
        list(classes),
        list(classes.values()),
    )
    right = total = 0
    for label, folder in enumerate(classes):
        files = sorted((root / "val" / folder).iterdir())[:10]
        with torch.inference_mode():
            found = f(torch.stack([f.transform(Image.open(file)) for file in files])).argmax(1)
        right, total = right + int((found == label).sum()), total + len(files)
    assert total == 60
    assert right / total > least
