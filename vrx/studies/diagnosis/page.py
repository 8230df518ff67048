"""Figures, tables and words of the diagnosis' page: causes in the confusion matrix, and what speaks for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vrx.report.drawing import INK, QUIET
from vrx.structures import ConceptBank, Explanation
from vrx.studies.core.statistics import Share
from vrx.studies.diagnosis.interventions import Interventions, strong
from vrx.studies.diagnosis.planting import CAUSES, FALSE_ALARM, SHARED, UNSEEN
from vrx.studies.diagnosis.recommendation import Advice

Row = Mapping[str, Any]

COLOURS = dict(zip(CAUSES, ("#d7301f", "#f0a500", "#1b9e50"), strict=True))
LETTERS = dict(zip(CAUSES, "SFU", strict=True))  # readable without colour
HOLDS, OWN = (0.90, 0.33, 0.05), (0.13, 0.40, 0.67)  # what holds F's answer, and what holds the true class
JUDGES = (
    ("diagnosis", "found"), ("fixed rule", "rule"), ("Grad-CAM overlap", "gradcam"), ("most frequent", "majority"),
)  # fmt: skip


def quality_table(tested: Sequence[Row]) -> list[dict[str, Any]]:
    """Accuracy of the diagnosis and the baselines, overall and by planted cause."""
    table = []
    for name, own in [("all", list(tested)), *((c, [r for r in tested if r["cause"] == c]) for c in CAUSES)]:
        row: dict[str, Any] = {"planted": name, "errors": len(own)}
        for title, answer in JUDGES:
            row[title] = str(Share(sum(r[answer] == r["cause"] for r in own), len(own)))
        table.append(row)
    return table


def _between(tested: Sequence[Row]) -> Share:
    both = [r for r in tested if r["cause"] in (SHARED, FALSE_ALARM)]
    return Share(sum(r["of the pasted"] == r["cause"] for r in both), len(both))


def trust(tested: Sequence[Row]) -> str:
    """How far the causes of the real errors can be relied on, for the top of the page."""
    if not tested:
        return "No cause was planted into these photos: the causes come from the fixed rule and were not verified."
    start = "The causes come from a model that was fitted on planted errors."
    if _between(tested).metrics("right")["right_low"] > 0.5:
        return start
    return (
        f"{start} On those it tells shared from false alarm no better than chance: do not act on which of the two is "
        "named, only on whether it is unseen."
    )


def told_apart(tested: Sequence[Row]) -> str:
    """How well shared and false alarm are told apart when unseen is ruled out, and what knowing only that would give.

    The two are planted by the same means, unseen by another; the gap to the second number is what the diagnosis knows
    beyond the means.
    """
    right = _between(tested)
    counts = {cause: sum(r["cause"] == cause for r in tested) for cause in CAUSES}
    means = Share(counts[UNSEEN] + max(counts[SHARED], counts[FALSE_ALARM]), len(tested))
    return (
        f"Between shared and false alarm alone, which are planted by the same means, it is right in {right}. A model "
        f"that saw only by which means an error was planted would be right in {means} of all."
    )


def table_row(row: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """One error as a row of the result table."""
    plain = {"photo": row["photo"], "true": names[row["true"]], "predicted": names[row["predicted"]]}
    return {
        **plain,
        "probability": row["probability"],
        "detected": row["detected"],
        "cause": row["cause"],
        **row["evidence"],
    }


def lead(rows: Sequence[Row], advice: Sequence[Advice], metrics: Mapping[str, float]) -> str:
    """The answer in a sentence or two."""
    start = f"F makes {len(rows)} errors on these photos." if rows else "F makes no error on these photos."
    best = f" {advice[0].text}" if advice else ""
    if "cause/accuracy" not in metrics:
        return start + best
    low, high = metrics["cause/accuracy_low"], metrics["cause/accuracy_high"]
    return (
        f"{start}{best} On planted errors the diagnosis names the right cause in {metrics['cause/accuracy']:.0%} "
        f"({low:.0%} to {high:.0%}); Grad-CAM overlap {metrics['cause/accuracy_gradcam']:.0%}, "
        f"the most frequent cause {metrics['cause/accuracy_majority']:.0%}."
    )


def errors_figure(counts: np.ndarray, advice: Sequence[Advice], names: Sequence[str]) -> Figure:
    """Figure 8: the confusion matrix with the causes of each pair's errors as marks."""
    n = len(names)
    figure = Figure(figsize=(2.2 + 1.1 * n, 1.6 + 1.0 * n), layout="constrained")
    ax = figure.add_subplot()
    off = np.where(np.eye(n, dtype=bool), 0, counts)
    ax.imshow(off, cmap="Blues", vmin=0, vmax=max(1.6 * off.max(), 1))
    for i in range(n):
        for j in range(n):
            ax.text(j, i - 0.12, str(int(counts[i, j])), ha="center", va="center", color=INK, fontsize=11)
    for one in advice:
        causes = sorted((c for c in CAUSES if one.profile[c]), key=lambda c: -one.profile[c])
        for k, cause in enumerate(causes):
            x = one.predicted + 0.27 * (k - (len(causes) - 1) / 2)
            ax.scatter(x, one.true + 0.27, s=130, color=COLOURS[cause], edgecolors="white", zorder=3)
            ax.text(x, one.true + 0.28, LETTERS[cause], ha="center", va="center", color="white", fontsize=7.5, zorder=4)
    ax.set_xticks(range(n), names, rotation=30, ha="right")
    ax.set_yticks(range(n), names)
    ax.set(xlabel="F's answer", ylabel="true class")
    for cause in CAUSES:
        ax.scatter([], [], s=80, color=COLOURS[cause], label=f"{LETTERS[cause]}: {cause}")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def error_figure(
    pixels: NDArray[np.uint8], view: Explanation, asked: Interventions, row: Row, bank: ConceptBank
) -> Figure:
    """One error: the photo, what holds F's answer in it, the concepts found of both classes, and their exemplars.

    Args:
        pixels: of the photo, ``[H, W, 3]``.
        view: of the photo.
        asked: F's answers to the edited photo.
        row: the error, with ``true`` and ``predicted``.
        bank: whose exemplars are shown.
    """
    true, predicted, names = int(row["true"]), int(row["predicted"]), bank.class_names
    figure = Figure(figsize=(13.5, 3.4), layout="constrained")
    grid = figure.add_gridspec(2, 7, width_ratios=[2, 2, 2, 2, 1, 1, 1])
    photo, held, *found = (figure.add_subplot(grid[:, i]) for i in range(4))
    photo.imshow(pixels)
    photo.set_title(f"{names[true]}, F's answer:\n{names[predicted]}", fontsize=10)
    gains = asked.gains(true, predicted)
    held.imshow(pixels)
    for weights, colour in ((gains, HOLDS), (-gains, OWN)):
        shade = np.zeros((*asked.regions.shape, 4))
        shade[strong(weights)[asked.regions]] = (*colour, 0.55)
        held.imshow(shade)
    held.set_title("edited away, F leaves its answer (orange)\nor the true class (blue)", fontsize=9, color=QUIET)
    for ax, label, role in zip(found, (true, predicted), ("true", "F's answer"), strict=True):
        _concepts(ax, pixels, view, label, f"{role}: {names[label]}")
    for line, label in enumerate((true, predicted)):
        _exemplars(figure, grid, line, view, label, bank)
    for ax in figure.axes:
        ax.set_axis_off()
    return figure


