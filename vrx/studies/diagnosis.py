"""Model diagnosis (4.4, figure 8): F's errors, the cause of each, and what would help.

How good the diagnosis is can be measured where causes can be planted (:mod:`vrx.studies.planting`): the cause model is
fitted on errors planted into validation photos and tested on errors planted into test photos, beside a guess of the
most frequent cause and the same kind of model on what Grad-CAM says.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from vrx.data.images import Photo
from vrx.explain.drawing import INK, QUIET
from vrx.explain.figures import confusion_figure
from vrx.structures import VRXError
from vrx.studies import StudyContext
from vrx.studies.causes import CAM, CauseModel
from vrx.studies.diagnoser import Diagnoser, Row
from vrx.studies.page import Picture, Section, write_page
from vrx.studies.planting import CAUSES, RenderedPlanter, is_toy
from vrx.studies.poses import pose_name
from vrx.studies.recommendation import Advice, advise
from vrx.studies.results import Records, write_results
from vrx.studies.statistics import Share, mcnemar

log = logging.getLogger("vrx")

COLOURS = dict(zip(CAUSES, ("#d7301f", "#f0a500", "#1b9e50"), strict=True))
LETTERS = dict(zip(CAUSES, "SFU", strict=True))  # readable without colour


class Diagnosis:
    """Which cause made each error.

    Args:
        split: whose errors are diagnosed.
        plant: measure the diagnosis on planted errors; None: where the photos allow it.
        errors_per_cause: planted errors of each cause, for calibration and for testing each.
        trials: changes of each photo tried at most.
        references: training photos a class that say what is usual.
        max_photos: photos of the split, evenly spread; 0: all.
        examples: errors shown.
        seed: of every choice.

    Raises:
        VRXError: a setting out of range.
    """

    def __init__(
        self,
        split: str = "test",
        plant: bool | None = None,
        errors_per_cause: int = 60,
        trials: int = 8,
        references: int = 20,
        max_photos: int = 0,
        examples: int = 8,
        seed: int = 0,
    ) -> None:
        if errors_per_cause < 3 or trials < 1:
            raise VRXError(f"study.errors_per_cause={errors_per_cause}, study.trials={trials}: use at least 3 and 1.")
        self.split, self.plant, self.errors_per_cause, self.trials = split, plant, errors_per_cause, trials
        self.references, self.max_photos, self.examples, self.seed = references, max_photos, examples, seed

    def __call__(self, context: StudyContext) -> dict[str, float]:
        """Run the study; see :class:`vrx.studies.StudyContext`."""
        plant = is_toy(context.source) if self.plant is None else self.plant
        planter = RenderedPlanter(context.source, self.seed) if plant else None
        decisive = {"study": "diagnosis"}
        records = Records(context.folder / "records.jsonl", context.key(**decisive))
        diagnoser = Diagnoser(context.explainer, context.source, self.references, self.seed)
        tested: list[Row] = []
        if planter is not None:
            tested = self._measured(diagnoser, planter, records)
        photos = context.source.photos(self.split)
        if 0 < self.max_photos < len(photos):
            photos = [photos[i * len(photos) // self.max_photos] for i in range(self.max_photos)]
        counts, rows = diagnoser.errors(photos, records)
        advice = self._advice(context, rows)
        metrics = {"errors/total": float(len(rows)), **scores(tested)}
        metrics |= {f"errors/{c.replace(' ', '_')}": float(sum(r["cause"] == c for r in rows)) for c in CAUSES}
        write_results(context.folder, [table_row(r, diagnoser.class_names) for r in rows], metrics)
        sections = self._sections(context, diagnoser, counts, rows, advice, tested)
        write_page(
            context.folder, "Diagnosis: which cause made each error", lead(rows, advice, metrics), sections, metrics,
            context.settings,
        )  # fmt: skip
        return metrics

    def _measured(self, diagnoser: Diagnoser, planter: RenderedPlanter, records: Records) -> list[Row]:
        """Calibrate on errors planted into validation photos; judge errors planted into test photos."""

        def planted(split: str) -> list[Row]:
            right = diagnoser.right(diagnoser.source.photos(split))
            made = [
                diagnoser.planted(planter, right, cause, self.errors_per_cause, self.trials, records)
                for cause in CAUSES
            ]
            return [row for rows in made for row in rows]

        learn = planted("val")
        diagnoser.calibrate(learn)
        log.info("The cause model is the %s one, fitted on %d planted errors.", diagnoser.model.kind, len(learn))
        baseline = CauseModel(CAM, self.seed).fit(
            [r["cam"] for r in learn], [r["cause"] for r in learn], [r["photo"] for r in learn]
        )
        known = [r["cause"] for r in learn]
        majority = max(CAUSES, key=known.count)
        return [
            {**r, "found": diagnoser.cause(r), "gradcam": baseline(r["cam"]), "majority": majority}
            for r in planted("test")
        ]

    def _advice(self, context: StudyContext, rows: Sequence[Row]) -> list[Advice]:
        source, names = context.source, tuple(context.source.class_names)
        training: dict[int, list[str]] = {label: [] for label in range(len(names))}
        wrong = {row["true"] for row in rows}
        for photo in source.photos("train") if rows else []:
            pose = pose_name(source, photo) if photo.label in wrong else None
            if pose is not None:
                training[photo.label].append(pose)
        known = any(training.values())
        return advise(
            rows,
            names,
            (lambda r: pose_name(source, Photo(r["photo"], r["true"], self.split))) if known else None,
            training if known else None,
        )

    def _sections(
        self,
        context: StudyContext,
        diagnoser: Diagnoser,
        counts: np.ndarray,
        rows: Sequence[Row],
        advice: Sequence[Advice],
        tested: Sequence[Row],
    ) -> list[Section]:
        names = diagnoser.class_names
        how = (
            "The causes come from a model that was fitted on planted errors."
            if diagnoser.calibrated
            else "No cause can be planted into these photos: the causes come from the fixed rule and were not verified."
        )
        confusion = Picture(
            errors_figure(counts, advice, names),
            "Confusion matrix of F; the marks name the causes found among the errors of a pair (S: shared concepts, "
            "F: false alarm, U: unseen structure or viewpoint), the most frequent one first.",
        )
        profile = [
            {"true": names[a.true], "F's answer": names[a.predicted], **a.profile, "advice": a.text} for a in advice
        ]
        sections = [Section("F's errors and their causes", [how], profile, [confusion])]
        if tested:
            table = np.array(
                [[sum(r["cause"] == a and r["found"] == b for r in tested) for b in CAUSES] for a in CAUSES]
            )
            wins = mcnemar([r["found"] == r["cause"] for r in tested], [r["gradcam"] == r["cause"] for r in tested])
            sections.append(
                Section(
                    "How good the diagnosis is",
                    [
                        "Errors with a planted cause: the vehicle gets parts of another class, a distractor stands in "
                        "the background, or the camera stands where no training photo was taken. F was right before.",
                        f"McNemar test against the Grad-CAM baseline: p = {wins:.2g}.",
                    ],
                    quality_table(tested),
                    [
                        Picture(
                            confusion_figure(table, CAUSES, "planted", "found"), "Planted cause against found cause."
                        )
                    ],
                )
            )
        pictures = self._examples(context, diagnoser, rows)
        if pictures:
            sections.append(Section("Errors, one by one", [], [], pictures))
        return sections

    def _examples(self, context: StudyContext, diagnoser: Diagnoser, rows: Sequence[Row]) -> list[Picture]:
        """The surest errors of each cause in turn."""
        by_cause = [sorted((r for r in rows if r["cause"] == c), key=lambda r: -r["probability"]) for c in CAUSES]
        shown = [own[i] for i in range(self.examples) for own in by_cause if i < len(own)][: self.examples]
        pictures = []
        for row in shown:
            photo = Photo(row["photo"], row["true"], self.split)
            looked = diagnoser.look(diagnoser.viewer.normalised(context.source.read(photo)))
            names = diagnoser.class_names
            caption = (
                f"{names[row['true']]} taken for {names[row['predicted']]} ({row['probability']:.2f}): {row['cause']}."
                + ("" if row["detected"] else " No concept was detected in it.")
            )
            pixels = diagnoser.viewer.pixels(looked.view.x)
            pictures.append(Picture(error_figure(pixels, looked.view, row["true"], row["predicted"], names), caption))
        return pictures


def scores(tested: Sequence[Row]) -> dict[str, float]:
    """``cause/accuracy``, ``cause/accuracy_majority`` and ``cause/accuracy_gradcam``, with intervals."""
    found: dict[str, float] = {}
    for name, answer in (("", "found"), ("_majority", "majority"), ("_gradcam", "gradcam")):
        share = Share(sum(r[answer] == r["cause"] for r in tested), len(tested))
        found |= share.metrics(f"cause/accuracy{name}")
    return found


def quality_table(tested: Sequence[Row]) -> list[dict[str, Any]]:
    """Accuracy of the diagnosis and the baselines, overall and by planted cause."""
    table = []
    for name, own in [("all", list(tested)), *((c, [r for r in tested if r["cause"] == c]) for c in CAUSES)]:
        row: dict[str, Any] = {"planted": name, "errors": len(own)}
        for title, answer in (("diagnosis", "found"), ("Grad-CAM overlap", "gradcam"), ("most frequent", "majority")):
            row[title] = str(Share(sum(r[answer] == r["cause"] for r in own), len(own)))
        table.append(row)
    return table


def table_row(row: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """One error as a row of the result table."""
    plain = {"photo": row["photo"], "true": names[row["true"]], "predicted": names[row["predicted"]]}
    return {
        **plain,
        "probability": row["probability"],
        "detected": row["detected"],
        "cause": row["cause"],
        **row["evidence"],
    }


def lead(rows: Sequence[Row], advice: Sequence[Advice], metrics: Mapping[str, float]) -> str:
    """The answer in a sentence or two."""
    start = f"F makes {len(rows)} errors on these photos." if rows else "F makes no error on these photos."
    best = f" {advice[0].text}" if advice else ""
    if "cause/accuracy" not in metrics:
        return start + best
    low, high = metrics["cause/accuracy_low"], metrics["cause/accuracy_high"]
    return (
        f"{start}{best} On planted errors the diagnosis names the right cause in {metrics['cause/accuracy']:.0%} "
        f"({low:.0%} to {high:.0%}); Grad-CAM overlap {metrics['cause/accuracy_gradcam']:.0%}, "
        f"the most frequent cause {metrics['cause/accuracy_majority']:.0%}."
    )


def errors_figure(counts: np.ndarray, advice: Sequence[Advice], names: Sequence[str]) -> Figure:
    """Figure 8: the confusion matrix with the causes of each pair's errors as marks."""
    n = len(names)
    figure = Figure(figsize=(2.2 + 1.1 * n, 1.6 + 1.0 * n), layout="constrained")
    ax = figure.add_subplot()
    off = np.where(np.eye(n, dtype=bool), 0, counts)
    ax.imshow(off, cmap="Blues", vmin=0, vmax=max(1.6 * off.max(), 1))
    for i in range(n):
        for j in range(n):
            ax.text(j, i - 0.12, str(int(counts[i, j])), ha="center", va="center", color=INK, fontsize=11)
    for one in advice:
        causes = sorted((c for c in CAUSES if one.profile[c]), key=lambda c: -one.profile[c])
        for k, cause in enumerate(causes):
            x = one.predicted + 0.27 * (k - (len(causes) - 1) / 2)
            ax.scatter(x, one.true + 0.27, s=130, color=COLOURS[cause], edgecolors="white", zorder=3)
            ax.text(x, one.true + 0.28, LETTERS[cause], ha="center", va="center", color="white", fontsize=7.5, zorder=4)
    ax.set_xticks(range(n), names, rotation=30, ha="right")
    ax.set_yticks(range(n), names)
    ax.set(xlabel="F's answer", ylabel="true class")
    for cause in CAUSES:
        ax.scatter([], [], s=80, color=COLOURS[cause], label=f"{LETTERS[cause]}: {cause}")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def error_figure(pixels: np.ndarray, view: Any, true: int, predicted: int, names: Sequence[str]) -> Figure:
    """The photo three times: as it is, and with the concepts of the true and of the predicted class outlined."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    axes = figure.subplots(1, 3)
    axes[0].imshow(pixels)
    axes[0].set_title("the photo", fontsize=10, color=QUIET)
    for ax, label, role in ((axes[1], true, "true"), (axes[2], predicted, "F's answer")):
        ax.imshow(pixels, alpha=0.75)
        for k in np.flatnonzero(view.detected[label]):
            score = view.nodes[label, label, k]
            ax.contour(view.mask(label, k), [0.5], colors=["#2166ac" if score >= 0 else "#b2182b"], linewidths=1.2)
            x, y = view.centroids[label, k] * (pixels.shape[1], pixels.shape[0])
            ax.text(x, y, f"{k + 1}: {score:+.1f}", fontsize=8, ha="center", color=INK,
                    bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.8})  # fmt: skip
        nodes, links = view.nodes[label, label].sum(), view.links[label, label].sum()
        ax.set_title(f"{role}: {names[label]}\nconcepts {nodes:+.1f}, relations {links:+.1f}", fontsize=10)
    for ax in axes:
        ax.set_axis_off()
    return figure
