"""Pictures of an explanation: a figure per class, and one of the photo."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from numpy.typing import NDArray

from vrx.bank import ConceptBank
from vrx.explanation import Explanation
from vrx.reasons import shown_relations
from vrx.report.drawing import (
    CASING,
    CLASSIFIER,
    DPI,
    GRN,
    MARGIN,
    QUIET,
    SCALE,
    WIDTH,
    ColourScale,
    Pixels,
    Section,
    axes_at,
    draw_bar,
    draw_box,
    draw_disc,
    draw_label,
    draw_legend,
    draw_outline,
    draw_photo,
    draw_relation,
    fit,
    page,
    spread,
    stepped_back,
)
from vrx.report.html import draw
from vrx.report.phrases import shorten, signed
from vrx.report.rows import DASHED, concept_rows, missing_rows, relation_rows
from vrx.report.waterfall import waterfall
from vrx.report.words import sentences, trust_parts, without_detail
from vrx.structures import PERHAPS

TITLE = 0.62  # inches
DISC = 0.043  # radius as a share of the photo's longer side
MOST_BARS = 6  # classes with probabilities
KIND = 0.42  # inches: of a kind of mark in the key
KINDS = (
    (False, "two concepts that count together:\nmore than each alone; dashed: less"),
    (True, "the place of the first counts because\nof the second; dashed: against the class"),
)
MAYBE = f"perhaps: it may be there, with a probability of\n{PERHAPS} to 0.5. It has no place in the graph."
NOTE = (
    "contribution: by the graph network, which imitates\nthe classifier. measured: how far the classifier's own\n"
    "margin for the class falls when the concept is deleted."
)
BETWEEN = (
    "of a relation: by how much two concepts together\ncount for more than the sum of both, or what moving\n"
    "one costs because the other is there (logits)."
)


def explanation_figures(explanation: Explanation, bank: ConceptBank, classes: Sequence[int]) -> list[Figure]:
    """The photo's figure and one figure per class, on one colour scale."""
    scale = ColourScale.of(explanation, classes)
    return [photo_figure(explanation, scale), *(class_figure(explanation, bank, c, scale) for c in classes)]