def _concepts(ax: Axes, pixels: NDArray[np.uint8], view: Explanation, label: int, title: str) -> None:
    """Outlines of the concepts of a class that were found, with what each adds to the class' margin."""
    ax.imshow(pixels, alpha=0.75)
    for k in np.flatnonzero(view.detected[label]):
        score = view.node_scores[label, label, k]
        ax.contour(view.mask(label, int(k)), [0.5], colors=["#2166ac" if score >= 0 else "#b2182b"], linewidths=1.2)
        x, y = view.centroids[label, k] * (pixels.shape[1], pixels.shape[0])
        ax.text(x, y, f"{k + 1}: {score:+.1f}", fontsize=8, ha="center", color=INK,
                bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.8})  # fmt: skip
    nodes, links = view.node_scores[label, label].sum(), view.edge_scores[label, label].sum()
    ax.set_title(f"{title}\nconcepts {nodes:+.1f}, relations {links:+.1f}", fontsize=10)


def _exemplars(figure: Figure, grid: Any, line: int, view: Explanation, label: int, bank: ConceptBank) -> None:
    """Three exemplars of the class' concept that speaks most for it here; of its first concept where none was found."""
    scores = np.where(view.detected[label], view.node_scores[label, label], -np.inf)
    concept = int(scores.argmax()) if view.detected[label].any() else 0
    said = f"{scores[concept]:+.1f}" if view.detected[label].any() else "not found"
    for i, pixels in enumerate(bank.exemplars[label, concept][:3]):
        ax = figure.add_subplot(grid[line, 4 + i])
        ax.imshow(pixels)
        if i == 1:
            ax.set_title(f"{bank.class_names[label]}'s concept {concept + 1} ({said})", fontsize=8.5, color=QUIET)
