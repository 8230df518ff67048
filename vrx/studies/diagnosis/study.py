"""Model diagnosis (4.4, figure 8): F's errors, the cause of each, and what would help.

How good the diagnosis is is measured on errors with a planted cause: toys are rendered again
(:mod:`.planting`), real photos get pastes or are turned (:mod:`.planting_pasted`). The cause
model is fitted on errors planted into validation photos and tested on errors planted into test photos, beside a guess
of the most frequent cause and the same kind of model on what Grad-CAM says.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from vrx.data.images import Photo
from vrx.errors import VRXError
from vrx.report.charts import confusion_figure
from vrx.studies.core.context import StudyContext
from vrx.studies.core.exemplars import Donors
from vrx.studies.core.page import Picture, Section, write_page
from vrx.studies.core.predictions import spaced
from vrx.studies.core.records import Records, write_results
from vrx.studies.core.statistics import Share, mcnemar
from vrx.studies.dataset_fix.poses import pose_name
from vrx.studies.diagnosis.cause_model import EVIDENCE, CauseModel, rule
from vrx.studies.diagnosis.causes import CAM
from vrx.studies.diagnosis.diagnoser import Diagnoser, Row
from vrx.studies.diagnosis.interventions import intervene
from vrx.studies.diagnosis.page import error_figure, errors_figure, lead, quality_table, table_row, told_apart, trust
from vrx.studies.diagnosis.planting import CAUSES, FALSE_ALARM, SHARED, Planter, RenderedPlanter, is_toy
from vrx.studies.diagnosis.planting_pasted import PastedPlanter
from vrx.studies.diagnosis.recommendation import Advice, advise

log = logging.getLogger("vrx")

PHOTOS = 8  # that F gets right, for each error to be planted: rather try more changes of one than explain more photos


class Diagnosis:
    """Which cause made each error.

    Args:
        split: whose errors are diagnosed.
        plant: calibrate and measure the diagnosis on planted errors; False: the fixed rule decides; None: plant, and
            fall back to the rule where too few errors can be planted.
        errors_per_cause: planted errors of each cause for testing.
        calibration_errors: planted errors of each cause for calibration.
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
        calibration_errors: int = 60,
        trials: int = 20,
        references: int = 20,
        max_photos: int = 0,
        examples: int = 8,
        seed: int = 0,
    ) -> None:
        if errors_per_cause < 3 or trials < 1:
            raise VRXError(f"study.errors_per_cause={errors_per_cause}, study.trials={trials}: use at least 3 and 1.")
        if calibration_errors < 3:
            raise VRXError(f"study.calibration_errors={calibration_errors}: use at least 3.")
        self.split, self.plant, self.errors_per_cause, self.trials = split, plant, errors_per_cause, trials
        self.calibration_errors = calibration_errors
        self.references, self.max_photos, self.examples, self.seed = references, max_photos, examples, seed

    def __call__(self, context: StudyContext) -> dict[str, float]:
        """Run the study; see :class:`vrx.studies.core.context.StudyContext`."""
        if len(context.source.class_names) < 2:
            raise VRXError("F has one class of interest and cannot answer another: diagnose a run of two or more.")
        toy = is_toy(context.source)
        how = {} if toy else {"planting": PastedPlanter.settings()}
        decisive = {"study": "diagnosis", "evidence": EVIDENCE, **how}
        records = Records(context.folder / "records.jsonl", context.key(**decisive))
        diagnoser = Diagnoser(context.explainer, context.source, self.references, self.seed)
        planter: Planter | None = None
        if self.plant is not False:
            planter = RenderedPlanter(context.source, self.seed) if toy else self._pasted(context, diagnoser, records)
        tested = self._tested(diagnoser, planter, records) if planter is not None else []
        photos = context.source.photos(self.split)
        photos = spaced(photos, self.max_photos or len(photos))
        counts, rows = diagnoser.errors(photos, records)
        advice = self._advice(context, rows)
        metrics = {"errors/total": float(len(rows)), **scores(tested)}
        metrics |= {f"errors/{c.replace(' ', '_')}": float(sum(r["cause"] == c for r in rows)) for c in CAUSES}
        write_results(context.folder, [table_row(r, diagnoser.class_names) for r in rows], metrics)
        told = planter.told if planter is not None else ""
        sections = self._sections(context, diagnoser, counts, rows, advice, tested, told)
        write_page(
            context.folder, "Diagnosis: which cause made each error", lead(rows, advice, metrics), sections, metrics,
            context.settings,
        )  # fmt: skip
        return metrics

    def _pasted(self, context: StudyContext, diagnoser: Diagnoser, records: Records) -> PastedPlanter:
        donors = Donors(diagnoser.explainer, context.source, records)
        return PastedPlanter(diagnoser.explainer, context.source, donors, context.explainer.editor, self.seed)

    def _tested(self, diagnoser: Diagnoser, planter: Planter, records: Records) -> list[Row]:
        """See :meth:`_measured`; empty, and the fixed rule decides, where too few errors can be planted."""
        try:
            return self._measured(diagnoser, planter, records)
        except VRXError as error:
            if self.plant:
                raise
            log.warning("%s The causes come from the fixed rule.", error)
            return []

    def _measured(self, diagnoser: Diagnoser, planter: Planter, records: Records) -> list[Row]:
        """Calibrate on errors planted into validation and discovery photos; judge errors planted into test photos."""

        def planted(splits: Sequence[str], wanted: int) -> list[Row]:
            photos = [p for split in splits for p in diagnoser.source.photos(split)]
            right = spaced(diagnoser.right(photos, records), PHOTOS * wanted)
            made = [diagnoser.planted(planter, right, cause, wanted, self.trials, records) for cause in CAUSES]
            return [row for rows in made for row in rows]

        learn = planted(("val", "discovery"), self.calibration_errors)
        diagnoser.calibrate(learn)
        log.info("The cause model is the %s one, fitted on %d planted errors.", diagnoser.model.kind, len(learn))
        baseline = CauseModel(CAM, self.seed).fit(
            [r["cam"] for r in learn], [r["cause"] for r in learn], [r["photo"] for r in learn]
        )
        known = [r["cause"] for r in learn]
        majority = max(CAUSES, key=known.count)
        return [
            {
                **r,
                "found": diagnoser.cause(r),
                "of the pasted": diagnoser.model(r["evidence"], among=(SHARED, FALSE_ALARM)),
                "rule": rule(r["evidence"]),
                "gradcam": baseline(r["cam"]),
                "majority": majority,
            }
            for r in planted(("test",), self.errors_per_cause)
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
        planted: str,
    ) -> list[Section]:
        names = diagnoser.class_names
        confusion = Picture(
            errors_figure(counts, advice, names),
            "Confusion matrix of F; the marks name the causes found among the errors of a pair (S: shared concepts, "
            "F: false alarm, U: unseen structure or viewpoint), the most frequent one first.",
        )
        profile = [
            {"true": names[a.true], "F's answer": names[a.predicted], **a.profile, "advice": a.text} for a in advice
        ]
        sections = [Section("F's errors and their causes", [trust(tested)], [], [confusion])]
        if profile:
            sections.append(Section("Cause profile of each confused pair", [], profile))
        if tested:
            table = np.array(
                [[sum(r["cause"] == a and r["found"] == b for r in tested) for b in CAUSES] for a in CAUSES]
            )
            wins = mcnemar([r["found"] == r["cause"] for r in tested], [r["gradcam"] == r["cause"] for r in tested])
            sections.append(
                Section(
                    "How good the diagnosis is",
                    [
                        planted,
                        told_apart(tested),
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
        return sections + self._examples(context, diagnoser, rows, advice)

    def _examples(
        self, context: StudyContext, diagnoser: Diagnoser, rows: Sequence[Row], advice: Sequence[Advice]
    ) -> list[Section]:
        """A section for each of the most confused pairs: the advice, and the surest errors of each cause in turn."""
        left, sections = self.examples, []
        for one in advice:
            own = [r for r in rows if (r["true"], r["predicted"]) == (one.true, one.predicted)]
            by_cause = [sorted((r for r in own if r["cause"] == c), key=lambda r: -r["probability"]) for c in CAUSES]
            by_cause.sort(key=len, reverse=True)
            ordered = [some[i] for i in range(2) for some in by_cause if i < len(some)][:left]
            if not ordered:
                continue
            left -= len(ordered)
            heading = f"{diagnoser.class_names[one.true]} taken for {diagnoser.class_names[one.predicted]}"
            pictures = [self._example(context, diagnoser, row) for row in ordered]
            sections.append(Section(heading, [one.text], [], pictures))
        return sections

    def _example(self, context: StudyContext, diagnoser: Diagnoser, row: Row) -> Picture:
        photo = Photo(row["photo"], row["true"], self.split)
        explainer = diagnoser.explainer
        view = diagnoser.look(explainer.read(context.source.read(photo))).view
        asked = intervene(explainer, view, row["true"], row["predicted"])
        caption = (
            f"Cause: {row['cause']}. F is {row['probability']:.0%} sure of {diagnoser.class_names[row['predicted']]}."
            + ("" if row["detected"] else " No concept was detected in this photo.")
        )
        return Picture(error_figure(explainer.pixels(view.x), view, asked, row, context.explainer.bank), caption)


def scores(tested: Sequence[Row]) -> dict[str, float]:
    """``cause/accuracy`` of the diagnosis, and ``_rule``, ``_majority``, ``_gradcam`` of the others, with intervals."""
    found: dict[str, float] = {}
    for name, answer in (("", "found"), ("_rule", "rule"), ("_majority", "majority"), ("_gradcam", "gradcam")):
        share = Share(sum(r[answer] == r["cause"] for r in tested), len(tested))
        found |= share.metrics(f"cause/accuracy{name}")
    return found
