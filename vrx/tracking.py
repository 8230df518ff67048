"""Weights & Biases: what a run shows there, and how what it keeps there is opened again."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import requests
import torch
import wandb
from numpy.typing import NDArray
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor
from wandb.errors import Error

from vrx.bank import ConceptBank
from vrx.errors import VRXError
from vrx.explain.contributions import evaluating
from vrx.explanation import Explanation
from vrx.machine import first_process
from vrx.models.graph_network import GraphNetwork
from vrx.report.html import draw
from vrx.report.matrix import matrix_figure
from vrx.report.phrases import signed
from vrx.report.trust import trust
from vrx.report.words import sentence, why
from vrx.structures import SCG

log = logging.getLogger("vrx")

HIGH, LOW = ("accuracy", "agreement", "agreement_masked", "spearman"), ("loss", "l1", "l1_masked")  # best value
PHOTOS = (
    "photo", "file", "label", "classifier", "probability", "GRN", "right", "why", "why not", "trust", "faithfulness",
)  # fmt: skip
KEPT = {
    "classifier": ("checkpoints/classifier.safetensors",),
    "concept-bank": ("concepts",),
    "grn": ("checkpoints/grn.safetensors", "explainer.json", "config.yaml", "metrics.json"),
}  # artifact -> what of the run folder it holds; together all that explain.py needs
ARTIFACT = re.compile(r"(?:[\w.-]+/){0,2}[\w.-]+:[\w.-]+")


class Tracker(WandbLogger):
    """Lightning's W&B logger, with an axis of its own for each stage, and with all that a run has to show.

    Fitting the classifier and the distillation count epochs of their own (``fit/epoch``, ``distillation/epoch``); what
    is measured once is a number of the run.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._curves: set[str] = set()

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log a row; without a step, what has a curve already is only the run's own value of it."""
        if step is None:
            final = {name: value for name, value in metrics.items() if name in self._curves}
            self.experiment.summary.update(final)
            if rest := {name: value for name, value in metrics.items() if name not in final}:
                self.experiment.log(rest)
            return
        axis = "fit/epoch" if any(name.startswith("fit/") for name in metrics) else "distillation/epoch"
        for name in metrics.keys() - self._curves - {"epoch"}:
            kind = name.rpartition("/")[2].removeprefix("train_").removeprefix("val_")
            best = "max" if kind in HIGH else "min" if kind in LOW or name.startswith("train/") else None
            if "epoch" in metrics:
                self.experiment.define_metric(name, step_metric=axis, summary=best)
            self._curves.add(name)
        row = {axis if name == "epoch" else name: value for name, value in metrics.items()}
        super().log_metrics(row, step)

    def show_concepts(self, bank: ConceptBank, galleries: Sequence[Path]) -> None:
        """The gallery of every class, with the names and the importance of its concepts below."""
        for index, (name, path) in enumerate(zip(bank.class_names, galleries, strict=True)):
            concepts = [
                f"{k + 1} {bank.name(index, k)} {signed(float(bank.importance[index, k]))}".replace("  ", " ")
                for k in np.flatnonzero(bank.present[index]).tolist()
            ]
            caption = f"{name}: {len(concepts)} concepts, by importance in logits: {', '.join(concepts)}"
            self.experiment.log({f"concepts/{name}": wandb.Image(str(path), caption=caption)})

    def show_photos(self, explanations: Sequence[Explanation], page: Path) -> None:
        """The explained photos as pictures and as a table to sort and filter, and the report."""
        table = wandb.Table(columns=list(PHOTOS), data=[photo_row(explanation) for explanation in explanations])
        shown: dict[str, Any] = {"photos": table, "report": wandb.Html(page.read_text(), inject=False)}
        for number, explanation in enumerate(explanations, 1):
            name = f"{number:02d}"
            picture = str(page.parent / f"explanation_{name}.png")
            shown[f"explanations/{name}"] = wandb.Image(picture, caption=sentence(explanation))
        self.experiment.log(shown)

    def show_errors(self, table: Mapping[str, Tensor], grn: GraphNetwork, class_names: Sequence[str]) -> None:
        """Confusion matrices of the test photos: label against the classifier, the classifier against the GRN."""
        label, predicted = table["label"].tolist(), table["logits"].argmax(1).tolist()
        with torch.inference_mode(), evaluating(grn):
            ours = grn.cpu()(SCG.of(table)).argmax(1).tolist()
        for name, truth, found, title in (
            ("classifier", label, predicted, "The classifier, by label"),
            ("grn", predicted, ours, "The graph network, by the classifier's prediction"),
        ):
            chart = wandb.plot.confusion_matrix(y_true=truth, preds=found, class_names=list(class_names), title=title)
            self.experiment.log({f"confusion/{name}": chart})

    def show_relations(self, relations: NDArray[np.float64], bank: ConceptBank) -> None:
        """For each class, what every relation of its graph adds to it, ``[n, N (i), N (j)]``."""
        for index, (name, values) in enumerate(zip(bank.class_names, relations, strict=True)):
            names = [f"{bank.name(index, k)} {k + 1}".strip() for k in range(bank.num_concepts)]
            figure = matrix_figure(values, names, f"What the relations of {name} add to it (logits)")
            caption = f"{name}: mean over the test photos in which both concepts are found; row i, column j: j to i"
            self.experiment.log({f"relations/{name}": wandb.Image(draw(figure), caption=caption)})

    def keep(self, folder: Path, name: str, bank: ConceptBank) -> None:
        """Classifier, concept bank and GRN as artifacts of a run: ``explain.py run=<one of them>`` opens all three."""
        lineage: dict[str, Any] = {"classifier": bank.settings.get("classifier"), "bank": bank.digest}
        for kind, paths in KEPT.items():
            made = wandb.Artifact(artifact_name(kind, name), kind, metadata={**lineage, "run": name})
            for path in (folder / path for path in paths):
                inside = str(path.relative_to(folder))
                if path.is_dir():
                    made.add_dir(str(path), inside, policy="immutable")
                else:
                    made.add_file(str(path), inside, policy="immutable")
            self.experiment.log_artifact(made, aliases=["latest", self.experiment.id])


