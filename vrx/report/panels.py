"""The parts of an explanation's picture: the photo with F's answer, and one panel a class with its evidence."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Circle

from vrx.report.drawing import (
    CASING,
    EMPTY,
    QUIET,
    SCALE,
    ColourScale,
    Sheet,
    draw_arrow,
    draw_box,
    draw_disc,
    draw_label,
    draw_outline,
    draw_photo,
    draw_thumbnail,
    shorten,
    spread,
    stepped_back,
    strongest_edges,
)
from vrx.report.words import signed
from vrx.structures import ConceptBank, Explanation
from vrx.thumbnails import thumbnail

F_COLOUR, GRN_COLOUR = "#404040", "#b0b0b0"
PANEL, COLUMN, TITLE, HEADING = 3.9, 3.3, 0.62, 0.3  # inches: widths of a panel and of the photo's column, heights
DISC = 0.043  # radius as a share of the photo's longer side
MOST_BARS = 6  # classes with probabilities


def photo_height(explanation: Explanation, width: float) -> float:
    """Height in inches at which the photo keeps its shape."""
    return width * explanation.image.shape[0] / explanation.image.shape[1]


def row_height(num_concepts: int) -> float:
    """Height of a concept's row in inches."""
    return 0.84 if num_concepts <= 4 else 0.72


def panel_height(explanation: Explanation) -> float:
    """Height of :func:`draw_panel` in inches."""
    num = explanation.detected.shape[1]
    return TITLE + photo_height(explanation, PANEL) + HEADING + 0.1 + num * row_height(num)


def draw_panel(sheet: Sheet, explanation: Explanation, bank: ConceptBank, index: int, scale: ColourScale) -> None:
    """Why F chose a class, or why not: its concepts and relations on the photo, and each one's evidence beneath."""
    name = shorten(explanation.class_names[index], 24)
    sheet.text(0, 0.14, f"{'Why' if index == explanation.predicted else 'Why not'} {name}?", 15, weight="bold")
    answer = f"F {explanation.probabilities[index]:.2f}   graph network {explanation.grn_probabilities[index]:.2f}"
    sheet.text(0, 0.44, answer + ("   (the label)" if index == explanation.true_class else ""), 9.5, color=QUIET)
    height = photo_height(explanation, PANEL)
    draw_evidence(sheet.axes(0, TITLE, PANEL, height, frame=True), explanation, index, scale)
    num, row = explanation.detected.shape[1], row_height(explanation.detected.shape[1])
    table = sheet.at(0, TITLE + height + 0.1).page(PANEL, HEADING + num * row)
    side, left = row - 0.08, 0.62 + 2 * (row - 0.08)
    draw_label(table, 0.42 + side / 2, HEADING / 2, "here", color=QUIET, ha="center")
    draw_label(table, 0.5 + side * 1.5, HEADING / 2, "typical", color=QUIET, ha="center")
    draw_box(table, left - 0.1, HEADING / 2 - 0.05, 0.14, 0.1, "#9a9a9a")
    draw_label(table, left + 0.08, HEADING / 2, "contribution", color=QUIET)
    draw_box(table, left + 0.94, HEADING / 2 - 0.05, 0.14, 0.1, "white", "//////")
    draw_label(table, left + 1.12, HEADING / 2, "measured", color=QUIET)
    for concept in range(num):
        draw_row(table, HEADING + concept * row, explanation, bank, (index, concept), scale)


