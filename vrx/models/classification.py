"""Fit F itself, where no trained classifier is given."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from pytorch_lightning import LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchmetrics.classification import MulticlassAccuracy
from torchvision.transforms import v2

from vrx.classifier.classifier import Classifier
from vrx.classifier.loading import load_classifier
from vrx.data.images import Photo
from vrx.data.sources import PhotoSource, photos_key
from vrx.errors import VRXError
from vrx.machine import fast_precision
from vrx.models.progress import TrainingBar
from vrx.specs import find
from vrx.storage import KEY_LENGTH, code_of, content_key, locked

log = logging.getLogger("vrx")

MADE_BY = ("vrx.classifier", "vrx.data.images", "vrx.machine", "vrx.models.classification", "vrx.scores")


@dataclass(frozen=True)
class Augmentation:
    """What is changed at random in the photos that F is fitted on."""

    crop: bool = True  # a random half or more of the photo; not where position or size tell classes apart
    mirror: bool = True  # left and right, half of the times; not where they tell classes apart
    colour: bool = True  # brightness, contrast and saturation by up to a fifth
    own: str | None = None  # dotted name of a function that returns a transform of PIL images, applied last

    def transform(self, size: tuple[int, int]) -> Callable[[Image], Image]:
        """PIL image -> PIL image, for inputs of (height, width).

        Raises:
            VRXError: ``own`` cannot be found.
        """
        steps: list[Callable[[Image], Image]] = []
        if self.crop:
            steps.append(v2.RandomResizedCrop(size, scale=(0.5, 1.0), antialias=True))
        if self.mirror:
            steps.append(v2.RandomHorizontalFlip())
        if self.colour:
            steps.append(v2.ColorJitter(0.2, 0.2, 0.2))
        if self.own:
            steps.append(find(self.own)())
        return v2.Compose(steps or [v2.Identity()])


@dataclass(frozen=True)
class FitOptions:
    """How F is fitted: AdamW with a one-cycle schedule.

    Raises:
        VRXError: no epoch, no photo a step, or a rate that is not positive.
    """

    epochs: int = 12  # over the discovery and training photos
    batch_size: int = 64  # photos per step
    lr: float = 0.001  # peak of the schedule
    weight_decay: float = 0.01  # of AdamW
    label_smoothing: float = 0.0  # in [0, 1)
    workers: int = 0  # processes that read photos
    precision: str = "32-true"  # of the Trainer; auto: bf16-mixed where this machine computes with it, else 32-true
    augmentation: Augmentation = field(default_factory=Augmentation)  # of the photos

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size) < 1 or self.lr <= 0:
            given = f"epochs={self.epochs}, batch_size={self.batch_size} and lr={self.lr}"
            raise VRXError(f"classifier.fit has {given}: use at least 1 epoch and 1 photo a step, and a rate above 0.")

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> FitOptions:
        """From the plain settings under ``classifier.fit``; what is not given is the default.

        Raises:
            VRXError: an unknown setting.
        """
        options = dict(options)
        augmentation = dict(options.get("augmentation") or {})
        if options.get("precision") == "auto":
            options["precision"] = {"bf16": "bf16-mixed", "fp32": "32-true"}[fast_precision()]
        for kind, given, where in ((cls, options, "fit"), (Augmentation, augmentation, "fit.augmentation")):
            known = [f.name for f in fields(kind)]
            unknown = [name for name in given if name not in known]
            if unknown:
                raise VRXError(f"classifier.{where} has no {', '.join(unknown)}: it has {', '.join(known)}.")
        return cls(**{**options, "augmentation": Augmentation(**augmentation)})


class Classification(LightningModule):
    """Cross-entropy training of a network, photos ``[B, 3, H, W]`` -> logits ``[B, n]``.

    Its checkpoints hold the network under ``network.``.
    """

    def __init__(self, network: nn.Module, num_classes: int, options: FitOptions) -> None:
        super().__init__()
        self.network, self.options = network, options
        self.loss = nn.CrossEntropyLoss(label_smoothing=options.label_smoothing)
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
        options = self.options
        optimizer = torch.optim.AdamW(self.network.parameters(), options.lr, weight_decay=options.weight_decay)
        steps = max(int(self.trainer.estimated_stepping_batches), 2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.lr, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class LabelledPhotos(Dataset[tuple[Tensor, int]]):
    """Photos with labels, in F's own preprocessing, after an augmentation where one is given."""

    def __init__(
        self,
        source: PhotoSource,
        photos: Sequence[Photo],
        transform: Callable[[Image], Tensor],
        augment: Callable[[Image], Image] | None = None,
    ) -> None:
        self.source, self.photos, self.transform, self.augment = source, photos, transform, augment

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        photo = self.photos[index]
        image = self.source.read(photo)
        return self.transform(self.augment(image) if self.augment else image), photo.label


