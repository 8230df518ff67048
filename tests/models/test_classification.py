"""Fitting F on photos that a colour tells apart: it learns, resumes, and says what it could not read."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from pytorch_lightning import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader

from vrx.classifier.loading import load_classifier
from vrx.data.images import Photo
from vrx.errors import VRXError
from vrx.models.classification import Augmentation, Classification, FitOptions, LabelledPhotos, fit_classifier, readable

NAMES = ("red thing", "blue thing")
SETTINGS: dict[str, Any] = {
    "_target_": "vrx.classifier.networks.named_network",
    "name": "timm/resnet10t",
    "pretrained": False,
    "checkpoint": None,
    "input_size": 64,
}
OPTIONS = {"epochs": 3, "batch_size": 8, "lr": 0.003, "weight_decay": 0.01, "label_smoothing": 0.0, "workers": 0}

# the small loaders of these tests are not what Lightning advises
pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory", "ignore:The number of training batches")


class Colours:
    """Red or blue noise; a photo named ``broken`` cannot be read."""

    class_names = NAMES

    def __init__(self, broken: Sequence[str] = ()) -> None:
        self.broken = set(broken)
        self.reads = 0

    def photos(self, split: str) -> list[Photo]:
        count = {"discovery": 4, "train": 20, "val": 8}[split]
        return [Photo(f"{split}{i}", i % 2, split) for i in range(count)]

    def settings(self) -> dict[str, Any]:
        return {"kind": "colours"}

    def read(self, photo: Photo) -> Image.Image:
        self.reads += 1
        if "all" in self.broken or photo.path in self.broken:
            raise VRXError(f"{photo.path} is truncated")
        rng = np.random.default_rng(sum(photo.path.encode()))
        pixels = rng.integers(0, 90, (40, 48, 3))
        pixels[..., 2 * photo.label] += 150
        return Image.fromarray(pixels.astype(np.uint8))


def accuracy(weights: Path, source: Colours) -> float:
    classifier = load_classifier(SETTINGS, NAMES, weights=weights)
    photos = source.photos("val")
    x = torch.stack([classifier.transform(source.read(p)) for p in photos])
    with torch.inference_mode():
        predicted = classifier(x).argmax(1).tolist()
    return sum(p == photo.label for p, photo in zip(predicted, photos, strict=True)) / len(photos)


def test_learns_and_leaves_weights_that_a_checkpoint_setting_reads(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = Colours(broken=["train3", "val2"])
    with caplog.at_level(logging.WARNING, logger="vrx"):
        weights = fit_classifier(tmp_path, source, SETTINGS, OPTIONS, seed=0, accelerator="cpu")
    assert sum("Skipped 1 unreadable" in r.getMessage() for r in caplog.records) == 2
    assert accuracy(weights, Colours()) == 1.0
    reads = source.reads
    assert fit_classifier(tmp_path, source, SETTINGS, OPTIONS, seed=0, accelerator="cpu") == weights
    assert source.reads == reads  # a finished fit is not repeated


def test_goes_on_where_it_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    epochs: list[int] = []

    def begin(module: LightningModule) -> None:
        epochs.append(module.current_epoch)
        if len(epochs) == 3:
            raise RuntimeError("power cut")

    monkeypatch.setattr(Classification, "on_train_epoch_start", begin)
    with pytest.raises(RuntimeError, match="power cut"):
        fit_classifier(tmp_path, Colours(), SETTINGS, OPTIONS, seed=0, accelerator="cpu")
    assert not list(tmp_path.rglob("classifier.safetensors"))
    weights = fit_classifier(tmp_path, Colours(), SETTINGS, OPTIONS, seed=0, accelerator="cpu")
    assert epochs == [0, 1, 2, 2]
    assert accuracy(weights, Colours()) == 1.0


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(12, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x.flatten(1))


def test_checkpoint_is_prefixed_plain_and_scores_are_logged(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Classification(Linear(), 2, FitOptions(lr=0.01, weight_decay=0.0, label_smoothing=0.1))
    x, label = torch.randn(10, 3, 2, 2), torch.tensor([0, 1] * 5)
    batches: Any = DataLoader([(x[:6], label[:6]), (x[6:], label[6:])], batch_size=None)
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        default_root_dir=str(tmp_path),
    )
    trainer.fit(module, batches, batches)
    with torch.no_grad():
        logits = module.network(x)
        right = (logits.argmax(1) == label).float().mean().item()
        loss = nn.functional.cross_entropy(logits, label, label_smoothing=0.1).item()
    logged = {k: float(v) for k, v in trainer.callback_metrics.items()}
    assert logged["fit/val_accuracy"] == pytest.approx(right)
    assert logged["fit/val_loss"] == pytest.approx(loss, abs=1e-5)
    assert {"fit/train_loss", "fit/train_accuracy"} <= set(logged)
    trainer.save_checkpoint(tmp_path / "f.ckpt")
    saved = torch.load(tmp_path / "f.ckpt", weights_only=True)  # raises if anything but plain values is inside
    assert set(saved["state_dict"]) == {"network.head.weight", "network.head.bias"}


def photo_of_halves() -> Image.Image:
    """Left half dark, right half bright, grey."""
    pixels = np.full((64, 64, 3), 60, np.uint8)
    pixels[:, 32:] = 180
    return Image.fromarray(pixels)


def drawn(augmentation: Augmentation, count: int = 40) -> np.ndarray:
    """Grey values of many augmented photos of halves, ``[count, 64, 64]``."""
    torch.manual_seed(0)
    augment = augmentation.transform((64, 64))
    return np.stack([np.asarray(augment(photo_of_halves()).convert("L")) for _ in range(count)]).astype(int)


def test_each_augmentation_changes_what_it_says_and_can_be_switched_off() -> None:
    plain = np.asarray(photo_of_halves().convert("L")).astype(int)
    none = {"crop": False, "mirror": False, "colour": False}
    assert (drawn(Augmentation(**none)) == plain).all()
    mirrored = drawn(Augmentation(**{**none, "mirror": True}))
    turned = (mirrored == plain[:, ::-1]).all((1, 2))
    assert (turned | (mirrored == plain).all((1, 2))).all() and 5 < turned.sum() < 35
    cropped = drawn(Augmentation(**{**none, "crop": True}))
    assert set(np.unique(cropped[:, :, 0])) == {60}, "the left stays on the left"
    borders = (cropped > 120).argmax(2)[:, 0]
    assert borders.min() < 25 and borders.max() > 39
    coloured = drawn(Augmentation(**{**none, "colour": True}))
    assert (np.ptp(coloured[:, :, :30], axis=(1, 2)) == 0).all() and len(np.unique(coloured[:, 0, 0])) > 10


def negative() -> Callable[[Image.Image], Image.Image]:
    return ImageOps.invert


def test_your_own_augmentation_comes_last() -> None:
    options = FitOptions.of(
        {"augmentation": {"crop": False, "colour": False, "mirror": False, "own": f"{__name__}.negative"}}
    )
    assert (drawn(options.augmentation)[0, 0, [0, -1]] == [195, 75]).all()


def test_augments_training_photos_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[bool, list[Any]] = {True: [], False: []}
    real = LabelledPhotos.__init__

    def spy(self: Any, source: Any, photos: Any, transform: Any, augment: Any = None) -> None:
        given[photos[0].split == "val"].append(augment)
        real(self, source, photos, transform, augment)

    monkeypatch.setattr(LabelledPhotos, "__init__", spy)
    fit_classifier(tmp_path, Colours(), SETTINGS, {**OPTIONS, "epochs": 1}, seed=0, accelerator="cpu")
    (training,), (validation,) = given[False], given[True]
    assert [type(step).__name__ for step in training.transforms] == [
        "RandomResizedCrop",
        "RandomHorizontalFlip",
        "ColorJitter",
    ]
    assert validation is None


def test_another_setting_or_other_code_is_another_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def fake(folder: Path, *_: Any) -> Any:
        made.append(folder.name)
        return load_classifier(SETTINGS, NAMES)

    monkeypatch.setattr("vrx.models.classification._fit", fake)

    def fit(settings: dict[str, Any] = SETTINGS, seed: int = 0, **options: Any) -> None:
        fit_classifier(tmp_path, Colours(), settings, {**OPTIONS, **options}, seed, "cpu")

    fit()
    fit(augmentation={"mirror": True})  # the default
    fit({**SETTINGS, "fit": OPTIONS})  # the options once more
    assert len(made) == 1
    fit(augmentation={"mirror": False})
    fit({**SETTINGS, "input_size": 96})
    fit(seed=1)
    fit(epochs=4)
    monkeypatch.setattr("vrx.storage.code_version", lambda name: f"another {name}")
    fit()
    assert len(set(made)) == len(made) == 6


def test_unknown_options_are_named() -> None:
    with pytest.raises(VRXError, match=r"classifier\.fit has no epoch: it has epochs, batch_size"):
        FitOptions.of({"epoch": 3})
    with pytest.raises(VRXError, match=r"fit\.augmentation has no color: it has crop, mirror, colour, own"):
        FitOptions.of({"augmentation": {"color": False}})


@pytest.mark.parametrize("option", [{"epochs": 0}, {"batch_size": 0}, {"lr": 0.0}])
def test_options_that_fit_nothing_are_refused(option: dict[str, Any]) -> None:
    ((name, value),) = option.items()
    with pytest.raises(VRXError, match=rf"classifier\.fit has .*{name}={value}"):
        FitOptions.of(option)


def test_no_readable_photo_is_named() -> None:
    source = Colours(broken=["all"])
    with pytest.raises(VRXError, match=r"of 20.*data\.root"):
        readable(source, source.photos("train"))
