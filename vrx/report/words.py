"""An explanation in plain words, made from its numbers alone (3.3: "why" and "why not")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vrx.structures import Explanation, edges

NAMED_SHARE = 0.2  # a concept or relation is named from this share of the strongest of its graph on
MOST_CONCEPTS = 3  # named at most, beside the strongest relation
SAME_PLACE = 0.03  # centroids nearer than this share of the photo's diagonal have no direction
LEVELS = ("low", "limited", "high")
CLOSE, FAR = 0.1, 0.3  # largest difference of F's and the GRN's probabilities: up to CLOSE high, above FAR low
RANK_HIGH, RANK_LOW = 0.7, 0.2  # Spearman between contributions and measured effects
SIGN_HIGH, SIGN_LOW = 0.75, 0.5  # share of concepts whose contribution and measured effect have one sign
FOUND_HIGH, FOUND_LOW = 4, 2  # detected concepts of the predicted class: a ranking of three agrees by chance in 1 of 6


@dataclass(frozen=True)
class Trust:
    """How far the explanation of one photo can be trusted.

    Args:
        level: ``high``, ``limited`` or ``low``: the worst of all checks.
        reasons: what each check found, in numbers, the worst first.
    """

    level: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Relation:
    """Two detected concepts of one graph and what their two edges add together to a score.

    Args:
        source: the concept from which the stronger of the two edges starts.
        target: the other one.
        score: sum of both edges' contributions, in logits.
    """

    source: int
    target: int
    score: float


def signed(value: float) -> str:
    """A number in logits with its sign: ``+1.8``, ``−0.04``, ``0.0``; ``–`` for NaN."""
    if not np.isfinite(value):
        return "–"
    digits = 0 if abs(value) >= 99.5 else 1 if abs(value) >= 0.095 else 2
    text = f"{value:+.{digits}f}".replace("-", "−")
    return "0.0" if float(f"{value:.2f}") == 0 else text


def join(parts: Sequence[str]) -> str:
    """``a, b and c``."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def shown_classes(explanation: Explanation, others: int = 2) -> list[int]:
    """The predicted class, F's next ``others`` classes, and the true one if it is known and not among them."""
    ranked = np.argsort(-explanation.probabilities, kind="stable").tolist()
    shown = [int(c) for c in ranked[: others + 1]]
    if explanation.true_class is not None and explanation.true_class not in shown:
        shown.append(explanation.true_class)
    return shown


def direction(source: NDArray[np.float32], target: NDArray[np.float32], shape: tuple[int, int]) -> str:
    """Where the source lies as seen from the target: above, below, left of, right of, or at the place of it.

    Args:
        source: (x, y) in [0, 1], y downwards.
        target: the same.
        shape: height and width of the photo in pixels.
    """
    height, width = shape
    dx, dy = (float(source[0] - target[0]) * width, float(source[1] - target[1]) * height)
    if np.hypot(dx, dy) < SAME_PLACE * np.hypot(width, height):
        return "at the place of"
    if abs(dy) >= abs(dx):
        return "above" if dy < 0 else "below"
    return "left of" if dx < 0 else "right of"


def relations(explanation: Explanation, index: int) -> list[Relation]:
    """Relations between the detected concepts of a class and what they add to its score, strongest first."""
    found = explanation.detected[index]
    scores = np.nan_to_num(explanation.edge_scores[index, index])
    both: dict[tuple[int, int], list[tuple[float, int, int]]] = {}
    for (source, target), score in zip(edges(len(found)).T.tolist(), scores.tolist(), strict=True):
        if found[source] and found[target]:
            both.setdefault((min(source, target), max(source, target)), []).append((score, source, target))
    merged = []
    for pair in both.values():
        _, source, target = max(pair, key=lambda edge: abs(edge[0]))
        merged.append(Relation(source, target, sum(edge[0] for edge in pair)))
    return sorted(merged, key=lambda r: -abs(r.score))


