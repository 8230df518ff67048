"""An explanation in plain words, made from its numbers alone (3.3: "why" and "why not")."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from vrx.report.trust import trust
from vrx.structures import Explanation, edges

NAMED_SHARE = 0.2  # a concept or relation is named from this share of the strongest of its graph on
MOST_CONCEPTS = 3  # named at most, beside the strongest relation
SAME_PLACE = 0.03  # centroids nearer than this share of the photo's diagonal have no direction
VERBS = {1: "supported by", -1: "opposed by"}


def signed(value: float) -> str:
    """A number in logits with its sign: ``+1.8``, ``−0.04``, ``0.0``; ``–`` for NaN."""
    if not np.isfinite(value):
        return "–"
    digits = 0 if abs(value) >= 99.5 else 1 if abs(value) >= 0.095 else 2
    return "0.0" if float(f"{value:.2f}") == 0 else f"{value:+.{digits}f}".replace("-", "−")


def join(parts: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def shown_classes(explanation: Explanation, others: int = 2) -> list[int]:
    """The predicted class, the classifier's next ``others``, and the true one if it is known and not among them."""
    shown = np.argsort(-explanation.probabilities, kind="stable")[: others + 1].tolist()
    return shown + [c for c in (explanation.true_class,) if c is not None and c not in shown]


def direction(source: NDArray[np.float32], target: NDArray[np.float32], shape: tuple[int, int]) -> str:
    """Where the source lies as seen from the target: above, below, left of, right of, or at the place of it.

    Args:
        source: (x, y) in [0, 1], y downwards.
        target: the same.
        shape: height and width of the photo in pixels.
    """
    dx, dy = (np.asarray(source, float) - target) * shape[::-1]
    if np.hypot(dx, dy) < SAME_PLACE * np.hypot(*shape):
        return "at the place of"
    if abs(dy) >= abs(dx):
        return "above" if dy < 0 else "below"
    return "left of" if dx < 0 else "right of"


def relations(explanation: Explanation, index: int) -> list[tuple[int, int, float]]:
    """(source, target, contribution) of every two detected concepts of a class, strongest first.

    The contribution, in logits, is that of both edges between them; the stronger edge starts at the source.
    """
    found = explanation.detected[index]
    scores = np.zeros((len(found), len(found)))
    scores[tuple(edges(len(found)).numpy())] = np.nan_to_num(explanation.edge_scores[index, index])
    pairs = combinations(np.flatnonzero(found).tolist(), 2)
    ordered = [(j, i) if abs(scores[j, i]) >= abs(scores[i, j]) else (i, j) for j, i in pairs]
    return sorted(((j, i, float(scores[j, i] + scores[i, j])) for j, i in ordered), key=lambda r: -abs(r[2]))


def evidence(explanation: Explanation, index: int, sign: int) -> str:
    """The concepts, strongest first, and the strongest relation that support (1) or oppose (-1) a class; or ""."""
    scores = sign * np.nan_to_num(explanation.node_scores[index, index]) * explanation.detected[index]
    links = relations(explanation, index)
    least = max(NAMED_SHARE * max([*np.abs(scores), *(abs(score) for *_, score in links)]), 1e-6)
    strong = np.flatnonzero(scores >= least).tolist()
    concepts = [str(k + 1) for k in sorted(strong, key=lambda k: (-round(float(scores[k]), 1), k))[:MOST_CONCEPTS]]
    parts = [f"its concept{'s' * (len(concepts) > 1)} {join(concepts)}"] if concepts else []
    places, shape = explanation.centroids[index], explanation.superpixels.shape
    for j, i in [(j, i) for j, i, score in links if sign * score >= least][:1]:
        parts.append(f"the relation “{j + 1} {direction(places[j], places[i], shape)} {i + 1}”")
    return " and by ".join(parts)


def elsewhere(explanation: Explanation, index: int, sign: int) -> str:
    """The graph of another class that does most for (1) or against (-1) this one, in brackets; or ""."""
    totals = np.nan_to_num(explanation.node_scores[index]).sum(1) + np.nan_to_num(explanation.edge_scores[index]).sum(1)
    totals[index] = 0
    other = int(np.argmax(sign * totals))
    name, total = explanation.class_names[other], float(totals[other])
    return f" (the concepts of {name} add {signed(total)})" if sign * total >= 0.05 else ""


def why(explanation: Explanation, index: int) -> str:
    """What supports the predicted class, or what opposes another one."""
    sign = 1 if index == explanation.predicted else -1
    label = " (the label)" if sign < 0 and index == explanation.true_class else ""
    head = f"Why {'not ' * (sign < 0)}{explanation.class_names[index]}{label}?"
    if not explanation.detected[index].any():
        return f"{head} None of its concepts was found{elsewhere(explanation, index, sign)}."
    own = evidence(explanation, index, sign) or f"none of its concepts{elsewhere(explanation, index, sign)}"
    contrary = evidence(explanation, index, -sign)
    return f"{head} {VERBS[sign].capitalize()} {own}{f'; {VERBS[-sign]} {contrary}' * bool(contrary)}."


def sentence(explanation: Explanation, classes: Sequence[int] | None = None) -> str:
    """What the classifier predicted, why, and why not the other classes.

    Args:
        explanation: of one photo.
        classes: the classes to speak of; by default those of :func:`shown_classes`.
    """
    names, predicted, true = explanation.class_names, explanation.predicted, explanation.true_class
    shares = [f"{p:.2f}" for p in explanation.probabilities]
    ties = [n for c, n in enumerate(names) if c != predicted and shares[c] == shares[predicted]]
    text = f"Predicted {names[predicted]} ({shares[predicted]})" + (f", tied with {join(ties)}" if ties else "")
    if true is not None:
        text += ", as labelled" if true == predicted else f", but the label is {names[true]} ({shares[true]})"
    parts = [f"{text}."]
    grn = int(explanation.grn_logits.argmax())
    if grn != predicted:
        other = f"{names[grn]} ({explanation.grn_probabilities[grn]:.2f})"
        parts.append(f"The graph network predicts {other} instead: these may not be the classifier's reasons.")
    shown = shown_classes(explanation) if classes is None else classes
    return " ".join([*parts, *(why(explanation, c) for c in [predicted, *(c for c in shown if c != predicted)])])


def trust_line(explanation: Explanation) -> str:
    """One line on how far this photo's explanation can be trusted: ``Trust: high. ...``, the worst check first."""
    result = trust(explanation)
    text = "; ".join(result.reasons)
    return f"Trust: {result.level}. {text[0].upper()}{text[1:]}."


def panel_text(explanation: Explanation, index: int) -> str:
    """A class' panel in words, for those who cannot see it."""
    parts = [
        f"concept {k + 1} contributes {signed(float(explanation.node_scores[index, index, k]))}"
        + (f" (measured {signed(measured)})" if np.isfinite(measured := float(explanation.measured[index, k])) else "")
        for k in np.flatnonzero(explanation.detected[index]).tolist()
    ]
    return " ".join([why(explanation, index), f"{'; '.join(parts).capitalize()}." if parts else ""]).strip()
