"""Explanations and runs as single files that anybody can open: JSON, PNG and self-contained HTML."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vrx.errors import VRXError
from vrx.explanation import Explanation
from vrx.report.charts import CONCEPTS, MISSING, RELATIONS, Kind, scatter_figure
from vrx.report.concept_quality import quality_charts, quality_table
from vrx.report.figures import explanation_parts, sheet
from vrx.report.findings import bars_text, faithfulness_figure, findings
from vrx.report.galleries import gallery
from vrx.report.html import embed, save_png, write_html
from vrx.report.trust import LEVELS, pair_effects, trust
from vrx.report.words import blank_line, join, panel_text, sentence, sentences, trust_line, trust_parts
from vrx.storage import write_text
from vrx.structures import ConceptBank

FORMATS = ("html", "png", "json")
TEMPLATES = Path(__file__).parent
BARS_CAPTION = (
    "The same question put to simpler scores, on the same patches. The ceiling is how far two ways of deleting a "
    "concept agree with each other."
)
SCATTERS = {
    CONCEPTS: "Every concept of the predicted class in the photos of this page.",
    RELATIONS: "Every pair of found concepts in the photos of this page: by how much both together count for more, or "
    "less, than the sum of each, for the predicted class.",
    MISSING: "Every concept of a class that is missing in a photo of this page and was put where it belongs, and every "
    "one that lies elsewhere and was moved there: what its class gains.",
}
LEAST_POINTS = 10  # of a scatter


def checked_formats(formats: Collection[str]) -> list[str]:
    """The formats, in the order given.

    Raises:
        VRXError: none is given, or one that there is not.
    """
    if not formats or (set(formats) - set(FORMATS)):
        raise VRXError(f"formats={list(formats)}: choose among {join(FORMATS)}.")
    return list(formats)


def write_explanation(
    folder: Path, explanation: Explanation, bank: ConceptBank, formats: Collection[str] = FORMATS
) -> None:
    """Write ``explanation.json``, ``.png`` and a self-contained ``.html`` of one photo, or some of them.

    Args:
        folder: made if it is missing.
        explanation: of one photo.
        bank: the concepts that it names.
        formats: which files; nothing is drawn for JSON alone.

    Raises:
        VRXError: a format that there is not.
    """
    formats = checked_formats(formats)
    shown = explanation.shown()
    if "json" in formats:
        write_text(folder / "explanation.json", _json(explanation))
    if {"html", "png"}.isdisjoint(formats):
        return
    parts = explanation_parts(explanation, bank, shown)
    if "png" in formats:
        save_png(folder / "explanation.png", sheet(explanation, shown, parts))
    if "html" in formats:
        title = f"Why {explanation.class_names[explanation.predicted]}? {PurePath(explanation.name).name}"
        entry = _entry(explanation, shown, parts, "photo")
        write_html(folder / "explanation.html", TEMPLATES / "explanation.html.j2", {}, {}, title=title, entry=entry)


def write_report(
    folder: Path,
    title: str,
    metrics: Mapping[str, float],
    explanations: Sequence[Explanation],
    bank: ConceptBank,
    settings: Mapping[str, Any],
    notes: Sequence[str],
    concepts: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Write the report of a run as one self-contained page, and every explanation as PNG and JSON beside it.

    Args:
        folder: made if it is missing.
        title: of the page.
        metrics: flat name -> number; what is missing or not finite is not shown.
        explanations: of held-out photos.
        bank: the concepts of the run.
        settings: of the run, nested.
        notes: remarks of the run, in plain words.
        concepts: what was measured of each concept, a row each (:data:`vrx.report.concept_quality.Row`).

    Returns:
        The page, ``index.html``.
    """
    entries = []
    for number, explanation in enumerate(explanations, 1):
        shown = explanation.shown()
        parts = explanation_parts(explanation, bank, shown)
        save_png(folder / f"explanation_{number:02d}.png", sheet(explanation, shown, parts))
        write_text(folder / f"explanation_{number:02d}.json", _json(explanation))
        entries.append(_entry(explanation, shown, parts, f"photo-{number}"))
    best = best_explanation(explanations)
    rest = [entry for number, entry in enumerate(entries) if number != best]
    groups = {"Photos that the classifier gets right": True, "Photos that the classifier gets wrong": False,
              "More photos": None}  # fmt: skip
    measured = {name: float(value) for name, value in metrics.items() if math.isfinite(float(value))}
    charts = [
        (faithfulness_figure(measured), bars_text(measured), BARS_CAPTION),
        *((_scatter(kind, explanations), f"{kind.title}.", caption) for kind, caption in SCATTERS.items()),
    ]
    return write_html(
        folder / "index.html",
        TEMPLATES / "report.html.j2",
        measured,
        settings,
        title=title,
        classes=join(bank.class_names),
        best=None if best is None else entries[best],
        groups=[(head, some) for head, right in groups.items() if (some := [e for e in rest if e["right"] is right])],
        findings=findings(measured),
        charts=[{**embed(figure, alt), "caption": caption} for figure, alt, caption in charts if figure is not None],
        blank=blank_line(bank),
        quality=quality_charts(measured, concepts, bank.class_names),
        quality_table=quality_table(concepts),
        galleries=[gallery(bank, index) for index in range(len(bank.class_names))],
        notes=list(notes),
    )


