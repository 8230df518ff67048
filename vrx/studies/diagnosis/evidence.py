"""What an explanation says of an error: what is present, absent and arranged, for the true class and the predicted one.

All of it is read off the explanation with everything measured, as its page shows it; logits throughout.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from vrx.explanation import Explanation

WHOSE = ("true class", "predicted class")
OF_CLASS = (
    "present: share of concepts", "present: probability", "present: evidence", "present: strongest",
    "present: area", "present: spread",
    "absent: concepts", "absent: best gain", "absent: all gains", "elsewhere: best predicted gain",
    "relations: strength", "relations: sum", "relations: confirmed",
    "places: strength", "places: sum", "places: confirmed",
)  # fmt: skip
OF_BOTH = (
    "both: patches", "both: area", "both: distance of centres", "both: gap", "relations: R2 of concepts",
    "relations: R2 with pairs", "relations: patches left out",
)  # fmt: skip
EVIDENCE = (*(f"{name} of {whose}" for whose in WHOSE for name in OF_CLASS), *OF_BOTH)


def evidence(explanation: Explanation, true: int) -> dict[str, float]:
    """A number for each of ``EVIDENCE`` of an explained error whose true class has this label; NaN: unknown."""
    labels = (true, explanation.predicted)
    own = [value for label in labels for value in _of_class(explanation, label)]
    return dict(zip(EVIDENCE, map(float, (*own, *_of_both(explanation, *labels))), strict=True))


def _of_class(explanation: Explanation, label: int) -> list[float]:
    found, effects = explanation.detected[label], _effects(explanation, label)
    middle = _middle(explanation, label)
    squares = ((explanation.centroids[label] - middle) ** 2).sum(1)
    asked = [one for one in explanation.counterfactuals if one.graph == label]
    added = [one.measured[label] for one in asked if one.added]
    moved = [one.predicted[label] for one in asked if not one.added]
    values = [
        found.sum() / max(explanation.present[label].sum(), 1),
        explanation.presence[label][found].mean() if found.any() else np.nan,
        effects.sum(), effects.max(initial=0.0), _speaking(explanation, label).mean(),
        np.sqrt((effects * squares).sum() / effects.sum()) if effects.any() else np.nan,
        len(added), max(added, default=np.nan), sum(gain for gain in added if gain > 0), max(moved, default=np.nan),
    ]  # fmt: skip
    relations = explanation.relations
    if relations is None:
        return [*values, *[np.nan] * 6]
    for measured, sure in zip(
        (relations.pairs_measured, relations.placed_measured), relations.confirmed(label), strict=True
    ):
        values += [np.nansum(np.abs(measured[..., label])), np.nansum(measured[..., label]), sure.sum()]
    return values


def _of_both(explanation: Explanation, true: int, predicted: int) -> list[float]:
    own, other = (_speaking(explanation, label) for label in (true, predicted))
    mine, theirs = ({*explanation.matched[c][explanation.detected[c]].tolist()} for c in (true, predicted))
    apart = float(np.linalg.norm(_middle(explanation, true) - _middle(explanation, predicted)))
    gap = distance_transform_edt(~own)[other].mean() / max(own.shape) if own.any() and other.any() else 1.0
    relations = explanation.relations
    shares = (*relations.shares, relations.left_out) if relations is not None else (np.nan,) * 3
    return [
        len(mine & theirs) / max(len(mine | theirs), 1), (own & other).sum() / max((own | other).sum(), 1), apart, gap,
        *shares,
    ]  # fmt: skip


def _effects(explanation: Explanation, label: int) -> NDArray[np.float64]:
    """What the class loses without each of its concepts, 0 where it gains, ``[N]``."""
    return np.maximum(np.nan_to_num(explanation.measured[label].astype(float)), 0.0)


def _speaking(explanation: Explanation, label: int) -> NDArray[np.bool_]:
    """Pixels of the concepts of a class that support it, ``[H, W]``."""
    masks = [explanation.mask(label, int(k)) for k in np.flatnonzero(_effects(explanation, label))]
    return np.any([np.zeros(explanation.image.shape[:2], bool), *masks], axis=0)


def _middle(explanation: Explanation, label: int) -> NDArray[np.float64]:
    """Middle (x, y) of what supports a class; NaN where nothing does."""
    weights = _effects(explanation, label)
    return np.asarray(weights @ explanation.centroids[label] / weights.sum()) if weights.any() else np.full(2, np.nan)
