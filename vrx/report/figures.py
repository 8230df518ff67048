"""Pictures of explanations, concepts and runs; drawn with matplotlib's objects, no global state."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from scipy.stats import spearmanr

from vrx.report import panels
from vrx.report.drawing import CASING, EMPTY, INK, QUIET, SCALE, ColourScale, Sheet, shorten
from vrx.report.findings import BASELINE_LABELS
from vrx.report.panels import COLUMN, PANEL
from vrx.report.words import sentence, shown_classes, signed, trust_line
from vrx.structures import ConceptBank, Explanation

MARGIN, GAP = 0.3, 0.4  # inches
SIGNIFICANT = 0.05


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


@dataclass(frozen=True)
class Layout:
    """Where the parts of an explanation's picture lie, in inches from the top left corner.

    Args:
        shown: the classes of the panels.
        said: the sentence, in lines.
        level: of trust.
        reasons: for it, in lines.
        top: where the photo's column and the panels begin.
        size: width and height of the picture.
    """

    shown: tuple[int, ...]
    said: tuple[str, ...]
    level: str
    reasons: tuple[str, ...]
    top: float
    size: tuple[float, float]

    @classmethod
    def of(cls, explanation: Explanation, classes: Sequence[int] | None = None) -> Layout:
        shown = shown_classes(explanation) if classes is None else list(classes)
        width = 2 * MARGIN + COLUMN + len(shown) * (GAP + PANEL)
        said = textwrap.wrap(sentence(explanation, shown), int(width * 10.2))
        level, _, why = trust_line(explanation).partition(". ")
        reasons = textwrap.wrap(why, int((width - 1.6) * 11.6))
        top = MARGIN + 0.25 * len(said) + 0.22 * len(reasons) + 0.35
        tallest = max(panels.summary_height(explanation), panels.panel_height(explanation))
        return cls(tuple(shown), tuple(said), level, tuple(reasons), top, (width, top + tallest + MARGIN))

    def left(self, place: int) -> float:
        """Left edge of the panel at ``place``; -1 is the photo's column."""
        return MARGIN if place < 0 else MARGIN + COLUMN + GAP + place * (PANEL + GAP)

    def cells(self) -> list[tuple[float, float, float, float]]:
        """Left, top, right and bottom of the photo's column and of every panel, with a little air."""
        edge = 0.1
        widths = [(self.left(-1), COLUMN), *((self.left(place), PANEL) for place in range(len(self.shown)))]
        return [(x - edge, self.top - edge, x + width + edge, self.size[1] - MARGIN + edge) for x, width in widths]


def explanation_figure(explanation: Explanation, bank: ConceptBank, classes: Sequence[int] | None = None) -> Figure:
    """The whole explanation of one photo: in words, what F and the GRN say, one panel a class.

    Args:
        explanation: of one photo.
        bank: the concepts that it speaks of.
        classes: the classes of the panels; by default the predicted one, F's next two and the true one.
    """
    layout = Layout.of(explanation, classes)
    scale = ColourScale.of(explanation, layout.shown)
    figure = _figure(*layout.size)
    sheet = Sheet(figure, MARGIN, MARGIN)
    sheet.text(0, 0, "\n".join(layout.said), 13, va="top", linespacing=1.25)
    below = 0.25 * len(layout.said) + 0.07
    sheet.text(0, below, layout.level, 11, va="top", weight="bold")
    sheet.text(1.35, below, "\n".join(layout.reasons), 11, va="top", linespacing=1.3, color=QUIET)
    panels.draw_summary(Sheet(figure, layout.left(-1), layout.top), explanation, scale)
    for place, index in enumerate(layout.shown):
        panels.draw_panel(Sheet(figure, layout.left(place), layout.top), explanation, bank, index, scale)
    return figure


def concept_note(bank: ConceptBank, index: int, concept: int) -> tuple[str, str]:
    """What the bank measured of a concept: its importance, and whether it is above random patches."""
    if not bank.present[index, concept]:
        return "no such concept", ""
    p = float(bank.p_value[index, concept])
    if not math.isfinite(p):
        return f"importance {signed(float(bank.importance[index, concept]))}", "p not measured"
    value = "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"
    note = value if p < SIGNIFICANT else f"{value}: not significant"
    return f"importance {signed(float(bank.importance[index, concept]))}", note


