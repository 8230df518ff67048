"""From evidence to cause: a small model fitted on planted errors, and a fixed rule where none can be planted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
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
from vrx.studies.diagnosis.deletions import EFFECTS
from vrx.studies.diagnosis.novelty import NOVELTY

EVIDENCE = (*EFFECTS, *NOVELTY)
APART = 0.28  # of the rule: share of the photo's longer side
HELD = 0.4  # of the rule: typical margins of the true class
FEWEST = 3  # planted errors of a cause that a model can be fitted on


class CauseModel:
    """Evidence -> cause, fitted on planted errors. Missing evidence is a value of its own.

    Args:
        names: of the evidence.
        seed: of the forest.
    """

    def __init__(self, names: Sequence[str] = EVIDENCE, seed: int = 0) -> None:
        self.names, self.seed = tuple(names), seed
        self.kind = ""
        self._model: Any = None

    def fit(self, rows: Sequence[dict[str, Any]], causes: Sequence[str], photos: Sequence[str]) -> CauseModel:
        """Fit the better of a linear model and a forest, by cross-validation in which no photo is on both sides.

        Args:
            rows: evidence of each planted error.
            causes: what was planted.
            photos: which photo each was made from.

        Raises:
            VRXError: too few errors of a cause.
        """
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
        folds = min(5, len(set(photos)))
        self.kind = "linear"
        if folds >= 3 and min(counts.values()) >= folds:
            cv = GroupKFold(folds)
            scores = {
                kind: cross_val_score(model, x, list(causes), groups=list(photos), cv=cv).mean()
                for kind, model in candidates.items()
            }
            self.kind = max(scores, key=lambda kind: scores[kind])
        self._model = candidates[self.kind].fit(x, list(causes))
        return self

    def _matrix(self, rows: Sequence[dict[str, Any]]) -> NDArray[np.float64]:
        """``[R, 2 D]``: values (0 where missing), and which are missing."""
        values = np.array([[_number(row.get(name)) for name in self.names] for row in rows], float)
        missing = ~np.isfinite(values)
        return np.hstack([np.where(missing, 0.0, values), missing])

    def probabilities(self, row: dict[str, Any]) -> dict[str, float]:
        """How likely each cause is; in the order of ``ERROR_CAUSES``, 0 for one that was never planted.

        Raises:
            VRXError: not fitted yet.
        """
        if self._model is None:
            raise VRXError("The cause model is not fitted: plant errors first.")
        values = dict(zip(self._model.classes_, self._model.predict_proba(self._matrix([row]))[0], strict=True))
        return {cause: float(values.get(cause, 0.0)) for cause in ERROR_CAUSES}

    def __call__(self, row: dict[str, Any], among: Sequence[str] = ERROR_CAUSES) -> str:
        """The most likely cause, of those that it is known to be ``among``."""
        found = self.probabilities(row)
        return max(among, key=lambda cause: found[cause])


def rule(row: dict[str, Any]) -> str:
    """The cause by a fixed rule, where nothing was planted. Its bounds were set on planted errors, toy and real.

    The predicted class hardly drops without the concepts that speak for it alone, so nothing that was found supports
    the prediction: unseen. Else its support lies away from that of the true class: false alarm. Else: shared.
    """
    if _number(row.get("predicted class' concepts alone deleted: drop of predicted class"), 0.0) < HELD:
        return UNSEEN
    return FALSE_ALARM if _number(row.get("place: distance of centres"), 0.0) >= APART else SHARED


def _number(value: Any, missing: float = float("nan")) -> float:
    return missing if value is None or not np.isfinite(value) else float(value)
