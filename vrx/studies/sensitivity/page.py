"""The page of the sensitivity study: figure 7 for the reader's own photos, and how often it came out so."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from numpy.typing import NDArray
from PIL import Image

from vrx.explain.explainer import Explainer
from vrx.report.drawing import (
    CASING,
    INK,
    QUIET,
    SCALE,
    ColourScale,
    draw_arrow,
    draw_box,
    draw_disc,
    draw_label,
    draw_photo,
    spread,
    stepped_back,
)
from vrx.report.words import signed
from vrx.structures import edges
from vrx.studies.core.context import StudyContext
from vrx.studies.core.page import Picture, Section, write_page
from vrx.studies.core.statistics import Share
from vrx.studies.sensitivity.method import Touch

HEADINGS = {"appearance": "A good concept replaced by a worse one", "structure": "A concept moved to an abnormal place"}
OF = {"appearance": "nodes", "structure": "edges"}
TOUCHED = "#d6007f"  # rings and labels of touched concepts: neither end of the colour scale


def picture_path(folder: Path, kind: str, name: str) -> Path:
    """Where a photo before and after its edit is kept."""
    return folder / "touched" / f"{kind}_{hashlib.sha256(name.encode()).hexdigest()[:16]}.png"


def before_and_after(folder: Path, kind: str, name: str, explainer: Explainer, touch: Touch, kept: int) -> None:
    """Keep the first ``kept`` photos of a kind, before and after, side by side."""
    path = picture_path(folder, kind, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if len(list(path.parent.glob(f"{kind}_*.png"))) < kept:
        both = np.concatenate([explainer.pixels(touch.before), explainer.pixels(touch.after)], axis=1)
        Image.fromarray(both).save(path)


def sensitivity_page(
    context: StudyContext,
    records: Mapping[str, Sequence[Mapping[str, Any]]],
    metrics: Mapping[str, float],
    examples: int,
) -> Path:
    """Write ``index.html``."""
    title = "Does the explanation notice what was changed?"
    if not any(records.values()):
        lead = "No photo that F gets right offered a concept to touch: see study.min_detected, and the run's concepts."
        return write_page(context.folder, title, lead, [], metrics, context.settings)
    said = [sentence(kind, len(rows), metrics) for kind, rows in records.items() if rows]
    sections = [
        Section(
            HEADINGS[kind],
            [sentence(kind, len(rows), metrics)],
            [numbers(kind, metrics)],
            _pictures(context, kind, rows, examples),
        )
        for kind, rows in records.items()
        if rows
    ]
    return write_page(context.folder, title, " ".join(said), sections, metrics, context.settings)


def sentence(kind: str, count: int, metrics: Mapping[str, float]) -> str:
    """The answer for one kind of edit."""
    found = Share(round(metrics[f"found/{kind}"] * count), count)
    what = "contribution falls" if kind == "appearance" else "relations fall"
    touched = "made worse" if kind == "appearance" else "moved"
    return (
        f"Of the detected concepts, the one that was {touched} is the one whose {what} most in {found} edits; "
        f"a blind guess finds {metrics[f'chance/{kind}']:.1%}."
    )


def numbers(kind: str, metrics: Mapping[str, float]) -> dict[str, Any]:
    """One row: how far touched and other concepts fell, and agreement with F."""
    get = metrics.get
    return {
        "edits": int(metrics[f"edits/{kind}"]),
        "p (above chance)": get(f"p_value/{kind}"),
        "found by node": get(f"found_by_nodes/{kind}"),
        "found by edges": get(f"found_by_edges/{kind}"),
        "node, touched": get(f"fall_nodes_touched/{kind}"),
        "node, others": get(f"fall_nodes_others/{kind}"),
        "edges, touched": get(f"fall_edges_touched/{kind}"),
        "edges, others": get(f"fall_edges_others/{kind}"),
        "Spearman with F": get(f"spearman/{kind}"),
        "Spearman, GRN's margin with F's": get(f"spearman_grn/{kind}"),
    }


def _pictures(context: StudyContext, kind: str, rows: Sequence[Mapping[str, Any]], examples: int) -> list[Picture]:
    """The clearest examples found, and one that was missed, if there is any: chosen by the rule, not by hand."""
    kept = [r for r in rows if picture_path(context.folder, kind, r["name"]).exists()]
    gap = {r["name"]: _lead(r, OF[kind]) for r in kept}
    good = sorted((r for r in kept if gap[r["name"]] > 0), key=lambda r: -gap[r["name"]])[:examples]
    missed = [r for r in kept if gap[r["name"]] <= 0][:1]
    names = context.explainer.bank.class_names
    return [
        Picture(touched_figure(context.folder, kind, record, names), caption(record, names, record in missed))
        for record in [*good, *missed]
    ]


def _lead(record: Mapping[str, Any], of: str) -> float:
    """By how much the best touched concept's fall exceeds the largest of the others, relative to all falls."""
    before, after = np.array(record[of], float)
    fall = before - after
    others = [fall[k] for k in record["detected"] if k not in record["touched"]]
    touched = max(fall[k] for k in record["touched"])
    return float((touched - max(others, default=0.0)) / (np.abs(fall).sum() + 1e-9)) if touched > 0 else -1.0