def gallery_figure(bank: ConceptBank, class_index: int) -> Figure:
    """The concepts of a class, one a row: typical patches, importance and p-value against random patches."""
    count, shown = bank.num_concepts, bank.exemplars.shape[2]
    side, gap, left = 1.05, 0.08, 2.35
    width = 2 * MARGIN + left + max(shown, 3) * (side + gap)
    figure = _figure(width, 2 * MARGIN + 0.7 + count * (side + 0.14))
    sheet = Sheet(figure, MARGIN, MARGIN)
    name = shorten(bank.class_names[class_index], 40)
    sheet.text(0, 0.1, f"Concepts of {name}", 14, weight="bold")
    sheet.text(0, 0.38, "importance: fall of F's log-odds when the patches are edited away", 8.5, color=QUIET)
    for concept in range(count):
        row = sheet.at(0, 0.7 + concept * (side + 0.14))
        importance, note = concept_note(bank, class_index, concept)
        present = bool(bank.present[class_index, concept])
        row.text(0, side / 2, str(concept + 1), 20, weight="bold", color=INK if present else QUIET)
        row.text(0.4, side / 2 - 0.12, importance, 10.5)
        bold = "bold" if note.endswith("not significant") else "normal"
        row.text(0.4, side / 2 + 0.12, note, 9, color="#8a1c1c" if bold == "bold" else QUIET, weight=bold)
        for e in range(shown):
            ax = row.axes(left + e * (side + gap), 0, side, side, frame=True)
            if present and _has_exemplar(bank, class_index, concept, e):
                ax.imshow(bank.exemplars[class_index, concept, e], interpolation="bicubic")
            else:
                ax.patch.set(visible=True, facecolor=EMPTY)
    return figure


def _has_exemplar(bank: ConceptBank, index: int, concept: int, exemplar: int) -> bool:
    return not bank.exemplar_paths or bool(bank.exemplar_paths[index][concept][exemplar])


def scatter_figure(contributions: Sequence[float], measured: Sequence[float]) -> Figure:
    """Contribution of every concept against its measured effect; pairs that are not finite are left out.

    Args:
        contributions: in logits, ``[M]``.
        measured: fall of F's margin, ``[M]``.
    """
    x, y = np.asarray(contributions, float), np.asarray(measured, float)
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    side, left, top = 3.6, 0.75, 0.75
    figure = _figure(left + side + 0.3, top + side + 0.75)
    sheet = Sheet(figure)
    same = float((np.sign(x) == np.sign(y)).mean()) if len(x) else math.nan
    ranked = float(spearmanr(x, y).statistic) if len(x) > 2 and np.ptp(x) > 0 and np.ptp(y) > 0 else math.nan
    sheet.text(0.1, 0.2, "Contribution against measured effect", 12, weight="bold")
    found = [f"{len(x)} concepts"]
    found += [f"same sign {same:.0%}"] if math.isfinite(same) else []
    found += [f"Spearman over all {ranked:.2f}".replace("-", "−")] if math.isfinite(ranked) else []
    sheet.text(0.1, 0.46, ", ".join(found), 9, color=QUIET)
    ax = sheet.axes(left, top, side, side, frame=True)
    wide, high = (1.08 * float(np.abs(v).max(initial=0)) or 1.0 for v in (x, y))
    ax.set(xlim=(-wide, wide), ylim=(-high, high))
    for corner in ((-wide, -high), (0, 0)):  # the same sign
        ax.add_patch(Rectangle(corner, wide, high, facecolor="#f1f1f1", edgecolor="none", zorder=0))
    ax.axhline(0, color=QUIET, linewidth=0.7)
    ax.axvline(0, color=QUIET, linewidth=0.7)
    ax.scatter(x, y, s=26, c=x, cmap=SCALE, vmin=-wide, vmax=wide, edgecolors=CASING, linewidths=0.6, zorder=3)
    for share, align in ((0.0, "left"), (0.5, "center"), (1.0, "right")):
        sheet.text(left + share * side, top + side + 0.14, signed((2 * share - 1) * wide), 8.5, ha=align)
        vertical = {0.0: "bottom", 0.5: "center", 1.0: "top"}[share]
        sheet.text(left - 0.08, top + (1 - share) * side, signed((2 * share - 1) * high), 8.5, ha="right", va=vertical)
    sheet.text(left + side / 2, top + side + 0.42, "contribution by the graph network (logits)", 9.5, ha="center")
    sheet.text(0.18, top + side / 2, "measured fall of F's margin", 9.5, ha="center", rotation=90)
    return figure


