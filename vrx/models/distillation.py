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
from vrx.graphs.variants import drop_all
from vrx.models.graph_network import GraphNetwork
from vrx.scores import centred, margins, pearson, spearman
from vrx.specs import make

TERMS = ("softmax_l1", "logits", "difference", "correlation")  # of the clean photo and of single concepts masked
SETS = ("coalition", "interaction", "ranking")  # of several concepts masked at once, where there are such variants
SCORES = ("agreement", "l1", "agreement_masked", "l1_masked", "spearman")
ENOUGH_VARIANTS = 3  # a rank correlation of fewer says nothing
ENOUGH_AGREEMENT = 0.98  # both agreements count up to this in the objective: beyond it faithfulness decides


class Distillation(LightningModule):
    """Trains a GRN to give F's logits, on the photo and on the photo with a concept deleted.

    A batch is a dict: ``scg`` ``[B, n, N, ...]``; ``logits`` of F ``[B, n]``; ``masked_logits`` of F on V variants of
    each photo ``[B, V, n]``; ``valid`` bool ``[B, V]``; and the variants themselves, ``drop`` bool ``[B, V, n, N]``
    (nodes of ``scg`` set to the dummy). It may hold variants with several concepts masked, too: ``coalition_members``
    bool ``[B, Q, V]`` (which of the masked variants it joins) and ``coalition_logits`` ``[B, Q, n]``.

    Args:
        optimizer: parameters -> optimizer.
        scheduler: optimizer -> learning-rate scheduler, stepped every epoch; None: constant.
        weights: of the loss terms; 0 leaves a term out. ``softmax_l1``: Eq. 4. ``logits``: smooth L1 of centred
            logits. ``difference``: smooth L1 of clean minus masked. ``correlation``: 1 - Pearson, within a photo, of
            the fall of the margin of F's predicted class over the variants.
            ``coalition``: smooth L1 of clean minus several masked. ``interaction``: smooth L1 of how much of that is
            more than the sum of each alone. ``ranking``: 1 - Pearson, within a photo, of the same for the predicted
            class over the sets of concepts.
        variants_per_step: masked variants of each photo drawn at random a step; 0: all.
        objective: weights of the validation scores (``SCORES``) in ``val/objective``, which checkpoints are chosen by;
            None: Spearman + agreement.

    Raises:
        VRXError: an unknown loss term or score, or no loss term with a weight.
    """

    def __init__(
        self,
        grn: GraphNetwork,
        optimizer: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., Any] | None = None,
        weights: Mapping[str, float] | None = None,
        variants_per_step: int = 8,
        objective: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.grn, self.optimizer, self.scheduler = grn, optimizer, scheduler
        self.weights = _known({"softmax_l1": 1.0, **(weights or {})}, TERMS + SETS, "model.distillation.weights")
        if not any(self.weights.values()):
            raise VRXError(f"model.distillation.weights are all 0: give one of {', '.join(TERMS)} a weight.")
        if variants_per_step and any(self.weights.get(name) for name in SETS):
            raise VRXError(
                f"model.distillation.variants_per_step={variants_per_step}: {', '.join(SETS)} need all masked "
                "variants of a photo. Use 0, or set their weights to 0."
            )
        wanted = objective or {"spearman": 1.0, "agreement": 1.0}
        self.objective = _known(wanted, SCORES, "model.distillation.objective")
        self.variants_per_step = variants_per_step
        # plain numbers only, so that a checkpoint is read with weights_only and `load_grn` can rebuild the GRN
        plain = {"weights": self.weights, "objective": self.objective, "variants_per_step": variants_per_step}
        self.save_hyperparameters({"grn": grn.spec, **plain}, logger=False)
        self._random_state: Tensor | None = None
        self.scores: Any = torch.nn.ModuleDict({name: MeanMetric() for name in SCORES})

    def on_fit_start(self) -> None:
        """Take the scale of the node features from the training graphs, and random numbers up where they stopped."""
        table = getattr(getattr(self.trainer, "datamodule", None), "tables", {}).get("train")
        if table is not None and not self.grn.normalised:
            self.grn.set_normalisation(table["nodes"], table["detected"], table.get("links"))
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

    def training_step(self, batch: dict[str, Any], _: int) -> Tensor:
        """Weighted sum of the loss terms."""
        f_clean, weight = batch["logits"], self.weights.get
        chosen = self._drawn(batch["valid"], self.variants_per_step)
        valid, f_masked = batch["valid"].gather(1, chosen), _at(batch["masked_logits"], chosen)
        drop = _at(batch["drop"], chosen)
        sets = "coalition_members" in batch and any(weight(name) for name in SETS)
        if sets:
            drop = torch.cat([drop, drop_all(batch["coalition_members"], batch["drop"])], 1)
        clean, variants = self.grn.masked(batch["scg"], drop)
        masked = variants[:, : chosen.shape[1]]
        terms = distillation_terms(clean, masked, f_clean, f_masked, valid, [name for name in TERMS if weight(name)])
        if sets:
            terms |= coalition_terms(clean, masked, variants[:, chosen.shape[1] :], f_clean, f_masked, batch)
        terms = {name: term for name, term in terms.items() if weight(name)}
        if not terms:
            raise VRXError(
                "model.distillation.weights has none but for variants that the graphs do not hold "
                f"({', '.join(name for name, w in self.weights.items() if w)}): set graph.coalitions."
            )
        loss = torch.stack([self.weights[name] * term for name, term in terms.items()]).sum()
        logged = {"train/loss": loss, **{f"train/{name}": term for name, term in terms.items()}}
        self.log_dict(logged, on_epoch=True, on_step=False, batch_size=len(clean), sync_dist=True)
        return loss

    def validation_step(self, batch: dict[str, Any], _: int) -> None:
        """Add a batch to every score. All are always updated, if with weight 0: processes wait for each other."""
        valid, truth, logits = batch["valid"], batch["masked_logits"], batch["logits"]
        clean, masked = self.grn.masked(batch["scg"], batch["drop"])
        ranked = spearman(falls(clean, masked, logits), falls(logits, truth, logits), valid)
        enough = valid.sum(1) >= ENOUGH_VARIANTS
        self.scores["agreement"].update((clean.argmax(1) == logits.argmax(1)).float())
        self.scores["l1"].update(softmax_distance(clean, logits))
        self.scores["agreement_masked"].update((masked.argmax(2) == truth.argmax(2)).float(), valid.float())
        self.scores["l1_masked"].update(softmax_distance(masked, truth), valid.float())
        self.scores["spearman"].update(ranked, enough.float())

    def on_validation_epoch_end(self) -> None:
        """Log ``val/<score>`` (0 where nothing could be measured) and ``val/objective``."""
        found = {name: self.scores[name].compute().nan_to_num() for name in SCORES}
        for name in SCORES:
            self.scores[name].reset()
        for name, value in found.items():
            self.log(f"val/{name}", value, sync_dist=True)
        capped = {k: v.clamp(max=ENOUGH_AGREEMENT) if "agreement" in k else v for k, v in found.items()}
        objective = torch.stack([weight * capped[name] for name, weight in self.objective.items()]).sum()
        self.log("val/objective", objective, prog_bar=True, sync_dist=True)

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


