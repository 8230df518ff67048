"""Step by step from what the classifier gives a class to what it gives the predicted one: all steps add up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from vrx.explanation import NO_RELATION, Explanation
from vrx.report.drawing import CASING, CLASSIFIER, EMPTY, QUIET, WIDTH, ColourScale, Section, draw_box, draw_label, fit
from vrx.report.phrases import called, shorten, signed

MOST_STEPS = 6  # contributions named; all others are one step
OTHERS, ERROR = "other concepts and relations", "the graph network's error"
LABELS, NUMBER, STEP, HEAD = 1.78, 0.36, 0.2, 0.5  # inches: width of names, room for a number, heights


@dataclass(frozen=True)
class Step:
    """One bar."""

    name: str  # what contributes
    value: float  # to the logit of the predicted class minus that of the other
    rest: bool = False  # it is no concept or relation of its own: what is left, or an error
    labels: tuple[int, ...] = ()  # of the patches that contribute


def steps(explanation: Explanation, index: int, most: int = MOST_STEPS, to: int | None = None) -> list[Step]:
    """From a class to another one (the predicted): the values add up to the classifier's difference of the two logits.

    Returns:
        Main effects and pairs of the players, the ``most`` largest first; all others; what is left without any player;
        and what the graph network gets wrong. None where relations were not asked for.
    """
    relations, end = explanation.relations, explanation.predicted if to is None else to
    if relations is None:
        return []
    each = sorted(_contributions(explanation, index, end), key=lambda step: -abs(step.value))
    named = [step for step in each[:most] if abs(step.value) >= NO_RELATION]
    others = sum(step.value for step in each[len(named) :])
    left = float(relations.empty[end] - relations.empty[index])
    whole = float(explanation.logits[end] - explanation.logits[index])
    error = whole - left - sum(step.value for step in each)
    rest = [Step(OTHERS, others, True)] * (len(each) > len(named))
    without = f"what is left ({relations.left_out} more found)" if relations.left_out else "what is left without them"
    return [*named, *rest, Step(without, left, True), Step(ERROR, error, True)]


def _contributions(explanation: Explanation, index: int, end: int) -> Iterator[Step]:
    """Every player and every pair of them, each once."""
    relations = explanation.relations
    if relations is None:
        return
    labels = relations.labels.tolist()
    names = [player_name(explanation, label, index) for label in labels]
    main = relations.main[:, end] - relations.main[:, index]
    pairs = relations.pairs[..., end] - relations.pairs[..., index]
    for i, (name, owner) in enumerate(names):
        yield Step(f"{'concept ' * name.isdigit()}{name}{owner}", float(main[i]), labels=(labels[i],))
        for j in range(i):
            yield Step(_pair(names[j], (name, owner)), float(pairs[j, i]), labels=(labels[j], labels[i]))


def _pair(*ends: tuple[str, str]) -> str:
    """``1 + 2 of fire engine``: both; one of another class comes before one of the class itself."""
    (first, of_first), (second, of_second) = sorted(ends, key=lambda end: not end[1])
    return f"{first}{of_first * (of_first != of_second)} + {second}{of_second}"


def player_name(explanation: Explanation, label: int, index: int) -> tuple[str, str]:
    """What a patch is called in the figure of a class: its concept there, else in the predicted or in any class.

    Returns:
        Its name or number, and whose concept it is: "" for the class itself, " of ambulance".
    """
    for c in [index, explanation.predicted, *range(len(explanation.class_names))]:
        for k in np.flatnonzero(explanation.matched[c] == label).tolist():
            return called(explanation, c, k), f" of {explanation.class_names[c]}" * (c != index)
    return f"patch {label}", ""


def waterfall(explanation: Explanation, index: int, scale: ColourScale) -> Section | None:
    """The steps as a part of the figure of a class that was not predicted; None where there are none."""
    found = steps(explanation, index)
    if index == explanation.predicted or not found:
        return None

    def draw(ax: Axes, top: float) -> None:
        names = explanation.class_names
        logits = explanation.logits - explanation.logits.mean()
        start, end = float(logits[index]), float(logits[explanation.predicted])
        reached = start + np.cumsum([0.0, *(step.value for step in found)])
        low, high = min(0.0, reached.min()), max(0.0, reached.max())
        unit = (WIDTH - LABELS - NUMBER) / (high - low or 1.0)
        zero = LABELS - low * unit
        ours = shorten(names[explanation.predicted], 20)
        draw_label(ax, 0, top + 0.17, f"From {shorten(names[index], 20)} to {ours}, in logits", 9, weight="bold")
        colours = f"red: speaks for {ours}, against this class; blue: the other way"
        draw_label(ax, 0, top + 0.35, colours, 7.5, color=QUIET)
        rows: list[tuple[str, float, float, Any, str]] = [(names[index], 0.0, start, CLASSIFIER, signed(start))]
        for step, before, after in zip(found, reached, reached[1:], strict=False):
            rows.append((step.name, before, after, EMPTY if step.rest else scale(-step.value), signed(step.value)))
        rows.append((names[explanation.predicted], 0.0, end, CLASSIFIER, signed(end)))
        for row, (name, before, after, colour, text) in enumerate(rows):
            y, bold = top + HEAD + STEP * (row + 0.5), row in (0, len(rows) - 1)
            weight = "bold" if bold else "normal"
            left, right = sorted((zero + before * unit, zero + after * unit))
            draw_label(ax, 0, y, fit(name, LABELS - 0.06, 8, weight), 8, weight=weight)
            draw_box(ax, left, y - 0.065, right - left, 0.13, colour, gid="step")
            draw_label(ax, right + 0.04, y, text, 8, weight=weight)
            if row < len(rows) - 1:  # where the next one begins
                draw_box(ax, zero + after * unit, y + 0.065, 0, STEP - 0.13, CASING, linewidth=0.5)

    return HEAD + STEP * (len(found) + 2) + 0.12, draw
