"""Distil F into the GRN (3.2.2, Eq. 4), clean and concept-masked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from torch import Tensor
from torchmetrics import MeanMetric

from vrx.errors import VRXError
from vrx.models.grn import GRN
from vrx.scores import centred, margins, pearson, spearman
from vrx.structures import SCG

TERMS = ("softmax_l1", "logits", "difference", "correlation", "moved")
SCORES = ("agreement", "l1", "agreement_masked", "l1_masked", "spearman")
ENOUGH_VARIANTS = 3  # a rank correlation of fewer says nothing


class Distillation(LightningModule):
    """Trains a GRN to give F's logits, on the photo and on the photo with a concept deleted.

    A batch is a dict: ``scg`` ``[B, n, N, ...]``; ``logits`` of F ``[B, n]``; ``masked_logits`` of F on V variants of
    each photo ``[B, V, n]``; ``valid`` bool ``[B, V]``; and the variants themselves, either ``drop`` bool
    ``[B, V, n, N]`` (nodes of ``scg`` set to the dummy) or ``masked_scg`` ``[B, V, n, N, ...]``. A training batch may
    hold variants with a concept moved, too: ``moved_scg`` ``[B, M, n, N, ...]``, ``moved_logits`` ``[B, M, n]`` and
    ``moved_valid`` bool ``[B, M]``.

    Args:
        grn: the student.
        optimizer: parameters -> optimizer.
        scheduler: optimizer -> learning-rate scheduler, stepped every epoch; None: constant.
        weights: of the loss terms; 0 leaves a term out. ``softmax_l1``: Eq. 4. ``logits``: smooth L1 of centred
            logits. ``difference``: smooth L1 of clean minus masked. ``correlation``: 1 - Pearson, within a photo, of
            the fall of the margin of F's predicted class over the variants. ``moved``: smooth L1 of clean minus moved,
            where there are moved variants.
        variants_per_step: masked variants of each photo drawn at random a step; 0: all.
        moves_per_step: the same of variants with a concept moved.
        objective: weights of the validation scores (``SCORES``) in ``val/objective``, which checkpoints are chosen by;
            None: Spearman + agreement.
        enough_agreement: both agreements count up to this in the objective: beyond it faithfulness decides.

    Raises:
        VRXError: an unknown loss term or score, or no loss term with a weight.
    """

    def __init__(
        self,
        grn: GRN,
        optimizer: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., Any] | None = None,
        weights: Mapping[str, float] | None = None,
        variants_per_step: int = 8,
        moves_per_step: int = 2,
        objective: Mapping[str, float] | None = None,
        enough_agreement: float = 0.98,
    ) -> None:
        super().__init__()
        self.grn, self.optimizer, self.scheduler = grn, optimizer, scheduler
        self.weights = _known({"softmax_l1": 1.0, **(weights or {})}, TERMS, "model.distillation.weights")
        if not any(self.weights.values()):
            raise VRXError(f"model.distillation.weights are all 0: give one of {', '.join(TERMS)} a weight.")
        wanted = objective or {"spearman": 1.0, "agreement": 1.0}
        self.objective = _known(wanted, SCORES, "model.distillation.objective")
        self.variants_per_step, self.moves_per_step = variants_per_step, moves_per_step
        self.enough_agreement = enough_agreement
        # plain numbers only, so that a checkpoint is read with weights_only and `load_grn` can rebuild the GRN
        plain = {"weights": self.weights, "objective": self.objective, "variants_per_step": variants_per_step}
        plain |= {"moves_per_step": moves_per_step}
        self.save_hyperparameters({"grn": grn.hparams, **plain, "enough_agreement": enough_agreement}, logger=False)
        self._random_state: Tensor | None = None
        self.scores: Any = torch.nn.ModuleDict({name: MeanMetric() for name in SCORES})

    def on_fit_start(self) -> None:
        """Take the scale of the node features from the training graphs, and random numbers up where they stopped."""
        table = getattr(getattr(self.trainer, "datamodule", None), "tables", {}).get("train")
        if table is not None and not self.grn.normalised:
            self.grn.set_normalisation(table["nodes"], table["detected"])
        if self._random_state is not None:  # here, because the first order of the photos is drawn next
            torch.set_rng_state(self._random_state.cpu())
            self._random_state = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the state of the random numbers, so that a resumed run draws what the interrupted one would have."""
        checkpoint["random_state"] = torch.get_rng_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it up again when training goes on."""
        self._random_state = checkpoint.get("random_state")

    @staticmethod
    def _drawn(valid: Tensor, count: int) -> Tensor:
        """Indices of ``count`` variants of each photo, valid ones first, or of all, in order (0), ``[B, V']``."""
        if not 0 < count < valid.shape[1]:
            return torch.arange(valid.shape[1], device=valid.device).expand(len(valid), -1)
        return (torch.rand(valid.shape, device=valid.device) + valid).topk(count, dim=1).indices

    @staticmethod
    def _masked_graphs(batch: dict[str, Any], chosen: Tensor) -> SCG:
        """The graphs of the chosen variants, ``[B * V', n, N, ...]``."""
        if "masked_scg" in batch:
            return _picked(batch["masked_scg"], chosen)
        scg = batch["scg"]
        parts = (scg.nodes, scg.centroids, scg.detected)
        copies = SCG(*(v.unsqueeze(1).expand(-1, chosen.shape[1], *v.shape[1:]).flatten(0, 1) for v in parts))
        rows = torch.arange(len(chosen), device=chosen.device)[:, None]
        return copies.drop(batch["drop"][rows, chosen].flatten(0, 1))

    def _logits(
        self, batch: dict[str, Any], chosen: Tensor, moved: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """GRN's logits, clean ``[B, n]``, masked ``[B, V', n]`` and moved ``[B, M', n]``, from one batched pass."""
        graphs = [batch["scg"], self._masked_graphs(batch, chosen)]
        if moved is not None:
            graphs.append(_picked(batch["moved_scg"], moved))
        logits = self.grn(
            SCG(*(torch.cat([getattr(g, name) for g in graphs]) for name in ("nodes", "centroids", "detected")))
        )
        size = len(chosen)
        clean, masked, rest = logits.split([size, chosen.numel(), len(logits) - size - chosen.numel()])
        n = logits.shape[1]
        return clean, masked.reshape(size, -1, n), rest.reshape(size, -1, n)

    def training_step(self, batch: dict[str, Any], _: int) -> Tensor:
        """Weighted sum of the loss terms."""
        chosen = self._drawn(batch["valid"], self.variants_per_step)
        valid = batch["valid"].gather(1, chosen)
        truth = batch["masked_logits"].gather(1, chosen.unsqueeze(-1).expand(-1, -1, batch["logits"].shape[1]))
        with_moves = bool(self.weights.get("moved")) and "moved_scg" in batch
        places = self._drawn(batch["moved_valid"], self.moves_per_step) if with_moves else None
        clean, masked, moved = self._logits(batch, chosen, places)
        wanted = [name for name in TERMS if self.weights.get(name) and name != "moved"]
        terms = distillation_terms(clean, masked, batch["logits"], truth, valid, wanted)
        if places is not None:
            after = batch["moved_logits"].gather(1, places.unsqueeze(-1).expand(-1, -1, clean.shape[1]))
            found = (clean, moved, batch["logits"], after, batch["moved_valid"].gather(1, places))
            terms["moved"] = distillation_terms(*found, wanted=["difference"])["difference"]
        if not terms:
            raise VRXError("Only model.distillation.weights.moved is not 0, and no concept was moved: set graph.moves.")
        loss = torch.stack([self.weights[name] * term for name, term in terms.items()]).sum()
        logged = {"train/loss": loss, **{f"train/{name}": term for name, term in terms.items()}}
        self.log_dict(logged, on_epoch=True, on_step=False, batch_size=len(clean), sync_dist=True)
        return loss

    def _measure(self, batch: dict[str, Any]) -> None:
        """Add a batch to every score. All are always updated, if with weight 0: processes wait for each other."""
        valid, truth, logits = batch["valid"], batch["masked_logits"], batch["logits"]
        chosen = torch.arange(valid.shape[1], device=valid.device).expand(len(valid), -1)
        clean, masked, _ = self._logits(batch, chosen)
        ranked = spearman(falls(clean, masked, logits), falls(logits, truth, logits), valid)
        enough = valid.sum(1) >= ENOUGH_VARIANTS
        self.scores["agreement"].update((clean.argmax(1) == logits.argmax(1)).float())
        self.scores["l1"].update(softmax_distance(clean, logits))
        self.scores["agreement_masked"].update((masked.argmax(2) == truth.argmax(2)).float(), valid.float())
        self.scores["l1_masked"].update(softmax_distance(masked, truth), valid.float())
        self.scores["spearman"].update(ranked, enough.float())

    def _report(self, split: str) -> None:
        found = {name: self.scores[name].compute().nan_to_num() for name in SCORES}
        for name in SCORES:
            self.scores[name].reset()
        for name, value in found.items():
            self.log(f"{split}/{name}", value, sync_dist=True)
        capped = {k: v.clamp(max=self.enough_agreement) if "agreement" in k else v for k, v in found.items()}
        objective = torch.stack([weight * capped[name] for name, weight in self.objective.items()]).sum()
        self.log(f"{split}/objective", objective, prog_bar=True, sync_dist=True)

    def validation_step(self, batch: dict[str, Any], _: int) -> None:
        """Collect fidelity and rank agreement on the validation photos."""
        self._measure(batch)

    def test_step(self, batch: dict[str, Any], _: int) -> None:
        """The same on the test photos."""
        self._measure(batch)

    def on_validation_epoch_end(self) -> None:
        """Log ``val/<score>`` (0 where nothing could be measured) and ``val/objective``."""
        self._report("val")

    def on_test_epoch_end(self) -> None:
        """Log ``test/<score>`` and ``test/objective``."""
        self._report("test")

    def configure_optimizers(self) -> Any:
        """As the config says; by default Adam and step decay (appendix A)."""
        optimizer = self.optimizer(self.grn.parameters())
        if self.scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self.scheduler(optimizer)}


def _known(given: Mapping[str, float], names: tuple[str, ...], setting: str) -> dict[str, float]:
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise VRXError(f"{setting} has no {', '.join(unknown)}: use {', '.join(names)}.")
    return {name: float(value) for name, value in given.items()}


def grn_of_checkpoint(checkpoint: str | Path) -> GRN:
    """The GRN of a checkpoint of :class:`Distillation`, on the CPU, in eval mode.

    Raises:
        VRXError: not such a checkpoint.
    """
    try:
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
        grn = GRN(**saved["hyper_parameters"]["grn"])
        grn.load_state_dict({k.removeprefix("grn."): v for k, v in saved["state_dict"].items() if k.startswith("grn.")})
    except Exception as error:  # damage shows in many ways: zip, pickle, missing keys, other shapes
        raise VRXError(f"{checkpoint} is not a checkpoint of the distillation ({str(error)[:120]}).") from error
    return grn.eval()


def _picked(scg: SCG, chosen: Tensor) -> SCG:
    """Some variants of each photo: graphs ``[B, V, n, N, ...]`` and indices ``[B, V']`` -> ``[B * V', n, N, ...]``."""
    rows = torch.arange(len(chosen), device=chosen.device)[:, None]
    return SCG(*(v[rows, chosen].flatten(0, 1) for v in (scg.nodes, scg.centroids, scg.detected)))


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
    clean: Tensor,
    masked: Tensor,
    f_clean: Tensor,
    f_masked: Tensor,
    valid: Tensor,
    wanted: Sequence[str] = TERMS[:4],
) -> dict[str, Tensor]:
    """The loss terms, each a mean over photos or over valid variants.

    Args:
        clean: GRN on the photos ``[B, n]``.
        masked: GRN on the variants ``[B, V, n]``.
        f_clean: F on the photos.
        f_masked: F on the variants.
        valid: bool ``[B, V]``.
        wanted: names of the terms to compute.
    """

    def over_variants(values: Tensor) -> Tensor:
        return torch.where(valid, values, 0).sum() / valid.sum().clamp(min=1)

    def softmax_l1() -> Tensor:
        return softmax_distance(clean, f_clean).mean() + over_variants(softmax_distance(masked, f_masked))

    def logits() -> Tensor:
        return smooth(centred(clean), centred(f_clean)).mean() + over_variants(
            smooth(centred(masked), centred(f_masked))
        )

    def difference() -> Tensor:
        return over_variants(smooth(centred(clean[:, None] - masked), centred(f_clean[:, None] - f_masked)))

    def correlation() -> Tensor:
        r = pearson(falls(clean, masked, f_clean), falls(f_clean, f_masked, f_clean), valid)
        enough = valid.sum(1) >= ENOUGH_VARIANTS
        return torch.where(enough, 1 - r, 0).sum() / enough.sum().clamp(min=1)

    def smooth(ours: Tensor, theirs: Tensor) -> Tensor:
        return F.smooth_l1_loss(ours, theirs, reduction="none").mean(-1)

    terms = {"softmax_l1": softmax_l1, "logits": logits, "difference": difference, "correlation": correlation}
    return {name: terms[name]() for name in wanted}