def draw_evidence(ax: Axes, explanation: Explanation, index: int, scale: ColourScale) -> None:
    """The photo with the patches, numbered concepts and strongest relations of one class."""
    height, width = explanation.image.shape[:2]
    draw_photo(ax, stepped_back(explanation.image))
    found = np.flatnonzero(explanation.detected[index])
    if not len(found):
        box = {"facecolor": "white", "edgecolor": CASING, "boxstyle": "round,pad=0.5", "alpha": 0.9}
        draw_label(ax, width / 2, height / 2, "none of its concepts was found", 11, bbox=box, ha="center")
        return
    scores = np.nan_to_num(explanation.node_scores[index, index])
    radius = DISC * max(height, width)
    true = explanation.centroids[index, found].astype(float) * (width, height)
    places = dict(zip(found.tolist(), spread(true, 3.6 * radius, (height, width), 1.5 * radius), strict=True))
    for concept in found[np.argsort(np.abs(scores[found]))]:  # the strongest outline on top
        draw_outline(ax, explanation.mask(index, concept), scale(scores[concept]))
    arrows = strongest_edges(explanation, index)
    for source, target, score in reversed(arrows):
        thickness = 1.2 + 3.2 * abs(score) / abs(arrows[0][2])
        draw_arrow(ax, places[source], places[target], 1.25 * radius, thickness, score, scale)
    for centre, concept in zip(true, found.tolist(), strict=True):
        if np.hypot(*(places[concept] - centre)) > radius:  # pushed away: a thread leads back to the patch
            ax.plot(*zip(centre, places[concept], strict=True), color=CASING, linewidth=1.0, zorder=4.5)
            ax.add_patch(Circle(centre, 0.2 * radius, facecolor="white", edgecolor=CASING, linewidth=0.8, zorder=4.6))
        draw_disc(ax, tuple(places[concept]), radius, str(concept + 1), float(scores[concept]), scale)


def draw_row(
    ax: Axes, top: float, explanation: Explanation, bank: ConceptBank, node: tuple[int, int], scale: ColourScale
) -> None:
    """One concept: its patch here, a typical one, and its contribution beside the measured effect.

    Args:
        ax: in inches.
        top: where the row begins.
        explanation: of the photo.
        bank: its concepts.
        node: class and concept.
        scale: of the picture.
    """
    side = row_height(explanation.detected.shape[1]) - 0.08
    left, middle, number = 0.62 + 2 * side, top + side / 2, str(node[1] + 1)
    found, exists = bool(explanation.detected[node]), bool(bank.present[node])
    here = thumbnail(explanation.image, mask) if (mask := explanation.mask(*node)).any() and found else None
    draw_thumbnail(ax, 0.42, top, side, here)
    draw_thumbnail(ax, 0.5 + side, top, side, bank.exemplars[node][0] if exists and bank.exemplars.shape[2] else None)
    if not found:
        ax.add_patch(Circle((0.185, middle), 0.14, facecolor=EMPTY, edgecolor=QUIET, linewidth=0.8, linestyle=":"))
        draw_label(ax, 0.185, middle, number, 10, weight="bold", color=QUIET, ha="center")
        draw_label(ax, left, middle, "not found" if exists else "no such concept", 9.5, color=QUIET, style="italic")
        return
    score = float(np.nan_to_num(explanation.node_scores[node[0]][node]))
    draw_disc(ax, (0.185, middle), 0.14, number, score, scale)
    unit, zero = (PANEL - left) / 3.7 / scale.effect, (left + PANEL) / 2
    ax.plot([zero, zero], [top, top + side], color=QUIET, linewidth=0.8)
    measured = float(explanation.measured[node])
    bars = ((-0.2, score, scale(score), "", "bold"), (0.2, measured, "white", "//////", "normal"))
    for shift, value, colour, hatch, weight in bars:
        size, y = float(np.nan_to_num(value)) * unit, middle + shift * side
        draw_box(ax, zero, y - 0.14 * side, size, 0.28 * side, colour, hatch)
        text = signed(value) if np.isfinite(value) else "not measured"
        end = zero + size + np.copysign(0.04, size)
        draw_label(ax, end, y, text, 9.5, weight=weight, ha="left" if size >= 0 else "right")


def summary_height(explanation: Explanation) -> float:
    """Height of :func:`draw_summary` in inches."""
    bars = min(len(explanation.class_names), MOST_BARS)
    return TITLE + photo_height(explanation, COLUMN) + 0.55 + 0.36 * bars + 0.85 + 1.55