def sheet(explanation: Explanation, classes: Sequence[int], parts: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Everything as one picture: the sentence, how far to trust it, and the parts (:func:`explanation_figures`)."""
    gap = round(0.15 * DPI)
    width = sum(part.shape[1] + gap for part in parts)
    stacked = [draw(words_figure(explanation, classes, width / DPI)), *parts]
    page = np.full((len(stacked[0]) + max(len(part) for part in parts), width, 3), 255, np.uint8)
    lefts = [0, *np.cumsum([0, *(part.shape[1] + gap for part in parts)]).tolist()]
    for part, left, top in zip(stacked, lefts, [0, *[len(stacked[0])] * len(parts)], strict=False):
        page[top : top + len(part), left : left + part.shape[1]] = part[:, : width - left]
    return page


def words_figure(explanation: Explanation, classes: Sequence[int], width: float) -> Figure:
    """The sentences, a class on lines of its own, and the line on trust, wrapped to ``width`` inches."""
    lines = [line for text in sentences(explanation, classes) for line in textwrap.wrap(text, int(width * 9.3))]
    levels = [(level, textwrap.wrap(text, int((width - 1.9) * 11.8))) for level, text in trust_parts(explanation)]
    below = 0.25 * len(lines) + 0.07
    figure, ax = page(width - 2 * MARGIN, below + 0.22 * sum(len(checks) for _, checks in levels) + 0.1)
    draw_label(ax, 0, 0, "\n".join(lines), 13, va="top", linespacing=1.25)
    for level, checks in levels:
        draw_label(ax, 0, below, level, 11, va="top", weight="bold")
        draw_label(ax, 1.85, below, "\n".join(checks), 11, va="top", linespacing=1.3, color=QUIET)
        below += 0.22 * len(checks)
    return figure


def photo_figure(explanation: Explanation, scale: ColourScale) -> Figure:
    """The photo, how likely both networks find the classes, and how to read the other figures."""
    height = WIDTH * explanation.image.shape[0] / explanation.image.shape[1]
    bars = TITLE + height
    key = bars + 0.45 + 0.36 * min(len(explanation.class_names), MOST_BARS)
    maybe, relations = bool(explanation.perhaps.any()), explanation.relations is not None
    figure, ax = page(WIDTH, key + key_height(maybe, relations))
    caption, true = PurePath(explanation.name).name, explanation.true_class
    if true is not None:
        caption = f"label: {explanation.class_names[true]} {'✓' if true == explanation.predicted else '✗'}"
    draw_title(ax, "The photo", shorten(caption, 38))
    ax.add_artist(Pixels(explanation.image, (0, TITLE, WIDTH, height)))
    draw_probabilities(ax, bars, explanation)
    draw_key(ax, key, scale, maybe, relations)
    return figure


def draw_title(ax: Axes, title: str, below: str) -> None:
    """Two lines on top of a figure."""
    draw_label(ax, 0, 0.14, title, 15, weight="bold")
    draw_label(ax, 0, 0.32, below, 9.5, color=QUIET, va="top", linespacing=1.3)


def draw_probabilities(ax: Axes, top: float, explanation: Explanation) -> None:
    """Paired bars of the classifier and the graph network for the likeliest classes; the label is always there."""
    ranked = np.argsort(-explanation.probabilities, kind="stable")[:MOST_BARS].tolist()
    if explanation.true_class is not None and explanation.true_class not in ranked:
        ranked[-1] = explanation.true_class
    draw_label(ax, 0, top + 0.27, "Probability", 9, weight="bold")
    draw_legend(ax, 1.42, top + 0.27, ("classifier", CLASSIFIER, ""), ("graph network", GRN, ""))
    left, unit = 1.42, (WIDTH - 1.42) / 1.25
    for row, index in enumerate(ranked):
        y, bold = top + 0.62 + 0.36 * row, "bold" if index == explanation.predicted else "normal"
        draw_label(ax, 0, y, shorten(explanation.class_names[index], 19), 9, weight=bold)
        f, grn = float(explanation.probabilities[index]), float(explanation.grn_probabilities[index])
        draw_bar(ax, left, y - 0.075, f * unit, 0.13, CLASSIFIER, f"{f:.2f}", size=8)
        draw_bar(ax, left, y + 0.075, grn * unit, 0.13, GRN, f"{grn:.2f}", size=8)


def draw_key(ax: Axes, top: float, scale: ColourScale, maybe: bool = False, relations: bool = False) -> None:
    """The colour bar, and how to read discs, relations (where asked for) and bars, and what ``maybe`` there means."""
    draw_label(ax, 0, top + 0.17, "Contribution to the class' score (logits)", 9, weight="bold")
    colours = np.asarray(SCALE(np.linspace(0, 1, 256))[None, :, :3] * 255, np.uint8)
    ax.add_artist(Pixels(colours, (0, top + 0.3, WIDTH, 0.15)))
    for place, text, side in (
        (0, f"{signed(-scale.limit)} opposes", "left"),
        (0.5, "0", "center"),
        (1, f"supports {signed(scale.limit)}", "right"),
    ):
        draw_label(ax, place * WIDTH, top + 0.56, text, 8.5, ha=side)
    top, strong = top + 0.75, 0.8 * scale.limit
    draw_disc(ax, (0.2, top + 0.17), 0.12, "1", strong, scale)
    draw_disc(ax, (0.57, top + 0.17), 0.12, "2", -strong, scale)
    draw_label(ax, 0.9, top + 0.17, "a concept of the class, found here:\n+ supports it,  − opposes it", 8, va="center")
    for arranged, text in KINDS[: 2 * relations]:
        top += KIND
        style: dict[str, Any] = {"scale": scale, "arranged": arranged, "bend": 0.25 * arranged}
        draw_relation(ax, (0.0, top + 0.17), (0.36, top + 0.17), 0.03, 2.2, strong, **style)
        draw_relation(ax, (0.42, top + 0.17), (0.78, top + 0.17), 0.03, 2.2, -strong, **style)
        draw_label(ax, 0.9, top + 0.17, text, 8, va="center")
    if maybe:
        top += KIND
        draw_box(ax, 0.25, top + 0.04, 0.28, 0.28, "none", linewidth=1.2, linestyle=DASHED)
        draw_label(ax, 0.9, top + 0.19, MAYBE, 8, va="center")
    note = f"{NOTE}\n{BETWEEN}" if relations else NOTE
    draw_label(ax, 0, top + 0.42, note, 8, color=QUIET, va="top", linespacing=1.35)


def key_height(maybe: bool, relations: bool) -> float:
    """Inches that :func:`draw_key` takes."""
    return 1.75 + KIND * maybe + (2 * KIND + 0.48) * relations


def class_figure(explanation: Explanation, bank: ConceptBank, index: int, scale: ColourScale) -> Figure:
    """Why the classifier chose a class, or why not: its concepts and relations on the photo, and their evidence."""
    height = WIDTH * explanation.image.shape[0] / explanation.image.shape[1]
    sections = [
        concept_rows(explanation, bank, index, scale),
        relation_rows(explanation, index, scale),
        missing_rows(explanation, bank, index),
        _blank(explanation, bank, index),
        waterfall(explanation, index, scale),
    ]
    there = [section for section in sections if section is not None]
    figure, ax = page(WIDTH, TITLE + height + sum(high for high, _ in there))
    why = "Why" if index == explanation.predicted else "Why not"
    shares = explanation.probabilities[index], explanation.grn_probabilities[index]
    label = "   (the label)" if index == explanation.true_class else ""
    text = f"classifier {shares[0]:.2f}   graph network {shares[1]:.2f}{label}"
    draw_title(ax, fit(f"{why} {explanation.class_names[index]}?", WIDTH, 15, "bold"), text)
    draw_evidence(axes_at(figure, 0, TITLE, WIDTH, height), explanation, index, scale)
    top = TITLE + height
    for high, draw_section in there:
        draw_section(ax, top)
        top += high
    return figure


def _blank(explanation: Explanation, bank: ConceptBank, index: int) -> Section | None:
    """What is said of a class without concepts of its own that photos without detail are called."""
    lines = [] if bank.present[index].any() else textwrap.wrap(without_detail(explanation, index), 52)

    def draw_lines(ax: Axes, top: float) -> None:
        draw_label(ax, 0, top + 0.12, "\n".join(lines), 9, va="top", linespacing=1.3, color=QUIET)

    return (0.2 * len(lines), draw_lines) if lines else None


def draw_evidence(ax: Axes, explanation: Explanation, index: int, scale: ColourScale) -> None:
    """The photo with the patches, numbered concepts and shown relations of one class."""
    height, width = explanation.image.shape[:2]
    draw_photo(ax, stepped_back(explanation.image))
    found = np.flatnonzero(explanation.detected[index])
    if not len(found):
        box = {"facecolor": "white", "edgecolor": CASING, "boxstyle": "round,pad=0.5", "alpha": 0.9}
        none = "none of its concepts was found" if explanation.present[index].any() else "it has no concepts of its own"
        draw_label(ax, width / 2, height / 2, none, 11, bbox=box, ha="center")
        return
    scores = np.nan_to_num(explanation.node_scores[index, index])
    radius = DISC * max(height, width)
    true = explanation.centroids[index, found].astype(float) * (width, height)
    places = dict(zip(found.tolist(), spread(true, 4 * radius, (height, width), 1.5 * radius), strict=True))
    for concept in found[np.argsort(np.abs(scores[found]))]:  # the strongest outline on top
        draw_outline(ax, explanation.mask(index, concept), scale(scores[concept]))
    relations = shown_relations(explanation, index)
    arrows = {(relation.source, relation.target) for relation in relations if relation.arranged}
    for relation in reversed(relations):
        start, end, score = relation.source, relation.target, relation.predicted
        bend = 0.25 * (relation.arranged or bool({(start, end), (end, start)} & arrows))
        if (start, end) in arrows and not relation.arranged:  # on the other side of the arrow
            start, end = end, start
        thickness = 1.2 + 2.6 * abs(score) / abs(relations[0].predicted)
        draw_relation(ax, places[start], places[end], 1.2 * radius, thickness, score, scale, relation.arranged, bend)
    for centre, concept in zip(true, found.tolist(), strict=True):
        if np.hypot(*(places[concept] - centre)) > radius:  # pushed away: a thread leads back to the patch
            ax.plot(*zip(centre, places[concept], strict=True), color=CASING, linewidth=1.0, zorder=4.5)
            ax.add_artist(Circle(centre, 0.2 * radius, facecolor="white", edgecolor=CASING, linewidth=0.8, zorder=4.6))
        draw_disc(ax, tuple(places[concept]), radius, str(concept + 1), float(scores[concept]), scale)