def caption(record: Mapping[str, Any], names: Sequence[str], missed: bool) -> str:
    """An example in words."""
    label = record["label"]
    p = [f[label] for f in record["f"]]
    ending = " The explanation pointed elsewhere." if missed else ""
    return f"A {names[label]}: {record['what']}. F's probability went from {p[0]:.2f} to {p[1]:.2f}.{ending}"


def touched_figure(folder: Path, kind: str, record: Mapping[str, Any], names: Sequence[str]) -> Figure:
    """The photo before and after, the same with its concepts and relations, and every concept's fall as bars."""
    pixels = np.asarray(Image.open(picture_path(folder, kind, record["name"])).convert("RGB"))
    before, after = np.split(pixels, 2, axis=1)
    figure = Figure(figsize=(11.6, 7.6), facecolor="white")
    of = OF[kind]
    shown = record["detected"]
    limit = float(np.abs(np.array(record["nodes"], float)[:, shown]).max()) or 1.0
    links = float(np.abs(np.array(record["links"], float)).max()) or 1.0
    scales = ColourScale(limit, limit), ColourScale(links, links)
    for i, picture in enumerate((before, after)):
        left = 0.01 + 0.305 * i
        plain, graph = figure.add_axes((left, 0.5, 0.27, 0.43)), figure.add_axes((left, 0.05, 0.27, 0.43))
        draw_photo(plain, picture)
        plain.set(xticks=[], yticks=[])
        plain.set_title("before" if i == 0 else f"after: {record['what']}", fontsize=11, loc="left", weight="bold")
        _draw_state(graph, picture, record, i, scales)
        f = record["f"][i]
        ranked = np.argsort(-np.array(f))[:2]
        answer = "F:  " + "   ".join(f"{names[c]} {f[c]:.2f}" for c in ranked)
        graph.set_xlabel(answer, fontsize=9, labelpad=6, color=INK)
    for height in (0.27, 0.715):
        figure.text(0.2975, height, "→", fontsize=24, ha="center", va="center", color=INK)
    _draw_bars(figure.add_axes((0.64, 0.05, 0.35, 0.86)), record, of)
    return figure


def _draw_state(
    ax: Axes, picture: NDArray[np.uint8], record: Mapping[str, Any], i: int, scales: tuple[ColourScale, ColourScale]
) -> None:
    height, width = picture.shape[:2]
    draw_photo(ax, stepped_back(picture))
    ax.set(xticks=[], yticks=[])
    detected = record["detected"]
    nodes, links = np.array(record["nodes"][i], float), np.array(record["links"][i], float)
    centres = np.array(record["centroids"][i], float)[detected] * (width, height)
    radius = 0.045 * max(height, width)
    places = dict(zip(detected, spread(centres, 3.2 * radius, (height, width), 1.5 * radius), strict=True))
    pairs = edges(len(nodes)).T.tolist()
    touching = [(j, k, s) for (j, k), s in zip(pairs, links, strict=True) if j in places and k in places]
    strongest = sorted(touching, key=lambda e: -abs(e[2]))[:6]
    for j, k, score in reversed(strongest):
        thickness = 1.0 + 3.0 * abs(score) / scales[1].limit
        draw_arrow(ax, places[j], places[k], 1.25 * radius, thickness, score, scales[1])
    for concept, place in places.items():
        if concept in record["touched"]:
            ax.add_patch(Circle(tuple(place), 1.55 * radius, fill=False, edgecolor=TOUCHED, linewidth=3, zorder=4.9))
        draw_disc(ax, tuple(place), radius, str(concept + 1), float(nodes[concept]), scales[0])


def _draw_bars(ax: Axes, record: Mapping[str, Any], of: str) -> None:
    """Contribution of each concept (or of its relations) before and after."""
    before, after = np.array(record[of], float)
    detected = record["detected"]
    limit = float(np.abs([before[detected], after[detected]]).max()) or 1.0
    ax.set(xlim=(-1.35 * limit, 1.35 * limit), ylim=(len(detected) - 0.4, -0.9), xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.plot([0, 0], [-0.45, len(detected) - 0.4], color=QUIET, linewidth=0.8)
    title = "its contribution (logits)" if of == "nodes" else "contribution of its relations (logits)"
    ax.set_title(f"concept: {title}", fontsize=10.5, loc="left", color=INK)
    for row, concept in enumerate(detected):
        touched = concept in record["touched"]
        style: dict[str, Any] = {"weight": "bold", "color": TOUCHED} if touched else {}
        draw_label(ax, -1.35 * limit, row, str(concept + 1), 11, **style)
        for shift, value, word in ((-0.2, before[concept], "before"), (0.2, after[concept], "after")):
            colour = SCALE(0.5 + 0.5 * float(np.clip(value / limit, -1, 1)))
            draw_box(ax, 0, row + shift - 0.16, float(value), 0.32, colour, "" if word == "before" else "//////")
            side = "left" if value >= 0 else "right"
            end = float(value) + np.copysign(0.03 * limit, value)
            draw_label(ax, end, row + shift, signed(float(value)), 8.5, ha=side, **style)
    draw_label(ax, -1.35 * limit, -0.7, "plain: before    hatched: after    ringed: touched", 8.5, color=CASING)
