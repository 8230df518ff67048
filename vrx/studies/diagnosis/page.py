"""The page of the diagnosis: errors and their causes, how good the diagnosis is, advice and examples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import ConfusionMatrixDisplay, confusion_matrix

from vrx.data.images import Photo
from vrx.report.figures import explanation_figures, sheet
from vrx.report.html import draw
from vrx.studies.core.context import StudyContext
from vrx.studies.core.page import Picture, Section, write_page
from vrx.studies.core.statistics import Share, mcnemar
from vrx.studies.diagnosis.causes import ERROR_CAUSES, FALSE_ALARM, SHARED, UNSEEN
from vrx.studies.diagnosis.recommendation import Advice

Row = Mapping[str, Any]

COLOURS = dict(zip(ERROR_CAUSES, ("#d7301f", "#f0a500", "#1b9e50"), strict=True))
LETTERS = dict(zip(ERROR_CAUSES, "SFU", strict=True))  # readable without colour
JUDGES = {"found": "diagnosis", "rule": "fixed rule", "gradcam": "Grad-CAM overlap", "classes": "the two classes alone"}
MARKS = (
    "Confusion matrix of the classifier; the marks name the causes found among the errors of a pair (S: shared "
    "concepts, F: false alarm, U: unseen structure or viewpoint), the most frequent one first."
)


@dataclass(frozen=True)
class Found:
    """What the study found."""

    counts: NDArray[np.int64]  # confusion matrix [n (true), n (predicted)]
    rows: Sequence[Row]  # the errors
    advice: Sequence[Advice]  # on each confused pair
    tested: Sequence[Row]  # planted errors, with the cause that each of JUDGES names
    method: str  # how they were planted, in words


def write_diagnosis(context: StudyContext, found: Found, metrics: Mapping[str, float], examples: int) -> None:
    """Write ``index.html``."""
    names, tested = context.source.class_names, found.tested
    matrix = Picture(errors_figure(found.counts, found.advice, names), MARKS)
    sections = [Section("Errors and their causes", [trust(tested)], [], [matrix])]
    if found.advice:
        table = [{"true": names[a.true], "predicted": names[a.predicted], **a.profile, "advice": a.text}
                 for a in found.advice]  # fmt: skip
        sections.append(Section("Causes of the errors of each confused pair", [], table))
    if tested:
        p_value = mcnemar(*([r[judge] == r["cause"] for r in tested] for judge in ("found", "gradcam")))
        words = [
            found.method,
            shared_or_false_alarm(tested),
            f"McNemar test against Grad-CAM overlap: p = {p_value:.2g}.",
        ]
        figure = causes_figure([r["cause"] for r in tested], [r["found"] for r in tested])
        pictures = [Picture(figure, "Planted cause against found cause.")]
        sections.append(Section("How good the diagnosis is", words, quality_table(tested), pictures))
    sections += _examples(context, found, examples)
    write_page(context, "Diagnosis: which cause made each error", lead(found, metrics), sections, metrics)


def quality_table(tested: Sequence[Row]) -> list[dict[str, Any]]:
    """Accuracy of the diagnosis and the baselines, overall and by planted cause."""
    groups = {name: [r for r in tested if name in ("all", r["cause"])] for name in ("all", *ERROR_CAUSES)}
    return [
        {"planted": name, "errors": len(own), **{title: str(_share(own, judge)) for judge, title in JUDGES.items()}}
        for name, own in groups.items()
    ]


def _share(tested: Sequence[Row], judge: str) -> Share:
    return Share.of(r[judge] == r["cause"] for r in tested)


def accuracies(tested: Sequence[Row]) -> dict[str, float]:
    """``cause/accuracy`` of the diagnosis, and with ``_`` and their name of the other ``JUDGES``, with intervals."""
    names = {judge: "cause/accuracy" + ("" if judge == "found" else f"_{judge}") for judge in JUDGES}
    return {k: v for judge, name in names.items() for k, v in _share(tested, judge).metrics(name).items()}


def _between(tested: Sequence[Row]) -> Share:
    return _share([r for r in tested if r["cause"] in (SHARED, FALSE_ALARM)], "shared or false alarm")


def trust(tested: Sequence[Row]) -> str:
    """How far the causes of the real errors can be relied on, for the top of the page."""
    if not tested:
        return "No cause was planted into these photos: the causes come from the fixed rule and were not verified."
    start = "The causes come from a model that was fitted on planted errors."
    if _between(tested).interval[0] > 0.5:
        return start
    return (
        f"{start} On those it separates shared from false alarm no better than chance: do not act on which of the two "
        "is named, only on whether it is unseen."
    )


def shared_or_false_alarm(tested: Sequence[Row]) -> str:
    """Accuracy between shared and false alarm when unseen is ruled out, and what knowing only that would give.

    The two are planted by the same means, unseen by another; the gap to the second number is what the diagnosis knows
    beyond the means.
    """
    counts = {cause: sum(r["cause"] == cause for r in tested) for cause in ERROR_CAUSES}
    means = Share(counts[UNSEEN] + max(counts[SHARED], counts[FALSE_ALARM]), len(tested))
    return (
        "Between shared and false alarm alone, which are planted by the same means, it is right in "
        f"{_between(tested)}. A model that saw only by which means it was planted would be right in {means} of all."
    )  # fmt: skip


def lead(found: Found, metrics: Mapping[str, float]) -> str:
    """The result in a sentence or two."""
    errors = len(found.rows)
    start = f"The classifier makes {errors or 'no'} error{'s' * (errors > 1)} on these photos."
    start += f" {found.advice[0].text}" if found.advice else ""
    if "cause/accuracy" not in metrics:
        return start
    right, low, high, gradcam, classes = (
        f"{metrics[f'cause/accuracy{ending}']:.0%}" for ending in ("", "_low", "_high", "_gradcam", "_classes")
    )
    return (
        f"{start} On planted errors the diagnosis names the right cause in {right} ({low} to {high}); Grad-CAM overlap "
        f"{gradcam}, the two classes alone {classes}."
    )


def _examples(context: StudyContext, found: Found, left: int) -> Iterator[Section]:
    """A section for each of the most confused pairs: the advice, and the surest errors of each cause in turn."""
    names = context.source.class_names
    for one in found.advice:
        own = [r for r in found.rows if (r["true"], r["predicted"]) == (one.true, one.predicted)]
        by_cause = [sorted((r for r in own if r["cause"] == c), key=lambda r: -r["probability"]) for c in ERROR_CAUSES]
        by_cause.sort(key=len, reverse=True)
        shown = [some[i] for i in range(2) for some in by_cause if i < len(some)][:left]
        if shown:
            left -= len(shown)
            pictures = [_example(context, row) for row in shown]
            yield Section(f"{names[one.true]} predicted as {names[one.predicted]}", [one.text], [], pictures)


def _example(context: StudyContext, row: Row) -> Picture:
    """One error: its explanation for both classes."""
    explainer, photo, true = context.explainer, Photo(row["photo"], row["true"], row["split"]), row["true"]
    x = explainer.read(context.source.read(photo))
    explanation = explainer.explain_input(x, measure=True, name=row["photo"], true_class=true)
    name = context.source.class_names[row["predicted"]]
    caption = f"Cause: {row['cause']}. Predicted: {name}, probability {row['probability']:.0%}."
    caption += "" if row["detected"] else " No concept was detected in this photo."
    classes = [row["predicted"], true]
    parts = [draw(figure) for figure in explanation_figures(explanation, explainer.bank, classes)]
    return Picture(sheet(explanation, classes, parts), caption)


def errors_figure(counts: NDArray[np.int64], advice: Sequence[Advice], names: Sequence[str]) -> Figure:
    """Figure 8: the confusion matrix ``[n (true), n (predicted)]`` with the causes of each pair's errors as marks."""
    n = len(names)
    figure = Figure(figsize=(2.2 + 1.1 * n, 1.6 + 1.0 * n), layout="constrained")
    ax = figure.add_subplot()
    most = np.where(np.eye(n, dtype=bool), 0, counts).max()
    _matrix(ax, counts, names, ("predicted class", "true class"), max(1.6 * most, 1))
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
    counts = confusion_matrix(planted, found, labels=ERROR_CAUSES)
    _matrix(figure.add_subplot(), counts, ERROR_CAUSES, ("found cause", "planted cause"))
    return figure


def _matrix(
    ax: Axes, counts: NDArray[np.int64], names: Sequence[str], sides: tuple[str, str], vmax: float | None = None
) -> None:
    display = ConfusionMatrixDisplay(counts, display_labels=names)
    display.plot(ax=ax, cmap="Blues", colorbar=False, im_kw={"vmin": 0, "vmax": vmax}, values_format="d")
    ax.tick_params(axis="x", rotation=30)
    ax.set(xlabel=sides[0], ylabel=sides[1])
