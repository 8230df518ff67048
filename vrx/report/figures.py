"""Pictures of an explanation: a figure per class, and one of the photo."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from numpy.typing import NDArray

from vrx.explanation import Explanation
from vrx.report.drawing import (
    CASING,
    DPI,
    EMPTY,
    MARGIN,
    QUIET,
    SCALE,
    ColourScale,
    Pixels,
    axes_at,
    draw_arrow,
    draw_box,
    draw_disc,
    draw_label,
    draw_outline,
    draw_photo,
    fit,
    ink_on,
    page,
    spread,
    stepped_back,
    strongest_edges,
)
from vrx.report.html import draw
from vrx.report.words import sentence, shorten, signed, trust_line, without_detail
from vrx.structures import PERHAPS, ConceptBank
from vrx.thumbnails import thumbnail

WIDTH = 3.7  # of a figure, in inches
TITLE, ROW, SMALL = 0.62, 0.78, 0.66  # heights in inches: of a title, of a concept, of one that was not found
SIDE, SMALL_SIDE, PER_LINE = 0.7, 0.52, 6  # thumbnails, in inches
NAMED_LINE, NAME = 4, 0.14  # thumbnails a line where some have names below; inches for those
DASHED = (0, (2.5, 1.5))  # frame of a concept that may be there
DISC = 0.043  # radius as a share of the photo's longer side
CLASSIFIER, GRN = "#404040", "#c4c4c4"
HATCH = "//////"  # of measured effects
MOST_BARS = 6  # classes with probabilities
MAYBE = f"perhaps: it may be there, with a probability of\n{PERHAPS} to 0.5. It has no place in the graph."
NOTE = (
    "contribution: by the graph network, which imitates\nthe classifier. measured: how far the classifier's own\n"
    "margin for the class falls when the concept is deleted."
)


def explanation_parts(explanation: Explanation, bank: ConceptBank, classes: Sequence[int]) -> list[NDArray[np.uint8]]:
    """The pixels of the photo's figure and of one figure per class, on one colour scale.

    Args:
        explanation: of one photo.
        bank: the concepts that it names.
        classes: the classes to draw.
    """
    scale = ColourScale.of(explanation, classes)
    figures = [photo_figure(explanation, scale), *(class_figure(explanation, bank, c, scale) for c in classes)]
    return [draw(figure) for figure in figures]


def sheet(explanation: Explanation, classes: Sequence[int], parts: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Everything as one picture: the sentence, how far to trust it, and the parts side by side.

    Args:
        explanation: of one photo.
        classes: that the parts show.
        parts: from :func:`explanation_parts`.
    """
    gap = round(0.15 * DPI)
    width = sum(part.shape[1] + gap for part in parts)
    stacked = [draw(words_figure(explanation, classes, width / DPI)), *parts]
    page = np.full((len(stacked[0]) + max(len(part) for part in parts), width, 3), 255, np.uint8)
    lefts = [0, *np.cumsum([0, *(part.shape[1] + gap for part in parts)]).tolist()]
    for part, left, top in zip(stacked, lefts, [0, *[len(stacked[0])] * len(parts)], strict=False):
        page[top : top + len(part), left : left + part.shape[1]] = part[:, : width - left]
    return page


def words_figure(explanation: Explanation, classes: Sequence[int], width: float) -> Figure:
    """The sentence and the line on trust, wrapped to ``width`` inches."""
    lines = textwrap.wrap(sentence(explanation, classes), int(width * 9.8))
    level, _, reasons = trust_line(explanation).partition(". ")
    checks = textwrap.wrap(reasons, int((width - 1.4) * 11.8))
    below = 0.25 * len(lines) + 0.07
    figure, ax = page(width - 2 * MARGIN, below + 0.22 * len(checks) + 0.1)
    draw_label(ax, 0, 0, "\n".join(lines), 13, va="top", linespacing=1.25)
    draw_label(ax, 0, below, level, 11, va="top", weight="bold")
    draw_label(ax, 1.35, below, "\n".join(checks), 11, va="top", linespacing=1.3, color=QUIET)
    return figure


def photo_figure(explanation: Explanation, scale: ColourScale) -> Figure:
    """The photo, how likely both networks find the classes, and how to read the other figures."""
    height = WIDTH * explanation.image.shape[0] / explanation.image.shape[1]
    bars = TITLE + height
    key = bars + 0.45 + 0.36 * min(len(explanation.class_names), MOST_BARS)
    maybe = bool(explanation.perhaps.any())
    figure, ax = page(WIDTH, key + 2.35 + 0.42 * maybe)
    caption, true = PurePath(explanation.name).name, explanation.true_class
    if true is not None:
        caption = f"label: {explanation.class_names[true]} {'✓' if true == explanation.predicted else '✗'}"
    draw_title(ax, "The photo", shorten(caption, 38))
    ax.add_artist(Pixels(explanation.image, (0, TITLE, WIDTH, height)))
    draw_probabilities(ax, bars, explanation)
    draw_key(ax, key, scale, maybe)
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


