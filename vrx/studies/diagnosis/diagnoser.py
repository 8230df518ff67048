"""Finds the cause of the errors of one classifier; calibrated on planted errors where these can be made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix
from torch import Tensor
from tqdm import tqdm

from vrx.data.images import Photo
from vrx.data.sources import PhotoSource
from vrx.explain.explainer import Explainer
from vrx.studies.core.photos import predictions
from vrx.studies.core.records import Records
from vrx.studies.diagnosis.cause_model import CauseModel, classes, rule
from vrx.studies.diagnosis.causes import FALSE_ALARM, SHARED, UNSEEN
from vrx.studies.diagnosis.evidence import evidence
from vrx.studies.diagnosis.planting import Planter, Row


class Diagnoser:
    """Explains errors and finds their cause, by ``model`` or, where that is None, by the fixed rule."""

    def __init__(self, explainer: Explainer, source: PhotoSource, seed: int = 0) -> None:
        self.explainer, self.source, self.seed = explainer, source, seed
        self.model: CauseModel | None = None

    def row(self, x: Tensor, true: int) -> Row:
        """Evidence of one error: ``true``, ``predicted``, ``probability`` and what was measured."""
        explanation = self.explainer.explain_input(x, measure=True, true_class=true)
        predicted = explanation.predicted
        return {
            "true": true,
            "predicted": predicted,
            "probability": float(explanation.probabilities[predicted]),
            "detected": int(explanation.detected.sum()),
            "trust": explanation.trust,
            "evidence": evidence(explanation, true),
            "classes": classes(true, predicted, len(explanation.class_names)),
        }

    def calibrate(self, planted: Sequence[Row]) -> CauseModel:
        """Fit the cause model on planted errors."""
        self.model = CauseModel(seed=self.seed).fit(planted)
        return self.model

    def right(self, photos: Sequence[Photo], records: Records) -> list[Photo]:
        """The photos that are classified right."""
        predicted = predictions(self.explainer, self.source, photos, records)
        return [photo for photo, label in predicted if label == photo.label]

    def errors(self, photos: Sequence[Photo], records: Records) -> tuple[NDArray[np.int64], list[Row]]:
        """The confusion matrix ``[n (true), n (predicted)]``, and a row per error: ``photo``, ``split``, ``cause``."""
        classified = predictions(self.explainer, self.source, photos, records)
        true, predicted = [photo.label for photo, _ in classified], [label for _, label in classified]
        counts = confusion_matrix(true, predicted, labels=range(len(self.source.class_names)))
        wrong = [photo for photo, label in classified if label != photo.label]
        rows = []
        for photo in tqdm(wrong, desc="explaining errors", unit="error", disable=not wrong):
            found = records.once(f"error {photo.path}", self._measured, photo)
            rows.append({**found, "photo": photo.path, "split": photo.split, "cause": (self.model or rule)(found)})
        return counts, rows

    def _measured(self, photo: Photo) -> Row:
        return self.row(self.explainer.read(self.source.read(photo)), photo.label)

    def planting(self, planter: Planter, records: Records) -> Callable[..., list[Row]]:
        """Plants errors, with the evidence of each: :meth:`Planter.errors` of photos, a cause, how many, trials."""
        return partial(planter.errors, records=records, evidence=self.row)

    def planted(
        self, planter: Planter, records: Records, photos: Sequence[Photo], wanted: int, trials: int
    ) -> list[Row]:
        """Planted errors, up to ``wanted`` of each cause; of every true class as many of one cause as of another.

        Else the class would give the cause away: nearly all distractors that a classifier falls for may stand beside
        one class. False alarms are the hardest to plant and come first. A cause that cannot be planted at all is left
        out.
        """
        plant = self.planting(planter, records)
        made = {FALSE_ALARM: plant(photos, FALSE_ALARM, wanted, trials)}
        labels = sorted({photo.label for photo in photos})
        evenly = {label: -(-wanted // len(labels)) for label in labels}
        each = Counter(row["true"] for row in made[FALSE_ALARM]) or evenly
        for cause in (SHARED, UNSEEN):
            own = {label: [photo for photo in photos if photo.label == label] for label in each}
            made[cause] = [row for label, some in own.items() for row in plant(some, cause, each[label], trials)]
        found = {cause: Counter(row["true"] for row in rows) for cause, rows in made.items() if rows}
        kept = []
        for rows in made.values():
            left = {label: min((counts[label] for counts in found.values()), default=0) for label in each}
            for row in rows:
                left[row["true"]] -= 1
                if left[row["true"]] >= 0:
                    kept.append(row)
        return kept
