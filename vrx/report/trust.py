"""How far the explanation of one photo can be trusted: three checks, the worst of which counts; relations apart."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vrx.explanation import Explanation
from vrx.scores import rank_agreement

LEVELS = ("low", "limited", "high")
LIKE = ("unlike", "only partly like", "like")
CLOSE, FAR = 0.1, 0.3  # largest difference of both networks' probabilities: up to CLOSE high, above FAR low
RANK_HIGH, RANK_LOW = 0.7, 0.2  # Spearman between contributions and measured effects
SIGN_HIGH, SIGN_LOW = 0.75, 0.5  # share of concepts whose contribution and measured effect have one sign
FOUND_HIGH, FOUND_LOW = 4, 2  # detected concepts of the predicted class, or all that there are
ENOUGH = 4  # concepts to rank: a ranking of three agrees by chance in 1 of 6
NO_EFFECT = 0.05  # a measured effect below this, in logits, prints as zero: its sign means nothing


@dataclass(frozen=True)
class Trust:
    """How far the explanation of one photo can be trusted."""

    level: str  # high, limited or low: the worst of all checks of concepts
    reasons: tuple[str, ...]  # what each check found, in numbers, the worst first
    relations_level: str = ""  # the same of the relations; "" where there is nothing to check
    relations: str = ""  # what their check found


def trust(explanation: Explanation) -> Trust:
    """Does the graph network predict as the classifier, do its contributions match the effects, are there enough?"""
    checks = sorted((_agreement(explanation), _ranking(explanation), _found(explanation)), key=lambda check: check[0])
    return Trust(LEVELS[checks[0][0]], tuple(text for _, text in checks), *_relations(explanation))


def pair_effects(explanation: Explanation) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Predicted and measured interactions of every pair of players, each once, for the predicted class."""
    relations = explanation.relations
    if relations is None:
        return np.zeros(0), np.zeros(0)
    once = (*np.triu_indices(len(relations.labels), 1), explanation.predicted)
    return relations.pairs[once], relations.pairs_measured[once]


def sign_agreement(explanation: Explanation, index: int) -> tuple[int, int]:
    """Concepts of a class whose contribution has the sign of the measured effect, and concepts compared.

    Compared are the detected concepts whose measured effect does not print as zero.
    """
    measured = np.nan_to_num(explanation.measured[index])
    compared = explanation.detected[index] & (np.abs(measured) >= NO_EFFECT)
    same = np.sign(np.nan_to_num(explanation.node_scores[index, index])) == np.sign(measured)
    return int((same & compared).sum()), int(compared.sum())


def _level(value: float, low: float, high: float) -> int:
    return int(value >= low) + int(value >= high)


def _agreement(explanation: Explanation) -> tuple[int, str]:
    f, grn = explanation.probabilities, explanation.grn_probabilities
    ours, theirs, names = int(grn.argmax()), explanation.predicted, explanation.class_names
    if ours != theirs:
        text = f"the graph network predicts {names[ours]} ({grn[ours]:.2f}), the classifier {names[theirs]}"
        return 0, f"{text} ({f[theirs]:.2f})"
    text = f"the graph network predicts {names[ours]} too ({grn[ours]:.2f}, the classifier {f[ours]:.2f})"
    return _level(-float(np.abs(f - grn).max()), -FAR, -CLOSE), text


def _ranking(explanation: Explanation) -> tuple[int, str]:
    predicted = explanation.predicted
    if not np.isfinite(explanation.measured[predicted][explanation.detected[predicted]]).any():
        return 1, "no effect could be measured to compare the contributions with"
    same, compared = sign_agreement(explanation, predicted)
    signs = f"same sign for {same} of {compared}" if compared else "no measured effect above zero"
    share = _level(same / compared, SIGN_LOW, SIGN_HIGH) if compared else 1
    rank, which = _rank(explanation)
    if not np.isfinite(rank):
        return min(share, 1), f"too few concepts to compare their ranking with the measured effects ({signs})"
    level = _level(rank, RANK_LOW, RANK_HIGH)
    how = LIKE[level]
    found = f"Spearman {rank:.2f}; {signs}".replace("-", "−")
    return min(level, share), f"contributions rank the concepts{which} {how} the measured effects ({found})"


def _rank(explanation: Explanation) -> tuple[float, str]:
    """Spearman between contributions and measured effects on the predicted class, and of which concepts.

    Where it has fewer than ``ENOUGH``: of all concepts that were measured, each on its own class.
    """
    if explanation.detected[explanation.predicted].sum() >= ENOUGH:
        return explanation.trust, ""
    measured = explanation.detected & np.isfinite(explanation.measured)
    graph, concept = measured.nonzero()
    rank = rank_agreement(explanation.node_scores[graph, graph, concept], explanation.measured[measured])
    return (rank if len(graph) >= ENOUGH else math.nan), " of all classes shown"


def _relations(explanation: Explanation) -> tuple[str, str]:
    """Does the graph network rank the pairs of concepts as the classifier's interactions: level and text, or ""."""
    predicted, measured = pair_effects(explanation)
    rank = rank_agreement(predicted, measured)
    if not np.isfinite(rank):  # fewer than three pairs
        return "", ""
    level = _level(rank, RANK_LOW, RANK_HIGH)
    found = f"Spearman {rank:.2f} over {len(predicted)} pairs".replace("-", "−")
    return LEVELS[level], f"pairs of concepts are ranked {LIKE[level]} the measured interactions ({found})"


def _found(explanation: Explanation) -> tuple[int, str]:
    own, name = explanation.predicted, explanation.class_names[explanation.predicted]
    found, known = int(explanation.detected[own].sum()), int(explanation.present[own].sum())
    text = f"{found} of {known} concepts of {name} found" if known else f"{name} has no concepts of its own to find"
    return _level(found, *(min(bound, max(known, 1)) for bound in (FOUND_LOW, FOUND_HIGH))), text
