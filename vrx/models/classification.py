"""Fit F itself, where no trained classifier is given."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from pytorch_lightning import LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint, TQDMProgressBar
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchmetrics.classification import MulticlassAccuracy
from torchvision.transforms import v2

from vrx.classifier.classifier import Classifier, load_classifier
from vrx.errors import VRXError

log = logging.getLogger(__name__)


class Classification(LightningModule):
    """Cross-entropy training of a classifier; its checkpoints hold the network under ``network.``.

    Args:
        network: photos ``[B, 3, H, W]`` -> logits ``[B, n]``.
        num_classes: n.
        lr: peak of the one-cycle schedule of AdamW.
        weight_decay: of AdamW.
        label_smoothing: in [0, 1).
    """

    def __init__(
        self, network: nn.Module, num_classes: int, lr: float, weight_decay: float, label_smoothing: float
    ) -> None:
        super().__init__()
        self.network, self.lr, self.weight_decay = network, lr, weight_decay
        self.loss = nn.CrossEntropyLoss(label_smoothing=label_smoothing)
        self.train_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.val_accuracy = MulticlassAccuracy(num_classes, average="micro")

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        x, label = batch
        logits = self.network(x)
        loss = self.loss(logits, label)
        self.train_accuracy(logits, label)
        self.log("fit/train_loss", loss, on_epoch=True, on_step=False, batch_size=len(x))
        self.log("fit/train_accuracy", self.train_accuracy, on_epoch=True, on_step=False)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        x, label = batch
        logits = self.network(x)
        self.val_accuracy(logits, label)
        self.log("fit/val_loss", self.loss(logits, label), batch_size=len(x))
        self.log("fit/val_accuracy", self.val_accuracy, prog_bar=True)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.network.parameters(), self.lr, weight_decay=self.weight_decay)
        steps = max(int(self.trainer.estimated_stepping_batches), 2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class LabelledPhotos(Dataset[tuple[Tensor, int]]):
    """Photos with labels, in F's own preprocessing; augmented for training (crop, flip, colour)."""

    def __init__(self, source: Any, photos: Sequence[Any], classifier: Classifier, augment: bool) -> None:
        self.source, self.photos = source, photos
        self.transform = classifier.transform
        self.augment = (
            v2.Compose(
                [
                    v2.RandomResizedCrop(classifier.input_size, scale=(0.5, 1.0), antialias=True),
                    v2.RandomHorizontalFlip(),
                    v2.ColorJitter(0.2, 0.2, 0.2),
                ]
            )
            if augment
            else None
        )

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        photo = self.photos[index]
        image: Image = self.source.read(photo)
        return self.transform(self.augment(image) if self.augment else image), photo.label


def readable(source: Any, photos: Sequence[Any]) -> list[Any]:
    """The photos whose files can be read.

    Raises:
        VRXError: none can.
    """
    kept = []
    for photo in photos:
        try:
            source.read(photo)
        except (VRXError, OSError):
            continue
        kept.append(photo)
    if len(kept) < len(photos):
        log.warning("Skipped %d unreadable photos while fitting F.", len(photos) - len(kept))
    if not kept:
        raise VRXError(f"No photo to fit F on can be read (of {len(photos)}): check data.root and data.classes.")
    return kept


def fit_classifier(
    folder: Path,
    source: Any,
    spec: Mapping[str, Any],
    options: Mapping[str, Any],
    seed: int,
    accelerator: str = "auto",
    logger: Any = False,
) -> Path:
    """Fit F on the discovery and training photos, resuming where an earlier try stopped.

    Args:
        folder: holds the checkpoints; a finished fit is not repeated.
        source: the photos, by split.
        spec: arguments of :func:`load_classifier`.
        options: ``epochs, batch_size, lr, weight_decay, label_smoothing, workers``, ``precision``.
        seed: of initialisation, order and augmentation.
        accelerator: of the trainer.
        logger: Lightning logger, or False.

    Returns:
        The weights, a safetensors file.

    Raises:
        VRXError: no photo can be read.
    """
    weights = folder / "classifier.safetensors"
    if weights.exists():
        return weights
    folder.mkdir(parents=True, exist_ok=True)
    seed_everything(seed, workers=True, verbose=False)
    classifier = load_classifier(**spec)
    network = classifier.network.requires_grad_(True)
    network.train()
    module = Classification(
        network, len(classifier.class_names), options["lr"], options["weight_decay"], options["label_smoothing"]
    )
    photos = readable(source, [*source.photos("discovery"), *source.photos("train")])

    def loader(chosen: Sequence[Any], training: bool) -> DataLoader[tuple[Tensor, int]]:
        dataset = LabelledPhotos(source, chosen, classifier, training)
        size = min(options["batch_size"], len(chosen))
        return DataLoader(
            dataset,
            size,
            shuffle=training,
            drop_last=training,
            num_workers=options["workers"],
            persistent_workers=options["workers"] > 0,
        )

    trainer = Trainer(
        max_epochs=options["epochs"],
        precision=options.get("precision", "32-true"),
        accelerator=accelerator,
        devices=1,
        logger=logger,
        callbacks=[ModelCheckpoint(folder, filename="last", enable_version_counter=False), TQDMProgressBar()],
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=str(folder),
        log_every_n_steps=5,
    )
    last = folder / "last.ckpt"
    trainer.fit(
        module,
        loader(photos, True),
        loader(readable(source, source.photos("val")), False),
        ckpt_path=str(last) if last.exists() else None,
    )
    classifier.to("cpu").save_weights(weights)
    last.unlink(missing_ok=True)
    return weights
