"""Fitting F on photos that a colour tells apart: it learns, resumes, and says what it could not read."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader

from vrx.classifier.classifier import load_classifier
from vrx.errors import VRXError
from vrx.models import classification
from vrx.models.classification import Classification, LabelledPhotos, fit_classifier, readable

NAMES = ("red thing", "blue thing")
SPEC: dict[str, Any] = {
    "name": "timm/resnet10t",
    "class_names": list(NAMES),
    "pretrained": False,
    "checkpoint": None,
    "input_size": 64,
}
OPTIONS = {"epochs": 3, "batch_size": 8, "lr": 0.003, "weight_decay": 0.01, "label_smoothing": 0.0, "workers": 0}

# the small loaders of these tests are not what Lightning advises
pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory", "ignore:The number of training batches")


class Photo:
    def __init__(self, path: str, label: int) -> None:
        self.path, self.label = path, label


class Colours:
    """Red or blue noise; a photo named ``broken`` cannot be read."""

    class_names = NAMES

    def __init__(self, broken: Sequence[str] = ()) -> None:
        self.broken = set(broken)
        self.reads = 0

    def photos(self, split: str) -> list[Photo]:
        count = {"discovery": 4, "train": 20, "val": 8}[split]
        return [Photo(f"{split}{i}", i % 2) for i in range(count)]

    def read(self, photo: Photo) -> Image.Image:
        self.reads += 1
        if "all" in self.broken or photo.path in self.broken:
            raise VRXError(f"{photo.path} is truncated")
        rng = np.random.default_rng(sum(photo.path.encode()))
        pixels = rng.integers(0, 90, (40, 48, 3))
        pixels[..., 2 * photo.label] += 150
        return Image.fromarray(pixels.astype(np.uint8))


def accuracy(weights: Path, source: Colours) -> float:
    classifier = load_classifier(**{**SPEC, "checkpoint": str(weights)})
    photos = source.photos("val")
    x = torch.stack([classifier.transform(source.read(p)) for p in photos])
    with torch.inference_mode():
        predicted = classifier(x).argmax(1).tolist()
    return sum(p == photo.label for p, photo in zip(predicted, photos, strict=True)) / len(photos)


def test_learns_and_leaves_weights_that_a_checkpoint_setting_reads(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = Colours(broken=["train3", "val2"])
    with caplog.at_level(logging.WARNING, logger=classification.__name__):
        weights = fit_classifier(tmp_path, source, SPEC, OPTIONS, seed=0, accelerator="cpu")
    assert sum("Skipped 1 unreadable" in r.getMessage() for r in caplog.records) == 2
    assert accuracy(weights, Colours()) == 1.0
    reads = source.reads
    assert fit_classifier(tmp_path, source, SPEC, OPTIONS, seed=0, accelerator="cpu") == weights
    assert source.reads == reads  # a finished fit is not repeated


def test_goes_on_where_it_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    epochs: list[int] = []

    def begin(module: LightningModule) -> None:
        epochs.append(module.current_epoch)
        if len(epochs) == 3:
            raise RuntimeError("power cut")

    monkeypatch.setattr(Classification, "on_train_epoch_start", begin)
    with pytest.raises(RuntimeError, match="power cut"):
        fit_classifier(tmp_path, Colours(), SPEC, OPTIONS, seed=0, accelerator="cpu")
    assert not (tmp_path / "classifier.safetensors").exists()
    weights = fit_classifier(tmp_path, Colours(), SPEC, OPTIONS, seed=0, accelerator="cpu")
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
    module = Classification(Linear(), 2, lr=0.01, weight_decay=0.0, label_smoothing=0.1)
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


def test_augments_training_photos_alone() -> None:
    source = Colours()
    classifier = load_classifier(**SPEC)
    photos = source.photos("train")
    torch.manual_seed(0)
    plain, augmented = (LabelledPhotos(source, photos, classifier, augment) for augment in (False, True))
    assert torch.equal(plain[1][0], plain[1][0])
    assert torch.equal(plain[1][0], classifier.transform(source.read(photos[1])))
    assert not torch.equal(augmented[1][0], augmented[1][0])
    assert plain[1][0].shape == augmented[1][0].shape == (3, 64, 64)
    assert augmented[1][1] == 1


def test_no_readable_photo_is_named() -> None:
    source = Colours(broken=["all"])
    with pytest.raises(VRXError, match=r"of 20.*data\.root"):
        readable(source, source.photos("train"))
