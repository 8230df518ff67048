"""The page of the sensitivity study: figure 7 for the reader's own photos, and how often it came out so."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from vrx.studies.core.context import StudyContext
from vrx.studies.core.page import Picture, Section, write_page
from vrx.studies.core.statistics import Share

HEADINGS = {"appearance": "A good concept replaced by a worse one", "structure": "A concept moved to an abnormal place"}
OF = {"appearance": "nodes", "structure": "edges"}
SAVED = 12  # photos of each kind that are saved for the page
EDITED = "#d6007f"  # marks edited concepts: neither end of the colour scale
Record = Mapping[str, Any]


def pair_path(folder: Path, kind: str, name: str) -> Path:
    """Where a photo before and after its edit is saved."""
    return folder / "edited" / f"{kind}_{hashlib.sha256(name.encode()).hexdigest()[:16]}.png"


def save_pair(folder: Path, kind: str, name: str, before: NDArray[np.uint8], after: NDArray[np.uint8]) -> None:
    """Save the first photos of a kind, before and after, side by side."""
    path = pair_path(folder, kind, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if len(list(path.parent.glob(f"{kind}_*.png"))) < SAVED:
        Image.fromarray(np.concatenate([before, after], axis=1)).save(path)


def write_sensitivity(
    context: StudyContext, records: Mapping[str, Sequence[Record]], metrics: Mapping[str, float], examples: int
) -> Path:
    """Write ``index.html``."""
    title = "Does the explanation notice which concept was edited?"
    rows = {kind: found for kind, found in records.items() if found}
    lead = " ".join(sentence(kind, len(found), metrics) for kind, found in rows.items())
    lead = lead or "No photo that is classified right offered an edit that counts: see study.min_detected, and the "
    lead += "" if rows else "concepts of the run."
    sections = [
        Section(HEADINGS[kind], [], [numbers(kind, metrics)], _pictures(context, kind, found, examples))
        for kind, found in rows.items()
    ]
    return write_page(context.folder, title, lead, sections, metrics, context.settings)


def sentence(kind: str, count: int, metrics: Mapping[str, float]) -> str:
    """The result for one kind of edit."""
    found = Share(round(metrics[f"found/{kind}"] * count), count)
    edited, falls = ("made worse", "contribution falls") if kind == "appearance" else ("moved", "relations fall")
    return (
        f"Of the detected concepts, the one that was {edited} is the one whose {falls} most in {found} edits; "
        f"a blind guess finds {metrics[f'chance/{kind}']:.1%}."
    )


def numbers(kind: str, metrics: Mapping[str, float]) -> dict[str, Any]:
    """One row: how far edited and other concepts fell, and agreement with the classifier."""
    names = {
        "p (above chance)": "p_value",
        "found by node": "found_by_nodes",
        "found by edges": "found_by_edges",
        "fall of the node, edited": "fall_nodes_touched",
        "fall of the node, others": "fall_nodes_others",
        "fall of the edges, edited": "fall_edges_touched",
        "fall of the edges, others": "fall_edges_others",
        "Spearman with the classifier": "spearman",
        "Spearman of the GRN with the classifier": "spearman_grn",
    }
    return {"edits": int(metrics[f"edits/{kind}"])} | {k: metrics.get(f"{v}/{kind}") for k, v in names.items()}


def _pictures(context: StudyContext, kind: str, records: Sequence[Record], examples: int) -> list[Picture]:
    """The clearest examples found, and one that was missed, if there is any: chosen by the rule, not by hand."""
    lead = {r["name"]: _lead(r, OF[kind]) for r in records if pair_path(context.folder, kind, r["name"]).exists()}
    saved = [r for r in records if r["name"] in lead]
    good = sorted((r for r in saved if lead[r["name"]] > 0), key=lambda r: -lead[r["name"]])[:examples]
    missed = [r for r in saved if lead[r["name"]] <= 0][:1]
    names = context.explainer.bank.class_names
    return [
        Picture(pair_figure(context.folder, kind, record), caption(record, names, record in missed))
        for record in [*good, *missed]
    ]


def _lead(record: Record, of: str) -> float:
    """By how much the largest fall of an edited concept exceeds that of the others, relative to all falls."""
    before, after = np.array(record[of], float)
    fall = before - after
    others = max((fall[k] for k in record["detected"] if k not in record["concepts"]), default=0.0)
    edited = max(fall[k] for k in record["concepts"])
    return float((edited - others) / (np.abs(fall).sum() + 1e-9)) if edited > 0 else -1.0


def caption(record: Record, names: Sequence[str], missed: bool) -> str:
    """An example in words."""
    before, after = record["probability"]
    ending = " The explanation pointed elsewhere." if missed else ""
    start = f"A {names[record['label']]}: {record['what']}."
    return f"{start} The classifier's probability went from {before:.2f} to {after:.2f}.{ending}"


def pair_figure(folder: Path, kind: str, record: Record) -> Figure:
    """The photo before and after with its concepts, and the contributions of each concept as bars."""
    pixels = np.asarray(Image.open(pair_path(folder, kind, record["name"])).convert("RGB"))
    height, width = pixels.shape[0], pixels.shape[1] // 2
    detected, values = record["detected"], np.array(record[OF[kind]], float)
    colours = [EDITED if k in record["concepts"] else "#1a1a1a" for k in detected]
    limit = float(np.abs(values[:, detected]).max()) or 1.0
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    axes = figure.subplots(1, 3)
    for i, (ax, title) in enumerate(zip(axes, ("before", f"after: {record['what']}"), strict=False)):
        ax.imshow(pixels[:, i * width : (i + 1) * width])
        ax.set(xticks=[], yticks=[], xlabel=f"probability of its class {record['probability'][i]:.2f}")
        ax.set_title(title, fontsize=10, loc="left")
        x, y = (np.array(record["centroids"][i], float)[detected] * (width, height)).T
        style: dict[str, Any] = {"cmap": "RdBu", "norm": Normalize(-limit, limit), "edgecolors": colours}
        ax.scatter(x, y, s=280, c=values[i, detected], linewidths=2, **style)
        for k, colour, *place in zip(detected, colours, x, y, strict=True):
            box = {"boxstyle": "circle,pad=0.1", "facecolor": "white", "edgecolor": "none"}
            ax.annotate(str(k + 1), place, ha="center", va="center", fontsize=8, color=colour, bbox=box)
    lines = np.arange(len(detected))
    for i, (state, hatch) in enumerate((("before", ""), ("after", "////"))):
        axes[2].barh(lines + 0.4 * i - 0.2, values[i, detected], 0.38, label=state, hatch=hatch, color="#9ecae1")
    axes[2].set(yticks=lines, yticklabels=[str(k + 1) for k in detected], ylabel="concept", xlabel="logits")
    axes[2].set_title(
        "contribution of the " + ("concept" if kind == "appearance" else "concept's relations"), fontsize=10
    )
    for label, colour in zip(axes[2].get_yticklabels(), colours, strict=True):
        label.set_color(colour)
    axes[2].invert_yaxis()
    axes[2].axvline(0, color="grey", linewidth=0.8)
    axes[2].legend(frameon=False)
    return figure
