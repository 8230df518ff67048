"""What stands below the photo in the figure of a class: its concepts, their relations, and what was not found."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Circle
from numpy.typing import NDArray

from vrx.bank import ConceptBank
from vrx.explanation import Explanation
from vrx.reasons import gains_if_there, players_of, shown_relations
from vrx.report.drawing import (
    CASING,
    EMPTY,
    QUIET,
    WIDTH,
    ColourScale,
    Pixels,
    Section,
    draw_bar,
    draw_box,
    draw_label,
    draw_legend,
    draw_relation,
    fit,
    ink_on,
)
from vrx.report.phrases import relation_ends, relation_kind, signed
from vrx.report.words import NO_RELATIONS
from vrx.thumbnails import thumbnail

ROW, RELATION, SMALL = 0.78, 0.46, 0.66  # heights in inches: of a concept, of a relation, of one that was not found
SIDE, SMALL_SIDE, PER_LINE = 0.7, 0.52, 6  # thumbnails, in inches
BELOW_LINE, BELOW = 4, 0.14  # thumbnails a line where words stand below some; inches for a line of those
BARS = 0.5 + 2 * SIDE  # inches: where the bars begin
DASHED = (0, (2.5, 1.5))  # frame of a concept that may be there
HATCH = "//////"  # of measured effects


def concept_rows(explanation: Explanation, bank: ConceptBank, index: int, scale: ColourScale) -> Section | None:
    """One row per concept found: its patch here, a typical one, its contribution beside the measured effect."""
    found = np.flatnonzero(explanation.detected[index]).tolist()
    if not found:
        return None

    def draw(ax: Axes, top: float) -> None:
        draw_label(ax, 0.36 + SIDE / 2, top + 0.22, "here", color=QUIET, ha="center")
        draw_label(ax, 0.42 + SIDE * 1.5, top + 0.22, "typical", color=QUIET, ha="center")
        draw_legend(ax, BARS, top + 0.22, ("contribution", "#9a9a9a", ""), ("measured", "white", HATCH))
        for row, k in enumerate(found):
            y, score = top + 0.4 + ROW * row, float(np.nan_to_num(explanation.node_scores[index, index, k]))
            middle, colour, name = y + SIDE / 2, scale(score), bank.name(index, k)
            ax.add_artist(Circle((0.17, middle), 0.14, facecolor=colour, edgecolor=CASING, gid=f"row {k + 1}"))
            draw_label(ax, 0.17, middle, str(k + 1), 10, weight="bold", ha="center", color=ink_on(colour))
            draw_thumbnail(ax, 0.36, y, SIDE, thumbnail(explanation.image, explanation.mask(index, k)))
            draw_thumbnail(ax, 0.42 + SIDE, y, SIDE, typical(bank, index, k))
            if name:  # on top of the bars
                draw_label(ax, BARS, y + 0.08, fit(name, WIDTH - BARS, 9), 9, gid=f"name {k + 1}")
            box = (y + 0.17, SIDE - 0.17) if name else (y, SIDE)
            draw_pair(ax, box, score, float(explanation.measured[index, k]), scale, 0.2)

    return 0.4 + ROW * len(found), draw


def _bars(scale: ColourScale) -> tuple[float, float]:
    """Where the bars have their zero, and inches a logit: numbers have room beside them."""
    room = 0.42
    unit = (WIDTH - BARS - room * (1 + (scale.lowest < 0))) / (scale.effect - scale.lowest or 1.0)
    return BARS + room * (scale.lowest < 0) - scale.lowest * unit, unit


def draw_pair(
    ax: Axes, box: tuple[float, float], score: float, measured: float, scale: ColourScale, thick: float
) -> None:
    """A contribution above its measured effect (NaN: not measured), as bars from one zero; all sizes in inches."""
    (zero, unit), (y, height) = _bars(scale), box
    middle, size = y + height / 2, 9.5 if thick >= 0.2 else 8.5
    apart, colour = 0.7 * thick, scale(score)
    draw_bar(ax, zero, middle - apart, score * unit, thick, colour, signed(score), size=size, weight="bold")
    if math.isfinite(measured):
        draw_bar(ax, zero, middle + apart, measured * unit, thick, "white", signed(measured), HATCH, size=size)
    else:
        draw_label(ax, min(zero + 0.04, WIDTH - 0.9), middle + apart, "not measured", size)
    draw_box(ax, zero, y, 0, height, QUIET)


def relation_rows(explanation: Explanation, index: int, scale: ColourScale) -> Section | None:
    """One row per relation shown: what it is, its contribution beside what was measured; a line where none matters."""
    found = shown_relations(explanation, index)

    def draw(ax: Axes, top: float) -> None:
        if not found:
            draw_label(ax, 0, top + 0.15, f"{NO_RELATIONS}.", 9, color=QUIET)
            return
        draw_label(ax, 0, top + 0.17, "Relations between them:", 9, color=QUIET)
        for row, relation in enumerate(found):
            y = top + 0.32 + RELATION * row
            middle = y + RELATION / 2
            kind, score = relation.arranged, relation.predicted
            draw_relation(ax, (0, middle), (0.32, middle), 0.02, 2.2, score, scale, kind, 0.25 * kind)
            ends = fit(relation_ends(explanation, index, relation), BARS - 0.5, 9, "bold")
            draw_label(ax, 0.42, middle - 0.09, ends, 9, weight="bold", gid="relation")
            draw_label(ax, 0.42, middle + 0.09, relation_kind(relation), 8.5)
            draw_pair(ax, (y + 0.03, RELATION - 0.06), relation.predicted, relation.measured, scale, 0.15)

    if found or len(players_of(explanation, index)) > 1:
        return 0.34 + RELATION * len(found) if found else 0.3, draw
    return None


def missing_rows(explanation: Explanation, bank: ConceptBank, index: int) -> Section | None:
    """The concepts of the class that were not found, as small typical patches, and what each would gain.

    Those that may be there are marked; a gain that is clear of the noise is bold.
    """
    missing = np.flatnonzero(bank.present[index] & ~explanation.detected[index]).tolist()
    if not missing:
        return None
    gains, named = gains_if_there(explanation, index), any(bank.name(index, k) for k in missing)
    below = named + any(k in gains for k in missing)
    per_line, row = BELOW_LINE if below else PER_LINE, SMALL + BELOW * below

    def draw(ax: Axes, top: float) -> None:
        draw_label(ax, 0, top + 0.13, "Not found in this photo:", 9, color=QUIET)
        box = {"facecolor": "white", "edgecolor": QUIET, "linewidth": 0.6, "boxstyle": "round,pad=0.15"}
        for place, k in enumerate(missing):
            x, y = (place % per_line) * WIDTH / per_line, top + 0.28 + row * (place // per_line)
            maybe = explanation.perhaps[index, k]
            frame = {"linewidth": 1.6, "linestyle": DASHED} if maybe else {}
            draw_thumbnail(ax, x, y, SMALL_SIDE, typical(bank, index, k), gid=f"missing {k + 1}", **frame)
            draw_label(ax, x + 0.09, y + 0.1, str(k + 1), 8.5, weight="bold", ha="center", color=QUIET, bbox=box)
            if maybe:
                draw_label(ax, x + SMALL_SIDE / 2, y + SMALL_SIDE - 0.08, "perhaps", 7, ha="center", bbox=box)
            draw_label(ax, x, y + SMALL_SIDE + 0.09, fit(bank.name(index, k), 0.95 * WIDTH / per_line, 7.5), 7.5)
            if k in gains:
                gain, clear = gains[k]
                style = {"weight": "bold"} if clear else {"color": QUIET}
                draw_label(ax, x, y + SMALL_SIDE + 0.09 + BELOW * named, f"{signed(gain)} if there", 7.5, **style)

    return 0.3 + row * math.ceil(len(missing) / per_line), draw


def typical(bank: ConceptBank, index: int, concept: int) -> NDArray[np.uint8] | None:
    """The first exemplar of a concept, if it has one."""
    return bank.exemplars[index, concept, 0] if bank.present[index, concept] and bank.exemplars.shape[2] else None


def draw_thumbnail(ax: Axes, x: float, y: float, side: float, pixels: NDArray[np.uint8] | None, **frame: Any) -> None:
    """A framed square picture with its upper left corner at (x, y); a grey slot for None."""
    if pixels is not None:
        ax.add_artist(Pixels(pixels, (x, y, side, side)))
    draw_box(ax, x, y, side, side, EMPTY if pixels is None else "none", **frame)
