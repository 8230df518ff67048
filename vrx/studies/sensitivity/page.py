"""The page of the sensitivity study: figure 7 for the reader's own photos, and how often it came out so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vrx.report.phrases import capital
from vrx.studies.core.context import StudyContext
from vrx.studies.core.page import Picture, Section, edited_path, read_edited, write_page
from vrx.studies.core.relations import READINGS
from vrx.studies.core.statistics import Share

HEADINGS = {"appearance": "A good concept replaced by a worse one", "structure": "A concept moved to an abnormal place"}
KINDS = {"appearance": "nodes", "structure": "all"}  # kind of edit -> which of READINGS should fall
COLUMNS = {
    "p (above chance)": "p_value",
    **{f"found by {words}": f"found_by_{name}" for name, words in READINGS.items()},
    "Spearman with the classifier": "spearman",
    "Spearman of the GRN with the classifier": "spearman_grn",
    "relation named that the classifier loses": "partner",
    "by chance": "partner_chance",
}
SAVED = 12  # photos of each kind that are saved for the page
EDITED = "#d6007f"  # marks edited concepts: neither end of the colour scale
NUMBER = {"boxstyle": "circle,pad=0.1", "facecolor": "white", "edgecolor": "none"}
Record = Mapping[str, Any]


def write_sensitivity(
    context: StudyContext, records: Mapping[str, Sequence[Record]], metrics: Mapping[str, float], examples: int
) -> None:
    """Write ``index.html``."""
    rows = {kind: found for kind, found in records.items() if found}
    lead = " ".join(sentence(kind, len(found), metrics) for kind, found in rows.items()) or (
        "No photo that is classified right offered an edit that counts: see study.min_detected, and the concepts of "
        "the run."
    )
    sections = []
    for kind, found in rows.items():
        table = {"edits": len(found)} | {title: metrics.get(f"{name}/{kind}") for title, name in COLUMNS.items()}
        sections.append(Section(HEADINGS[kind], [], [table], _pictures(context, kind, found, examples)))
    write_page(context, "Does the explanation notice which concept was edited?", lead, sections, metrics)


def sentence(kind: str, count: int, metrics: Mapping[str, float]) -> str:
    """The result for one kind of edit."""
    found = Share(round(metrics[f"found/{kind}"] * count), count)
    edited, falls = (
        ("made worse", "contribution falls") if kind == "appearance" else ("moved", "contribution and relations fall")
    )
    return (
        f"Of the detected concepts, the one that was {edited} is the one whose {falls} most in {found} edits; "
        f"a blind guess finds {metrics[f'chance/{kind}']:.1%}."
    )


def _pictures(context: StudyContext, kind: str, records: Sequence[Record], examples: int) -> list[Picture]:
    """The clearest examples found, and one that was missed, if there is any: chosen by the rule, not by hand."""
    saved = [r for r in records if edited_path(context.folder, kind, r["name"]).exists()]
    ranked = sorted(saved, key=lambda r: -_lead(r, KINDS[kind]))
    good = [r for r in ranked if _lead(r, KINDS[kind]) > 0][:examples]
    missed = [r for r in saved if _lead(r, KINDS[kind]) <= 0][:1]
    pictures = []
    for record in [*good, *missed]:
        before, after = record["probability"]
        name = capital(context.explainer.bank.class_names[record["label"]])
        went = f"The classifier's probability went from {before:.2f} to {after:.2f}."
        caption = f"{name}: {record['what']}. {went}{' The explanation pointed elsewhere.' if record in missed else ''}"
        versions = read_edited(context.folder, kind, record["name"], 2)
        pictures.append(Picture(edit_figure(versions, kind, record), caption))
    return pictures


def _lead(record: Record, of: str) -> float:
    """By how much the largest fall of an edited concept exceeds that of the others, relative to all falls."""
    fall = -np.diff(np.array(record[of], float), axis=0)[0]
    others = max((fall[k] for k in record["detected"] if k not in record["concepts"]), default=0.0)
    edited = max(fall[k] for k in record["concepts"])
    return float((edited - others) / (np.abs(fall).sum() + 1e-9)) if edited > 0 else -1.0


def edit_figure(versions: Sequence[NDArray[np.uint8]], kind: str, record: Record) -> Figure:
    """The photo before and after with its concepts, and the contributions of each concept as bars."""
    detected = record["detected"]
    values = np.array(record[KINDS[kind]], float)[:, detected]
    colours = [EDITED if k in record["concepts"] else "#1a1a1a" for k in detected]
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    *photos, bars = figure.subplots(1, 3)
    limit = float(np.abs(values).max()) or 1.0
    scale: dict[str, Any] = {"cmap": "RdBu", "norm": Normalize(-limit, limit)}
    for i, title in enumerate(("before", f"after: {record['what']}")):
        photos[i].set(xticks=[], yticks=[], xlabel=f"probability of its class {record['probability'][i]:.2f}")
        photos[i].set_title(title, fontsize=10, loc="left", parse_math=False)
        photos[i].imshow(versions[i])
        places = np.array(record["centroids"][i], float)[detected] * versions[i].shape[1::-1]
        photos[i].scatter(*places.T, s=280, c=values[i], linewidths=2, edgecolors=colours, **scale)
        for k, colour, place in zip(detected, colours, places, strict=True):
            photos[i].annotate(str(k + 1), place, ha="center", va="center", fontsize=8, color=colour, bbox=NUMBER)
    lines = np.arange(len(detected))
    for i, (state, hatch) in enumerate((("before", ""), ("after", "////"))):
        bars.barh(lines + 0.4 * i - 0.2, values[i], 0.38, label=state, hatch=hatch, color="#9ecae1")
    bars.set(yticks=lines, yticklabels=[str(k + 1) for k in detected], ylabel="concept", xlabel="logits")
    bars.set_title(f"of each concept: {READINGS[KINDS[kind]]}", fontsize=10)
    for label, colour in zip(bars.get_yticklabels(), colours, strict=True):
        label.set_color(colour)
    bars.invert_yaxis()
    bars.axvline(0, color="grey", linewidth=0.8)
    bars.legend(frameon=False)
    return figure