def draw_legend(ax: Axes, left: float, y: float, *entries: tuple[str, str, str]) -> None:
    """What the bars are: (text, colour, hatch), side by side."""
    for place, (text, colour, hatch) in enumerate(entries):
        draw_box(ax, left + 1.02 * place, y - 0.05, 0.14, 0.1, colour, hatch)
        draw_label(ax, left + 1.02 * place + 0.18, y, text, color=QUIET)


def draw_bar(
    ax: Axes, zero: float, y: float, length: float, thick: float, colour: Any, text: str, hatch: str = "", **style: Any
) -> None:
    """A horizontal bar in inches from ``zero`` on, with its number at the end."""
    draw_box(ax, zero, y - thick / 2, length, thick, colour, hatch, gid="bar")
    left = length < 0
    draw_label(ax, zero + length + (-0.04 if left else 0.04), y, text, ha="right" if left else "left", **style)


def draw_key(ax: Axes, top: float, scale: ColourScale, maybe: bool = False) -> None:
    """The colour bar, and how to read discs, arrows and bars, and what ``maybe`` there means."""
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
    draw_label(
        ax, 0.85, top + 0.17, "a concept of the class, found here:\n+ supports it,  − opposes it", 8, va="center"
    )
    draw_arrow(ax, (0.0, top + 0.58), (0.36, top + 0.58), 0.03, 2.2, strong, scale)
    draw_arrow(ax, (0.42, top + 0.58), (0.78, top + 0.58), 0.03, 2.2, -strong, scale)
    draw_label(
        ax, 0.85, top + 0.58, "a relation between two concepts;\nthicker: stronger; dashed: opposes", 8, va="center"
    )
    if maybe:
        draw_box(ax, 0.25, top + 0.82, 0.28, 0.28, "none", linewidth=1.2, linestyle=DASHED)
        draw_label(ax, 0.85, top + 0.97, MAYBE, 8, va="center")
        top += 0.42
    draw_label(ax, 0, top + 1.12, NOTE, 8, color=QUIET, va="center", linespacing=1.35)


def class_figure(explanation: Explanation, bank: ConceptBank, index: int, scale: ColourScale) -> Figure:
    """Why the classifier chose a class, or why not: its concepts and relations on the photo, and their evidence.

    Args:
        explanation: of one photo.
        bank: the concepts that it names.
        index: of the class.
        scale: of the whole explanation.
    """
    height = WIDTH * explanation.image.shape[0] / explanation.image.shape[1]
    found, missing = explanation.detected[index], bank.present[index] & ~explanation.detected[index]
    absent = np.flatnonzero(missing).tolist()
    table = TITLE + height
    rest = table + (0.4 + ROW * found.sum()) * found.any()
    per_line, row = missing_grid(bank, index, absent)
    nothing = [] if bank.present[index].any() else textwrap.wrap(without_detail(explanation, index), 52)
    more = (0.3 + row * math.ceil(len(absent) / per_line)) * missing.any() + 0.2 * len(nothing)
    figure, ax = page(WIDTH, rest + more)
    why = "Why" if index == explanation.predicted else "Why not"
    shares = explanation.probabilities[index], explanation.grn_probabilities[index]
    label = "   (the label)" if index == explanation.true_class else ""
    text = f"classifier {shares[0]:.2f}   graph network {shares[1]:.2f}{label}"
    draw_title(ax, f"{why} {shorten(explanation.class_names[index], 22)}?", text)
    draw_evidence(axes_at(figure, 0, TITLE, WIDTH, height), explanation, index, scale)
    if found.any():
        draw_table(ax, table, explanation, bank, index, scale)
    if missing.any():
        draw_missing(ax, rest, explanation, bank, index, absent)
    draw_label(ax, 0, rest + 0.12, "\n".join(nothing), 9, va="top", linespacing=1.3, color=QUIET)
    return figure


def draw_evidence(ax: Axes, explanation: Explanation, index: int, scale: ColourScale) -> None:
    """The photo with the patches, numbered concepts and strongest relations of one class."""
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
    arrows = strongest_edges(explanation, index)
    for source, target, score in reversed(arrows):
        thickness = 1.2 + 2.6 * abs(score) / abs(arrows[0][2])
        draw_arrow(ax, places[source], places[target], 1.2 * radius, thickness, score, scale)
    for centre, concept in zip(true, found.tolist(), strict=True):
        if np.hypot(*(places[concept] - centre)) > radius:  # pushed away: a thread leads back to the patch
            ax.plot(*zip(centre, places[concept], strict=True), color=CASING, linewidth=1.0, zorder=4.5)
            ax.add_artist(Circle(centre, 0.2 * radius, facecolor="white", edgecolor=CASING, linewidth=0.8, zorder=4.6))
        draw_disc(ax, tuple(places[concept]), radius, str(concept + 1), float(scores[concept]), scale)


