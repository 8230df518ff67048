"""From a classifier and photos to an explainer: concepts, graphs, Graph Reasoning Network. No Hydra here.

``train.py`` builds a :class:`Pipeline` from the config, the dataset study one with some settings changed, and
:func:`vrx.fit` one from plain arguments. Every step reads what an earlier run with the same settings finished from the
cache.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.loggers import Logger
from safetensors.torch import load_file, save_file
from torch import Tensor

from vrx.bank import ConceptBank
from vrx.classifier.classifier import Classifier
from vrx.classifier.loading import load_classifier
from vrx.concepts.assembly import DiscoveryPhoto
from vrx.concepts.discovery import ConceptDiscovery
from vrx.concepts.purity import NAMING, with_parts
from vrx.concepts.word_discovery import WordDiscovery
from vrx.data.part_masks import masks_key, seen
from vrx.data.prepared import prepared
from vrx.data.scg_datamodule import SCGDataModule
from vrx.data.sources import HasPartMasks, PhotoSource, photos_key
from vrx.errors import VRXError
from vrx.explain.absence import Typical
from vrx.explain.additions import ask_additions, calibrated, calibration_rows
from vrx.explain.contributions import ContributionMethod
from vrx.explain.explainer import METHODS, Explainer
from vrx.explain.faithfulness import evaluation
from vrx.graphs.scg import SCGBuilder
from vrx.machine import device_of, first_process
from vrx.models.classification import fit_classifier
from vrx.models.distillation import Distillation, grn_of_checkpoint
from vrx.models.graph_network import GraphNetwork
from vrx.specs import describe
from vrx.storage import KEY_LENGTH, content_key, locked, write_atomically, write_text

log = logging.getLogger("vrx")

BANK_CODE = (
    "vrx.bank",
    "vrx.classifier",
    "vrx.concepts",
    "vrx.data.images",
    "vrx.data.prepared",
    "vrx.edits",
    "vrx.machine",
    "vrx.scores",
    "vrx.structures",
    "vrx.thumbnails",
)
NAMES_CODE = (*BANK_CODE, "vrx.data.part_masks", "vrx.graphs")
GRN_CODE = (
    "vrx.models.additive",
    "vrx.models.distillation",
    "vrx.models.graph_network",
    "vrx.models.grn",
    "vrx.scores",
)
ADDITION_CODE = (
    "vrx.explain.absence",
    "vrx.explain.additions",
    "vrx.explain.contrast",
    "vrx.explain.contributions",
    "vrx.explain.interactions",
    "vrx.explanation",
)
FINISHED = "finished.json"  # in the folder of a distillation: the score of its best checkpoint
WEIGHTS = "grn.safetensors"  # beside it: that checkpoint's GRN


@dataclass(frozen=True)
class Pipeline:
    """All that turns a classifier and photos into an explainer.

    What must be made anew for each classifier is given as a callable (a class with settings, ``functools.partial``).

    Args:
        discovery: finds the concepts; its extractor and editor serve the graphs too.
        builder: ``(classifier, bank, extractor, editor)`` -> :class:`SCGBuilder`.
        data: ``(source, builder, editor, cache_dir)`` -> :class:`SCGDataModule`.
        grn: ``(num_classes, num_nodes, node_features, link_features)`` -> :class:`GraphNetwork`; with
            ``graph.hypotheses`` it is given ``all_classes`` too.
        optimizer: parameters -> optimizer.
        scheduler: optimizer -> learning-rate scheduler, stepped every epoch.
        distillation: ``(grn, optimizer, scheduler)`` -> :class:`Distillation`.
        trainer: ``(callbacks, logger, default_root_dir)`` -> Lightning's Trainer.
        callbacks: each -> a callback; one is a ModelCheckpoint with a monitor, which chooses the GRN that is kept.
        cache: folder of fitted classifiers, concept banks, graphs and GRNs, keyed by content.
        methods: name -> contribution method; the one that follows the measured effects best on the validation photos
            is what explanations show.
        seed: of everything.
        workers: processes that read and segment photos.
        logger: Lightning's, or False.

    Raises:
        VRXError: no epoch.
    """

    discovery: ConceptDiscovery | WordDiscovery
    builder: Callable[..., SCGBuilder]
    data: Callable[..., SCGDataModule]
    grn: Callable[..., GraphNetwork]
    optimizer: Callable[..., torch.optim.Optimizer]
    scheduler: Callable[..., Any] | None
    distillation: Callable[..., Distillation]
    trainer: Callable[..., Trainer]
    callbacks: Sequence[Callable[..., Callback]]
    cache: Path
    methods: Mapping[str, ContributionMethod] = field(default_factory=lambda: dict(METHODS))
    seed: int = 0
    workers: int = 0
    logger: Logger | bool = False

    def __post_init__(self) -> None:
        epochs = getattr(self.trainer, "keywords", {}).get("max_epochs", 1)
        if epochs is not None and epochs < 1:
            raise VRXError(f"trainer.max_epochs={epochs}: the distillation needs at least one epoch.")

    def explainer(self, classifier: Classifier, source: PhotoSource) -> Explainer:
        """All steps at once; what the tests of the run found is in ``provenance["metrics"]``.

        Raises:
            VRXError: too few photos, no concept survives, nothing can be read.
        """
        bank = self.bank(classifier, source)
        data = self.graphs(classifier, bank, source)
        grn, score = self.distil(data)
        method, metrics = evaluation(grn, data.tables["val"], data.tables["test"], self.methods, self.seed)
        return self.assembled(data, grn, method, {"metrics": {**score, **metrics}})

    def assembled(
        self, data: SCGDataModule, grn: GraphNetwork, method: str, provenance: Mapping[str, Any]
    ) -> Explainer:
        """The explainer of a distilled GRN, which knows from training photos what adding a concept gains."""
        classifier = data.builder.classifier
        grn = grn.to(classifier.device)
        table, bank = data.tables["train"], data.builder.bank
        typical = Typical.of(table, bank.num_concepts, len(bank.class_names))
        explainer = Explainer(classifier, data.builder, grn, data.editor, method, provenance, self.methods, typical)
        explainer.typical = calibrated(explainer, table, self._additions(explainer, data))
        return explainer

    def _additions(self, explainer: Explainer, data: SCGDataModule) -> dict[str, Tensor]:
        """What adding missing concepts to training photos gains by the classifier, asked once and cached."""
        table, photos = data.tables["train"], data.source.photos("train")
        key = content_key(ADDITION_CODE, {"graphs": data.cache("train").key, "seed": self.seed})
        path = self.cache / "additions" / f"{key[:KEY_LENGTH]}.safetensors"

        def read(index: int) -> Tensor:
            return explainer.read(data.source.read(photos[index]))

        with locked(path):
            if not path.exists():
                asked = ask_additions(explainer, table, calibration_rows(table["label"], self.seed), read)
                write_atomically(path, lambda part: save_file(asked, part))
            return load_file(path)

    def classifier(self, settings: Mapping[str, Any], source: PhotoSource) -> Classifier:
        """F on its device: loaded or, when ``settings["fit"]`` is given, fitted once and cached.

        Args:
            settings: of :func:`vrx.classifier.loading.load_classifier`, and ``fit``: None, or the options of
                :class:`vrx.models.classification.FitOptions`.
            source: the photos.
        """
        accelerator = getattr(self.trainer, "keywords", {}).get("accelerator", "auto")
        weights = indices = None
        if settings.get("fit"):
            logger = self.logger or False
            weights = fit_classifier(self.cache, source, settings, settings["fit"], self.seed, accelerator, logger)
        else:
            indices = getattr(source, "class_indices", None)
        return load_classifier(settings, source.class_names, indices, weights).to(device_of(accelerator))

    def bank(self, classifier: Classifier, source: PhotoSource) -> ConceptBank:
        """The concepts of every class, discovered once and cached; a damaged bank is made again.

        Where the photos have part masks, a concept is named after the part that it shows, cached too.

        Raises:
            VRXError: no photo of a class can be read, none of its clusters survives, or part masks do not fit.
        """
        bank = self._bank(classifier, source)
        if not isinstance(source, HasPartMasks):
            return bank
        builder = self._builder(classifier, bank)
        key = content_key(
            NAMES_CODE,
            {
                "classifier": classifier.version,
                "bank": bank.digest,
                "graph": builder.settings(),
                "photos": photos_key(source, ["discovery"]),
                "masks": masks_key(source, "discovery", NAMING),
            },
        )
        file = self.cache / "part_names" / f"{key[:KEY_LENGTH]}.json"
        if not file.exists():
            write_text(file, json.dumps(with_parts(bank, seen(builder, source, "discovery", NAMING)).parts))
        return replace(bank, parts=json.loads(file.read_text()))

    def _builder(self, classifier: Classifier, bank: ConceptBank) -> SCGBuilder:
        return self.builder(classifier, bank, self.discovery.extractor, self.discovery.editor)

    def _bank(self, classifier: Classifier, source: PhotoSource) -> ConceptBank:
        key = content_key(
            BANK_CODE,
            {
                "classifier": classifier.version,
                "photos": photos_key(source, ["discovery"]),
                "discovery": describe(self.discovery),
            },
        )
        folder = self.cache / "banks" / key[:KEY_LENGTH]
        with locked(folder):
            if (folder / "bank.json").exists():
                try:
                    return ConceptBank.load(folder)
                except VRXError as error:
                    log.warning("%s Making it again.", error)
            bank = self.discovery(classifier, self._discovery_photos(classifier, source))
            bank.save(folder)
        return bank

    def _discovery_photos(self, classifier: Classifier, source: PhotoSource) -> dict[str, list[DiscoveryPhoto]]:
        photos = source.photos("discovery")
        found: dict[str, list[DiscoveryPhoto]] = {name: [] for name in source.class_names}
        skipped = []
        for batch in prepared(source, photos, classifier, self.discovery.extractor.segmenter, 16, self.workers):
            for item in batch:
                if item.x is None or item.superpixels is None:
                    skipped.append(item.error)
                    continue
                photo = photos[item.index]
                found[source.class_names[photo.label]].append(DiscoveryPhoto(photo.path, item.x, item.superpixels))
        if skipped:
            log.warning("Skipped %d discovery photos that cannot be read: %s", len(skipped), ", ".join(skipped[:3]))
        empty = [name for name, kept in found.items() if not kept]
        if empty:
            raise VRXError(
                f"No discovery photo of {', '.join(empty)} can be read ({skipped[0]}): repair or replace them."
            )
        return found

    def graphs(self, classifier: Classifier, bank: ConceptBank, source: PhotoSource) -> SCGDataModule:
        """The graphs of all photos. With several processes each builds its share, but only when training starts."""
        builder = self._builder(classifier, bank)
        data = self.data(source=source, builder=builder, editor=self.discovery.editor, cache_dir=self.cache)
        if not self._strategy:
            data.setup()
        return data

    @property
    def _strategy(self) -> str | None:
        """How several processes train together; None: there is one."""
        return getattr(self.trainer, "keywords", {}).get("strategy")

    def distil(self, data: SCGDataModule) -> tuple[GraphNetwork, dict[str, float]]:
        """Train the GRN on the cached graphs, going on where an earlier try stopped; a finished one is read.

        Returns:
            The best GRN by the monitored score, on the CPU, and that score under its own name.

        Raises:
            VRXError: no callback chooses a checkpoint.
        """
        names = ("grn", "optimizer", "scheduler", "distillation", "trainer", "callbacks", "seed")
        settings = {name: describe(getattr(self, name)) for name in names}
        settings |= {"graphs": [data.cache(split).key for split in ("train", "val")], "batch_size": data.batch_size}
        folder = self.cache / "grn" / content_key(GRN_CODE, settings)[:KEY_LENGTH]
        alone: AbstractContextManager[None] = locked(folder) if first_process() else nullcontext()
        with alone:  # the other processes train with the first
            if not (folder / FINISHED).exists():
                self._train(data, folder)
            data.setup()
            return GraphNetwork.load(folder / WEIGHTS), json.loads((folder / FINISHED).read_text())

    def _train(self, data: SCGDataModule, folder: Path) -> None:
        """Distil F into a new GRN; leaves checkpoints, the best GRN and, last, ``finished.json``."""
        seed_everything(self.seed, workers=True, verbose=False)
        trainer = self.trainer(
            callbacks=self._callbacks(folder), logger=self.logger or False, default_root_dir=str(folder)
        )
        builder = data.builder
        few = {} if builder.hypotheses is None else {"all_classes": len(builder.bank.class_names)}
        grn = self.grn(
            num_classes=builder.num_classes,
            num_nodes=builder.num_nodes,
            node_features=builder.node_features,
            link_features=builder.link_features,
            **few,
        )
        module = self.distillation(grn, self.optimizer, self.scheduler)
        trainer.fit(module, datamodule=data, ckpt_path=_resumable(folder / "last.ckpt"))
        checkpoint = next(c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint) and c.monitor)
        best, score = Path(checkpoint.best_model_path or folder / "last.ckpt"), checkpoint.best_model_score
        if first_process():
            grn_of_checkpoint(best).save(folder / WEIGHTS)
            write_text(folder / FINISHED, json.dumps({} if score is None else {checkpoint.monitor: float(score)}))
        trainer.strategy.barrier("distilled")

    def _callbacks(self, folder: Path) -> list[Callback]:
        made = []
        for callback in self.callbacks:
            kind = getattr(callback, "func", callback)
            if kind is LearningRateMonitor and not self.logger:
                continue
            made.append(callback(dirpath=str(folder)) if kind is ModelCheckpoint else callback())
        if not any(isinstance(callback, ModelCheckpoint) and callback.monitor for callback in made):
            raise VRXError("callbacks has no ModelCheckpoint with a monitor, so no GRN is kept: use callbacks=default.")
        return made


def _resumable(last: Path) -> str | None:
    """The last checkpoint of an interrupted try; a damaged one is put aside."""
    if not last.exists():
        return None
    try:
        grn_of_checkpoint(last)
    except VRXError as error:
        log.warning("%s Starting again.", error)
        return None
    return str(last)
