"""From evidence to cause: a small model fitted on planted errors, and a fixed rule where none can be planted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from vrx.errors import VRXError
from vrx.studies.diagnosis.causes import ERROR_CAUSES, FALSE_ALARM, SHARED, UNSEEN

OVERLAP = (
    "overlap", "correlation", "extent of true class", "extent of predicted class", "distance of peaks",
    "distance of centres",
)  # fmt: skip
ENOUGH = 5  # of the rule: patches
OFF = 0.2  # of the rule: share of the photo's side
FEWEST = 3  # planted errors of a cause that a model can be fitted on
Row = Mapping[str, Any]


class CauseModel:
    """Evidence -> cause, fitted on planted errors. Missing evidence is a value of its own.

    ``kind`` of the evidence: "evidence", of the explanation; "gradcam", how the Grad-CAM maps of the two classes
    overlap; "classes", which they are.
    """

    def __init__(self, kind: str = "evidence", seed: int = 0) -> None:
        self.kind, self.seed = kind, seed
        self.chosen = ""  # linear or forest
        self._model: Any = None

    def fit(self, rows: Sequence[Row]) -> CauseModel:
        """Fit the better of a linear model and a forest, by cross-validation in which no photo is on both sides.

        Raises:
            VRXError: too few errors of a cause.
        """
        causes, photos = [r["cause"] for r in rows], [r["photo"] for r in rows]
        counts = Counter(causes)
        if len(counts) < 2 or min(counts.values()) < FEWEST:
            raise VRXError(
                f"Too few planted errors to learn from ({', '.join(f'{c}: {n}' for c, n in counts.items()) or 'none'}; "
                f"{FEWEST} of at least two causes are needed): raise study.trials or data.val."
            )
        x = self._matrix(rows)
        linear = LogisticRegression(C=0.2, class_weight="balanced", max_iter=3000)
        candidates = {
            "linear": make_pipeline(StandardScaler(), linear),
            "forest": RandomForestClassifier(200, min_samples_leaf=2, class_weight="balanced", random_state=self.seed),
        }
        folds, scores = min(5, len(set(photos))), {"linear": 0.0}
        if folds >= 3 and min(counts.values()) >= folds:
            for name, model in candidates.items():
                scores[name] = cross_val_score(model, x, causes, groups=photos, cv=GroupKFold(folds)).mean()
        self.chosen = max(scores, key=lambda name: scores[name])
        self._model = candidates[self.chosen].fit(x, causes)
        return self

    def _matrix(self, rows: Sequence[Row]) -> NDArray[np.float64]:
        """``[R, 2 D]``: values (0 where missing), and which are missing."""
        values = np.array([[row[self.kind][name] for name in sorted(row[self.kind])] for row in rows], float)
        missing = ~np.isfinite(values)
        return np.hstack([np.where(missing, 0.0, values), missing])

    def probabilities(self, row: Row) -> dict[str, float]:
        """How likely each cause is; in the order of ``ERROR_CAUSES``, 0 for one that was never planted."""
        if self._model is None:
            raise VRXError("The cause model is not fitted: plant errors first.")
        values = dict(zip(self._model.classes_, self._model.predict_proba(self._matrix([row]))[0], strict=True))
        return {cause: float(values.get(cause, 0.0)) for cause in ERROR_CAUSES}

    def __call__(self, row: Row, among: Sequence[str] = ERROR_CAUSES) -> str:
        """The most likely cause, of those that it is known to be ``among``."""
        found = self.probabilities(row)
        return max(among, key=lambda cause: found[cause])


def rule(row: Row) -> str:
    """The cause by a fixed rule, where nothing was planted. Its bounds were set on planted errors of toy vehicles.

    Few patches are found: unseen. Else what supports the predicted class lies off the middle of the photo: false alarm.
    Else: shared.
    """
    evidence = row["evidence"]
    if (evidence["patches"] or 0.0) < ENOUGH:
        return UNSEEN
    return FALSE_ALARM if (evidence["support off the middle: predicted class"] or 0.0) >= OFF else SHARED


def classes(true: int, predicted: int, count: int) -> dict[str, float]:
    """Another baseline: which of ``count`` classes they are, as 0 and 1; how errors are planted must not tell more."""
    own, other = np.eye(count)[[true, predicted]].tolist()
    return {f"true {c}": v for c, v in enumerate(own)} | {f"predicted {c}": v for c, v in enumerate(other)}


def gradcam_overlap(gradcam: NDArray[np.float64], true: int, predicted: int) -> dict[str, float]:
    """The baseline: how the Grad-CAM maps ``[n, h, w]``, >= 0, of two classes overlap, the numbers of ``OVERLAP``.

    Distances and extents are shares of the map.
    """
    own, other = (gradcam[c] / max(gradcam[c].max(), 1e-9) for c in (true, predicted))
    inside, there = own > 0.5, other > 0.5
    overlap = (inside & there).sum() / max((inside | there).sum(), 1)
    flat = np.stack([own.ravel(), other.ravel()])
    correlation = 0.0 if (flat.std(1) < 1e-9).any() else float(np.corrcoef(flat)[0, 1])
    height, width = own.shape
    grid = np.stack(np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height), -1)
    peaks = [grid[np.unravel_index(m.argmax(), m.shape)] for m in (own, other)]
    centres = [(grid * m[..., None]).sum((0, 1)) / max(m.sum(), 1e-9) for m in (own, other)]
    values = (
        overlap, correlation, inside.mean(), there.mean(), np.linalg.norm(peaks[0] - peaks[1]),
        np.linalg.norm(centres[0] - centres[1]),
    )  # fmt: skip
    return dict(zip(OVERLAP, map(float, values), strict=True))
