"""The stages of ``train.py``: each reads what an earlier run with the same settings finished from the cache."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import zip_longest
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_only

from vrx.classifier.classifier import Classifier, load_classifier
from vrx.concepts.candidates import CandidateExtractor
from vrx.concepts.discovery import ConceptDiscovery, DiscoveryPhoto
from vrx.concepts.patches import PatchEncoder, Segmenter
from vrx.data.images import Photo
from vrx.data.scg_datamodule import SCGDataModule, prepared
from vrx.data.sources import PhotoSource, stamps
from vrx.edits import Editor
from vrx.errors import VRXError
from vrx.explain.explainer import Explainer
from vrx.explain.faithfulness import faithfulness, fidelity
from vrx.graphs.scg import SCGBuilder
from vrx.models.classification import fit_classifier
from vrx.models.distillation import Distillation, load_grn
from vrx.models.grn import GRN
from vrx.report.figures import gallery_figure
from vrx.report.pages import write_report
from vrx.runtime import Run, build, device_of, first_process, in_sweep
from vrx.storage import digest, locked, write_atomically
from vrx.structures import ConceptBank

log = logging.getLogger("vrx")

FINISHED = "finished.json"  # in the folder of a distillation: its best checkpoint and that one's score
SUMMARY = ("fidelity/agreement", "fidelity/agreement_masked", "fidelity/l1", "faithfulness/spearman")


def build_classifier(run: Run, source: PhotoSource) -> tuple[Classifier, dict[str, Any]]:
    """F, loaded or, when ``classifier.fit`` is set, fitted once and cached.

    Returns:
        F on its device, and the arguments that rebuild it from its weights.
    """
    options = dict(run.settings["classifier"])
    fit = options.pop("fit", None)
    checkpoint, pretrained = options.pop("checkpoint", None), options.pop("pretrained", True)
    indices = None if fit else getattr(source, "class_indices", None)
    spec: dict[str, Any] = {**options, "class_names": list(source.class_names), "class_indices": indices}
    if fit:
        checkpoint, pretrained = str(_fitted(run, source, spec, fit, checkpoint, pretrained)), False
    classifier = load_classifier(**spec, checkpoint=checkpoint, pretrained=pretrained)
    return classifier.to(device_of(run.cfg.trainer.get("accelerator", "auto"))), spec


def _fitted(
    run: Run, source: PhotoSource, spec: dict[str, Any], fit: dict[str, Any], checkpoint: str | None, pretrained: bool
) -> Path:
    """Weights of F fitted on the photos of this run."""
    key = digest(
        {
            "spec": spec,
            "fit": fit,
            "start": [checkpoint, pretrained],
            "seed": run.cfg.seed,
            "data": source.settings(),
            "photos": [stamps(source.photos(s)) for s in ("discovery", "train", "val")],
        }
    )
    folder = Path(run.cfg.paths.cache_dir) / "classifiers" / key[:20]
    start = {**spec, "checkpoint": checkpoint, "pretrained": pretrained}
    accelerator = run.cfg.trainer.get("accelerator", "auto")
    with locked(folder):
        return fit_classifier(folder, source, start, fit, run.cfg.seed, accelerator, run.logger or False)


def build_extractor(cfg: DictConfig) -> CandidateExtractor:
    """Superpixels, attention and matching features as the ``concepts`` group says."""
    concepts = cfg.concepts
    segmenter = Segmenter(
        concepts.segments, concepts.max_jaccard, concepts.compactness, concepts.min_area, concepts.superpixel_side
    )
    return CandidateExtractor(segmenter, PatchEncoder(concepts.encoder), concepts.tau)


def build_bank(run: Run, source: PhotoSource, classifier: Classifier, extractor: CandidateExtractor) -> ConceptBank:
    """The concepts of every class, discovered once and cached."""
    concepts = run.cfg.concepts
    discovery = ConceptDiscovery(
        extractor,
        Editor(concepts.fill, concepts.margin),
        num_concepts=concepts.num_concepts,
        clusters=concepts.clusters,
        min_patches=concepts.min_patches,
        max_exemplars=concepts.max_exemplars,
        radius_quantile=concepts.radius_quantile,
        importance=concepts.importance,
        seed=run.cfg.seed,
    )
    photos = source.photos("discovery")
    key = digest(
        {
            "classifier": classifier.fingerprint,
            "data": source.settings(),
            "photos": stamps(photos),
            "discovery": discovery.settings(),
        }
    )
    folder = Path(run.cfg.paths.cache_dir) / "banks" / key[:20]
    with locked(folder):
        if (folder / "bank.json").exists():
            try:
                return ConceptBank.load(folder)
            except VRXError as error:
                log.warning("%s Making it again.", error)
        bank = discovery(classifier, _discovery_photos(run, source, classifier, extractor.segmenter, photos))
        bank.save(folder)
    return bank


def _discovery_photos(
    run: Run, source: PhotoSource, classifier: Classifier, segmenter: Segmenter, photos: Sequence[Photo]
) -> dict[str, list[DiscoveryPhoto]]:
    found: dict[str, list[DiscoveryPhoto]] = {name: [] for name in source.class_names}
    skipped = []
    for batch in prepared(source, photos, classifier, segmenter, 16, run.cfg.graph.workers):
        for item in batch:
            if item.x is None or item.superpixels is None:
                skipped.append(item.error)
                continue
            photo = photos[item.index]
            found[source.class_names[photo.label]].append(DiscoveryPhoto(photo.path, item.x, item.superpixels))
    if skipped:
        run.note(f"Skipped {len(skipped)} discovery photos that cannot be read: {', '.join(skipped[:3])}")
    empty = [name for name, kept in found.items() if not kept]
    if empty:
        raise VRXError(f"No discovery photo of {', '.join(empty)} can be read ({skipped[0]}): repair or replace them.")
    return found


@rank_zero_only
def save_galleries(run: Run, bank: ConceptBank) -> None:
    """A picture a class of its concepts, in ``concepts/`` and in W&B, and the figures of the concepts."""
    folder = run.folder / "concepts"
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(bank.class_names):
        path = folder / f"gallery_{name.replace(' ', '_').replace('/', '_')}.png"
        gallery_figure(bank, index).savefig(path, dpi=110)
        run.log_image(f"concepts/{name}", path, name)
        missing = bank.num_concepts - int(bank.present[index].sum())
        if missing:
            run.note(f"Class {name} has {missing} concepts fewer than the {bank.num_concepts} asked for.")
    present = bank.present
    run.log(
        {
            "concepts/per_class": float(present.sum(1).mean()),
            "concepts/importance": float(bank.importance[present].mean()),
            "concepts/above_random": float((bank.p_value[present] < 0.05).mean()),  # share of them, Holm-corrected
        }
    )


def build_graphs(
    run: Run, source: PhotoSource, classifier: Classifier, bank: ConceptBank, extractor: CandidateExtractor
) -> tuple[SCGBuilder, SCGDataModule]:
    """The graphs of all photos. With several processes each builds its share, but only when training starts."""
    concepts, graph = run.cfg.concepts, run.cfg.graph
    editor = Editor(concepts.fill, concepts.margin)
    builder = SCGBuilder(classifier, bank, extractor, editor, graph.sources, graph.layers, graph.rest)
    data = SCGDataModule(
        source,
        builder,
        editor,
        run.cfg.paths.cache_dir,
        second_editor=Editor(concepts.second_fill, concepts.margin),
        masking=graph.masking,
        variants=graph.variants,
        moves=graph.moves,
        batch_size=run.cfg.model.batch_size,
        build_batch_size=graph.build_batch_size,
        workers=graph.workers,
        seed=run.cfg.seed,
    )
    if run.cfg.trainer.get("strategy") is None:
        data.setup()
    return builder, data


def distil(run: Run, data: SCGDataModule, builder: SCGBuilder) -> GRN:
    """Train the GRN on the cached graphs, going on where an earlier try stopped; a finished one is read.

    Returns:
        The best GRN by the monitored score, on the CPU; the score goes to the metrics under its own name.
    """
    keys = {name: run.settings[name] for name in ("model", "callbacks", "trainer", "seed")}
    graphs = [data.cache(split).key for split in ("train", "val")]
    folder = Path(run.cfg.paths.cache_dir) / "grn" / digest({**keys, "graphs": graphs})[:20]
    with locked(folder) if first_process() else nullcontext():  # the other processes train with the first
        if not (folder / FINISHED).exists():
            _train(run, data, builder, folder)
        data.setup()
        finished = json.loads((folder / FINISHED).read_text())
        run.log(finished["score"])
        return load_grn(folder / finished["best"])


def _train(run: Run, data: SCGDataModule, builder: SCGBuilder, folder: Path) -> None:
    """Distil F into a new GRN; leaves checkpoints and, last, ``finished.json``."""
    cfg = run.cfg
    seed_everything(cfg.seed, workers=True, verbose=False)
    trainer: Trainer = build(
        cfg.trainer,
        callbacks=_callbacks(run, folder),
        logger=run.logger or False,
        default_root_dir=str(run.folder),
    )
    grn = build(
        cfg.model.grn,
        num_classes=len(builder.bank.class_names),
        num_concepts=builder.num_nodes,
        node_features=builder.node_features,
    )
    module = Distillation(grn, build(cfg.model.optimizer), build(cfg.model.scheduler), **cfg.model.distillation)
    trainer.fit(module, datamodule=data, ckpt_path=_resumable(folder / "last.ckpt"))
    checkpoint = next(c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint) and c.monitor)
    best, score = Path(checkpoint.best_model_path or folder / "last.ckpt"), checkpoint.best_model_score
    text = json.dumps({"best": best.name, "score": {} if score is None else {checkpoint.monitor: float(score)}})
    if first_process():
        write_atomically(folder / FINISHED, lambda path: path.write_text(text))
    trainer.strategy.barrier("distilled")


def _callbacks(run: Run, folder: Path) -> list[Callback]:
    made = []
    for options in run.cfg.callbacks.values():
        target = options._target_.rpartition(".")[2]
        if target == "LearningRateMonitor" and run.logger is None:
            continue
        made.append(build(options, dirpath=str(folder)) if target == "ModelCheckpoint" else build(options))
    if not any(isinstance(callback, ModelCheckpoint) and callback.monitor for callback in made):
        raise VRXError("callbacks has no ModelCheckpoint with a monitor, so no GRN is kept: use callbacks=default.")
    return made


def _resumable(last: Path) -> str | None:
    """The last checkpoint of an interrupted try; a damaged one is put aside."""
    if not last.exists():
        return None
    try:
        load_grn(last)
    except VRXError as error:
        log.warning("%s Starting again.", error)
        return None
    return str(last)


def evaluate(run: Run, data: SCGDataModule, grn: GRN) -> str:
    """Measure fidelity and faithfulness; choose the default contributions on the validation photos.

    Returns:
        The method of the default contributions.
    """
    cfg = run.cfg
    candidates = ("knockout", "gradient") if cfg.contributions == "auto" else (cfg.contributions,)
    on_val = {m: faithfulness(grn, data.tables["val"], m)["faithfulness/spearman"] for m in candidates}
    method = max(on_val, key=lambda m: on_val[m])
    run.log({f"val/{name}": value for name, value in fidelity(grn, data.tables["val"]).items()})
    run.log({f"val/faithfulness/spearman_method_{m}": value for m, value in on_val.items()})
    run.log({"val/faithfulness/spearman": on_val[method]})
    run.log(fidelity(grn, data.tables["test"]))
    run.log(faithfulness(grn, data.tables["test"], method, seed=cfg.seed))
    run.log({f"skipped/{split}": float(len(names)) for split, names in data.skipped.items()})
    if data.images_per_s == data.images_per_s:  # not where all came from the cache
        run.log({"throughput/scg_images_per_s": data.images_per_s})
    for split, names in data.skipped.items():
        if names:
            run.notes.append(f"{len(names)} photos of {split} could not be read: {', '.join(names[:3])}")
    return method


def explained_photos(source: PhotoSource, data: SCGDataModule, count: int) -> list[Photo]:
    """Test photos for the report: a third wrong ones, and for every class in turn a right one, as far as there are."""
    table = data.tables["test"]
    photos = source.photos("test")
    hit, label, index = table["logits"].argmax(1) == table["label"], table["label"], table["index"]
    wrong = index[~hit].tolist()
    classes = [index[hit & (label == c)].tolist() for c in range(len(source.class_names))]
    right = [i for turn in zip_longest(*classes) for i in turn if i is not None]
    kept = right[: count - min(len(wrong), count // 3)]
    return [photos[i] for i in kept + wrong[: count - len(kept)]]


def report(run: Run, source: PhotoSource, data: SCGDataModule, explainer: Explainer) -> Path:
    """Explain some test photos and write ``reports/index.html``; the jobs of a sweep explain none.

    Returns:
        The page.
    """
    count = 0 if in_sweep() else run.cfg.report.explanations
    explanations = []
    for photo in explained_photos(source, data, count):
        explanations.append(explainer.explain(source.read(photo), photo.label, name=photo.path))
    folder = run.folder / "reports"
    title = f"VRX: {run.cfg.name}"
    page = write_report(folder, title, run.metrics, explanations, explainer.bank, run.settings, run.notes)
    for number, explanation in enumerate(explanations, 1):
        path = folder / f"explanation_{number:02d}.png"
        run.log_image(f"explanations/{number:02d}", path, explanation.name)
    return page


def summarise(run: Run, page: Path) -> None:
    """The figures that matter and where to look, on the console."""
    for name in dict.fromkeys([*SUMMARY, run.cfg.objective]):
        if name in run.metrics:
            log.info("%-28s %.3f", name, run.metrics[name])
    log.info("Open %s", page.resolve())
    log.info("Explain your own photos: python explain.py run=%s images=<file or folder>", run.folder)
