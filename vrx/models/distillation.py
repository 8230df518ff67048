"""Distil F into the GRN (3.2.2, Eq. 4), clean and concept-masked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from torch import Tensor
from torchmetrics import MeanMetric

from vrx.concepts.importance import margins
from vrx.models.grn import GRN
from vrx.structures import SCG

TERMS = ("softmax_l1", "logits", "difference", "correlation")


def centred(logits: Tensor) -> Tensor:
    """Logits minus their mean: what a softmax can see."""
    return logits - logits.mean(-1, keepdim=True)


def pearson(a: Tensor, b: Tensor, valid: Tensor) -> Tensor:
    """Correlation along the last dimension over the valid places, 0 where one side is constant.

    Args:
        a: ``[..., V]``.
        b: ``[..., V]``.
        valid: bool ``[..., V]``.
    """
    count = valid.sum(-1, keepdim=True).clamp(min=1)
    a, b = (torch.where(valid, v - torch.where(valid, v, 0).sum(-1, keepdim=True) / count, 0) for v in (a, b))
    return (a * b).sum(-1) / ((a**2).sum(-1) * (b**2).sum(-1)).clamp(min=1e-12).sqrt()


def ranks(values: Tensor, valid: Tensor) -> Tensor:
    """Average ranks (ties share theirs) among the valid places of the last dimension."""
    valid = valid.unsqueeze(-2)
    below = ((values.unsqueeze(-1) > values.unsqueeze(-2)) & valid).sum(-1)
    equal = ((values.unsqueeze(-1) == values.unsqueeze(-2)) & valid).sum(-1)
    return below + (equal + 1) / 2


def spearman(a: Tensor, b: Tensor, valid: Tensor) -> Tensor:
    """Spearman's correlation along the last dimension over the valid places; 0 where one side is constant."""
    return pearson(ranks(a, valid), ranks(b, valid), valid)


class Distillation(LightningModule):
    """Trains a GRN to answer as F does, on the photo and on the photo with a concept gone.

    Args:
        grn: the student.
        optimizer: parameters -> optimizer.
        scheduler: optimizer -> learning-rate scheduler, stepped every epoch; None: constant.
        weights: of the loss terms; 0 leaves a term out. ``softmax_l1``: Eq. 4. ``logits``: smooth L1 of centred
            logits. ``difference``: smooth L1 of clean minus masked. ``correlation``: 1 - Pearson, within a photo, of
            the fall of the margin of F's predicted class over the variants.
        variants_per_step: variants of each photo drawn at random a step; 0: all.
    """

    def __init__(
        self,
        grn: GRN,
        optimizer: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., Any] | None = None,
        weights: Mapping[str, float] | None = None,
        variants_per_step: int = 8,
    ) -> None:
        super().__init__()
        self.grn, self.optimizer, self.scheduler = grn, optimizer, scheduler
        self.weights = {"softmax_l1": 1.0, **(weights or {})}
        unknown = set(self.weights) - set(TERMS)
        if unknown:
            raise ValueError(f"unknown loss terms {sorted(unknown)}: use {', '.join(TERMS)}")
        self.variants_per_step = variants_per_step
        names = ("agreement", "l1", "agreement_masked", "l1_masked", "spearman")
        self.scores = torch.nn.ModuleDict({name: MeanMetric() for name in names})

    def transfer_batch_to_device(
        self, batch: dict[str, Any], device: torch.device, dataloader_idx: int
    ) -> dict[str, Any]:
        """Move tensors and graphs alike."""
        return {name: value.to(device) for name, value in batch.items()}

    def on_fit_start(self) -> None:
        """Take the scale of the node features from the training graphs."""
        table = self.trainer.datamodule.tables["train"] if getattr(self.trainer, "datamodule", None) else None
        if table is not None and not self.grn.normalised:
            self.grn.set_normalisation(table["nodes"], table["detected"])

    def _drawn(self, batch: dict[str, Any]) -> Tensor:
        """Indices of some variants of each photo, valid ones first, ``[B, V']``."""
        valid: Tensor = batch["valid"]
        count = min(self.variants_per_step or valid.shape[1], valid.shape[1])
        return (torch.rand(valid.shape, device=valid.device) + valid).topk(count, dim=1).indices

    @staticmethod
    def _masked_graphs(batch: dict[str, Any], chosen: Tensor) -> SCG:
        """The graphs of the chosen variants, ``[B * V', n, N, ...]``."""
        rows = torch.arange(len(chosen), device=chosen.device)[:, None]
        if "masked_scg" in batch:
            scg = batch["masked_scg"]
            picked = SCG(scg.nodes[rows, chosen], scg.centroids[rows, chosen], scg.detected[rows, chosen])
        else:
            scg = batch["scg"]
            picked = SCG(
                *(v.unsqueeze(1).expand(-1, chosen.shape[1], *v.shape[1:]) for v in (scg.nodes, scg.centroids, scg.detected))
            ).drop(batch["drop"][rows, chosen])
        return SCG(picked.nodes.flatten(0, 1), picked.centroids.flatten(0, 1), picked.detected.flatten(0, 1))

    def _answers(self, batch: dict[str, Any], chosen: Tensor) -> tuple[Tensor, Tensor]:
        """GRN's logits, clean ``[B, n]`` and masked ``[B, V', n]``, from one batched pass."""
        clean, masked = batch["scg"], self._masked_graphs(batch, chosen)
        both = SCG(
            torch.cat([clean.nodes, masked.nodes]),
            torch.cat([clean.centroids, masked.centroids]),
            torch.cat([clean.detected, masked.detected]),
        )
        logits = self.grn(both)
        size = len(chosen)
        return logits[:size], logits[size:].reshape(size, chosen.shape[1], -1)

    def training_step(self, batch: dict[str, Any], _: int) -> Tensor:
        """Weighted sum of the loss terms."""
        chosen = self._drawn(batch)
        valid = batch["valid"].gather(1, chosen)
        truth = batch["masked_logits"].gather(1, chosen.unsqueeze(-1).expand(-1, -1, batch["logits"].shape[1]))
        clean, masked = self._answers(batch, chosen)
        terms = distillation_terms(clean, masked, batch["logits"], truth, valid)
        loss = torch.stack([self.weights.get(name, 0.0) * terms[name] for name in TERMS]).sum()
        self.log("train/loss", loss, on_epoch=True, on_step=False, batch_size=len(clean))
        for name in TERMS:
            self.log(f"train/{name}", terms[name], on_epoch=True, on_step=False, batch_size=len(clean))
        return loss

    def _measure(self, batch: dict[str, Any]) -> None:
        chosen = torch.arange(batch["valid"].shape[1], device=batch["valid"].device).expand(len(batch["valid"]), -1)
        clean, masked = self._answers(batch, chosen)
        valid, truth = batch["valid"], batch["masked_logits"]
        update = {name: metric.update for name, metric in self.scores.items()}
        update["agreement"]((clean.argmax(1) == batch["logits"].argmax(1)).float())
        update["l1"](softmax_distance(clean, batch["logits"]))
        if valid.any():
            update["agreement_masked"]((masked.argmax(2) == truth.argmax(2))[valid].float())
            update["l1_masked"](softmax_distance(masked, truth)[valid])
        ours, theirs = falls(clean, masked, batch["logits"]), falls(batch["logits"], truth, batch["logits"])
        enough = valid.sum(1) >= 3
        if enough.any():
            update["spearman"](spearman(ours, theirs, valid)[enough])

    def validation_step(self, batch: dict[str, Any], _: int) -> None:
        """Collect fidelity and rank agreement on the validation photos."""
        self._measure(batch)

    def on_validation_epoch_end(self) -> None:
        """Log them, and ``val/objective``: Spearman + min(agreement, 0.98), which checkpoints are chosen by."""
        found = {name: metric.compute() if metric.update_called else torch.tensor(0.0) for name, metric in self.scores.items()}
        for metric in self.scores.values():
            metric.reset()
        for name, value in found.items():
            self.log(f"val/{name}", value)
        self.log("val/objective", found["spearman"] + found["agreement"].clamp(max=0.98), prog_bar=True)

    def configure_optimizers(self) -> Any:
        """As the config says; by default Adam and step decay (appendix A)."""
        optimizer = self.optimizer(self.grn.parameters())
        if self.scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self.scheduler(optimizer)}


