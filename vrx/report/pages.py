"""Explanations and runs as single files that anybody can open: JSON, PNG and self-contained HTML."""

from __future__ import annotations

import base64
import io
import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from vrx.report.figures import (
    SIGNIFICANT,
    Layout,
    concept_note,
    explanation_figure,
    faithfulness_figure,
    scatter_figure,
)
from vrx.report.findings import bars_text, findings
from vrx.report.words import sentence, shown_classes, trust, trust_line
from vrx.structures import ConceptBank, Explanation

DPI = 140
QUALITY = 84  # of inlined JPEGs
TEMPLATE = "report.html.j2"


def write_explanation(folder: Path, explanation: Explanation, bank: ConceptBank) -> None:
    """Write ``explanation.json``, ``.png`` and a self-contained ``.html`` of one photo.

    Args:
        folder: made if it is missing.
        explanation: of one photo.
        bank: the concepts that it speaks of.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pixels = draw(explanation_figure(explanation, bank))
    _write(folder / "explanation.json", _json(explanation).encode())
    _write(folder / "explanation.png", _png(pixels))
    title = f"Why {explanation.class_names[explanation.predicted]}? {PurePath(explanation.name).name}"
    page = _render(title=title, single=_entry(explanation, pixels, "photo"))
    _write(folder / "explanation.html", page.encode())


def write_report(
    folder: Path,
    title: str,
    metrics: Mapping[str, float],
    explanations: Sequence[Explanation],
    bank: ConceptBank,
    settings: Mapping[str, Any],
    notes: Sequence[str],
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

    Returns:
        The page, ``index.html``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for number, explanation in enumerate(explanations, 1):
        pixels = draw(explanation_figure(explanation, bank))
        _write(folder / f"explanation_{number:02d}.png", _png(pixels))
        _write(folder / f"explanation_{number:02d}.json", _json(explanation).encode())
        entries.append(_entry(explanation, pixels, f"photo-{number}"))
    best = best_explanation(explanations)
    rest = [entry for number, entry in enumerate(entries) if number != best]
    shown = {k: float(v) for k, v in metrics.items() if math.isfinite(float(v))}
    page = _render(
        title=title,
        classes=bank.class_names,
        best=None if best is None else entries[best],
        groups=[
            (heading, chosen)
            for heading, right in (("Photos that F gets right", True), ("Photos that F gets wrong", False))
            if (chosen := [entry for entry in rest if entry["right"] is right])
        ]
        + ([("More photos", chosen)] if (chosen := [entry for entry in rest if entry["right"] is None]) else []),
        findings=findings(shown),
        bars=_chart(faithfulness_figure(shown), bars_text(shown)),
        scatter=_chart(_scatter(explanations), "Contribution of every concept above against its measured effect."),
        galleries=[_gallery(bank, index) for index in range(len(bank.class_names))],
        metrics=sorted((name, f"{value:.4g}") for name, value in shown.items()),
        settings=flatten(settings),
        notes=list(notes),
    )
    path = folder / "index.html"
    _write(path, page.encode())
    return path


def best_explanation(explanations: Sequence[Explanation]) -> int | None:
    """Index of the explanation to show first: right, the most trusted, with most concepts, closest to F."""

    def rank(explanation: Explanation) -> tuple[float, ...]:
        predicted = explanation.predicted
        distance = float(np.abs(explanation.probabilities - explanation.grn_probabilities).sum())
        return (
            explanation.true_class in (None, predicted),
            ("low", "limited", "high").index(trust(explanation).level),
            float(explanation.detected[predicted].sum()),
            float(np.nan_to_num(explanation.trust, nan=-1.0)),
            -distance,
        )

    return max(range(len(explanations)), key=lambda i: rank(explanations[i])) if explanations else None


def flatten(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (dotted name, value)."""
    rows: list[tuple[str, str]] = []
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            rows += flatten(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", str(value)))
    return rows


def _entry(explanation: Explanation, pixels: NDArray[np.uint8], anchor: str) -> dict[str, Any]:
    """One explanation as the template wants it: words, and its picture cut into panels that stack on a phone."""
    shown = shown_classes(explanation)
    predicted, true = explanation.predicted, explanation.true_class
    line = trust_line(explanation).partition(". ")
    f = ", ".join(f"{explanation.class_names[c]} {explanation.probabilities[c]:.2f}" for c in shown)
    texts = [f"The photo. F says: {f}. Key to colours, arrows and bars.", *(panel_text(explanation, c) for c in shown)]
    boxes = [tuple(round(v * DPI) for v in box) for box in Layout.of(explanation, shown).cells()]
    cut = [pixels[top:bottom, left:right] for left, top, right, bottom in boxes]
    return {
        "anchor": anchor,
        "name": explanation.name,
        "file": PurePath(explanation.name).name,
        "right": None if true is None else true == predicted,
        "sentence": sentence(explanation, shown),
        "level": trust(explanation).level,
        "trust": line[2],
        "pictures": [embedded(part, text) for part, text in zip(cut, texts, strict=True)],
    }


def panel_text(explanation: Explanation, index: int) -> str:
    """A class' panel in words, for those who cannot see it."""
    head = f"Why {'' if index == explanation.predicted else 'not '}{explanation.class_names[index]}:"
    parts = [
        f"concept {k + 1} contributes {explanation.node_scores[index, index, k]:+.2f}"
        + (f" (measured {m:+.2f})" if math.isfinite(m := float(explanation.measured[index, k])) else "")
        for k in np.flatnonzero(explanation.detected[index]).tolist()
    ]
    return f"{head} {'; '.join(parts) or 'none of its concepts was found'}."


def _scatter(explanations: Sequence[Explanation]) -> Figure | None:
    found = [(e, c, e.detected[c] & np.isfinite(e.measured[c])) for e in explanations for c in [e.predicted]]
    x = np.concatenate([e.node_scores[c, c][usable] for e, c, usable in found] or [np.zeros(0)])
    y = np.concatenate([e.measured[c][usable] for e, c, usable in found] or [np.zeros(0)])
    return scatter_figure(x.tolist(), y.tolist()) if len(x) >= 10 else None


def _gallery(bank: ConceptBank, index: int) -> dict[str, Any]:
    concepts = []
    for concept in np.flatnonzero(bank.present[index]).tolist():
        importance, note = concept_note(bank, index, concept)
        shown = [e for e in range(bank.exemplars.shape[2]) if bank.exemplars[index, concept, e].min() < 255]
        strip = [
            np.pad(bank.exemplars[index, concept, e], ((0, 0), (0, 6), (0, 0)), constant_values=255) for e in shown
        ]
        picture = _uri(np.concatenate(strip, axis=1)[:, :-6]) if strip else None
        concepts.append(
            {
                "number": concept + 1,
                "importance": importance,
                "note": note,
                "weak": not bank.p_value[index, concept] < SIGNIFICANT,
                "picture": picture,
                "alt": f"{len(shown)} typical patches of concept {concept + 1} of {bank.class_names[index]}",
            }
        )
    return {"name": bank.class_names[index], "concepts": concepts, "missing": bank.num_concepts - len(concepts)}


def draw(figure: Figure) -> NDArray[np.uint8]:
    """The pixels of a figure, uint8 ``[H, W, 3]``, at ``DPI``."""
    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def embedded(pixels: NDArray[np.uint8], alt: str) -> dict[str, Any]:
    """Pixels drawn at ``DPI`` as an inlined JPEG, with its size on the page."""
    height, width = pixels.shape[:2]
    return {"uri": _uri(pixels), "alt": alt, "width": round(96 * width / DPI), "height": round(96 * height / DPI)}


def _chart(figure: Figure | None, alt: str) -> dict[str, Any] | None:
    return None if figure is None else embedded(draw(figure), alt)


def _uri(pixels: NDArray[np.uint8]) -> Markup:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY, subsampling=0, optimize=True)
    return Markup("data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode())


def _png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", dpi=(DPI, DPI))
    return buffer.getvalue()


def _json(explanation: Explanation) -> str:
    """Strict JSON with the words beside the numbers."""
    content = json.loads(explanation.to_json())
    content |= {"sentence": sentence(explanation), "trust_line": trust_line(explanation)}
    return json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _render(**content: Any) -> str:
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(TEMPLATE).render({"single": None, **content})


def _write(path: Path, content: bytes) -> None:
    """All or nothing: a reader never sees half a file."""
    descriptor, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(part).chmod(0o644)
        Path(part).replace(path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
