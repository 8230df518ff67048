"""Does the diagnosis help? Add the photos it asks for, retrain F, measure (4.4, table 2).

Three classes, each seen in training in one pose alone. F is fitted and explained; the causes of its errors on probe
photos of all poses give the recommendation. Then F is fitted anew twice: with photos of the recommended poses (setting
1), and with as many of the same classes in their old pose (setting 2). Accuracy is measured on test photos of all
poses, which nothing else touches. Everything is repeated for several seeds, which choose photos and initial weights.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import stats

from vrx.classifiers import Classifier, load_classifier
from vrx.data.ilab20m import ILab20M
from vrx.data.images import Photo
from vrx.data.toy_vehicles import ToyVehicles
from vrx.models.classification import fit_classifier
from vrx.structures import VRXError
from vrx.studies import StudyContext
from vrx.studies.diagnoser import Diagnoser, Row
from vrx.studies.page import Picture, Section, write_page
from vrx.studies.pipeline import Listed, explain_classifier
from vrx.studies.planting import CAUSES, RenderedPlanter
from vrx.studies.poses import PosePool, ilab_pool, pose_name, toy_pool
from vrx.studies.recommendation import Advice, advise, wanted_photos
from vrx.studies.results import Records, write_results

log = logging.getLogger("vrx")

SETTINGS = ("base", "setting1", "setting2")


class DatasetFix:
    """Fit, diagnose, add, fit again.

    Args:
        classifier: arguments of :func:`vrx.classifiers.load_classifier` without the classes.
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
        poses: class -> its one pose in training; None: those of :mod:`vrx.studies.poses`.
        size: of the toy frames, pixels.
        seed: of the first repetition.

    Raises:
        VRXError: a setting out of range.
    """

    def __init__(
        self,
        classifier: Mapping[str, Any],
        fit: Mapping[str, Any],
        concepts: Mapping[str, Any],
        seeds: int = 5,
        train: int = 300,
        added: int = 135,
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
        self.seeds, self.train, self.added, self.probe, self.test = seeds, train, added, probe, test
        self.explained, self.epochs, self.planted = min(explained, train), epochs, planted
        self.poses, self.size, self.seed = poses, size, seed

    def __call__(self, context: StudyContext) -> dict[str, float]:
        """Run the study; see :class:`vrx.studies.StudyContext`."""
        pool = self._pool(context)
        records = Records(context.folder / "records.jsonl", context.key(study="dataset_fix"))
        for seed in range(self.seed, self.seed + self.seeds):
            log.info("== seed %d (%d to %d)", seed, self.seed, self.seed + self.seeds - 1)
            if f"seed {seed}" not in records:
                records.add(f"seed {seed}", self._repeat(context, pool, seed, records))
        runs = [records[f"seed {s}"] for s in range(self.seed, self.seed + self.seeds)]
        accuracy = {name: np.array([run["accuracy"][name] for run in runs]) for name in SETTINGS}
        metrics = gains(accuracy)
        table = [
            {"seed": self.seed + i, **run["accuracy"], "errors": run["errors"], "added": said(run["wanted"])}
            for i, run in enumerate(runs)
        ]
        write_results(context.folder, table, metrics)
        write_page(
            context.folder, "Dataset fix: does the diagnosis help?", lead(metrics, self.added, self.seeds),
            _sections(pool, runs, table, accuracy), metrics, context.settings,
        )  # fmt: skip
        return metrics

    def _pool(self, context: StudyContext) -> PosePool:
        if isinstance(context.source, ILab20M):
            return ilab_pool(context.source, self.poses)
        if isinstance(context.source, ToyVehicles):
            root = context.source.root.parent
            return toy_pool(root, self.size, 7, self.train, self.added, self.probe, self.test, self.poses)
        raise VRXError(
            "dataset_fix needs photos whose pose is known: give a run of toy_vehicles, or of ilab20m "
            "(python train.py experiment=resnet18_ilab20m data.root=<folder>)."
        )

    def _repeat(self, context: StudyContext, pool: PosePool, seed: int, records: Records) -> dict[str, Any]:
        """One seed: accuracy of the three training sets, and what the diagnosis said."""
        rng = np.random.default_rng(seed)
        labels = range(len(pool.class_names))
        old = [pool.draw("train", c, pool.own[c], self.train + self.added, rng) for c in labels]
        base, spare = [photos[: self.train] for photos in old], [photos[self.train :] for photos in old]
        everything = [photo for photos in base for photo in photos]
        probe, test = pool.even("probe", self.probe, rng), pool.even("test", self.test, rng)
        cache = context.folder / "cache" / f"seed_{seed}"
        first = self._fitted(pool, cache, "base", everything, seed)
        advice, rows = self._diagnosed(context, pool, first, base, probe, cache, seed, records)
        wanted = wanted_photos(advice, self.added)
        result: dict[str, Any] = {
            "accuracy": {"base": accuracy_of(first, pool, test)},
            "errors": len(rows),
            "causes": {c: sum(r["cause"] == c for r in rows) for c in CAUSES},
            "advice": [a.text for a in advice],
            "wanted": [[pool.class_names[c], pose, count] for (c, pose), count in wanted.items()],
        }
        if not wanted:  # nothing recommended, so nothing is added and nothing gained
            return {**result, "accuracy": dict.fromkeys(SETTINGS, result["accuracy"]["base"])}
        asked = [p for (c, pose), count in wanted.items() for p in pool.draw("train", c, pose, count, rng)]
        each = {c: sum(count for (label, _), count in wanted.items() if label == c) for c in labels}
        same = [p for c in labels for p in spare[c][: each[c]]]
        for name, extra in (("setting1", asked), ("setting2", same)):
            fitted = self._fitted(pool, cache, name, everything + extra, seed)
            result["accuracy"][name] = accuracy_of(fitted, pool, test)
        return result

    def _fitted(self, pool: PosePool, cache: Path, name: str, photos: list[Photo], seed: int) -> Classifier:
        spec = {**self.classifier, "class_names": list(pool.class_names)}
        source = Listed(
            pool.source,
            pool.class_names,
            {"discovery": [], "train": photos, "val": photos[:: max(1, len(photos) // 60)]},
        )
        weights = fit_classifier(cache / name, source, spec, self.fit, seed, "auto")
        return load_classifier(**{**spec, "pretrained": False}, checkpoint=str(weights))

    def _diagnosed(
        self,
        context: StudyContext,
        pool: PosePool,
        classifier: Classifier,
        base: Sequence[list[Photo]],
        probe: list[Photo],
        cache: Path,
        seed: int,
        records: Records,
    ) -> tuple[list[Advice], list[Row]]:
        """Explain F's errors on the probe photos and say what would help."""
        some = [photo for photos in base for photo in photos[: self.explained]]
        few = [photo for photos in base for photo in photos[-max(2, self.explained // 4) :]]
        source = Listed(pool.source, pool.class_names, {"discovery": some, "train": some, "val": few, "test": few})
        explainer = explain_classifier(
            classifier, source, context.explainer, cache, seed, self.concepts, context.config["model"], self.epochs
        )
        diagnoser = Diagnoser(explainer, source, references=min(20, self.explained), seed=seed)
        own = Records(cache / "records.jsonl", records.key + classifier.fingerprint)
        if isinstance(pool.source, ToyVehicles):
            self._calibrate(diagnoser, pool, probe, own, seed)
        _, rows = diagnoser.errors(probe, own)
        training = {c: [pool.own[c]] * len(photos) for c, photos in enumerate(base)}

        def pose_of(row: Mapping[str, Any]) -> str | None:
            return pose_name(pool.source, Photo(row["photo"], row["true"], "probe"))

        return advise(rows, pool.class_names, pose_of, training), rows

    def _calibrate(self, diagnoser: Diagnoser, pool: PosePool, probe: list[Photo], records: Records, seed: int) -> None:
        """Fit the cause model on errors planted into probe photos of the old poses that F gets right."""
        seen = [p for p in probe if pose_name(pool.source, p) == pool.own[p.label]]
        right = diagnoser.right(seen)
        planter = RenderedPlanter(pool.source, seed)
        made = [r for c in CAUSES for r in diagnoser.planted(planter, right, c, self.planted, 6, records)]
        try:
            diagnoser.calibrate(made)
        except VRXError as error:
            log.warning("%s The fixed rule is used.", error)


def accuracy_of(classifier: Classifier, pool: PosePool, photos: Sequence[Photo], batch_size: int = 64) -> float:
    """Share of the photos that a classifier gets right."""
    right = 0
    for start in range(0, len(photos), batch_size):
        part = photos[start : start + batch_size]
        x = torch.stack([classifier.transform(pool.source.read(p)) for p in part]).to(classifier.device)
        with torch.inference_mode():
            answers = classifier(x).argmax(1).tolist()
        right += sum(a == p.label for a, p in zip(answers, part, strict=True))
    return right / len(photos)


def gains(accuracy: Mapping[str, Sequence[float] | np.ndarray]) -> dict[str, float]:
    """Gains over the base, paired by seed, with 95 % t intervals, and a paired t-test of setting 1 against setting 2.

    Args:
        accuracy: of each of ``SETTINGS``, one a seed, in [0, 1].
    """
    values = {name: np.asarray(accuracy[name], float) for name in SETTINGS}
    found: dict[str, float] = {f"accuracy/{name}": float(v.mean()) for name, v in values.items()}
    for name in SETTINGS[1:]:
        gain = values[name] - values["base"]
        half = float(stats.t.ppf(0.975, len(gain) - 1) * gain.std(ddof=1) / math.sqrt(len(gain)))
        mean = float(gain.mean())
        found |= {f"gain/{name}": mean, f"gain/{name}_low": mean - half, f"gain/{name}_high": mean + half}
    difference = values["setting1"] - values["setting2"]
    if np.ptp(difference) == 0:  # no spread: the test has no scale
        found["gain/p_value"] = 1.0 if difference[0] == 0 else 0.0
    else:
        found["gain/p_value"] = float(stats.ttest_1samp(difference, 0.0).pvalue)
    return found


def said(wanted: Sequence[Sequence[Any]]) -> str:
    """The photos added in setting 1, in words."""
    return ", ".join(f"{count} {name} in pose {pose}" for name, pose, count in wanted) or "none"


def lead(metrics: Mapping[str, float], added: int, seeds: int) -> str:
    """The answer in a sentence or two."""

    def gain(name: str) -> str:
        low, high = metrics[f"gain/{name}_low"], metrics[f"gain/{name}_high"]
        return f"{100 * metrics[f'gain/{name}']:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})"

    return (
        f"F is right on {metrics['accuracy/base']:.1%} of the test photos. {added} photos in the poses that the "
        f"diagnosis asks for change that by {gain('setting1')}; as many in the old poses by {gain('setting2')} "
        f"({seeds} seeds; paired t-test, p = {metrics['gain/p_value']:.2g})."
    )


def _sections(
    pool: PosePool, runs: Sequence[Mapping[str, Any]], table: list[dict[str, Any]], accuracy: Mapping[str, np.ndarray]
) -> list[Section]:
    own = ", ".join(f"{name} in pose {pose}" for name, pose in zip(pool.class_names, pool.own, strict=True))
    causes = [{"seed": row["seed"], **run["causes"]} for row, run in zip(table, runs, strict=True)]
    advice = [
        f"Seed {row['seed']}: {' '.join(run['advice']) or 'no error, no advice.'}"
        for row, run in zip(table, runs, strict=True)
    ]
    return [
        Section(
            "Accuracy on test photos of all poses",
            [f"Training shows {own}. Setting 1 adds what the diagnosis recommends, setting 2 photos of the old poses."],
            table,
            [Picture(gain_figure(accuracy), "Accuracy of each training set; a line a seed.")],
        ),
        Section("What the diagnosis said", advice, causes),
    ]


def gain_figure(accuracy: Mapping[str, np.ndarray]) -> Figure:
    """A line a seed over the three training sets, and the mean."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    ax = figure.add_subplot()
    order = ("setting2", "base", "setting1")
    values = np.stack([np.asarray(accuracy[name]) for name in order])
    ax.plot(values, color="#9ab8d3", linewidth=1.2, marker="o", markersize=4)
    ax.plot(values.mean(1), color="#1a1a1a", linewidth=2.5, marker="o", label="mean")
    ax.set_xticks(range(3), ["setting 2:\nmore of the old pose", "as it was", "setting 1:\nwhat VRX asks for"])
    ax.set(ylabel="accuracy on all poses", ylim=(0, 1), xlim=(-0.3, 2.3))
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    return figure