def readable(source: PhotoSource, photos: Sequence[Photo]) -> list[Photo]:
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
        log.warning("Skipped %d unreadable photos while fitting the classifier.", len(photos) - len(kept))
    if not kept:
        raise VRXError(
            f"No photo to fit the classifier on can be read (of {len(photos)}): check data.root and data.classes."
        )
    return kept


def fit_classifier(
    cache: Path,
    source: PhotoSource,
    settings: Mapping[str, Any],
    options: Mapping[str, Any],
    seed: int,
    accelerator: str = "auto",
    logger: Any = False,
) -> Path:
    """Fit F on the discovery and training photos, going on where an earlier try stopped.

    Args:
        cache: the fit is kept in ``classifiers/<key>/`` under it; a finished one is not repeated.
        settings: of :func:`vrx.classifier.loading.load_classifier`: the network to start from.
        seed: of initialisation, order and augmentation.

    Returns:
        The weights, a safetensors file: ``load_classifier(settings, source.class_names, weights=...)``.

    Raises:
        VRXError: an unknown option, or no photo can be read.
    """
    chosen = FitOptions.of(options)
    settings = {k: v for k, v in settings.items() if k != "fit"}
    key = content_key(
        MADE_BY,
        {
            "classifier": settings,
            "augmentation": code_of(find(chosen.augmentation.own)) if chosen.augmentation.own else None,
            "fit": asdict(chosen),
            "seed": seed,
            "photos": photos_key(source, ["discovery", "train", "val"]),
        },
    )
    folder = cache / "classifiers" / key[:KEY_LENGTH]
    weights = folder / "classifier.safetensors"
    with locked(folder):
        if not weights.exists():
            folder.mkdir(parents=True, exist_ok=True)
            _fit(folder, source, settings, chosen, seed, accelerator, logger).save_weights(weights)
            (folder / "last.ckpt").unlink(missing_ok=True)
    return weights


def _fit(
    folder: Path,
    source: PhotoSource,
    settings: Mapping[str, Any],
    options: FitOptions,
    seed: int,
    accelerator: str,
    logger: Any,
) -> Classifier:
    seed_everything(seed, workers=True, verbose=False)
    classifier = load_classifier({**settings, "fit": True}, source.class_names)
    network = classifier.network.requires_grad_(True)
    network.train()
    module = Classification(network, len(classifier.class_names), options)
    augment = options.augmentation.transform(classifier.input_size)
    photos = readable(source, [*source.photos("discovery"), *source.photos("train")])

    def loader(chosen: Sequence[Photo], training: bool) -> DataLoader[tuple[Tensor, int]]:
        return DataLoader(
            LabelledPhotos(source, chosen, classifier.transform, augment if training else None),
            min(options.batch_size, len(chosen)),
            shuffle=training,
            drop_last=training,
            num_workers=options.workers,
            persistent_workers=options.workers > 0,
        )

    trainer = Trainer(
        max_epochs=options.epochs,
        precision=options.precision,  # type: ignore[arg-type]
        accelerator=accelerator,
        devices=1,
        logger=logger,
        callbacks=[ModelCheckpoint(folder, filename="last", enable_version_counter=False), TrainingBar("fitting")],
        enable_model_summary=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
        default_root_dir=str(folder),
        log_every_n_steps=5,
    )
    last = folder / "last.ckpt"
    val = loader(readable(source, source.photos("val")), False)
    trainer.fit(module, loader(photos, True), val, ckpt_path=str(last) if last.exists() else None)
    return classifier.to("cpu")
