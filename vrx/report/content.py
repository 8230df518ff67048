"""What a page knows of photos and concepts, as plain values that its script draws from."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import PurePath
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.measure import approximate_polygon

from vrx.bank import ConceptBank
from vrx.explanation import Explanation
from vrx.reasons import gains_if_there, shown_relations
from vrx.report.concept_quality import quality_line
from vrx.report.drawing import contours, spread
from vrx.report.figures import DISC
from vrx.report.galleries import concept_note, exemplar_strip, missing_note, weak
from vrx.report.mistakes import likely_cause
from vrx.report.phrases import LONGEST, capital, relation_ends, relation_kind, relation_words, shorten
from vrx.report.trust import trust
from vrx.report.waterfall import steps
from vrx.report.words import panel_text, sentences, trust_parts, why

LARGEST = 448  # pixels: longer side of a photo on a page
BLURRED, BLUR = 64, 0.05  # pixels: longer side of the blurred photo; sigma as a share of the photo's side (Editor)
HEAT, OPAQUE = 96, 0.85  # pixels: longer side of a heat map; how opaque it is where it is highest
MOST_CLASSES = 6  # that a reader can choose among


def picture(pixels: NDArray[np.uint8], longest: int = LARGEST, quality: int = 82) -> Markup:
    """Pixels uint8 ``[H, W, 3 or 4]`` as a WebP data URI, made smaller where a side is longer than ``longest``."""
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    image.save(buffer, "WEBP", quality=quality, method=5)
    return Markup("data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode())


def heat(explanation: Explanation, index: int) -> Markup:
    """Grad-CAM of a class as a translucent picture to lay over the photo, as a data URI; "" where there is none."""
    if not len(explanation.gradcam) or not explanation.gradcam[index].any():
        return Markup()
    cam = explanation.gradcam[index]
    height, width = explanation.image.shape[:2]
    size = (round(HEAT * width / max(height, width)), round(HEAT * height / max(height, width)))
    cam = np.asarray(Image.fromarray(cam / cam.max()).resize(size, Image.Resampling.BICUBIC)).clip(0, 1)
    colours = colormaps["inferno"](cam)
    colours[..., 3] = OPAQUE * cam
    return picture((255 * colours).round().astype(np.uint8), HEAT, 70)


def photo_entry(explanation: Explanation, number: int, run: int = 0) -> dict[str, Any]:
    """One explanation for the page: words and regions for the template, numbers (``data``) for the script.

    The photo's number on the page counts from 1; ``run``: which of the page's runs explained it.
    """
    true, predicted, names = explanation.true_class, explanation.predicted, explanation.class_names
    classes, shown = explanation.shown(MOST_CLASSES - 1), explanation.shown()
    height, width = explanation.image.shape[:2]
    labels = np.unique(explanation.matched[classes][explanation.detected[classes]]).tolist()
    regions = {label: _region(explanation.label_mask(label)) for label in labels}
    level = trust(explanation).level
    cause, advice = likely_cause(explanation)
    blur = gaussian_filter(explanation.image, (*[BLUR * max(height, width)] * 2, 0), mode="nearest")
    edit = explanation.provenance.get("edit", {})
    data = {
        "run": run,
        "id": f"photo-{number}",
        "file": PurePath(explanation.name).name,
        "size": (width, height),
        "predicted": predicted,
        "true": true,
        "level": level,
        "fill": edit.get("fill", "blur"),
        "grow": round(edit.get("margin", 0.027) * max(height, width)),
        "blur": picture(blur, BLURRED, 70),
        "classes": classes,
        "p": [_short(value) for value in explanation.probabilities],
        "grn": [_short(value) for value in explanation.grn_probabilities],
        "z": [_short(value) for value in explanation.logits - explanation.logits.mean()],
        "by": {c: _class_entry(explanation, c) for c in classes},
        "steps": {
            f"{b},{a}": [(s.name, _short(s.value), s.rest, s.labels) for s in steps(explanation, b, to=a)]
            for a, b in permutations(classes, 2)
        },
        "margins": [_short(explanation.margin(c)) for c in range(len(names))],
        "cause": f"{cause} {advice}".strip(),
        "trust": " ".join(f"{head}. {text}" for head, text in trust_parts(explanation)),
    }
    return {
        "anchor": data["id"],
        "name": explanation.name,
        "file": data["file"],
        "right": None if true is None else true == predicted,
        "sentences": [_headed(text) for text in sentences(explanation, shown)],
        "trust": [(head.split()[-1], head, text) for head, text in trust_parts(explanation)],
        "image": picture(explanation.image),
        "width": width,
        "height": height,
        "regions": [(label, path) for label, (path, _) in regions.items()],
        "own": set(explanation.matched[predicted].tolist()),
        "text": panel_text(explanation, predicted).removeprefix(why(explanation, predicted)).strip(),
        "data": data | {"boxes": {label: box for label, (_, box) in regions.items()}},
    }


def concept_entries(
    bank: ConceptBank,
    explanations: Sequence[Explanation] = (),
    rows: Sequence[Mapping[str, Any]] = (),
    pairs: NDArray[np.float64] | None = None,
) -> list[dict[str, Any]]:
    """The concepts of every class for the page: what they look like, how important, how often found, how good.

    Args:
        rows: what was measured of each concept (:data:`vrx.report.concept_quality.Row`).
        pairs: mean contribution of the relation between two concepts of a class, ``[n, N, N]``; NaN where none.
    """
    quality = {(row["class_name"], row["number"]): quality_line(row) for row in rows}
    found = []
    for index, name in enumerate(bank.class_names):
        own = [e.detected[index] for e in explanations if e.true_class == index]
        concepts: list[dict[str, Any]] = []
        for k in np.flatnonzero(bank.present[index]).tolist():
            importance, note = concept_note(bank, index, k)
            strip, called = exemplar_strip(bank, index, k), shorten(bank.name(index, k), LONGEST)
            seen = f"found in {sum(bool(e[k]) for e in own)} of {len(own)} photos of {name} on this page"
            concepts.append({"k": k, "number": k + 1, "name": called, "importance": importance, "note": note,
                             "weak": weak(bank, index, k), "presence": seen if own else "",
                             "quality": quality.get((name, k + 1), ""),
                             "alt": f"Typical patches of concept {k + 1} of {name}{f', {called}' * bool(called)}",
                             "picture": "" if strip is None else picture(strip, 1000, 72)})  # fmt: skip
        table = [] if pairs is None else _matrix(pairs[index], [concept["k"] for concept in concepts])
        found.append({"name": name, "concepts": concepts, "missing": missing_note(bank, index), "pairs": table})
    return found


def _matrix(values: NDArray[np.float64], concepts: Sequence[int]) -> list[list[float | None]]:
    table = [[_short(values[i, j]) for j in concepts] for i in concepts]
    return table if np.isfinite(values[np.ix_(concepts, concepts)]).any() else []


def _region(mask: NDArray[np.bool_]) -> tuple[str, list[int]]:
    """The outline of a region as an SVG path in pixels, and its box: left, top, width, height."""
    tolerance = 0.003 * max(mask.shape)
    lines = (approximate_polygon(line, tolerance) for line in contours(mask))
    path = "".join("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in line[:-1]) + "Z" for line in lines if len(line) > 3)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    corner = [columns[0], rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1] if len(rows) else [0, 0, 1, 1]
    return path, [int(value) for value in corner]


def _class_entry(explanation: Explanation, index: int) -> dict[str, Any]:
    """What was found of a class, in numbers and words."""
    height, width = explanation.image.shape[:2]
    found = np.flatnonzero(explanation.detected[index])
    radius = DISC * max(height, width)
    centres = explanation.centroids[index, found].astype(float) * (width, height)
    places = spread(centres, 3 * radius, (height, width), 1.4 * radius)
    concepts = [
        {"k": k, "label": int(explanation.matched[index, k]), "x": round(x, 1), "y": round(y, 1),
         "score": _short(explanation.node_scores[index, index, k]), "measured": _short(explanation.measured[index, k])}
        for k, (x, y) in zip(found.tolist(), places.tolist(), strict=True)
    ]  # fmt: skip
    relations = [
        {"source": r.source, "target": r.target, "arranged": r.arranged, "score": _short(r.predicted),
         "measured": _short(r.measured), "noise": _short(r.noise), "ends": relation_ends(explanation, index, r),
         "kind": relation_kind(r), "text": f"{capital(relation_words(explanation, index, r))}."}
        for r in shown_relations(explanation, index)
    ]  # fmt: skip
    gains = gains_if_there(explanation, index)
    expected = {c.concept: c for c in explanation.counterfactuals if c.graph == index and c.added}
    missing: list[dict[str, Any]] = [
        {"k": k, "gain": gains.get(k, (None, False))[0], "clear": gains.get(k, (None, False))[1],
         "expected": _short(expected[k].predicted[index]) if k in expected else None,
         "maybe": bool(explanation.perhaps[index, k])}
        for k in np.flatnonzero(explanation.present[index] & ~explanation.detected[index]).tolist()
    ]  # fmt: skip
    return {
        "why": why(explanation, index).partition("? ")[2],
        "heat": heat(explanation, index),
        "concepts": concepts,
        "relations": relations,
        "missing": sorted(missing, key=lambda m: -(m["gain"] or 0)),
    }


def _headed(text: str) -> tuple[str, str]:
    """A sentence in two: the question that it answers, or "", and the rest."""
    question, mark, rest = text.partition("? ")
    return (f"{question}?", rest) if mark and question.startswith("Why ") else ("", text)


def _short(value: Any) -> float | None:
    """Three decimals; None where it is not finite."""
    return round(float(value), 3) if math.isfinite(value) else None
