"""From evidence to cause: a small model fitted on planted errors, and a fixed rule where none can be planted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from vrx.errors import VRXError
from vrx.studies.diagnosis.causes import ERROR_CAUSES, FALSE_ALARM, SHARED, UNSEEN

ENOUGH = 5  # of the rule: patches
OFF = 0.2  # of the rule: share of the photo's side
FEWEST = 3  # planted errors of a cause that a model can be fitted on
Row = Mapping[str, Any]


class CauseModel:
    """Evidence -> cause, fitted on planted errors: the mean of a linear model and a forest of random splits.

    Missing evidence is a value of its own.

    Args:
        kind: what of an error it reads: "evidence", of the explanation; "classes", which the two are.
        names: which numbers of it; None: all.
        seed: of the forest.
    """

    def __init__(self, kind: str = "evidence", names: Sequence[str] | None = None, seed: int = 0) -> None:
        self.kind, self.names, self.seed = kind, names, seed
        self._model: Any = None

    def fit(self, rows: Sequence[Row]) -> CauseModel:
        """Fit both models.

        Raises:
            VRXError: too few errors of a cause.
        """
        causes = [r["cause"] for r in rows]
        counts = Counter(causes)
        if len(counts) < 2 or min(counts.values()) < FEWEST:
            raise VRXError(
                f"Too few planted errors to learn from ({', '.join(f'{c}: {n}' for c, n in counts.items()) or 'none'}; "
                f"{FEWEST} of at least two causes are needed): raise study.trials or data.val."
            )
        linear = LogisticRegression(C=0.05, class_weight="balanced", max_iter=3000)
        forest = ExtraTreesClassifier(300, min_samples_leaf=2, class_weight="balanced", random_state=self.seed)
        both = [("linear", make_pipeline(StandardScaler(), linear)), ("forest", forest)]
        self._model = VotingClassifier(both, voting="soft").fit(self._matrix(rows), causes)
        return self

    def _matrix(self, rows: Sequence[Row]) -> NDArray[np.float64]:
        """``[R, 2 D]``: values (0 where missing), and which are missing."""
        names = sorted(rows[0][self.kind]) if self.names is None else self.names
        values = np.array([[row[self.kind][name] for name in names] for row in rows], float)
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