def best_explanation(explanations: Sequence[Explanation]) -> int | None:
    """Index of the one to show first: right, the most trusted, with most concepts, closest to the classifier."""

    def rank(explanation: Explanation) -> tuple[float, ...]:
        predicted = explanation.predicted
        return (
            explanation.true_class in (None, predicted),
            LEVELS.index(trust(explanation).level),
            float(explanation.detected[predicted].sum()),
            float(np.nan_to_num(explanation.trust, nan=-1.0)),
            -float(np.abs(explanation.probabilities - explanation.grn_probabilities).sum()),
        )

    return max(range(len(explanations)), key=lambda i: rank(explanations[i]), default=None)


def _entry(
    explanation: Explanation, shown: Sequence[int], parts: Sequence[NDArray[np.uint8]], anchor: str
) -> dict[str, Any]:
    """One explanation as the template wants it: words, and a picture per class that stack on a phone."""
    true = explanation.true_class
    likely = ", ".join(f"{explanation.class_names[c]} {explanation.probabilities[c]:.2f}" for c in shown)
    texts = [f"The photo. Probabilities: {likely}. Key to colours, arrows and bars."]
    texts += [panel_text(explanation, c) for c in shown]
    return {
        "anchor": anchor,
        "name": explanation.name,
        "file": PurePath(explanation.name).name,
        "right": None if true is None else true == explanation.predicted,
        "sentences": [_headed(text) for text in sentences(explanation, shown)],
        "trust": [(level.split()[-1], level, text) for level, text in trust_parts(explanation)],
        "pictures": [embed(part, text) for part, text in zip(parts, texts, strict=True)],
    }


def _headed(text: str) -> tuple[str, str]:
    """A sentence in two: the question that it answers, or "", and the rest."""
    question, mark, rest = text.partition("? ")
    return (f"{question}?", rest) if mark and question.startswith("Why ") else ("", text)


def _scatter(kind: Kind, explanations: Sequence[Explanation]) -> Figure | None:
    """None with too few points."""
    points = {CONCEPTS: _concepts, RELATIONS: pair_effects, MISSING: _missing}[kind]
    found = [np.stack(points(explanation), 1) for explanation in explanations]
    x, y = np.concatenate([np.zeros((0, 2)), *found]).T
    return scatter_figure(x, y, kind) if np.isfinite(x + y).sum() >= LEAST_POINTS else None


def _concepts(explanation: Explanation) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    own = explanation.predicted
    found = explanation.detected[own]
    return explanation.node_scores[own, own][found], explanation.measured[own][found].astype(float)


def _missing(explanation: Explanation) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    gains = [(c.predicted[c.graph], c.measured[c.graph]) for c in explanation.counterfactuals]
    expected, measured = np.array(gains, float).reshape(-1, 2).T
    return expected, measured


def _json(explanation: Explanation) -> str:
    """Strict JSON with the words beside the numbers."""
    content = json.loads(explanation.to_json())
    content |= {"sentence": sentence(explanation), "trust_line": trust_line(explanation)}
    return json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