def reasons(explanation: Explanation, index: int, sign: int) -> str:
    """The concepts and the strongest relation of a class that speak for it (``sign`` 1) or against it (-1).

    Empty when there is none. Concepts come strongest first, those that print alike in the order
    of their numbers.
    """
    scores = np.nan_to_num(explanation.node_scores[index, index]) * explanation.detected[index] * sign
    links = relations(explanation, index)
    strongest = max([float(np.abs(scores).max(initial=0)), *(abs(r.score) for r in links)])
    least = max(NAMED_SHARE * strongest, 1e-6)
    order = sorted(range(len(scores)), key=lambda k: (-round(float(scores[k]), 1), k))
    concepts = [str(k + 1) for k in order if scores[k] >= least][:MOST_CONCEPTS]
    named = [_relation(explanation, index, r) for r in links if sign * r.score >= least][:1]
    parts = [f"concept{'s' * (len(concepts) > 1)} {join(concepts)}"] if concepts else []
    return ", ".join([*parts, *(f"the relation {text}" for text in named)])


def _relation(explanation: Explanation, index: int, relation: Relation) -> str:
    places = explanation.centroids[index]
    height, width = explanation.image.shape[:2]
    where = direction(places[relation.source], places[relation.target], (height, width))
    return f"{relation.source + 1} {where} {relation.target + 1}"


def _elsewhere(explanation: Explanation, index: int, sign: int) -> str:
    """The graph of another class that does most for (against) this one: `` (church's concepts count +2.0 for it)``."""
    totals = np.nan_to_num(explanation.node_scores[index]).sum(1) + np.nan_to_num(explanation.edge_scores[index]).sum(1)
    totals[index] = 0
    other = int(np.argmax(sign * totals))
    if sign * totals[other] < 0.05:
        return ""
    verb = "for" if sign > 0 else "against"
    return f" (concepts of {explanation.class_names[other]} count {verb} it: {signed(float(totals[other]))})"


def _verb(stem: str, subject: str) -> str:
    return stem if "," in subject or subject.startswith("concepts") else f"{stem}s"


def _why(explanation: Explanation, index: int) -> str:
    if not explanation.detected[index].any():
        return f"For it: none of its concepts was found{_elsewhere(explanation, index, 1)}."
    pro, contra = reasons(explanation, index, 1), reasons(explanation, index, -1)
    if pro:
        return f"For it: {pro}{f'; against it: {contra}' if contra else ''}."
    what = f"; its {contra.removeprefix('the ')} {_verb('speak', contra)} against it" if contra else ""
    return f"For it: nothing among its concepts{what}{_elsewhere(explanation, index, 1)}."


def _why_not(explanation: Explanation, index: int) -> str:
    head = f"Against {explanation.class_names[index]}{' (the label)' * (index == explanation.true_class)}:"
    if not explanation.detected[index].any():
        return f"{head} none of its concepts was found."
    contra, pro = reasons(explanation, index, -1), reasons(explanation, index, 1)
    if contra:
        return f"{head} its {contra.removeprefix('the ')}."
    speaks = f"; its {pro.removeprefix('the ')} {_verb('count', pro)} for it" if pro else ""
    return f"{head} nothing among its concepts{speaks}{_elsewhere(explanation, index, -1)}."


def sentence(explanation: Explanation, classes: Sequence[int] | None = None) -> str:
    """What F predicted, what speaks for it and what against the others.

    Args:
        explanation: of one photo.
        classes: the classes to speak of; by default those of :func:`shown_classes`.
    """
    names, predicted, true = explanation.class_names, explanation.predicted, explanation.true_class
    shares = explanation.probabilities
    text = f"Predicted {names[predicted]} ({shares[predicted]:.2f})"
    ties = [c for c in range(len(names)) if c != predicted and f"{shares[c]:.2f}" == f"{shares[predicted]:.2f}"]
    if ties:
        text += f", level with {join([names[c] for c in ties])}"
    if true is not None:
        text += ", as labelled" if true == predicted else f", but the label is {names[true]} ({shares[true]:.2f})"
    parts = [f"{text}."]
    grn = int(explanation.grn_probabilities.argmax())
    if grn != predicted:
        parts.append(
            f"The graph network disagrees: it says {names[grn]} ({explanation.grn_probabilities[grn]:.2f}), "
            "so these are not F's own reasons."
        )
    parts.append(_why(explanation, predicted))
    shown = shown_classes(explanation) if classes is None else classes
    parts += [_why_not(explanation, c) for c in shown if c != predicted]
    return " ".join(parts)