def draw_table(
    ax: Axes, top: float, explanation: Explanation, bank: ConceptBank, index: int, scale: ColourScale
) -> None:
    """One row per concept found: its patch here, a typical one, its contribution beside the measured effect."""
    left, room = 0.5 + 2 * SIDE, 0.42  # inches: where the bars begin, for a number beside a bar
    unit = (WIDTH - left - room * (1 + (scale.lowest < 0))) / (scale.effect - scale.lowest or 1.0)
    zero = left + room * (scale.lowest < 0) - scale.lowest * unit
    draw_label(ax, 0.36 + SIDE / 2, top + 0.22, "here", color=QUIET, ha="center")
    draw_label(ax, 0.42 + SIDE * 1.5, top + 0.22, "typical", color=QUIET, ha="center")
    draw_legend(ax, left, top + 0.22, ("contribution", "#9a9a9a", ""), ("measured", "white", HATCH))
    for row, k in enumerate(np.flatnonzero(explanation.detected[index]).tolist()):
        y, score = top + 0.4 + ROW * row, float(np.nan_to_num(explanation.node_scores[index, index, k]))
        middle, measured, colour = y + SIDE / 2, float(explanation.measured[index, k]), scale(score)
        name, bars = bank.name(index, k), middle
        ax.add_artist(Circle((0.17, middle), 0.14, facecolor=colour, edgecolor=CASING, gid=f"row {k + 1}"))
        draw_label(ax, 0.17, middle, str(k + 1), 10, weight="bold", ha="center", color=ink_on(colour))
        draw_thumbnail(ax, 0.36, y, SIDE, thumbnail(explanation.image, explanation.mask(index, k)))
        draw_thumbnail(ax, 0.42 + SIDE, y, SIDE, typical(bank, index, k))
        if name:  # on top of the bars
            draw_label(ax, left, y + 0.08, fit(name, WIDTH - left, 9), 9, gid=f"name {k + 1}")
            bars, y = middle + 0.08, y + 0.17
        draw_bar(ax, zero, bars - 0.14, score * unit, 0.2, colour, signed(score), size=9.5, weight="bold")
        if math.isfinite(measured):
            draw_bar(ax, zero, bars + 0.14, measured * unit, 0.2, "white", signed(measured), HATCH, size=9.5)
        else:
            draw_label(ax, min(zero + 0.04, WIDTH - 0.9), bars + 0.14, "not measured", 9.5)
        draw_box(ax, zero, y, 0, middle + SIDE / 2 - y, QUIET)


def missing_grid(bank: ConceptBank, index: int, missing: Sequence[int]) -> tuple[int, float]:
    """How many small patches go beside each other, and the height of such a row in inches: names need room."""
    named = any(bank.name(index, k) for k in missing)
    return (NAMED_LINE, SMALL + NAME) if named else (PER_LINE, SMALL)


def draw_missing(
    ax: Axes, top: float, explanation: Explanation, bank: ConceptBank, index: int, missing: Sequence[int]
) -> None:
    """The concepts of the class that were not found, as small typical patches; those that may be there are marked."""
    draw_label(ax, 0, top + 0.13, "Not found in this photo:", 9, color=QUIET)
    box = {"facecolor": "white", "edgecolor": QUIET, "linewidth": 0.6, "boxstyle": "round,pad=0.15"}
    per_line, row = missing_grid(bank, index, missing)
    for place, k in enumerate(missing):
        x, y = (place % per_line) * WIDTH / per_line, top + 0.28 + row * (place // per_line)
        maybe, name = explanation.perhaps[index, k], bank.name(index, k)
        frame = {"linewidth": 1.6, "linestyle": DASHED} if maybe else {}
        draw_thumbnail(ax, x, y, SMALL_SIDE, typical(bank, index, k), gid=f"missing {k + 1}", **frame)
        draw_label(ax, x + 0.09, y + 0.1, str(k + 1), 8.5, weight="bold", ha="center", color=QUIET, bbox=box)
        if maybe:
            draw_label(ax, x + SMALL_SIDE / 2, y + SMALL_SIDE - 0.08, "perhaps", 7, ha="center", bbox=box)
        if name:
            draw_label(ax, x, y + SMALL_SIDE + 0.09, fit(name, 0.95 * WIDTH / per_line, 7.5), 7.5)


def typical(bank: ConceptBank, index: int, concept: int) -> NDArray[np.uint8] | None:
    """The first exemplar of a concept, if it has one."""
    return bank.exemplars[index, concept, 0] if bank.present[index, concept] and bank.exemplars.shape[2] else None


def draw_thumbnail(ax: Axes, x: float, y: float, side: float, pixels: NDArray[np.uint8] | None, **frame: Any) -> None:
    """A framed square picture with its upper left corner at (x, y); a grey slot for None."""
    if pixels is not None:
        ax.add_artist(Pixels(pixels, (x, y, side, side)))
    draw_box(ax, x, y, side, side, EMPTY if pixels is None else "none", **frame)
