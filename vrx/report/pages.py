"""Explanations and runs as single files that anybody can open: JSON, PNG, PDF and self-contained HTML."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from vrx.bank import ConceptBank
from vrx.errors import VRXError
from vrx.explanation import Explanation
from vrx.report.charts import CONCEPTS, MISSING, RELATIONS, Kind, scatter
from vrx.report.concept_quality import quality_charts, quality_table
from vrx.report.content import concept_entries, photo_entry
from vrx.report.figures import explanation_figures, sheet, words_figure
from vrx.report.findings import faithfulness_chart, findings
from vrx.report.html import draw, render, save_pdf, save_png, write_html
from vrx.report.mistakes import Predictions, confusion, lists
from vrx.report.phrases import join
from vrx.report.trust import LEVELS, pair_effects, trust
from vrx.report.words import blank_line, sentence, trust_line
from vrx.storage import json_safe, write_text

FORMATS = ("html", "png", "pdf", "json")
TEMPLATES = Path(__file__).parent
SCRIPT = Markup((TEMPLATES / "report.js").read_text(encoding="utf-8"))
SCATTERS = {
    CONCEPTS: "Every concept of the predicted class in the photos of this page.",
    RELATIONS: "Every pair of found concepts in the photos of this page: by how much both together count for more, or "
    "less, than the sum of each, for the predicted class.",
    MISSING: "Every concept of a class that is missing in a photo of this page and was put where it belongs, and every "
    "one that lies elsewhere and was moved there: what its class gains.",
}
MOST_NAMED = 20  # classes that the page begins with
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
    """Write ``explanation.json``, ``.png``, ``.pdf`` and a self-contained ``.html`` of one photo, or some of them.

    Nothing is drawn for JSON alone.

    Raises:
        VRXError: a format that there is not.
    """
    formats = checked_formats(formats)
    if "json" in formats:
        write_text(folder / "explanation.json", _json(explanation))
    bank = bank.of(explanation.class_names)
    _draw(folder / "explanation", explanation, bank, formats)
    if "html" in formats:
        write_text(folder / "explanation.html", explanation_page(explanation, bank))


def explanation_page(explanation: Explanation, bank: ConceptBank | None = None) -> str:
    """The self-contained page of one photo; without a bank it has no typical patches."""
    title = f"Why {explanation.class_names[explanation.predicted]}? {PurePath(explanation.name).name}"
    return _page(title, [(None, [photo_entry(explanation, 1)])], [bank or explanation], [""])


def write_comparison(
    page: Path, titles: Sequence[str], explanations: Sequence[Sequence[Explanation]], banks: Sequence[ConceptBank]
) -> Path:
    """Write one self-contained page on which several runs explain the same photos, in the same order, side by side.

    Raises:
        VRXError: the runs have other classes.
    """
    check_comparable(titles, banks)
    groups = []
    for number, same in enumerate(zip(*explanations, strict=True)):
        entries = [photo_entry(e, number * len(same) + run + 1, run) for run, e in enumerate(same)]
        groups.append(({"head": entries[0]["file"], "text": _difference(titles, same)}, entries))
    write_text(page, _page(f"Compared: {join(titles)}", groups, banks, titles))
    return page


def check_comparable(titles: Sequence[str], banks: Sequence[ConceptBank]) -> None:
    """Refuse to compare runs with other classes."""
    for title, bank in zip(titles, banks, strict=True):
        if set(bank.class_names) != set(banks[0].class_names):
            ours, theirs = join(banks[0].class_names), join(bank.class_names)
            raise VRXError(f"compare: {titles[0]} tells {ours} apart, {title} {theirs}: compare runs of one task.")


def _difference(titles: Sequence[str], explanations: Sequence[Explanation]) -> str:
    """What the runs predict, and how far what supports it lies at the same place."""
    predicted = [e.class_names[e.predicted] for e in explanations]
    first, *others = (_support(e) for e in explanations)
    same = len(set(predicted)) == 1
    text = f"All predict {predicted[0]}." if same else " ".join(
        f"{title} predicts {name}." for title, name in zip(titles, predicted, strict=True)
    )  # fmt: skip
    if same and all(other.shape == first.shape and (other | first).any() for other in others):
        shares = [f"{(other & first).sum() / (other | first).sum():.0%}" for other in others]
        text += f" The regions that support it overlap by {join(shares)} (intersection over union)."
    return text


def _support(explanation: Explanation) -> NDArray[np.bool_]:
    """The pixels of the found concepts that support the predicted class, bool ``[H, W]``."""
    own = explanation.predicted
    found = np.flatnonzero(explanation.detected[own] & (np.nan_to_num(explanation.node_scores[own, own]) > 0))
    none = np.zeros((1, *explanation.image.shape[:2]), bool)
    return np.asarray(np.concatenate([none, *(explanation.mask(own, k)[None] for k in found.tolist())]).any(0))


def _page(title: str, groups: Sequence[Any], banks: Sequence[ConceptBank | Explanation], titles: Sequence[str]) -> str:
    """Photos and concepts without a run's numbers."""
    galleries = [concept_entries(bank) if isinstance(bank, ConceptBank) else [] for bank in banks]
    data = _data([entry for _, entries in groups for entry in entries], banks, titles)
    template = TEMPLATES / "explanation.html.j2"
    return render(template, {}, {}, title=title, groups=groups, galleries=galleries, titles=titles, data=data,
                  source=SCRIPT)  # fmt: skip