def artifact_name(kind: str, name: str) -> str:
    """Name of an artifact, of the characters that W&B allows."""
    return re.sub(r"[^\w.-]", "-", f"{kind}-{name}")


def photo_row(explanation: Explanation) -> list[Any]:
    """One explained photo as the table has it (:data:`PHOTOS`)."""
    names, predicted, true = explanation.class_names, explanation.predicted, explanation.true_class
    other = explanation.shown()[1] if true in (None, predicted) else true
    faithfulness = explanation.trust
    return [
        wandb.Image(explanation.image, caption=explanation.name),
        explanation.name,
        "" if true is None else names[true],
        names[predicted],
        float(explanation.probabilities[predicted]),
        names[int(explanation.grn_logits.argmax())],
        None if true is None else true == predicted,
        why(explanation, predicted),
        "" if other is None else why(explanation, other),
        trust(explanation).level,
        faithfulness if math.isfinite(faithfulness) else None,
    ]


def logged_in() -> bool:
    """Whether W&B has a key: in the environment, or where ``wandb login`` puts it."""
    url = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    return bool(os.environ.get("WANDB_API_KEY") or requests.utils.get_netrc_auth(url))  # as W&B itself does


def wandb_logger(save_dir: str, **kwargs: Any) -> Tracker:
    """A W&B logger that goes offline, with one line that says so, when nobody is logged in.

    Raises:
        VRXError: the folder cannot be written, or W&B does not start.
    """
    mode = os.environ.get("WANDB_MODE", "online")
    if mode == "online" and not logged_in():
        mode = "offline"
        log.warning("Nobody is logged in to W&B: logging offline into %s (`wandb sync` uploads it).", save_dir)
    offline = mode in ("offline", "dryrun")
    if offline:
        os.environ.setdefault("WANDB_SILENT", "true")
    if first_process():
        _check_writable(Path(save_dir))
    logger = Tracker(save_dir=save_dir, offline=offline, **kwargs)
    logger._wandb_init.pop("anonymous", None)  # W&B warns of it, and Lightning always gives it
    try:
        logger.experiment  # noqa: B018 (starts the run here, where an error is understood)
    except Error as error:
        reason = str(error).split("\n")[0]
        raise VRXError(
            f"W&B did not start ({reason}): run `wandb login`, set WANDB_MODE=offline, or use logger=csv."
        ) from error
    return logger


def _check_writable(folder: Path) -> None:
    """W&B would write somewhere else and say nothing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise VRXError(
            f"W&B's folder {folder} cannot be written ({error.strerror}): set paths.runs_dir, or use logger=csv."
        ) from error


def local_run(run: str, cache: Path) -> Path:
    """The folder of a run: itself, or what a W&B artifact of it and its fellows hold, downloaded once.

    An artifact is ``<entity>/<project>/<name>:<alias>`` of the classifier, concept bank or GRN of a run.

    Raises:
        VRXError: nobody is logged in, W&B cannot be reached, or has no such artifact.
    """
    if Path(run).exists() or not ARTIFACT.fullmatch(run):
        return Path(run)
    if not logged_in():
        raise VRXError(f"run={run} is no folder, and to download it from W&B somebody must log in: run `wandb login`.")
    try:
        maker = wandb.Api(timeout=20).artifact(run).logged_by()
        if maker is None:
            raise VRXError(f"run={run}: the W&B run that made this artifact was deleted; give a run folder.")
        folder = cache / "-".join([maker.entity, maker.project, maker.id])
        parts = {part.type: part for part in maker.logged_artifacts() if part.type in KEPT}
        if missing := sorted(KEPT.keys() - parts.keys()):
            raise VRXError(f"run={run}: its W&B run {maker.id} has no {', '.join(missing)}; give one that finished.")
        for part in parts.values():
            part.download(root=str(folder))
    except (Error, ValueError, OSError) as error:  # requests' errors are OSErrors
        reason = str(error).split("\n")[0]
        raise VRXError(
            f"run={run} could not be read from W&B ({reason}): check <entity>/<project>/<name>:<alias>, the network "
            "and `wandb login`, or give a run folder."
        ) from error
    return folder
