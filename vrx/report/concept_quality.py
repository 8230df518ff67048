"""How good the concepts are: needed, parts of the object, complete, stable. A chart of each, and a table of all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vrx.report.charts import bar_chart, plain

SHARES = {  # of a concept's row -> of all classes in metrics.json, label
    "significant": ("concepts/significant", "needed by the classifier"),
    "purity": ("concepts/purity", "on one part (purity)"),
    "recall_own": ("concepts/recall_own", "part found where visible (recall)"),
    "precision": ("concepts/precision", "what is found is the part (precision)"),
}
BESIDE = {
    "concepts/recall_other": "parts found in photos of other classes",
    "concepts/consistency": "overlap of two detections in parts (consistency)",
    "concepts/background": "concepts mostly on background",
}
STABILITY = {
    "stability/top_concept": "same top concept",
    "stability/rank": "rank of the contributions (Spearman)",
    "stability/found": "concepts found again",
    "stability/iou": "overlap of a concept (IoU)",
}
PART_HEADS = {"purity": "purity", "recall_own": "recall", "precision": "precision"}
NEEDED = "needed by the classifier more than a random place of the same photo"
ALL = "all classes"

Row = Mapping[str, Any]
"""A concept: ``class_name``, ``number``, ``name``, ``effect``, ``random_effect``, ``p_value``, ``significant``,
``photos``, ``purity``, ``recall_own``, ``precision``."""


def quality_charts(
    metrics: Mapping[str, float], concepts: Sequence[Row], class_names: Sequence[str]
) -> list[dict[str, Any]]:
    """A chart for each question that was measured; every class has its bars, also one without a concept."""
    charts = [
        _concepts(shares_by_class(metrics, concepts, class_names), metrics) if concepts else None,
        _completeness(metrics),
        _stability(metrics),
    ]
    return [chart for chart in charts if chart]


def quality_table(concepts: Sequence[Row]) -> list[list[str]]:
    """Each concept in words and numbers, below a row of headings; nothing of parts where no part is known."""
    if not concepts:
        return []
    parts = {name: head for name, head in PART_HEADS.items() if any(math.isfinite(row[name]) for row in concepts)}
    table = [["class", "concept", "fall", "random place", "p", "photos", *parts.values()]]
    for row in concepts:
        number = f"{row['name']} ({row['number']})" if row["name"] else str(row["number"])
        p_value = f"{row['p_value']:.2g}" if row["photos"] > 1 else "too few photos"
        falls = [plain(row[name]) for name in ("effect", "random_effect")]
        table.append([row["class_name"], number, *falls, p_value, str(row["photos"]), *(plain(row[n]) for n in parts)])
    return table


def quality_line(row: Row) -> str:
    """What was measured of one concept, in words."""
    need = "needed more" if row["significant"] else "not clearly needed more"
    falls = f"{plain(row['effect'])} against {plain(row['random_effect'])}, {row['photos']} photos"
    parts = [f"{head} {plain(row[name])}" for name, head in PART_HEADS.items() if math.isfinite(row[name])]
    return "; ".join([f"{need} than a random place ({falls})", *parts])


def shares_by_class(
    metrics: Mapping[str, float], concepts: Sequence[Row], class_names: Sequence[str]
) -> dict[str, dict[str, float]]:
    """What each bar shows: class -> share -> value in [0, 1], all classes first; what is known of any concept.

    A class without a concept has NaN everywhere.
    """
    kept = [name for name in SHARES if any(math.isfinite(row[name]) for row in concepts)]
    shares = {ALL: {name: metrics.get(SHARES[name][0], math.nan) for name in kept}}
    for class_name in class_names:
        rows = [row for row in concepts if row["class_name"] == class_name]
        known = {name: [row[name] for row in rows if math.isfinite(row[name])] for name in kept}
        shares[class_name] = {n: float(np.mean(v)) if v else math.nan for n, v in known.items()}
    return shares


def _concepts(shares: Mapping[str, Mapping[str, float]], metrics: Mapping[str, float]) -> dict[str, Any]:
    names = list(shares[ALL])
    rows = {}
    for label, known in shares.items():
        nothing = not any(math.isfinite(share) for share in known.values())
        missing = ["no concept" if i == 0 else "" for i in range(len(names))] if nothing else ["not known"] * len(names)
        rows[label] = [(n, known[n], text) for n, text in zip(names, missing, strict=True)]
    title = (
        "Does the classifier need the concepts?" if len(names) == 1 else "Are the concepts needed, and are they parts?"
    )
    parts = "" if len(names) == 1 else (
        ", lies on one part of the object, is found wherever that part is visible, and what is found is that part"
    )  # fmt: skip
    caption = f"Good is 1 in every bar: a concept is {NEEDED}{parts}."
    beside = [f"{text} {plain(metrics[n])}" for n, text in BESIDE.items() if math.isfinite(metrics.get(n, math.nan))]
    caption += f" Beside that: {', '.join(beside)}." if beside else ""
    legend = [(name, SHARES[name][1]) for name in names]
    return bar_chart(title, "shares, 0 to 1; more is better", rows, caption, legend=legend)


def _completeness(metrics: Mapping[str, float]) -> dict[str, Any] | None:
    deletion, random, area, order = (
        metrics.get(f"completeness/{name}", math.nan) for name in ("deletion", "deletion_random", "area", "c_deletion")
    )
    if not math.isfinite(deletion):
        return None
    rows = {
        "all found concepts": [("ours", deletion, "")],
        "as much at random": [("other", random, "not measured")],
    }
    note = f"share of the margin that goes; the concepts cover {area:.0%} of the photo"
    caption = (
        "Good is close to 1 for the concepts and far less where as much of the photo goes at random places that the "
        "classifier looks at: then the concepts hold what it sees."
    )
    if math.isfinite(order):
        caption += (
            f" As concepts go one by one, largest contribution first, the class keeps {plain(order)} times the "
            "probability that it keeps in random order (less than 1 is good)."
        )
    return bar_chart("Do the concepts hold what the classifier sees?", note, rows, caption)


def _stability(metrics: Mapping[str, float]) -> dict[str, Any] | None:
    known = {label: metrics.get(name, math.nan) for name, label in STABILITY.items()}
    rows = {label: [("ours", value, "")] for label, value in known.items() if math.isfinite(value)}
    caption = (
        "Good is 1, or close to it: a photo that is changed so that nobody sees it (JPEG of quality 90, 2 % brighter, "
        "shifted by 2 pixels; the mean of the three) is explained by the same concepts, in the same order, at the same "
        "place."
    )
    note = "before and after the change; 1: no difference"
    return bar_chart("Does an explanation survive what nobody sees?", note, rows, caption) if rows else None