def _data(
    entries: Sequence[dict[str, Any]], banks: Sequence[ConceptBank | Explanation], titles: Sequence[str]
) -> dict[str, Any]:
    """What the script reads beside the page itself."""
    runs = []
    for title, bank in zip(titles, banks, strict=True):
        names = bank.all_names if isinstance(bank, ConceptBank) else bank.names
        runs.append({"title": title, "classes": bank.class_names, "names": names})
    return dict(json_safe({"runs": runs, "photos": [entry["data"] for entry in entries]}))


def _draw(stem: Path, explanation: Explanation, bank: ConceptBank, formats: Collection[str]) -> None:
    """The figures of an explanation, as one PNG or as the pages of a PDF."""
    if {"png", "pdf"}.isdisjoint(formats):
        return
    shown = explanation.shown()
    figures = explanation_figures(explanation, bank, shown)
    if "png" in formats:
        save_png(stem.with_suffix(".png"), sheet(explanation, shown, [draw(figure) for figure in figures]))
    if "pdf" in formats:
        width = sum(figure.get_figwidth() for figure in figures)
        save_pdf(stem.with_suffix(".pdf"), [words_figure(explanation, shown, width), *figures])


def write_report(
    folder: Path,
    title: str,
    metrics: Mapping[str, float],
    explanations: Sequence[Explanation],
    bank: ConceptBank,
    settings: Mapping[str, Any],
    notes: Sequence[str],
    concepts: Sequence[Mapping[str, Any]] = (),
    predictions: Predictions | None = None,
    pairs: NDArray[np.float64] | None = None,
) -> Path:
    """Write the report of a run as one self-contained page, and every explanation as PNG and JSON beside it.

    Args:
        folder: made if it is missing.
        metrics: flat name -> number; what is missing or not finite is not shown.
        notes: remarks of the run, in plain words.
        concepts: what was measured of each concept, a row each (:data:`vrx.report.concept_quality.Row`).
        predictions: of all test photos; None: the explained ones.
        pairs: mean contribution of the relation from one concept of a class to another, ``[n, N, N]``, NaN where none.

    Returns:
        The page, ``index.html``.
    """
    for number, explanation in enumerate(explanations, 1):
        _draw(folder / f"explanation_{number:02d}", explanation, bank.of(explanation.class_names), ["png"])
        write_text(folder / f"explanation_{number:02d}.json", _json(explanation))
    classes = join(bank.class_names) if len(bank.class_names) <= MOST_NAMED else f"{len(bank.class_names)} classes"
    few = any(e.class_names != bank.class_names for e in explanations)
    if few:  # graphs of some classes alone: the page is of these, and every photo numbers its own
        named = {name for e in explanations for name in e.class_names}
        bank = bank.of([name for name in bank.class_names if name in named])
    runs: list[ConceptBank | Explanation] = [bank, *(explanations if few else [])]
    entries = [photo_entry(explanation, i, i if few else 0) for i, explanation in enumerate(explanations, 1)]
    best = best_explanation(explanations)
    measured = {name: float(value) for name, value in metrics.items() if math.isfinite(float(value))}
    tested = predictions or Predictions.of(explanations, bank.class_names)
    return write_html(
        folder / "index.html",
        TEMPLATES / "report.html.j2",
        measured,
        settings,
        title=title,
        classes=classes,
        run=next((e.provenance["run"] for e in explanations if "run" in e.provenance), "<run folder>"),
        entries=entries,
        first="" if best is None else f"photo-{best + 1}",
        confusion=confusion(tested, explanations, bank.class_names),
        tested=len(tested.labels),
        lists=lists(explanations),
        findings=findings(measured),
        faithful=faithfulness_chart(measured),
        scatters=list(filter(None, (_scatter(kind, explanations) for kind in SCATTERS))),
        blank=blank_line(bank),
        quality=quality_charts(measured, concepts, bank.class_names),
        quality_table=quality_table(concepts),
        galleries=concept_entries(bank, [] if few else explanations, concepts, pairs),
        notes=list(notes),
        data=_data(entries, runs, [title] * len(runs)) | {"first": "" if best is None else f"photo-{best + 1}"},
        source=SCRIPT,
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


def _scatter(kind: Kind, explanations: Sequence[Explanation]) -> dict[str, Any] | None:
    """None with too few points."""
    points = {CONCEPTS: _concepts, RELATIONS: pair_effects, MISSING: _missing}[kind]
    found = [np.stack(points(explanation), 1) for explanation in explanations]
    x, y = np.concatenate([np.zeros((0, 2)), *found]).T
    return scatter(x, y, kind, SCATTERS[kind]) if np.isfinite(x + y).sum() >= LEAST_POINTS else None


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