def grn_of_checkpoint(checkpoint: str | Path) -> GraphNetwork:
    """The GRN of a checkpoint of :class:`Distillation`, on the CPU, in eval mode.

    Raises:
        VRXError: not such a checkpoint.
    """
    try:
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
        grn: GraphNetwork = make(saved["hyper_parameters"]["grn"])
        grn.load_state_dict({k.removeprefix("grn."): v for k, v in saved["state_dict"].items() if k.startswith("grn.")})
    except Exception as error:  # damage shows in many ways: zip, pickle, missing keys, other shapes
        raise VRXError(f"{checkpoint} is not a checkpoint of the distillation ({str(error)[:120]}).") from error
    return grn.eval()


def _at(values: Tensor, chosen: Tensor) -> Tensor:
    """Some variants of each photo: ``[B, V, ...]`` at indices ``[B, V']`` -> ``[B, V', ...]``."""
    return values[torch.arange(len(chosen), device=chosen.device)[:, None], chosen]


def coalition_terms(
    clean: Tensor, masked: Tensor, coalition: Tensor, f_clean: Tensor, f_masked: Tensor, batch: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The loss terms ``SETS`` of variants with several concepts masked, ``[B, Q, n]``; with one: ``[B, V, n]``."""
    members = batch["coalition_members"]
    valid, alone = members.any(2), members.to(clean.dtype)
    fall, f_fall = clean[:, None] - coalition, f_clean[:, None] - batch["coalition_logits"]
    excess = fall - alone @ (clean[:, None] - masked)  # more than the sum of each alone
    f_excess = f_fall - alone @ (f_clean[:, None] - f_masked)
    own = f_clean.argmax(1)[:, None, None].expand(-1, excess.shape[1], 1)
    ours, theirs = (centred(e).gather(2, own)[..., 0] for e in (excess, f_excess))
    enough = valid.sum(1) >= ENOUGH_VARIANTS
    return {
        "coalition": difference_loss(fall, f_fall, valid),
        "interaction": difference_loss(excess, f_excess, valid),
        "ranking": torch.where(enough, 1 - pearson(ours, theirs, valid), 0).sum() / enough.sum().clamp(min=1),
    }


def difference_loss(ours: Tensor, theirs: Tensor, valid: Tensor) -> Tensor:
    """Smooth L1 of centred differences of logits ``[B, V, n]``, the mean over valid variants, bool ``[B, V]``."""
    each = F.smooth_l1_loss(centred(ours), centred(theirs), reduction="none").mean(-1)
    return torch.where(valid, each, 0).sum() / valid.sum().clamp(min=1)


def softmax_distance(ours: Tensor, theirs: Tensor) -> Tensor:
    """Eq. 4 for each row: L1 between the softmaxes over the classes of interest, in [0, 2]."""
    return (ours.softmax(-1) - theirs.softmax(-1)).abs().sum(-1)


def falls(clean: Tensor, masked: Tensor, predicted_by: Tensor) -> Tensor:
    """Fall ``[B, V]`` of the margin of the predicted class, from ``[B, n]`` to each variant of ``[B, V, n]``.

    ``predicted_by``: logits whose largest is the predicted class, ``[B, n]``.
    """
    predicted = predicted_by.argmax(1)
    rows = torch.arange(len(predicted), device=predicted.device)
    return margins(clean)[rows, predicted][:, None] - margins(masked)[rows, :, predicted]


def distillation_terms(
    clean: Tensor, masked: Tensor, f_clean: Tensor, f_masked: Tensor, valid: Tensor, wanted: Sequence[str] = TERMS
) -> dict[str, Tensor]:
    """The loss terms, each a mean over photos ``[B, n]`` or over valid variants ``[B, V, n]``, of the GRN against F."""

    def over_variants(values: Tensor) -> Tensor:
        return torch.where(valid, values, 0).sum() / valid.sum().clamp(min=1)

    def softmax_l1() -> Tensor:
        return softmax_distance(clean, f_clean).mean() + over_variants(softmax_distance(masked, f_masked))

    def logits() -> Tensor:
        return smooth(centred(clean), centred(f_clean)).mean() + over_variants(
            smooth(centred(masked), centred(f_masked))
        )

    def difference() -> Tensor:
        return difference_loss(clean[:, None] - masked, f_clean[:, None] - f_masked, valid)

    def correlation() -> Tensor:
        r = pearson(falls(clean, masked, f_clean), falls(f_clean, f_masked, f_clean), valid)
        enough = valid.sum(1) >= ENOUGH_VARIANTS
        return torch.where(enough, 1 - r, 0).sum() / enough.sum().clamp(min=1)

    def smooth(ours: Tensor, theirs: Tensor) -> Tensor:
        return F.smooth_l1_loss(ours, theirs, reduction="none").mean(-1)

    terms = {"softmax_l1": softmax_l1, "logits": logits, "difference": difference, "correlation": correlation}
    return {name: terms[name]() for name in wanted}