def confusion_figure(counts: NDArray[Any], class_names: Sequence[str], rows: str = "F", columns: str = "GRN") -> Figure:
    """How often the columns' answer goes with the rows'.

    Args:
        counts: ``[n, n]``.
        class_names: the n classes.
        rows: what the rows are.
        columns: what the columns are.
    """
    n = len(class_names)
    cell, left, top = 0.62, 1.7, 0.85
    figure = _figure(2 * MARGIN + left + n * cell, MARGIN + top + n * cell + 0.95)
    sheet = Sheet(figure, MARGIN, MARGIN)
    sheet.text(0, 0.1, f"{rows} (rows) against {columns} (columns)", 12, weight="bold")
    table = np.nan_to_num(np.asarray(counts, float))
    shares = table / np.maximum(table.sum(1, keepdims=True), 1e-9)
    agree = np.trace(table) / max(table.sum(), 1e-9)
    sheet.text(0, 0.4, f"the same answer for {agree:.1%} of {table.sum():.0f}", 9, color=QUIET)
    ax = sheet.axes(left, top, n * cell, n * cell, frame=True)
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1, extent=(0, n, n, 0))
    for i, name in enumerate(class_names):
        sheet.text(left - 0.1, top + (i + 0.5) * cell, shorten(name, 20), 9, ha="right")
        place = left + (i + 0.5) * cell, top + n * cell + 0.08
        sheet.text(*place, shorten(name, 14), 9, rotation=35, ha="right", va="top", rotation_mode="anchor")
        for j in range(n):
            colour = "white" if shares[i, j] > 0.55 else INK
            ax.text(j + 0.5, i + 0.5, f"{table[i, j]:.0f}", ha="center", va="center", fontsize=10, color=colour)
    return figure


def faithfulness_figure(metrics: Mapping[str, float]) -> Figure | None:
    """Mean Spearman of the contributions beside the baselines on the same patches, with the ceiling as a line.

    Args:
        metrics: of a run; entries that are missing or not finite are left out.

    Returns:
        None when the run measured no faithfulness.
    """
    values = {label: metrics.get(f"faithfulness/{name}", math.nan) for name, label in BASELINE_LABELS.items()}
    bars = [(label, value) for label, value in values.items() if math.isfinite(value)]
    if not bars or bars[0][0] != BASELINE_LABELS["spearman"]:
        return None
    bars = [bars[0], *sorted(bars[1:], key=lambda bar: -bar[1])]
    ceiling = metrics.get("faithfulness/ceiling", math.nan)
    left, width, row = 1.75, 4.4, 0.34
    height = len(bars) * row
    figure = _figure(left + width + 0.5, height + 0.95)
    sheet = Sheet(figure, 0.1, 0.45)
    low = min(0.0, *(v for _, v in bars)) * 1.25
    high = max([v for _, v in bars] + [ceiling if math.isfinite(ceiling) else 0, 0.05]) * 1.15
    ax = sheet.axes(left, 0, width, height)
    ax.set(xlim=(low - (0.08 if low < 0 else 0), high), ylim=(len(bars), 0))
    for place, (label, value) in enumerate(bars):
        ours = place == 0
        sheet.text(left - 0.1, (place + 0.5) * row, label, 10, ha="right", weight="bold" if ours else "normal")
        ax.add_patch(Rectangle((0, place + 0.18), value, 0.64, facecolor="#2166ac" if ours else "#b5b5b5"))
        style: dict[str, Any] = {"ha": "left" if value >= 0 else "right", "va": "center_baseline", "fontsize": 10}
        style |= {"bbox": {"facecolor": "white", "edgecolor": "none", "pad": 0.6}}
        gap = math.copysign(0.012 * (high - low), value)
        style["weight"] = "bold" if ours else "normal"
        ax.text(value + gap, place + 0.5, f"{value:.2f}".replace("-", "−"), **style)
    ax.axvline(0, color=CASING, linewidth=0.8)
    if math.isfinite(ceiling):
        ax.axvline(ceiling, color=CASING, linewidth=1.4, linestyle=(0, (4, 2)))
        share = (ceiling - ax.get_xlim()[0]) / np.ptp(ax.get_xlim())
        sheet.text(left + share * width, -0.18, f"ceiling {ceiling:.2f}", 9.5, ha="center", color=INK)
    sheet.text(left, height + 0.22, "mean rank agreement (Spearman) with the measured effects", 9, color=QUIET)
    return figure
