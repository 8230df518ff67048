"""Charts of numbers that reports and studies share: bars with intervals, a scatter of effects."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from vrx.report.drawing import CASING, DPI, QUIET, SCALE
from vrx.scores import rank_agreement

OURS, OTHERS = "#2166ac", "#b5b5b5"


@dataclass(frozen=True)
class Kind:
    """What a scatter of expected against measured effects is of, in words: title, what is counted, both axes."""

    title: str
    things: str
    expected: str
    measured: str


CONCEPTS = Kind(
    "Contribution against measured effect",
    "concepts",
    "contribution by the graph network (logits)",
    "measured fall of the classifier's margin",
)
RELATIONS = Kind(
    "Relations: expected against measured",
    "pairs",
    "interaction by the graph network (logits)",
    "measured interaction",
)
MISSING = Kind(
    "What is missing: expected against measured",
    "changes",
    "gain that the graph network expects",
    "measured gain of the classifier's margin",
)


def open_chart(width: float, height: float, title: str, note: str) -> tuple[Figure, Any]:
    """An empty chart of that many inches, with its title and, smaller, what it shows: the figure and its axes."""
    figure = Figure((width, height), DPI, layout="constrained", facecolor="white")
    ax = figure.subplots()
    ax.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, x=0.02, ha="left", fontsize=12, fontweight="bold", parse_math=False)
    ax.set_title(note, loc="left", fontsize=9, color=QUIET, parse_math=False)
    return figure, ax


def bar_figure(
    values: Mapping[str, float],
    title: str,
    note: str,
    line: tuple[str, float] | None = None,
    intervals: Mapping[str, tuple[float, float]] | None = None,
    ours: int = 1,
) -> Figure:
    """Horizontal bars with their values, the first ones ours.

    Args:
        values: label -> value, in order.
        title: of the chart.
        note: what the values are.
        line: a dashed line across all bars: its label and value.
        intervals: label -> (low, high); drawn as whiskers where given.
        ours: how many of them are ours.
    """
    figure, ax = open_chart(6.4, 1.15 + 0.36 * len(values), title, note)
    labels, lengths = list(values), np.array(list(values.values()), float)
    colours = [OURS] * ours + [OTHERS] * (len(labels) - ours)
    errors = None
    if intervals is not None:
        bounds = [intervals.get(label, (value, value)) for label, value in values.items()]
        errors = np.abs(np.array(bounds).T - lengths)
    bars = ax.barh(labels, lengths, 0.64, xerr=errors, color=colours, capsize=3, ecolor=CASING)
    texts = ax.bar_label(
        bars,
        [f"{v:.2f}".replace("-", "−") for v in lengths],
        padding=4,
        fontsize=10,
        bbox={"fc": "white", "ec": "none", "pad": 0.5},
    )
    for text in [*texts[:ours], *ax.get_yticklabels()[:ours]]:
        text.set_fontweight("bold")
    ax.axvline(0, color=CASING, linewidth=0.8)
    ax.margins(x=0.2)
    ax.invert_yaxis()
    ax.spines[["left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    if line is not None and math.isfinite(line[1]):
        ax.axvline(line[1], color=CASING, linewidth=1.4, linestyle=(0, (4, 2)))
        at = ax.get_xaxis_transform()
        ax.text(line[1], 0.02, f"{line[0]} {line[1]:.2f} ", transform=at, ha="right", va="bottom", fontsize=9)
    return figure


def scatter_figure(contributions: ArrayLike, measured: ArrayLike, kind: Kind = CONCEPTS) -> Figure:
    """What the graph network expects against what was measured; pairs that are not finite are left out.

    Args:
        contributions: in logits, ``[M]``.
        measured: on the classifier, ``[M]``.
        kind: what they are of.
    """
    x, y = np.asarray(contributions, float), np.asarray(measured, float)
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    note, rank = f"{len(x)} {kind.things}", rank_agreement(x, y)
    note += f", same sign {(np.sign(x) == np.sign(y)).mean():.0%}" if len(x) else ""
    note += f", Spearman over all {rank:.2f}".replace("-", "−") if math.isfinite(rank) else ""
    figure, ax = open_chart(4.9, 4.9, kind.title, note)
    wide, high = (1.08 * float(np.abs(v).max(initial=0)) or 1.0 for v in (x, y))
    ax.set(xlim=(-wide, wide), ylim=(-high, high))
    for low, left in ((-high, -wide), (0, 0)):  # the same sign
        ax.fill_between([left, left + wide], low, low + high, color="#f1f1f1", zorder=0)
    ax.axhline(0, color=QUIET, linewidth=0.7)
    ax.axvline(0, color=QUIET, linewidth=0.7)
    ax.scatter(x, y, s=26, c=x, cmap=SCALE, vmin=-wide, vmax=wide, edgecolors=CASING, linewidths=0.6, zorder=3)
    ax.set(xlabel=kind.expected, ylabel=kind.measured)
    return figure
