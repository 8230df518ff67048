"""An explanation in plain words, made from its numbers alone (3.3: "why" and "why not")."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from vrx.explanation import Explanation
from vrx.report.trust import trust
from vrx.structures import ConceptBank, edges

NAMED_SHARE = 0.2  # a concept or relation is named from this share of the strongest of its graph on
MOST_CONCEPTS = 3  # named at most, beside the strongest relation
SAME_PLACE = 0.03  # centroids nearer than this share of the photo's diagonal have no direction
LONGEST = 32  # characters of a concept's name and number in a sentence
FILLS = {"blur": "blurred", "mean": "mean colour"}  # what is left of a photo without detail
VERBS = {1: "supported by", -1: "opposed by"}


def signed(value: float) -> str:
    """A number in logits with its sign: ``+1.8``, ``−0.04``, ``0.0``; ``–`` for NaN."""
    if not np.isfinite(value):
        return "–"
    digits = 0 if abs(value) >= 99.5 else 1 if abs(value) >= 0.095 else 2
    return "0.0" if float(f"{value:.2f}") == 0 else f"{value:+.{digits}f}".replace("-", "−")


def shorten(text: str, length: int) -> str:
    """At most ``length`` characters, the middle left out."""
    half = (length - 1) // 2
    return text if len(text) <= length else f"{text[: length - 1 - half]}…{text[-half:]}"


def join(parts: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def called(explanation: Explanation, index: int, concept: int) -> str:
    """A concept of a class by name, where it has one, and number: ``ladder (1)``, ``3``."""
    return shorten(explanation.concept(index, concept), LONGEST)


def relation(explanation: Explanation, index: int, source: int, target: int) -> str:
    """Where one concept of a class lies as seen from another: ``ladder above wheels``, ``ladder (1) above 3``."""
    places, names = explanation.centroids[index], explanation.names[index] if explanation.names else ()
    ends = [names[k] for k in (source, target)] if names else [""]
    if "" in ends or ends[0] == ends[1]:  # a name alone must tell which
        ends = [called(explanation, index, k) for k in (source, target)]
    where = direction(places[source], places[target], explanation.superpixels.shape)
    return f"{shorten(ends[0], LONGEST)} {where} {shorten(ends[1], LONGEST)}"


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
    concepts = [
        called(explanation, index, k)
        for k in sorted(strong, key=lambda k: (-round(float(scores[k]), 1), k))[:MOST_CONCEPTS]
    ]
    parts = [f"its concept{'s' * (len(concepts) > 1)} {join(concepts)}"] if concepts else []
    for j, i in [(j, i) for j, i, score in links if sign * score >= least][:1]:
        parts.append(f"the relation “{relation(explanation, index, j, i)}”")
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
    blank = without_detail(explanation, index)
    last = f" {blank}" * bool(blank)
    if not explanation.detected[index].any():
        none = "None of its concepts was found" if explanation.present[index].any() else "It has no concepts of its own"
        return f"{head} {none}{elsewhere(explanation, index, sign)}.{last}"
    own = evidence(explanation, index, sign) or f"none of its concepts{elsewhere(explanation, index, sign)}"
    contrary = evidence(explanation, index, -sign)
    return f"{head} {VERBS[sign].capitalize()} {own}{f'; {VERBS[-sign]} {contrary}' * bool(contrary)}.{last}"


def without_detail(explanation: Explanation, index: int) -> str:
    """What it means for a class that photos without detail are called so; "" for all other classes."""
    if index != explanation.fallback:
        return ""
    others = np.arange(len(explanation.class_names)) != index
    found, known = int(explanation.detected[others].sum()), int(explanation.present[others].sum())
    if not known:
        return ""
    verb = "was" if found == 1 else "were"
    count = f"{found} of the {known} concepts of the other classes {verb} found"
    called_so = f"A photo without any detail is called {explanation.class_names[index]}"
    if index != explanation.predicted:
        return f"{called_so}, but here {count}." if found else ""
    if 2 * found >= known:
        return f"{called_so}, too; still, {count}."
    also = "also " * bool(evidence(explanation, index, 1))
    missing = f"{known - found} of" if found else "all"
    return f"{called_so}, too: it is predicted {also}because {missing} the {known} concepts of the others are missing."


def blank_line(bank: ConceptBank) -> str:
    """What the classifier calls photos without any detail, fill by fill; "" where nobody asked."""
    if not bank.featureless:
        return ""
    mean = np.mean(list(bank.featureless.values()), axis=0)
    index = int(mean.argmax())
    each = ", ".join(f"{FILLS.get(fill, fill)} {shares[index]:.2f}" for fill, shares in bank.featureless.items())
    text = f"{bank.class_names[index]} ({mean[index]:.2f}; {each})"
    if bank.fallback is None:
        return f"A photo without any detail is called no class clearly: at most {text}."
    return f"A photo without any detail is called {text}."


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

    def each(concepts: NDArray[np.bool_]) -> list[tuple[int, str]]:
        named = explanation.names[index] if explanation.names else ()
        found = np.flatnonzero(concepts).tolist()
        return [(k, "concept " * (not (named and named[k])) + called(explanation, index, k)) for k in found]

    parts = [
        f"{name} contributes {signed(float(explanation.node_scores[index, index, k]))}"
        + (f" (measured {signed(measured)})" if np.isfinite(measured := float(explanation.measured[index, k])) else "")
        for k, name in each(explanation.detected[index])
    ]
    texts = [why(explanation, index)]
    if parts:
        listed = "; ".join(parts)
        texts.append(f"{listed[0].upper()}{listed[1:]}.")
    if explanation.perhaps[index].any():
        texts.append(f"Perhaps there: {join([name for _, name in each(explanation.perhaps[index])])}.")
    return " ".join(texts)
