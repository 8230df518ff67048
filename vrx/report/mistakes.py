"""What a classifier confuses: the confusion matrix, the photos behind each cell, likely causes and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vrx.explanation import Explanation
from vrx.report.phrases import called, capital, signed
from vrx.report.trust import FOUND_LOW, LEVELS, trust
from vrx.report.why_not import wanted_text
from vrx.report.words import without_detail

MOST_LISTED = 6  # photos of a list
MOST_FILES = 8  # of a cell, that are not explained


@dataclass(frozen=True)
class Predictions:
    """What the classifier predicts for all test photos."""

    names: Sequence[str]  # of P photos
    logits: NDArray[np.float64]  # of the classes of interest, [P, n]
    labels: NDArray[np.int64]  # int64 [P]

    @classmethod
    def of(cls, explanations: Sequence[Explanation], class_names: Sequence[str]) -> Predictions:
        """Those of explained photos with a label; minus infinity for classes that a photo has no graph of."""
        known = [e for e in explanations if e.true_class is not None]
        logits = np.full((len(known), len(class_names)), -np.inf)
        for row, e in zip(logits, known, strict=True):
            row[[class_names.index(name) for name in e.class_names]] = e.logits
        return cls([e.name for e in known], logits, np.array([_label(e, class_names) for e in known], np.int64))


def confusion(
    predictions: Predictions, explanations: Sequence[Explanation], class_names: Sequence[str]
) -> dict[str, Any]:
    """The confusion matrix for the template: rows of cells, each with its photos, and the pair confused most.

    Returns:
        ``rows``: per true class, cells with ``anchor``, ``count``, ``share`` of the row, ``true``, ``predicted``,
        ``photos`` (numbers on the page) and ``files`` that are not explained. ``worst``: the anchor of the largest
        cell of errors, one with explained photos first; "" without errors.
    """
    predicted, labels = predictions.logits.argmax(1), predictions.labels
    numbers = {(e.name, _label(e, class_names)): i for i, e in enumerate(explanations, 1)}
    rows: list[list[dict[str, Any]]] = []
    for t, name in enumerate(class_names):
        row: list[dict[str, Any]] = []
        for p, other in enumerate(class_names):
            names = [predictions.names[i] for i in np.flatnonzero((labels == t) & (predicted == p)).tolist()]
            row.append({"anchor": f"cell-{t}-{p}", "count": len(names), "right": t == p, "true": name,
                        "predicted": other, "share": len(names) / max(1, int((labels == t).sum())),
                        "photos": [numbers[n, t] for n in names if (n, t) in numbers],
                        "files": [n for n in names if (n, t) not in numbers][:MOST_FILES],
                        "left": sum((n, t) not in numbers for n in names)})  # fmt: skip
        rows.append(row)
    wrong = [cell for row in rows for cell in row if cell["count"] and not cell["right"]]
    worst = max(wrong, key=lambda cell: (bool(cell["photos"]), cell["count"]), default=None)
    return {"rows": rows, "worst": worst["anchor"] if worst else ""}


def _label(explanation: Explanation, class_names: Sequence[str]) -> int | None:
    """The label's place among these classes, which may be more than the photo has graphs of."""
    true = explanation.true_class
    return None if true is None else class_names.index(explanation.class_names[true])


def lists(explanations: Sequence[Explanation]) -> list[dict[str, Any]]:
    """The explained photos most wrong, least sure and least trusted: a heading, and (number on the page, text)."""
    numbered = list(enumerate(explanations, 1))
    wrong = [(i, e, e.true_class) for i, e in numbered if e.true_class is not None and e.true_class != e.predicted]
    wrong.sort(key=lambda one: one[1].probabilities[one[2]] - one[1].probabilities.max())
    sure = {i: np.diff(np.sort(e.probabilities)[-2:]).item() for i, e in numbered if len(e.logits) > 1}

    def worst(explanation: Explanation) -> tuple[int, float]:
        return LEVELS.index(trust(explanation).level), float(np.nan_to_num(explanation.trust, nan=-1))

    first = [(i, f"{_title(e)}, label {e.class_names[true]} {e.probabilities[true]:.2f}") for i, e, true in wrong]
    least = [(i, f"{_title(e)}, next {np.sort(e.probabilities)[-2]:.2f}")
             for i, e in sorted(numbered, key=lambda ie: sure.get(ie[0], 1)) if len(e.logits) > 1]  # fmt: skip
    trusted = [(i, f"{_title(e)}, trust {trust(e).level}") for i, e in sorted(numbered, key=lambda ie: worst(ie[1]))]
    heads = (("Most wrong", "worst", first), ("Least sure", "unsure", least), ("Least trusted", "untrusted", trusted))
    return [{"head": head, "anchor": anchor, "photos": rows[:MOST_LISTED]} for head, anchor, rows in heads]


def _title(explanation: Explanation) -> str:
    return f"{explanation.class_names[explanation.predicted]} {explanation.probabilities.max():.2f}"


def likely_cause(explanation: Explanation) -> tuple[str, str]:
    """Why a photo was probably called a wrong class, and what to do about it, in words; ("", "") for a right one.

    Read from what the explanation measured: whether it can be trusted, what is missing for the label, what both classes
    share, and what decided alone. A suspicion, not a proof: only retraining tests a cause.
    """
    t, p, names = explanation.true_class, explanation.predicted, explanation.class_names
    if t is None or t == p:
        return "", ""
    check = trust(explanation)
    if check.level == "low":
        return f"No cause can be named: {check.reasons[0]}.", "Look at the other photos of this pair."
    found, known = int(explanation.detected[t].sum()), int(explanation.present[t].sum())
    lack, strongest = wanted_text(explanation, t), _strongest(explanation)
    also = f" {capital(lack)}." if lack else ""
    if blank := without_detail(explanation, t):
        return f"{blank}{also}", f"Add photos of {names[t]} that look like this one."
    if known < FOUND_LOW:
        count = f"has {'one concept' if known else 'no concepts'} of its own to be recognised by"
        return f"{capital(names[t])} {count}.{also}", f"Add more, and more varied, photos of {names[t]}."
    if found < FOUND_LOW:
        text = f"Only {found} of the {known} concepts of {names[t]} {'was' if found == 1 else 'were'} found.{also}"
        return text, f"Add training photos of {names[t]} like this one: its view, its distance, what it hides."
    if strongest is None:
        return f"No concept supports {names[p]}.{also}", "Look at the other photos of this pair."
    both = np.flatnonzero(explanation.matched[t] == explanation.matched[p, strongest]).tolist()
    concept, score = called(explanation, p, strongest), float(explanation.node_scores[p, p, strongest])
    if both:
        text = (
            f"What supports {names[p]} most, its concept {concept}, is concept {both[0] + 1} of {names[t]} too.{also}"
        )
        return text, "Add photos of both classes that show it, so that the classifier must use what differs."
    effect = float(explanation.measured[p, strongest])
    alone = np.isfinite(effect) and effect > float(np.diff(explanation.logits[[t, p]])[0])
    turn = ": more than what separates both classes" if alone else ""
    text = f"Concept {concept} of {names[p]} supports it most ({signed(score)}, measured {signed(effect)}{turn}).{also}"
    return text, f"Add photos of {names[t]} that show it, or of {names[p]} without it."


def _strongest(explanation: Explanation) -> int | None:
    """The found concept that supports the predicted class most."""
    own = explanation.predicted
    scores = np.where(explanation.detected[own], np.nan_to_num(explanation.node_scores[own, own]), -np.inf)
    return int(scores.argmax()) if len(scores) and scores.max() > 0 else None
