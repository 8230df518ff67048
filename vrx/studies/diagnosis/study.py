"""Model diagnosis (4.4, figure 8): the classifier's errors, the cause of each, and what would help.

How good the diagnosis is is measured on errors with a planted cause (:mod:`.planting`). The cause model is fitted on
errors planted into validation and discovery photos and tested on errors planted into test photos, beside the same kind
of model on how Grad-CAM maps overlap, and on nothing but which classes were confused.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vrx.data.sources import HasPoses
from vrx.errors import VRXError
from vrx.studies.core.context import StudyContext, at_least
from vrx.studies.core.exemplars import Donors
from vrx.studies.core.photos import spaced
from vrx.studies.core.records import Records, write_results
from vrx.studies.diagnosis.cause_model import CauseModel, rule
from vrx.studies.diagnosis.causes import ERROR_CAUSES, FALSE_ALARM, SHARED
from vrx.studies.diagnosis.diagnoser import Diagnoser
from vrx.studies.diagnosis.evidence import EVIDENCE, GRADCAM
from vrx.studies.diagnosis.page import Found, accuracies, write_diagnosis
from vrx.studies.diagnosis.planting import Planter, Row
from vrx.studies.diagnosis.planting_pasted import PastedPlanter
from vrx.studies.diagnosis.planting_rendered import RenderedPlanter, can_render
from vrx.studies.diagnosis.recommendation import advise

log = logging.getLogger("vrx")

PHOTOS = 8  # classified right, for each error to be planted: rather try more changes of one than explain more photos


@dataclass(frozen=True)
class Diagnosis:
    """Which cause made each error.

    With ``plant`` the diagnosis is calibrated and measured on planted errors; without, a fixed rule decides. None:
    plant, and fall back to the rule where too few errors can be planted.

    Raises:
        VRXError: a setting out of range.
    """

    split: str = "test"  # whose errors are diagnosed
    plant: bool | None = None
    errors_per_cause: int = 60  # planted errors of each cause for testing
    calibration_errors: int = 60  # planted errors of each cause for calibration
    trials: int = 20  # changes of each photo tried at most
    max_photos: int = 0  # photos of the split, evenly spread; 0: all
    examples: int = 8  # errors shown
    seed: int = 0  # of every choice

    def __post_init__(self) -> None:
        at_least(self, errors_per_cause=3, calibration_errors=3, trials=1)

    def __call__(self, context: StudyContext) -> dict[str, float]:
        """Run the study; see :class:`vrx.studies.core.context.StudyContext`."""
        source = context.source
        if len(source.class_names) < 2:
            raise VRXError("The run has one class of interest, so no other can be predicted: diagnose two or more.")
        records = context.records(study="diagnosis", evidence=EVIDENCE)
        diagnoser = Diagnoser(context.explainer, source, self.seed)
        tested, method = self._tested(context, diagnoser, records) if self.plant is not False else ([], "")
        photos = source.photos(self.split)
        counts, rows = diagnoser.errors(spaced(photos, self.max_photos or len(photos)), records)
        causes = Counter(row["cause"] for row in rows)
        metrics = {"errors/total": float(len(rows)), **accuracies(tested)}
        metrics |= {f"errors/{cause.replace(' ', '_')}": float(causes[cause]) for cause in ERROR_CAUSES}
        write_results(context.folder, [table_row(row, source.class_names) for row in rows], metrics)
        poses = isinstance(source, HasPoses) and bool(rows)
        advice = advise(rows, source.class_names, *((source, source.photos("train")) if poses else ()))
        write_diagnosis(context, Found(counts, rows, advice, tested, method), metrics, self.examples)
        return metrics

    def _tested(self, context: StudyContext, diagnoser: Diagnoser, records: Records) -> tuple[list[Row], str]:
        """:meth:`_measured`, and how causes were planted: by rendering where the photos can be, else by pasting.

        Where too few errors can be planted there are none, and the fixed rule decides.
        """
        explainer, source = context.explainer, context.source
        planter: Planter = (
            RenderedPlanter(explainer, source, self.seed)
            if can_render(source)
            else PastedPlanter(explainer, source, Donors(context, records), self.seed)
        )
        try:
            return self._measured(diagnoser, planter, records), planter.method
        except VRXError as error:
            if self.plant:
                raise
            log.warning("%s The causes come from the fixed rule.", error)
            return [], planter.method

    def _measured(self, diagnoser: Diagnoser, planter: Planter, records: Records) -> list[Row]:
        """Calibrate on errors planted into validation and discovery photos; judge errors planted into test photos."""

        def planted(splits: Sequence[str], wanted: int) -> list[Row]:
            photos = [p for split in splits for p in diagnoser.source.photos(split)]
            right = spaced(diagnoser.right(photos, records), PHOTOS * wanted)
            return diagnoser.planted(planter, records, right, wanted, self.trials)

        learn = planted(("val", "discovery"), self.calibration_errors)
        model = diagnoser.calibrate(learn)
        log.info("The cause model is fitted on %d planted errors.", len(learn))
        gradcam = CauseModel("evidence", GRADCAM, self.seed).fit(learn)
        classes = CauseModel("classes", seed=self.seed).fit(learn)
        return [
            {
                **row,
                "found": model(row),
                "shared or false alarm": model(row, among=(SHARED, FALSE_ALARM)),
                "rule": rule(row),
                "gradcam": gradcam(row),
                "classes": classes(row),
            }
            for row in planted(("test",), self.errors_per_cause)
        ]


def table_row(row: Row, names: Sequence[str]) -> dict[str, Any]:
    """One error as a row of the result table."""
    return {
        "photo": row["photo"],
        "true": names[row["true"]],
        "predicted": names[row["predicted"]],
        **{name: row[name] for name in ("probability", "detected", "trust", "cause")},
        **row["evidence"],
    }
