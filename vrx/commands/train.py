"""``train.py``: fit the classifier if asked, concepts, graphs, distillation, test, quality of the concepts, report."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from pytorch_lightning import seed_everything
from pytorch_lightning.utilities import rank_zero_only
from tqdm import tqdm

from vrx.bank import ConceptBank
from vrx.data.images import Photo
from vrx.data.scg_datamodule import SCGDataModule, predicted_classes
from vrx.data.sources import PhotoSource
from vrx.explain.explainer import Explainer
from vrx.explain.faithfulness import evaluation, mean_relations
from vrx.explain.quality import concept_quality
from vrx.explain.structure import structure_quality
from vrx.machine import first_process
from vrx.report.galleries import write_gallery
from vrx.report.good_values import summary
from vrx.report.mistakes import Predictions
from vrx.report.pages import write_report
from vrx.runtime import CONFIG, Run, build, build_pipeline, in_sweep, running, script
from vrx.scores import SIGNIFICANT

log = logging.getLogger("vrx")


@hydra.main(version_base="1.3", config_path=CONFIG, config_name="train")
@script
def main(cfg: DictConfig) -> float:
    """Run every stage; what an earlier run with the same settings finished comes from the cache.

    Returns the objective of a sweep.
    """
    seed_everything(cfg.seed, workers=True, verbose=False)
    with running(cfg, Path(HydraConfig.get().runtime.output_dir)) as run:
        with run.stage("data"):
            source: PhotoSource = build(cfg.data)
        pipeline = build_pipeline(cfg, run.logger or False)
        with run.stage("classifier"):
            classifier = pipeline.classifier(run.settings["classifier"], source)
        with run.stage("concepts"):
            bank = pipeline.bank(classifier, source)
            save_galleries(run, bank)
        with run.stage("graphs"):
            data = pipeline.graphs(classifier, bank, source)
        run.log({"time/before_training_s": time.perf_counter() - run.started})
        with run.stage("distillation"):
            grn, score = pipeline.distil(data)
            run.log(score)
        if not first_process():  # the first process does the rest
            return run.objective
        with run.stage("evaluation"):
            method, metrics = evaluation(grn, data.tables["val"], data.tables["test"], pipeline.methods, cfg.seed)
            run.log(metrics | {f"skipped/{split}": float(len(names)) for split, names in data.skipped.items()})
            if data.images_per_s == data.images_per_s:  # not where all came from the cache
                run.log({"throughput/scg_images_per_s": data.images_per_s})
        explainer = pipeline.assembled(data, grn, method, {"run": str(run.folder)})
        concepts = quality(run, source, explainer)
        relations(run, source, explainer)
        with run.stage("report"):
            page = report(run, source, data, explainer, concepts)
        run.log({"objective": run.objective})
        run.write_metrics()
        explainer.save(run.folder)  # the last: it makes the folder a finished run
        if run.tracker:
            run.tracker.keep(run.folder, cfg.name, bank)
        summarise(run, page)
        return run.metrics["objective"]


@rank_zero_only
def save_galleries(run: Run, bank: ConceptBank) -> None:
    """A picture per class of its concepts, in ``concepts/`` and in W&B (not in a sweep); metrics of the concepts."""
    present = bank.present
    if not in_sweep():
        galleries = [write_gallery(run.folder / "concepts", bank, index) for index in range(len(bank.class_names))]
        if run.tracker:
            run.tracker.show_concepts(bank, galleries)
    found = dict(zip(bank.class_names, present.sum(1).tolist(), strict=True))
    if min(found.values()) < bank.num_concepts:
        few = ", ".join(f"{name} {count}" for name, count in found.items() if count < bank.num_concepts)
        log.warning("Fewer than %d concepts that the classifier needs: %s.", bank.num_concepts, few)
    run.log(
        {
            "concepts/per_class": float(present.sum(1).mean()),
            "concepts/importance": float(bank.importance[present].mean()),
            "concepts/above_random": float((bank.p_value[present] < SIGNIFICANT).mean()),
        }
    )


def explained_photos(source: PhotoSource, data: SCGDataModule, count: int) -> list[Photo]:
    """Test photos for the report: a third wrong ones, and of every class in turn a right one, as far as there are."""
    table = data.tables["test"]
    photos = source.photos("test")
    hit, label, index = predicted_classes(table) == table["label"], table["label"], table["index"]
    wrong = index[~hit].tolist()
    classes = [index[hit & (label == c)].tolist() for c in range(len(source.class_names))]
    right = [i for turn in zip_longest(*classes) for i in turn if i is not None]
    kept = right[: count - min(len(wrong), count // 3)]
    return [photos[i] for i in kept + wrong[: count - len(kept)]]


def quality(run: Run, source: PhotoSource, explainer: Explainer) -> list[dict[str, Any]]:
    """Measure how good the concepts are: what was found of each; nothing in the jobs of a sweep."""
    if in_sweep() or not run.cfg.report.quality:
        return []
    with run.stage("quality"):
        found = concept_quality(explainer, source, run.cfg.report.quality, run.cfg.seed)
        run.log(found.metrics)
    return found.table


def relations(run: Run, source: PhotoSource, explainer: Explainer) -> None:
    """Measure how true relations and absences are; nothing in the jobs of a sweep."""
    if in_sweep() or not run.cfg.report.relations:
        return
    with run.stage("relations"):
        run.log(structure_quality(explainer, source, run.cfg.report.relations, run.cfg.seed))


def report(
    run: Run, source: PhotoSource, data: SCGDataModule, explainer: Explainer, concepts: Sequence[dict[str, Any]]
) -> Path:
    """Explain some test photos and write the page ``reports/index.html``; the jobs of a sweep explain none."""
    photos = explained_photos(source, data, 0 if in_sweep() else run.cfg.report.explanations)
    bar = tqdm(photos, desc="explaining for the report", unit="photo", leave=False, disable=not photos)
    explanations = [explainer.explain(source.read(photo), photo.label, name=photo.path) for photo in bar]
    folder = run.folder / "reports"
    title = f"VRX: {run.cfg.name}"
    table, paths = data.tables["test"], [photo.path for photo in source.photos("test")]
    names, few = [paths[i] for i in table["index"].tolist()], "classes" in table  # other classes in every photo
    effects = None if few else mean_relations(explainer.grn, table, explainer.bank.num_concepts)
    page = write_report(
        folder,
        title,
        run.metrics,
        explanations,
        explainer.bank,
        run.settings,
        run.notes,
        concepts,
        None if few else Predictions(names, table["logits"].double().numpy(), table["label"].numpy()),
        effects,
    )
    if run.tracker:
        run.tracker.show_photos(explanations, page)
        if effects is not None:
            run.tracker.show_errors(table, explainer.grn, source.class_names)
            run.tracker.show_relations(effects, explainer.bank)
    return page


def summarise(run: Run, page: Path) -> None:
    """The numbers that matter and where to look, on the console."""
    log.info("== numbers that matter\n%s", summary(run.metrics))
    if in_sweep():
        log.info("objective: %s = %.3f", run.cfg.objective, run.objective)
    spent = round(time.perf_counter() - run.started)
    log.info("Took %d min %02d s; all numbers: %s", *divmod(spent, 60), (run.folder / "metrics.json").resolve())
    log.info("Open %s", page.resolve())
    log.info("Explain your own photos: python explain.py run=%s images=<file or folder>", run.folder)
