"""Figures of the diagnosis: causes in the confusion matrix (figure 8), and what speaks for each cause in one photo."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import ConfusionMatrixDisplay, confusion_matrix

from vrx.report.drawing import INK, QUIET
from vrx.structures import ConceptBank, Explanation
from vrx.studies.core.exemplars import sums
from vrx.studies.diagnosis.causes import ERROR_CAUSES
from vrx.studies.diagnosis.deletions import Deletions, strong
from vrx.studies.diagnosis.recommendation import Advice

COLOURS = dict(zip(ERROR_CAUSES, ("#d7301f", "#f0a500", "#1b9e50"), strict=True))
LETTERS = dict(zip(ERROR_CAUSES, "SFU", strict=True))  # readable without colour
PREDICTION, TRUE = (0.90, 0.33, 0.05), (0.13, 0.40, 0.67)  # regions that support either


def errors_figure(counts: NDArray[np.int64], advice: Sequence[Advice], names: Sequence[str]) -> Figure:
    """Figure 8: the confusion matrix ``[n (true), n (predicted)]`` with the causes of each pair's errors as marks."""
    n = len(names)
    figure = Figure(figsize=(2.2 + 1.1 * n, 1.6 + 1.0 * n), layout="constrained")
    ax = figure.add_subplot()
    most = np.where(np.eye(n, dtype=bool), 0, counts).max()
    _matrix(ax, counts, names, vmax=max(1.6 * most, 1))
    for one in advice:
        causes = sorted((c for c in ERROR_CAUSES if one.profile[c]), key=lambda c: -one.profile[c])
        for k, cause in enumerate(causes):
            x, y = one.predicted + 0.27 * (k - (len(causes) - 1) / 2), one.true + 0.3
            ax.scatter(x, y, s=130, color=COLOURS[cause], edgecolors="white", zorder=3)
            ax.text(x, y + 0.01, LETTERS[cause], ha="center", va="center", color="white", fontsize=7.5, zorder=4)
    for cause in ERROR_CAUSES:
        ax.scatter([], [], s=80, color=COLOURS[cause], label=f"{LETTERS[cause]}: {cause}")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def causes_figure(planted: Sequence[str], found: Sequence[str]) -> Figure:
    """Planted cause against found cause."""
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    ax = figure.add_subplot()
    _matrix(ax, confusion_matrix(planted, found, labels=ERROR_CAUSES), ERROR_CAUSES)
    ax.set(xlabel="found cause", ylabel="planted cause")
    return figure


def _matrix(ax: Axes, counts: NDArray[np.int64], names: Sequence[str], vmax: float | None = None) -> None:
    display = ConfusionMatrixDisplay(counts, display_labels=names)
    display.plot(ax=ax, cmap="Blues", colorbar=False, im_kw={"vmin": 0, "vmax": vmax}, values_format="d")
    ax.tick_params(axis="x", rotation=30)
    ax.set(xlabel="predicted class", ylabel="true class")


def error_figure(explanation: Explanation, found: Deletions, bank: ConceptBank) -> Figure:
    """One error: the photo, what supports either class in it, the concepts found of both, and their exemplars."""
    pixels, names = explanation.image, bank.class_names
    figure = Figure(figsize=(13.5, 3.4), layout="constrained")
    grid = figure.add_gridspec(2, 7, width_ratios=[2, 2, 2, 2, 1, 1, 1])
    photo, support, *concepts = (figure.add_subplot(grid[:, i]) for i in range(4))
    photo.imshow(pixels)
    photo.set_title(f"{names[found.true]}, predicted:\n{names[found.predicted]}", fontsize=10)
    support.imshow(pixels)
    for weights, colour in ((found.gains, PREDICTION), (-found.gains, TRUE)):
        shade = np.zeros((*found.regions.shape, 4))
        shade[strong(weights)[found.regions]] = (*colour, 0.55)
        support.imshow(shade)
    support.set_title("regions that support the prediction\n(orange), the true class (blue)", fontsize=9, color=QUIET)
    for line, (label, role) in enumerate(((found.true, "true"), (found.predicted, "predicted"))):
        _concepts(concepts[line], pixels, explanation, label, f"{role}: {names[label]}")
        _exemplars([figure.add_subplot(grid[line, 4 + i]) for i in range(3)], explanation, label, bank)
    for ax in figure.axes:
        ax.set_axis_off()
    return figure


def _concepts(ax: Axes, pixels: NDArray[np.uint8], explanation: Explanation, label: int, title: str) -> None:
    """Outlines of the concepts of a class that were found, with what each adds to the class' margin."""
    ax.imshow(pixels, alpha=0.75)
    for k in np.flatnonzero(explanation.detected[label]):
        score = explanation.node_scores[label, label, k]
        colour = "#2166ac" if score >= 0 else "#b2182b"
        ax.contour(explanation.mask(label, int(k)), [0.5], colors=[colour], linewidths=1.2)
        x, y = explanation.centroids[label, k] * (pixels.shape[1], pixels.shape[0])
        ax.text(x, y, f"{k + 1}: {score:+.1f}", fontsize=8, ha="center", color=INK,
                bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.8})  # fmt: skip
    nodes, relations = sums(explanation, label)
    ax.set_title(f"{title}\nconcepts {nodes:+.1f}, relations {relations:+.1f}", fontsize=10)


def _exemplars(axes: Sequence[Axes], explanation: Explanation, label: int, bank: ConceptBank) -> None:
    """Exemplars of the class' concept that speaks most for it here; of its first concept where none was found."""
    scores = np.where(explanation.detected[label], explanation.node_scores[label, label], -np.inf)
    concept = int(scores.argmax())
    score = f"{scores[concept]:+.1f}" if explanation.detected[label].any() else "not found"
    title = f"{bank.class_names[label]}'s concept {concept + 1} ({score})"
    for ax, pixels in zip(axes, bank.exemplars[label, concept], strict=False):
        ax.imshow(pixels)
    axes[1].set_title(title, fontsize=8.5, color=QUIET)
