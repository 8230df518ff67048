"""Does the diagnosis help? Add the photos it asks for, retrain F, measure (4.4, table 2).

Three classes, each seen in training in one pose alone. F is fitted and explained; the causes of its errors on probe
photos of all poses give the recommendation. Then F is fitted anew twice: with photos of the recommended poses (setting
1), and with as many of the same classes in their old pose (setting 2). Accuracy is measured on test photos of all
poses, which nothing else touches. Everything is repeated for several seeds, which choose training photos and initial
weights.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vrx.classifier.classifier import Classifier, load_classifier
from vrx.data.ilab20m import ILab20M
from vrx.data.images import Photo
from vrx.data.sources import stamps
from vrx.data.toys.vehicles import ToyVehicles
from vrx.errors import VRXError
from vrx.models.classification import fit_classifier
from vrx.storage import digest
from vrx.studies.core.context import StudyContext
from vrx.studies.core.records import Records, write_results
from vrx.studies.dataset_fix.page import dataset_fix_page
from vrx.studies.dataset_fix.poses import PosePool, ilab_pool, pose_name, toy_pool
from vrx.studies.diagnosis.diagnoser import Diagnoser, Row
from vrx.studies.diagnosis.gains import SETTINGS, accuracy, measured, result_table
from vrx.studies.diagnosis.planting import CAUSES, RenderedPlanter
from vrx.studies.diagnosis.recommendation import advise, wanted_photos
from vrx.studies.pipeline import Listed, explain_classifier

log = logging.getLogger("vrx")

TRIALS = 6  # changes of each probe photo, to plant an error of a cause
FRAMES = 11  # added to the first seed, the seed of the toy frames: others than those of any run


@dataclass(frozen=True)
class Drawn:
    """The photos of one seed.

    Args:
        base: training photos of each class, in its old pose.
        spare: more of the same, for setting 2.
        probe: of all classes in all poses: errors on them are diagnosed.
        test: the same, for measuring.
    """

    base: Sequence[list[Photo]]
    spare: Sequence[list[Photo]]
    probe: list[Photo]
    test: list[Photo]

    @property
    def everything(self) -> list[Photo]:
        """All training photos."""
        return [photo for photos in self.base for photo in photos]


class DatasetFix:
    """Fit, diagnose, add, fit again.

    Args:
        classifier: arguments of :func:`vrx.classifier.classifier.load_classifier` without the classes.
        fit: options of :func:`vrx.models.classification.fit_classifier`.
        concepts: arguments of :class:`vrx.concepts.discovery.ConceptDiscovery`.
        seeds: how many; at least 2.
        train: photos a class, in its own pose (paper: 1000).
        added: photos added in both settings (paper: 450).
        probe: photos of each class in each pose to find errors on.
        test: photos of each class in each pose to measure accuracy on.
        explained: photos a class that concepts and graphs are made of.
        epochs: of the distillation.
        planted: planted errors of each cause that calibrate the diagnosis (toy vehicles).
        poses: class -> its one pose in training; None: those of :mod:`vrx.studies.dataset_fix.poses`.
        size: of the toy frames, pixels.
        seed: of the first repetition, and of the toy frames of all.

    Raises:
        VRXError: a setting out of range.
    """

    def __init__(
        self,
        classifier: Mapping[str, Any],
        fit: Mapping[str, Any],
        concepts: Mapping[str, Any],
        seeds: int = 5,
        train: int = 200,
        added: int = 90,
        probe: int = 20,
        test: int = 60,
        explained: int = 40,
        epochs: int = 15,
        planted: int = 20,
        poses: Mapping[str, Any] | None = None,
        size: int = 64,
        seed: int = 0,
    ) -> None:
        if seeds < 2:
            raise VRXError(f"study.seeds={seeds}: a paired test needs at least 2, and 5 to say much.")
        if min(train, added, probe, test, explained) < 1:
            raise VRXError("study.train, added, probe, test and explained must each be at least 1.")
        self.classifier, self.fit, self.concepts = dict(classifier), dict(fit), dict(concepts)
        self.train, self.added, self.probe, self.test = train, added, probe, test
        self.explained, self.epochs, self.planted = min(explained, train), epochs, planted
        self.poses, self.size, self.seeds = poses, size, range(seed, seed + seeds)

    def __call__(self, context: StudyContext) -> dict[str, float]:
        """Run the study; see :class:`vrx.studies.core.context.StudyContext`."""
        pool = self._pool(context)
        records = Records(context.folder / "records.jsonl", self._key(context, pool))
        runs = []
        for number, seed in enumerate(self.seeds, 1):
            log.info("== seed %d (%d of %d)", seed, number, len(self.seeds))
            runs.append(self._repeat(context, pool, seed, records))
            said = ", ".join(f"{name} {accuracy(runs[-1]['answers'][name]):.1%}" for name in SETTINGS)
            log.info("seed %d: accuracy %s", seed, said)
        metrics = measured(runs, pool.own, pool.poses)
        write_results(context.folder, result_table(runs, pool.class_names), metrics)
        dataset_fix_page(context, pool, runs, metrics, self.added)
        return metrics

    def _pool(self, context: StudyContext) -> PosePool:
        if isinstance(context.source, ILab20M):
            return ilab_pool(context.source, self.poses)
        if isinstance(context.source, ToyVehicles):
            root = context.source.root.parent
            return toy_pool(
                root, self.size, FRAMES + self.seeds[0], self.train, self.added, self.probe, self.test, self.poses
            )
        raise VRXError(
            "dataset_fix needs photos whose pose is known: give a run of toy_vehicles, or of ilab20m "
            "(python train.py experiment=resnet18_ilab20m data.root=<folder>)."
        )

    def _key(self, context: StudyContext, pool: PosePool) -> str:
        """Of all that decides what one seed gives; how many seeds there are does not."""
        settings = {k: v for k, v in context.settings.items() if k not in ("seed", "seeds")}
        return replace(context, settings=settings).key(study="dataset_fix", photos=pool.source.settings())

    def _repeat(self, context: StudyContext, pool: PosePool, seed: int, records: Records) -> dict[str, Any]:
        """One seed.

        Returns:
            ``seed``; ``answers``: for each of ``SETTINGS``, counts of F's answers on the test photos,
            ``[n (true), P (pose), n (answer)]``; and what the diagnosis said: ``errors``, ``advice``, ``wanted``,
            ``calibration``.
        """
        drawn = self._draw(pool, seed)
        cache = context.folder / "cache" / f"seed_{seed}"
        known = records, f"seed {seed}"
        answers = {"base": self._answers(known, "base", pool, cache, drawn.everything, drawn.test, seed)}
        name = f"seed {seed} diagnosis"
        if name not in records:
            first = self._fitted(pool, cache, "base", drawn.everything, seed)
            records.add(name, self._diagnosed(context, pool, first, drawn, cache, seed, records.key))
        diagnosis = records[name]
        wanted = {(int(c), str(pose)): int(count) for c, pose, count in diagnosis["wanted"]}
        for setting, extra in zip(SETTINGS[1:], self._extra(pool, drawn, wanted, seed), strict=True):
            photos = drawn.everything + extra  # nothing recommended: nothing is added, nothing gained
            given = known, setting, pool, cache, photos, drawn.test, seed
            answers[setting] = self._answers(*given) if extra else answers["base"]
        return {"seed": seed, "answers": answers, **diagnosis}

    def _draw(self, pool: PosePool, seed: int) -> Drawn:
        rng = np.random.default_rng(seed)
        old = [pool.draw("train", c, pose, self.train + self.added, rng) for c, pose in enumerate(pool.own)]
        return Drawn(
            [photos[: self.train] for photos in old],
            [photos[self.train :] for photos in old],
            pool.even("probe", self.probe, rng),
            pool.even("test", self.test, rng),
        )

    def _extra(
        self, pool: PosePool, drawn: Drawn, wanted: Mapping[tuple[int, str], int], seed: int
    ) -> tuple[list[Photo], list[Photo]]:
        """The photos that setting 1 and setting 2 add: the same number of each class."""
        rng = np.random.default_rng([seed, 1])
        asked = [p for (c, pose), count in wanted.items() for p in pool.draw("train", c, pose, count, rng)]
        each = [sum(p.label == c for p in asked) for c in range(len(pool.class_names))]
        return asked, [p for c, photos in enumerate(drawn.spare) for p in photos[: each[c]]]

    def _answers(
        self,
        known: tuple[Records, str],
        setting: str,
        pool: PosePool,
        cache: Path,
        photos: list[Photo],
        test: list[Photo],
        seed: int,
    ) -> Any:
        """Counts of F's answers after training on ``photos``; remembered."""
        records, prefix = known
        name = f"{prefix} {setting}"
        if name not in records:
            fitted = self._fitted(pool, cache, setting, photos, seed)
            records.add(name, {"answers": answers_of(fitted, pool, test)})
        return records[name]["answers"]

    def _fitted(self, pool: PosePool, cache: Path, name: str, photos: list[Photo], seed: int) -> Classifier:
        """F after training on ``photos``; kept under all that decides it."""
        spec = {**self.classifier, "class_names": list(pool.class_names)}
        splits = {"discovery": [], "train": photos, "val": photos[:: max(1, len(photos) // 60)]}
        key = digest({"spec": spec, "fit": self.fit, "seed": seed, "photos": stamps(photos)})
        folder = cache / f"{name}_{key[:12]}"
        if not folder.exists():
            log.info("fitting F on %d photos (%s)", len(photos), name)
        weights = fit_classifier(folder, Listed(pool.source, pool.class_names, splits), spec, self.fit, seed, "auto")
        return load_classifier(**{**spec, "pretrained": False}, checkpoint=str(weights))

    def _diagnosed(
        self, context: StudyContext, pool: PosePool, classifier: Classifier, drawn: Drawn, cache: Path, seed: int,
        key: str,
    ) -> dict[str, Any]:  # fmt: skip
        """Explain F's errors on the probe photos and say what would help."""
        some = [photo for photos in drawn.base for photo in photos[: self.explained]]
        few = [photo for photos in drawn.base for photo in photos[-max(2, self.explained // 4) :]]
        source = Listed(pool.source, pool.class_names, {"discovery": some, "train": some, "val": few, "test": few[:1]})
        log.info("explaining F")
        explainer = explain_classifier(
            classifier, source, context.explainer, cache, seed, self.concepts, context.config["model"], self.epochs
        )
        seen = Listed(pool.source, pool.class_names, {"train": drawn.everything})  # all that F was fitted on
        diagnoser = Diagnoser(explainer, seen, references=min(20, self.train), seed=seed)
        own = Records(cache / "records.jsonl", key + classifier.fingerprint)
        calibration = self._calibrate(diagnoser, pool, drawn.probe, own, seed)
        _, rows = diagnoser.errors(drawn.probe, own)
        for row in rows:
            row["pose"] = pose_name(pool.source, Photo(row["photo"], row["true"], "probe"))
        training = {c: [pose] * len(photos) for c, (pose, photos) in enumerate(zip(pool.own, drawn.base, strict=True))}
        advice = advise(rows, pool.class_names, lambda row: row["pose"], training)
        kept = ("photo", "true", "predicted", "pose", "cause")
        return {
            "errors": [{name: row[name] for name in kept} for row in rows],
            "advice": [one.text for one in advice],
            "wanted": [[c, pose, count] for (c, pose), count in wanted_photos(advice, self.added).items()],
            "calibration": calibration,
        }

    def _calibrate(
        self, diagnoser: Diagnoser, pool: PosePool, probe: list[Photo], records: Records, seed: int
    ) -> dict[str, int]:
        """Fit the cause model on errors planted into probe photos of the old poses that F gets right.

        Returns:
            Planted errors of each cause; empty when the fixed rule is used.
        """
        if not isinstance(pool.source, ToyVehicles):
            return {}
        right = diagnoser.right([p for p in probe if pose_name(pool.source, p) == pool.own[p.label]], records)
        planter = RenderedPlanter(pool.source, seed)
        labels = range(len(pool.class_names))
        each = -(-self.planted // len(labels))
        made: list[Row] = []
        for cause in CAUSES:
            for label in labels:  # as many of every class as can be: the class must not give the cause away
                own = [photo for photo in right if photo.label == label]
                made += diagnoser.planted(planter, own, cause, each, TRIALS, records)
        try:
            diagnoser.calibrate(made)
        except VRXError as error:
            log.warning("%s The fixed rule is used.", error)
            return {}
        return {cause: sum(row["cause"] == cause for row in made) for cause in CAUSES}


def answers_of(
    classifier: Classifier, pool: PosePool, photos: Sequence[Photo], batch_size: int = 64
) -> NDArray[np.int64]:
    """How often F answers what, by class and pose.

    Returns:
        Counts ``[n (true), P (pose, as in pool.poses), n (answer)]``.
    """
    num = len(pool.class_names)
    counts = np.zeros((num, len(pool.poses), num), np.int64)
    for start in range(0, len(photos), batch_size):
        part = photos[start : start + batch_size]
        x = torch.stack([classifier.transform(pool.source.read(p)) for p in part]).to(classifier.device)
        with torch.inference_mode():
            answers = classifier(x).argmax(1).tolist()
        for photo, answer in zip(part, answers, strict=True):
            counts[photo.label, pool.poses.index(str(pose_name(pool.source, photo))), answer] += 1
    return counts
