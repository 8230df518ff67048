"""Finds the cause of the errors of one classifier; calibrated on planted errors where these can be made."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix
from torch import Tensor
from tqdm import tqdm

from vrx.data.images import Photo
from vrx.data.sources import PhotoSource
from vrx.errors import VRXError
from vrx.explain.explainer import Explainer
from vrx.studies.core.photos import predictions, readable, spaced
from vrx.studies.core.records import Records
from vrx.studies.core.statistics import log_odds
from vrx.studies.diagnosis.cause_model import CauseModel, gradcam_overlap, rule
from vrx.studies.diagnosis.deletions import delete_parts, effects
from vrx.studies.diagnosis.novelty import NOVELTY, Novelty, features_of
from vrx.studies.diagnosis.planting import ErrorPlanter, Planter, Row

PER_CLASS = 100  # training photos per class that novelty is measured against


class Diagnoser:
    """Explains errors and finds their cause; the training photos say what is new, and what a typical margin is."""

    def __init__(self, explainer: Explainer, source: PhotoSource, seed: int = 0) -> None:
        self.explainer, self.source, self.seed = explainer, source, seed
        self._classes = range(len(source.class_names))
        self._novelty, self._typical_margins = self._learn(source.photos("train"))
        self.model: CauseModel | None = None

    def _learn(self, photos: Sequence[Photo]) -> tuple[Novelty, NDArray[np.float64]]:
        """The measure of novelty; and the median margin of each class in photos that are classified right, ``[n]``."""
        labels, features, logits = [], [], []
        some = [p for c in self._classes for p in spaced([p for p in photos if p.label == c], PER_CLASS)]
        for photo in tqdm(some, desc="reading training photos", unit="photo"):
            x = readable(self.explainer, self.source, photo)
            if x is not None:
                features.append(features_of(self.explainer.classifier, x[None]))
                logits.append(self.explainer.logits(x[None])[0])
                labels.append(photo.label)
        if not labels:
            raise VRXError("No training photo can be read: give the run's own data (data.root=<folder>).")
        own, stacked = np.array(labels), np.stack(logits)
        margin, right = log_odds(stacked)[np.arange(len(own)), own], stacked.argmax(1) == own
        typical = [np.median(m) if len(m := margin[right & (own == c)]) else 1.0 for c in self._classes]
        return Novelty([np.concatenate(maps) for maps in zip(*features, strict=True)], own), np.array(typical)

    def novelty(self, x: Tensor, true: int, predicted: int) -> dict[str, float]:
        """A number for each of ``NOVELTY`` of one normalised photo ``[3, H, W]``."""
        features = [f[0] for f in features_of(self.explainer.classifier, x[None])]
        found = [self._novelty(features, label) for label in (true, predicted, None)]
        return dict(zip(NOVELTY, np.concatenate(found).tolist(), strict=True))

    def row(self, x: Tensor, true: int) -> Row:
        """Evidence of one error: ``true``, ``predicted``, ``probability`` and what was measured."""
        explanation = self.explainer.explain_input(x, relations=False)
        predicted = explanation.predicted
        found = effects(delete_parts(self.explainer, explanation, true), self._typical_margins[true])
        gradcam = self.explainer.classifier.gradcam(x[None])[0].double().cpu().numpy()
        return {
            "true": true,
            "predicted": predicted,
            "probability": float(explanation.probabilities[predicted]),
            "detected": int(explanation.detected.sum()),
            "evidence": {**found, **self.novelty(x, true, predicted)},
            "gradcam": gradcam_overlap(gradcam, true, predicted),
        }

    def calibrate(self, planted: Sequence[Row]) -> CauseModel:
        """Fit the cause model on planted errors."""
        self.model = CauseModel(seed=self.seed).fit(planted)
        return self.model

    def cause(self, row: Row) -> str:
        """By the calibrated model, or by the fixed rule where nothing was planted."""
        return self.model(row) if self.model else rule(row)

    def right(self, photos: Sequence[Photo], records: Records) -> list[Photo]:
        """The photos that are classified right."""
        predicted = predictions(self.explainer, self.source, photos, records)
        return [photo for photo, label in predicted if label == photo.label]

    def errors(self, photos: Sequence[Photo], records: Records) -> tuple[NDArray[np.int64], list[Row]]:
        """The confusion matrix ``[n (true), n (predicted)]``, and a row per error: ``photo``, ``split``, ``cause``."""
        classified = predictions(self.explainer, self.source, photos, records)
        true, predicted = [photo.label for photo, _ in classified], [label for _, label in classified]
        counts = confusion_matrix(true, predicted, labels=self._classes)
        wrong = [photo for photo, label in classified if label != photo.label]
        rows = []
        for photo in tqdm(wrong, desc="explaining errors", unit="error", disable=not wrong):
            found = records.once(f"error {photo.path}", self._measured, photo)
            rows.append({**found, "photo": photo.path, "split": photo.split, "cause": self.cause(found)})
        return counts, rows

    def _measured(self, photo: Photo) -> Row:
        return self.row(self.explainer.read(self.source.read(photo)), photo.label)

    def planting(self, planter: Planter, records: Records) -> ErrorPlanter:
        """Plants errors, with the evidence of each."""
        return ErrorPlanter(planter, self.explainer, self.row, records)
