"""Looks at errors of one F and names their cause; calibrated on planted errors where these can be made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from vrx.data.images import Photo
from vrx.data.scg_datamodule import PhotoSource
from vrx.explain.explainer import Explainer
from vrx.structures import VRXError
from vrx.studies.causes import CauseModel, Looked, Usual, cam_evidence, evidence, rule
from vrx.studies.planting import RenderedPlanter
from vrx.studies.results import Records
from vrx.studies.views import Viewer, answered

Row = dict[str, Any]


class Diagnoser:
    """Explains errors and finds their cause.

    Args:
        explainer: of F.
        source: F's photos.
        references: training photos a class that say what is usual.
        seed: of the cause model.
    """

    def __init__(self, explainer: Explainer, source: PhotoSource, references: int = 20, seed: int = 0) -> None:
        self.viewer, self.source = Viewer(explainer), source
        self.class_names = tuple(source.class_names)
        self._usual = self._learn_usual(references)
        self.model = CauseModel(seed=seed)
        self.calibrated = False

    def _learn_usual(self, references: int) -> Usual:
        known = []
        photos = self.source.photos("train")
        chosen = [
            photo
            for label in range(len(self.class_names))
            for photo in _spread([p for p in photos if p.label == label], references)
        ]
        for photo in tqdm(chosen, desc="learning what is usual", unit="photo"):
            try:
                looked = self.look(self.viewer.normalised(self.source.read(photo)))
            except (VRXError, OSError):
                continue
            if looked.view.predicted == photo.label:
                known.append((photo.label, looked))
        return Usual(known, len(self.class_names))

    def look(self, x: Tensor) -> Looked:
        """All that the evidence needs of one normalised photo ``[3, H, W]``."""
        builder = self.viewer.builder
        superpixels = self.viewer.superpixels(x)
        view = self.viewer(x, superpixels, links=True)
        found = builder.extractor(self.viewer.classifier, x[None], [superpixels])
        distances = builder.matcher.distances(found.features.cpu().numpy())
        radius = np.where(builder.bank.present, builder.bank.radius, np.nan)
        nearest = distances.min(0) / np.maximum(radius, 1e-6) if len(distances) else np.full(radius.shape, np.nan)
        return Looked(
            view,
            nearest.astype(np.float64),
            found.patches[0].centroids.astype(np.float64),
            found.activations.gradcam[0].double().cpu().numpy(),
        )

    def row(self, x: Tensor, true: int) -> Row:
        """Evidence of one photo that F gets wrong: ``true``, ``predicted``, ``probability`` and what was found."""
        looked = self.look(x)
        predicted = looked.view.predicted
        return {
            "true": true,
            "predicted": predicted,
            "probability": float(looked.view.probabilities[predicted]),
            "detected": int(looked.view.detected.sum()),
            "evidence": evidence(looked, true, predicted, self._usual),
            "cam": cam_evidence(looked.gradcam, true, predicted),
        }

    def calibrate(self, planted: Sequence[Row]) -> None:
        """Fit the cause model on planted errors."""
        rows = [r["evidence"] for r in planted]
        self.model.fit(rows, [r["cause"] for r in planted], [r["photo"] for r in planted])
        self.calibrated = True

    def cause(self, row: Row) -> str:
        """By the calibrated model, or by the fixed rule where nothing was planted."""
        return self.model(row["evidence"]) if self.calibrated else rule(row["evidence"])

    def right(self, photos: Sequence[Photo]) -> list[Photo]:
        """The photos that F gets right."""
        return [p for p, logits in answered(self.viewer, self.source, photos) if int(logits.argmax()) == p.label]

    def errors(self, photos: Sequence[Photo], records: Records) -> tuple[np.ndarray, list[Row]]:
        """Ask F about photos and explain what it gets wrong.

        Returns:
            Confusion matrix of F ``[n (true), n (answer)]`` and a row an error, with ``photo`` and ``cause``.
        """
        counts = np.zeros((len(self.class_names), len(self.class_names)), np.int64)
        wrong = []
        for photo, logits in answered(self.viewer, self.source, photos):
            counts[photo.label, int(logits.argmax())] += 1
            if int(logits.argmax()) != photo.label:
                wrong.append(photo)
        rows = []
        for photo in tqdm(wrong, desc="explaining errors", unit="error", disable=not wrong):
            name = f"error {photo.path}"
            if name not in records:
                records.add(name, self.row(self.viewer.normalised(self.source.read(photo)), photo.label))
            rows.append({**records[name], "photo": photo.path, "cause": self.cause(records[name])})
        return counts, rows

    def planted(
        self, planter: RenderedPlanter, photos: Sequence[Photo], cause: str, wanted: int, trials: int, records: Records
    ) -> list[Row]:
        """Plant errors of one cause into photos that F gets right, until there are enough or the trials are spent.

        Returns:
            A row an error, with ``photo``, ``cause``, ``detail`` and ``name``.
        """
        rows: list[Row] = []
        if not photos:
            return rows
        with tqdm(total=wanted, desc=f"planting: {cause}", unit="error") as bar:
            for attempt in planter.attempts(photos, cause, trials):
                name = f"planted {attempt.name}"
                if name not in records:
                    x = self.viewer.normalised(Image.fromarray(attempt.pixels))
                    with torch.inference_mode():
                        answer = int(self.viewer.answers(x[None])[0].argmax())
                    made = self.row(x, attempt.photo.label) if attempt.succeeded(answer) else {}
                    records.add(name, made)
                if records[name]:
                    extra = {
                        "name": attempt.name,
                        "photo": attempt.photo.path,
                        "cause": cause,
                        "detail": attempt.detail,
                    }
                    rows.append({**records[name], **extra})
                    bar.update()
                if len(rows) >= wanted:
                    break
        return rows


def _spread(photos: Sequence[Photo], count: int) -> list[Photo]:
    """``count`` of the photos, evenly spread."""
    if len(photos) <= count:
        return list(photos)
    return [photos[i * len(photos) // count] for i in range(count)]