def sign_agreement(explanation: Explanation, index: int) -> tuple[int, int]:
    """Concepts of a class whose contribution has the sign of the measured effect, and concepts compared.

    Compared are the detected concepts whose measured effect does not print as zero.
    """
    measured = explanation.measured[index]
    usable = explanation.detected[index] & np.isfinite(measured)
    usable &= np.abs(np.nan_to_num(measured)) >= 0.05
    same = np.sign(np.nan_to_num(explanation.node_scores[index, index])) == np.sign(measured)
    return int((same & usable).sum()), int(usable.sum())


def trust(explanation: Explanation) -> Trust:
    """Check one explanation: does the GRN answer as F, are its contributions those measured, are they enough?"""
    checks = [_answers(explanation), _ranking(explanation), _found(explanation)]
    return Trust(LEVELS[min(c[0] for c in checks)], tuple(text for _, text in sorted(checks, key=lambda c: c[0])))


def trust_line(explanation: Explanation) -> str:
    """One line on how far this photo's explanation can be trusted: ``Trust: high. ...``, the worst check first."""
    result = trust(explanation)
    text = "; ".join(result.reasons)
    return f"Trust: {result.level}. {text[0].upper()}{text[1:]}."


def _level(value: float, low: float, high: float) -> int:
    return 2 if value >= high else 1 if value >= low else 0


def _answers(explanation: Explanation) -> tuple[int, str]:
    """Check (a): class and probabilities."""
    f, grn = explanation.probabilities, explanation.grn_probabilities
    ours, theirs = int(grn.argmax()), explanation.predicted
    name = explanation.class_names[theirs]
    if ours != theirs:
        other = explanation.class_names[ours]
        return 0, f"the graph network says {other} ({grn[ours]:.2f}) where F says {name} ({f[theirs]:.2f})"
    level = _level(-float(np.abs(f - grn).max()), -FAR, -CLOSE)
    return level, f"the graph network says {name} too ({grn[theirs]:.2f}, F {f[theirs]:.2f})"


def _ranking(explanation: Explanation) -> tuple[int, str]:
    """Check (b): order and sign of the contributions against the measured effects."""
    predicted = explanation.predicted
    if not np.isfinite(explanation.measured[predicted][explanation.detected[predicted]]).any():
        return 1, "no effect could be measured to compare the contributions with"
    same, compared = sign_agreement(explanation, predicted)
    signs = f"same sign for {same} of {compared}" if compared else "no measured effect to speak of"
    share = _level(same / compared, SIGN_LOW, SIGN_HIGH) if compared else 1
    if not np.isfinite(explanation.trust):
        return min(share, 1), f"too few concepts to compare their ranking with the measured effects ({signs})"
    rank = _level(explanation.trust, RANK_LOW, RANK_HIGH)
    how = ("unlike", "only partly like", "like")[rank]
    value = f"{explanation.trust:.2f}".replace("-", "−")
    return min(rank, share), f"contributions rank the concepts {how} the measured effects (Spearman {value}; {signs})"


def _found(explanation: Explanation) -> tuple[int, str]:
    """Check (c): concepts of the predicted class found in the photo."""
    found = explanation.detected[explanation.predicted]
    count, name = int(found.sum()), explanation.class_names[explanation.predicted]
    return _level(count, FOUND_LOW, FOUND_HIGH), f"{count} of {len(found)} concepts of {name} found"
