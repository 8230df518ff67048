"""Model diagnosis (4.4, figure 8): the classifier's errors, the cause of each, and what would help.

How good the diagnosis is is measured on errors with a planted cause (:mod:`.planting`). The cause model is fitted on
errors planted into validation and discovery photos and tested on errors planted into test photos, beside a guess of the
most frequent cause and the same kind of model on how Grad-CAM maps overlap.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

from vrx.data.images import Photo
from vrx.data.sources import HasPoses
from vrx.errors import VRXError
from vrx.studies.core.context import StudyContext
from vrx.studies.core.exemplars import Donors
from vrx.studies.core.predictions import spaced
from vrx.studies.core.records import Records, write_results
from vrx.studies.diagnosis.cause_model import EVIDENCE, CauseModel, rule
from vrx.studies.diagnosis.causes import ERROR_CAUSES, FALSE_ALARM, SHARED
from vrx.studies.diagnosis.diagnoser import Diagnoser
from vrx.studies.diagnosis.gradcam import OVERLAP
from vrx.studies.diagnosis.page import diagnosis_page, judged
from vrx.studies.diagnosis.planting import Planter, Row
from vrx.studies.diagnosis.planting_pasted import PastedPlanter
from vrx.studies.diagnosis.planting_rendered import RenderedPlanter, can_render
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
        max_photos: int = 0,
        examples: int = 8,
        seed: int = 0,
    ) -> None:
        if errors_per_cause < 3 or trials < 1:
            raise VRXError(f"study.errors_per_cause={errors_per_cause}, study.trials={trials}: use at least 3 and 1.")
        if calibration_errors < 3:
            raise VRXError(f"study.calibration_errors={calibration_errors}: use at least 3.")
        self.split, self.plant, self.errors_per_cause, self.trials = split, plant, errors_per_cause, trials
        self.calibration_errors, self.max_photos, self.examples = calibration_errors, max_photos, examples
        self.seed = seed

    def __call__(self, context: StudyContext) -> dict[str, float]:
        """Run the study; see :class:`vrx.studies.core.context.StudyContext`."""
        source = context.source
        if len(source.class_names) < 2:
            raise VRXError("The run has one class of interest, so no other can be predicted: diagnose two or more.")
        decisive = {} if can_render(source) else {"planting": PastedPlanter.settings()}
        records = Records(
            context.folder / "records.jsonl", context.key(study="diagnosis", evidence=EVIDENCE, **decisive)
        )
        diagnoser = Diagnoser(context.explainer, source, self.seed)
        planter = self._planter(context, records) if self.plant is not False else None
        tested = self._tested(diagnoser, planter, records) if planter is not None else []
        photos = source.photos(self.split)
        counts, rows = diagnoser.errors(spaced(photos, self.max_photos or len(photos)), records)
        advice = self._advice(source, rows)
        metrics = {"errors/total": float(len(rows)), **judged(tested)}
        causes = Counter(row["cause"] for row in rows)
        metrics |= {f"errors/{cause.replace(' ', '_')}": float(causes[cause]) for cause in ERROR_CAUSES}
        write_results(context.folder, [table_row(row, source.class_names) for row in rows], metrics)
        method = planter.method if planter is not None else ""
        diagnosis_page(context, counts, rows, advice, tested, method, metrics, self.split, self.examples)
        return metrics

    def _planter(self, context: StudyContext, records: Records) -> Planter:
        """By rendering where the photos can be rendered again, else by pasting."""
        source, explainer = context.source, context.explainer
        if can_render(source):
            return RenderedPlanter(source, self.seed)
        return PastedPlanter(explainer, source, Donors(explainer, source, records), self.seed)

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
        plant = diagnoser.planting(planter, records)

        def planted(splits: Sequence[str], wanted: int) -> list[Row]:
            photos = [p for split in splits for p in diagnoser.source.photos(split)]
            right = spaced(diagnoser.right(photos, records), PHOTOS * wanted)
            return [row for cause in ERROR_CAUSES for row in plant(right, cause, wanted, self.trials)]

        learn = planted(("val", "discovery"), self.calibration_errors)
        model = diagnoser.calibrate(learn)
        log.info("The cause model is the %s one, fitted on %d planted errors.", model.kind, len(learn))
        baseline = diagnoser.fitted(learn, CauseModel(OVERLAP, self.seed), "gradcam")
        known = Counter(row["cause"] for row in learn)
        majority = max(ERROR_CAUSES, key=lambda cause: known[cause])
        return [
            {
                **row,
                "found": diagnoser.cause(row),
                "shared or false alarm": model(row["evidence"], among=(SHARED, FALSE_ALARM)),
                "rule": rule(row["evidence"]),
                "gradcam": baseline(row["gradcam"]),
                "majority": majority,
            }
            for row in planted(("test",), self.errors_per_cause)
        ]

    def _advice(self, source: Any, rows: Sequence[Row]) -> list[Advice]:
        names = tuple(source.class_names)
        if not isinstance(source, HasPoses) or not rows:
            return advise(rows, names)
        for row in rows:
            row["pose"] = source.pose_name(Photo(row["photo"], row["true"], self.split))
        training: dict[int, list[str]] = {row["true"]: [] for row in rows}
        for photo in source.photos("train"):  # type: ignore[attr-defined]
            if photo.label in training:
                training[photo.label].append(source.pose_name(photo))
        return advise(rows, names, training)


def table_row(row: Row, names: Sequence[str]) -> dict[str, Any]:
    """One error as a row of the result table."""
    return {
        "photo": row["photo"],
        "true": names[row["true"]],
        "predicted": names[row["predicted"]],
        **{name: row[name] for name in ("probability", "detected", "cause")},
        **row["evidence"],
    }