def draw_summary(sheet: Sheet, explanation: Explanation, scale: ColourScale) -> None:
    """The photo, what F and the GRN say of it, and how to read the panels."""
    sheet.text(0, 0.14, "The photo", 15, weight="bold")
    true = explanation.true_class
    caption = PurePath(explanation.name).name
    if true is not None:
        caption = f"label: {explanation.class_names[true]} {'✓' if true == explanation.predicted else '✗'}"
    sheet.text(0, 0.44, shorten(caption, 38), 9.5, color=QUIET)
    height = photo_height(explanation, COLUMN)
    draw_photo(sheet.axes(0, TITLE, COLUMN, height, frame=True), explanation.image)
    y = TITLE + height + 0.55
    draw_probabilities(sheet.at(0, y - 0.3), explanation)
    y += 0.36 * min(len(explanation.class_names), MOST_BARS) + 0.3
    sheet.text(0, y, "Contribution to the class' score (logits)", 9, weight="bold")
    bar = sheet.axes(0, y + 0.13, COLUMN, 0.16, frame=True)
    bar.imshow(np.linspace(0, 1, 256)[None], aspect="auto", cmap=SCALE)
    sheet.text(0, y + 0.4, f"{signed(-scale.limit)}  against", 8.5)
    sheet.text(COLUMN / 2, y + 0.4, "0", 8.5, ha="center")
    sheet.text(COLUMN, y + 0.4, f"supports  {signed(scale.limit)}", 8.5, ha="right")
    draw_key(sheet.at(0, y + 0.68), scale)


def draw_probabilities(sheet: Sheet, explanation: Explanation) -> None:
    """Paired bars of F and the GRN for the likeliest classes."""
    ranked = np.argsort(-explanation.probabilities, kind="stable")[:MOST_BARS].tolist()
    true = explanation.true_class
    if true is not None and true not in ranked:
        ranked[-1] = true
    ax = sheet.at(0, -0.15).page(COLUMN, 0.35 + 0.36 * len(ranked))
    draw_label(ax, 0, 0.15, "Probability", 9, weight="bold")
    draw_box(ax, 1.3, 0.1, 0.14, 0.1, F_COLOUR)
    draw_label(ax, 1.48, 0.15, "classifier F")
    draw_box(ax, 2.2, 0.1, 0.14, 0.1, GRN_COLOUR, "/////")
    draw_label(ax, 2.38, 0.15, "graph network")
    left, unit = 1.42, (COLUMN - 1.42) / 1.32
    for row, index in enumerate(ranked):
        y = 0.47 + row * 0.36
        weight = "bold" if index == explanation.predicted else "normal"
        draw_label(ax, 0, y, shorten(explanation.class_names[index], 19), 9, weight=weight)
        f, grn = explanation.probabilities, explanation.grn_probabilities
        for top, values, colour, hatch in ((y - 0.14, f, F_COLOUR, ""), (y, grn, GRN_COLOUR, "/////")):
            size = float(np.nan_to_num(values[index])) * unit
            draw_box(ax, left, top, size, 0.13, colour, hatch)
            draw_label(ax, left + size + 0.04, top + 0.065, f"{values[index]:.2f}", 8)


def draw_key(sheet: Sheet, scale: ColourScale) -> None:
    """How to read discs, arrows and bars."""
    ax = sheet.page(COLUMN, 1.5)
    draw_disc(ax, (0.2, 0.17), 0.12, "1", 0.8 * scale.limit, scale)
    draw_disc(ax, (0.57, 0.17), 0.12, "2", -0.8 * scale.limit, scale)
    draw_arrow(ax, (0.0, 0.56), (0.42, 0.56), 0.08, 2.2, 0.8 * scale.limit, scale)
    draw_arrow(ax, (0.4, 0.56), (0.82, 0.56), 0.08, 2.2, -0.8 * scale.limit, scale)
    style: dict[str, Any] = {"va": "center", "linespacing": 1.35}
    draw_label(ax, 0.85, 0.15, "concept of that class, found here:\n+ supports it,  − speaks against", 8, **style)
    draw_label(ax, 0.85, 0.54, "relation; dashed: against;\nthicker: stronger", 8, **style)
    measured = (
        "contribution: by the graph network that copies F.\n"
        "measured: F itself, asked with the concept edited away\n"
        "(how far its margin for the class falls)."
    )
    draw_label(ax, 0, 1.06, measured, 8, color=QUIET, **style)
