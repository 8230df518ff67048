"""Looks at errors of one F and names their cause; calibrated on planted errors where these can be made."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from vrx.data.images import Photo
from vrx.data.sources import PhotoSource
from vrx.errors import VRXError
from vrx.explain.explainer import Explainer
from vrx.scores import margins
from vrx.studies.core.predictions import predictions, spaced
from vrx.studies.core.records import Records
from vrx.studies.diagnosis.cause_model import NEW, RANKS, CauseModel, rule
from vrx.studies.diagnosis.causes import Looked, Usual, cam_evidence, evidence
from vrx.studies.diagnosis.interventions import effects, intervene
from vrx.studies.diagnosis.novelty import Novelty, features_of
from vrx.studies.diagnosis.planting import Attempt, Planter

PER_CLASS = 100  # training photos of a class that say what is new
BATCH = 16  # attempts whose answers are asked for together

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
        self.explainer, self.source = explainer, source
        self.class_names = tuple(source.class_names)
        photos = source.photos("train")
        self._usual = self._learn_usual(photos, references)
        self._novelty, self._held_out, self._margins = self._learn_novelty(photos)
        self.model = CauseModel(seed=seed)
        self.calibrated = False

    def _learn_usual(self, photos: Sequence[Photo], references: int) -> Usual:
        known = []
        chosen = [
            photo
            for label in range(len(self.class_names))
            for photo in spaced([p for p in photos if p.label == label], references)
        ]
        for photo in tqdm(chosen, desc="learning what is usual", unit="photo"):
            try:
                looked = self.look(self.explainer.read(self.source.read(photo)))
            except (VRXError, OSError):
                continue
            if looked.view.predicted == photo.label:
                known.append((photo.label, looked))
        return Usual(known, len(self.class_names))

    def _learn_novelty(self, photos: Sequence[Photo]) -> tuple[Novelty, list[NDArray[np.float64]], NDArray[np.float64]]:
        """What training photos look like to F.

        Returns:
            The measure; how new each class' own photos are, held out, ``[P, DEPTHS]`` a class; and the usual margin of
            each class ``[n]`` in those it gets right.
        """
        labels, features, logits = [], [], []
        some = [p for c in range(len(self.class_names)) for p in spaced([p for p in photos if p.label == c], PER_CLASS)]
        for photo in tqdm(some, desc="learning what is new", unit="photo"):
            try:
                x = self.explainer.read(self.source.read(photo))[None]
            except (VRXError, OSError):
                continue
            features.append(features_of(self.explainer.classifier, x))
            logits.append(self.explainer.logits(x)[0])
            labels.append(photo.label)
        if not labels:
            raise VRXError("No training photo can be read: give the run's own data (+data.root=<folder>).")
        own = np.array(labels)
        stacked = [np.concatenate([f[depth] for f in features]) for depth in range(len(features[0]))]
        answers = np.stack(logits)
        margin = margins(torch.from_numpy(answers)).numpy()[np.arange(len(own)), own]
        right = answers.argmax(1) == own
        usual = [np.median(margin[right & (own == c)]) if (right & (own == c)).any() else 1.0
                 for c in range(len(self.class_names))]  # fmt: skip
        return Novelty(stacked, own), held_out(stacked, own, len(self.class_names)), np.array(usual)

    def _new(self, x: Tensor, true: int, predicted: int) -> dict[str, float]:
        features = [f[0] for f in features_of(self.explainer.classifier, x[None])]
        found = [self._novelty(features, label) for label in (true, predicted, None)]
        known = self._held_out[true]
        ranks = (known < found[0]).mean(0) if len(known) else np.full(len(found[0]), np.nan)
        return dict(zip((*NEW, *RANKS), np.concatenate([*found, ranks]).tolist(), strict=True))

    def look(self, x: Tensor) -> Looked:
        """All that the evidence needs of one normalised photo ``[3, H, W]``."""
        builder = self.explainer.builder
        superpixels = self.explainer.superpixels(x)
        view = self.explainer.explain_input(x, superpixels)
        found = builder.extractor(self.explainer.classifier, x[None], [superpixels])
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
            "evidence": {
                **effects(
                    intervene(self.explainer, looked.view, true, predicted), true, predicted, self._margins[true]
                ),
                **self._new(x, true, predicted),
                **evidence(looked, true, predicted, self._usual),
            },
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

    def right(self, photos: Sequence[Photo], records: Records) -> list[Photo]:
        """The photos that F gets right."""
        asked = predictions(self.explainer, self.source, photos, records)
        return [photo for photo, logits in asked if int(logits.argmax()) == photo.label]

    def errors(self, photos: Sequence[Photo], records: Records) -> tuple[np.ndarray, list[Row]]:
        """Ask F about photos and explain what it gets wrong.

        Returns:
            Confusion matrix of F ``[n (true), n (answer)]`` and a row an error, with ``photo`` and ``cause``.
        """
        counts = np.zeros((len(self.class_names), len(self.class_names)), np.int64)
        wrong = []
        for photo, logits in predictions(self.explainer, self.source, photos, records):
            counts[photo.label, int(logits.argmax())] += 1
            if int(logits.argmax()) != photo.label:
                wrong.append(photo)
        rows = []
        for photo in tqdm(wrong, desc="explaining errors", unit="error", disable=not wrong):
            name = f"error {photo.path}"
            if name not in records:
                records.add(name, self.row(self.explainer.read(self.source.read(photo)), photo.label))
            rows.append({**records[name], "photo": photo.path, "cause": self.cause(records[name])})
        return counts, rows

    def planted(
        self, planter: Planter, photos: Sequence[Photo], cause: str, wanted: int, trials: int, records: Records
    ) -> list[Row]:
        """Plant errors of one cause into photos that F gets right, until there are enough or the trials are spent.

        Returns:
            A row an error, with ``photo``, ``cause``, ``detail`` and ``name``.
        """
        rows: list[Row] = []

        def failed(name: str) -> bool:
            return f"planted {name}" in records and not records[f"planted {name}"]

        attempts = planter.attempts(photos, cause, trials, failed)
        with tqdm(total=wanted, desc=f"planting: {cause}", unit="error") as bar:
            while len(rows) < wanted and (some := list(islice(attempts, BATCH))):
                self._try(some, wanted - len(rows), records)
                for attempt in some:
                    row = records[name] if (name := f"planted {attempt.name}") in records else {}
                    if row and len(rows) < wanted:
                        extra = {"photo": attempt.photo.path, "cause": cause, "detail": attempt.detail}
                        rows.append({**row, "name": attempt.name, **extra})
                        bar.update()
        return rows

    def _try(self, attempts: Sequence[Attempt], wanted: int, records: Records) -> None:
        """Ask F about a batch of changed photos and look at what it gets wrong; what is known is not asked again."""
        unknown = [a for a in attempts if f"planted {a.name}" not in records]
        missing = wanted - sum(bool(records[n]) for a in attempts if (n := f"planted {a.name}") in records)
        if not unknown or missing <= 0:
            return
        x = torch.stack([self.explainer.read(Image.fromarray(a.pixels)) if a.x is None else a.x for a in unknown])
        for attempt, photo, answer in zip(unknown, x, self.explainer.logits(x).argmax(1).tolist(), strict=True):
            made = attempt.succeeded(answer)
            records.add(f"planted {attempt.name}", self.row(photo, attempt.photo.label) if made else {})
            missing -= made
            if missing <= 0:
                break


def held_out(
    features: Sequence[NDArray[np.float64]], labels: NDArray[np.int64], num_classes: int
) -> list[NDArray[np.float64]]:
    """How new training photos are to the rest of their own class: each half of them against the other half.

    Args:
        features: ``DEPTHS`` arrays ``[P, 2 D]``.
        labels: ``[P]``.
        num_classes: n.

    Returns:
        For each class ``[P of the class, DEPTHS]``, photos whose newness is unknown left out.
    """
    half = np.zeros(len(labels), bool)
    for label in range(num_classes):
        half[np.flatnonzero(labels == label)[::2]] = True
    found: list[list[NDArray[np.float64]]] = [[] for _ in range(num_classes)]
    for known in (half, ~half) if half.any() and not half.all() else ():
        novelty = Novelty([f[known] for f in features], labels[known])
        for i in np.flatnonzero(~known).tolist():
            found[labels[i]].append(novelty([f[i] for f in features], int(labels[i])))
    stacked = [np.array(rows).reshape(-1, len(features)) for rows in found]
    return [rows[np.isfinite(rows).all(1)] for rows in stacked]
