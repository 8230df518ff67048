"""Does the diagnosis help? Add the photos it asks for, retrain the classifier, measure (4.4, table 2).

Three classes, each seen in training in one pose alone. The causes of the classifier's errors on probe photos of all
poses give the advice. Then it is fitted anew twice: with photos of the recommended poses (setting 1), and with as many
of the same classes in their old pose (setting 2). Accuracy is measured on test photos of all poses, which nothing else
touches. Everything is repeated for several seeds, which choose training photos and initial weights.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vrx.classifier.classifier import Classifier
from vrx.data.images import Photo
from vrx.data.selection import PhotoSelection
from vrx.errors import VRXError
from vrx.studies.core.context import StudyContext, at_least
from vrx.studies.core.records import Records, write_results
from vrx.studies.dataset_fix.gains import SETTINGS, accuracy, measured, result_table
from vrx.studies.dataset_fix.page import dataset_fix_page
from vrx.studies.dataset_fix.poses import PosePool, Sizes, pool_of
from vrx.studies.diagnosis.causes import ERROR_CAUSES
from vrx.studies.diagnosis.diagnoser import Diagnoser
from vrx.studies.diagnosis.planting_rendered import RenderedPlanter, can_render
from vrx.studies.diagnosis.recommendation import advise, wanted_photos

log = logging.getLogger("vrx")

TRIALS = 6  # changes of each probe photo, to plant an error of a cause
FRAMES = 11  # added to the first seed, the seed of the toy frames: others than those of any run
BATCH = 64  # photos a forward pass


@dataclass(frozen=True)
class DatasetFix:
    """Fit, diagnose, add, fit again.

    Raises:
        VRXError: a setting out of range.
    """

    classifier: Mapping[str, Any]  # arguments of vrx.classifier.loading.load_classifier without the classes
    fit: Mapping[str, Any]  # options of vrx.models.classification.fit_classifier
    changes: Mapping[str, Any]  # settings of the run that this study changes, by group or dotted name
    seeds: int = 5  # how many; at least 2
    train: int = 200  # photos per class, in its own pose (paper: 1000)
    added: int = 90  # photos added in both settings (paper: 450)
    probe: int = 20  # photos of each class in each pose to find errors on
    test: int = 60  # photos of each class in each pose to measure accuracy on
    explained: int = 40  # photos per class that concepts and graphs are made of
    planted: int = 20  # planted errors of each cause that calibrate the diagnosis (toy vehicles)
    poses: Mapping[str, Any] | None = None  # class -> its one pose in training; None: those of poses.py
    size: int = 64  # of the toy frames, pixels
    seed: int = 0  # of the first repetition, and of the toy frames of all

    def __post_init__(self) -> None:
        at_least(self, seeds=2, train=1, added=1, probe=1, test=1, explained=1)  # a paired test needs two seeds

    def __call__(self, context: StudyContext) -> dict[str, float]:
        """Run the study; see :class:`vrx.studies.core.context.StudyContext`."""
        sizes = Sizes(self.train, self.added, self.probe, self.test, self.size)
        pool = pool_of(context.source, sizes, FRAMES + self.seed, self.poses)
        settings = {k: v for k, v in context.settings.items() if k not in ("seed", "seeds")}
        records = replace(context, settings=settings).records(study="dataset_fix", photos=pool.source.settings())
        runs = []
        for number, seed in enumerate(range(self.seed, self.seed + self.seeds), 1):
            log.info("== seed %d (%d of %d)", seed, number, self.seeds)
            runs.append(Repetition(self, context, pool, records, seed)())
            found = ", ".join(f"{name} {accuracy(runs[-1]['predictions'][name]):.1%}" for name in SETTINGS)
            log.info("seed %d: accuracy %s", seed, found)
        metrics = measured(runs, pool.own, pool.poses)
        write_results(context.folder, result_table(runs, pool.class_names), metrics)
        dataset_fix_page(context, pool, runs, metrics, self.added)
        return metrics


class Repetition:
    """The study with one seed, of training photos and initial weights; what is in the records is not done again."""

    def __init__(self, study: DatasetFix, context: StudyContext, pool: PosePool, records: Records, seed: int) -> None:
        if context.pipeline is None:
            raise VRXError("dataset_fix fits classifiers anew and needs the pipeline of a run: StudyContext.pipeline.")
        self.study, self.pool, self.records, self.seed = study, pool, records, seed
        self.cache = context.folder / "cache" / f"seed_{seed}"
        self.pipeline = context.pipeline({**study.changes, "paths.cache_dir": str(self.cache), "seed": seed})
        rng = np.random.default_rng(seed)
        old = [pool.draw("train", c, pose, study.train + study.added, rng) for c, pose in enumerate(pool.own)]
        self.base = [photos[: study.train] for photos in old]  # training photos of each class, in its old pose
        self.train = [photo for photos in self.base for photo in photos]
        self.spare = [photos[study.train :] for photos in old]  # more of the same, for setting 2
        self.probe = pool.even("probe", study.probe, rng)  # of all classes in all poses: errors on them are diagnosed
        self.test = pool.even("test", study.test, rng)  # the same, for measuring

    def __call__(self) -> dict[str, Any]:
        """Fit, diagnose, add, fit again: ``seed``, ``predictions`` (for each of ``SETTINGS``) and :meth:`diagnosed`."""
        predictions = {"base": self._predictions("base", self.train)}
        found = self.records.once(f"seed {self.seed} diagnosis", self.diagnosed)
        for setting, extra in zip(SETTINGS[1:], self._extra(found["wanted"]), strict=True):
            predictions[setting] = predictions["base"]  # nothing asked for: nothing gained
            if extra:
                predictions[setting] = self._predictions(setting, self.train + extra)
        return {"seed": self.seed, "predictions": predictions, **found}

    def _extra(self, wanted: Sequence[tuple[int, str, int]]) -> tuple[list[Photo], list[Photo]]:
        """The photos that setting 1 and setting 2 add: the same number of each class."""
        rng = np.random.default_rng([self.seed, 1])
        asked = [p for c, pose, count in wanted for p in self.pool.draw("train", c, pose, count, rng)]
        each = Counter(photo.label for photo in asked)
        return asked, [p for c, photos in enumerate(self.spare) for p in photos[: each[c]]]

    def _predictions(self, setting: str, photos: list[Photo]) -> Any:
        """Counts on the test photos after training on ``photos``."""

        def tested() -> dict[str, Any]:
            return {"predictions": count_predictions(self.fitted(setting, photos), self.pool, self.test)}

        return self.records.once(f"seed {self.seed} {setting}", tested)["predictions"]

    def fitted(self, setting: str, photos: list[Photo]) -> Classifier:
        """The classifier after training on ``photos``."""
        log.info("the classifier of %d photos (%s)", len(photos), setting)
        splits = {"train": photos, "val": photos[:: max(1, len(photos) // 60)]}
        settings = {**self.study.classifier, "fit": self.study.fit}
        return self.pipeline.classifier(settings, PhotoSelection(self.pool.source, splits))

    def diagnosed(self) -> dict[str, Any]:
        """The causes of the base classifier's errors on the probe photos, and what would help."""
        classifier = self.fitted("base", self.train)
        pool, explained = self.pool, min(self.study.explained, self.study.train)
        some = [photo for photos in self.base for photo in photos[:explained]]
        few = [photo for photos in self.base for photo in photos[-max(2, explained // 4) :]]
        splits = {"discovery": some, "train": some, "val": few, "test": few}
        log.info("explaining the classifier")
        explainer = self.pipeline.explainer(classifier, PhotoSelection(pool.source, splits))
        diagnoser = Diagnoser(explainer, pool.source, self.seed)
        records = Records(self.cache / "records.jsonl", self.records.key + classifier.version)
        self.calibrate(diagnoser, records)
        _, rows = diagnoser.errors(self.probe, records)
        advice = advise(rows, pool.class_names, pool.source, self.train)
        kept = ("photo", "true", "predicted", "pose", "cause")
        return {
            "errors": [{name: row[name] for name in kept} for row in rows],
            "advice": [one.text for one in advice],
            "wanted": [[c, pose, count] for (c, pose), count in wanted_photos(advice, self.study.added).items()],
        }

    def calibrate(self, diagnoser: Diagnoser, records: Records) -> None:
        """Fit the cause model on errors planted into probe photos of the old poses that the classifier gets right."""
        pool = self.pool
        if not can_render(pool.source):
            return
        old = [p for p in self.probe if pool.source.pose_name(p) == pool.own[p.label]]
        right = diagnoser.right(old, records)
        plant = diagnoser.planting(RenderedPlanter(diagnoser.explainer, pool.source, self.seed), records)
        labels = range(len(pool.class_names))
        each = -(-self.study.planted // len(labels))  # of every class: the class must not give the cause away
        pairs = itertools.product(ERROR_CAUSES, ([p for p in right if p.label == label] for label in labels))
        made = [row for cause, own in pairs for row in plant(own, cause, each, TRIALS)]
        try:
            diagnoser.calibrate(made)
        except VRXError as error:
            log.warning("%s The fixed rule is used.", error)


def count_predictions(classifier: Classifier, pool: PosePool, photos: Sequence[Photo]) -> NDArray[np.int64]:
    """How often which class is predicted: ``[n (true), P (pose, as in pool.poses), n (predicted)]``."""
    num = len(pool.class_names)
    counts = np.zeros((num, len(pool.poses), num), np.int64)
    for part in (photos[start : start + BATCH] for start in range(0, len(photos), BATCH)):
        x = torch.stack([classifier.transform(pool.source.read(p)) for p in part]).to(classifier.device)
        with torch.inference_mode():
            predicted = classifier(x).argmax(1).tolist()
        for photo, label in zip(part, predicted, strict=True):
            counts[photo.label, pool.poses.index(pool.source.pose_name(photo)), label] += 1
    return counts