def softmax_distance(ours: Tensor, theirs: Tensor) -> Tensor:
    """Eq. 4 for each row: L1 between the softmaxes over the classes of interest, in [0, 2]."""
    return (ours.softmax(-1) - theirs.softmax(-1)).abs().sum(-1)


def falls(clean: Tensor, masked: Tensor, predicted_by: Tensor) -> Tensor:
    """Fall of the margin of the predicted class in each variant.

    Args:
        clean: ``[B, n]``.
        masked: ``[B, V, n]``.
        predicted_by: logits whose largest is the predicted class, ``[B, n]``.

    Returns:
        ``[B, V]``.
    """
    predicted = predicted_by.argmax(1)
    rows = torch.arange(len(predicted), device=predicted.device)
    return margins(clean)[rows, predicted][:, None] - margins(masked)[rows, :, predicted]


def distillation_terms(
    clean: Tensor, masked: Tensor, f_clean: Tensor, f_masked: Tensor, valid: Tensor
) -> dict[str, Tensor]:
    """The loss terms, each a mean over photos or over valid variants.

    Args:
        clean: GRN on the photos ``[B, n]``.
        masked: GRN on the variants ``[B, V, n]``.
        f_clean: F on the photos.
        f_masked: F on the variants.
        valid: bool ``[B, V]``.
    """
    weight = valid / valid.sum().clamp(min=1)
    smooth = F.smooth_l1_loss(centred(clean), centred(f_clean), reduction="mean")
    smooth_masked = F.smooth_l1_loss(centred(masked), centred(f_masked), reduction="none").mean(-1)
    moved = F.smooth_l1_loss(
        centred(clean)[:, None] - centred(masked), centred(f_clean)[:, None] - centred(f_masked), reduction="none"
    ).mean(-1)
    enough = (valid.sum(1) >= 3).float()
    agreement = pearson(falls(clean, masked, f_clean), falls(f_clean, f_masked, f_clean), valid)
    return {
        "softmax_l1": softmax_distance(clean, f_clean).mean() + (softmax_distance(masked, f_masked) * weight).sum(),
        "logits": smooth + (smooth_masked * weight).sum(),
        "difference": (moved * weight).sum(),
        "correlation": ((1 - agreement) * enough).sum() / enough.sum().clamp(min=1),
    }
