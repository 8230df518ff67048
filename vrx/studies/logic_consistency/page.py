"""The page of the logic consistency study: table 1, the curve over the budget, photos before and after."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from vrx.explain.explainer import Explainer
from vrx.report.drawing import CASING, INK, QUIET, shorten
from vrx.structures import Explanation
from vrx.studies.core.context import StudyContext
from vrx.studies.core.page import Picture, Section, write_page
from vrx.studies.core.predictions import spaced
from vrx.studies.core.statistics import Share
from vrx.studies.logic_consistency.method import ARMS, Arm

COLOURS = ("#0072B2", "#D55E00", "#E69F00", "#CC79A7", "#009E73", "#7f7f7f")  # Okabe and Ito: distinguishable by all
MARKS = ("o", "s", "^", "v", "D", "x")


def strip_path(folder: Path, name: str) -> Path:
    """Where the edited photos of an error are kept."""
    return folder / "edited" / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.png"


def strip(folder: Path, name: str, explainer: Explainer, view: Explanation, arms: Mapping[str, Arm]) -> None:
    """Keep the clean photo and what each arm made of it, side by side; guided places are outlined on the first."""
    clean = explainer.pixels(view.x)
    outlined = clean.copy()
    for edit in arms["vrx_guided"].edits:
        outlined[border(edit.mask)] = (255, 0, 255)
    path = strip_path(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    every = [outlined, *(explainer.pixels(arms[arm].x) for arm in ARMS)]
    Image.fromarray(np.concatenate(every, axis=1)).save(path)


def border(mask: np.ndarray, width: int = 2) -> np.ndarray:
    """Pixels of a mask within ``width`` of its edge, bool ``[H, W]``."""
    inner = np.pad(mask, width)
    for axis in (0, 1):
        inner = np.minimum.reduce([np.roll(inner, shift, axis) for shift in range(-width, width + 1)])
    return np.asarray(mask & ~inner[width:-width, width:-width])


def corrections_page(
    context: StudyContext,
    records: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, float],
    rows: Sequence[Mapping[str, Any]],
    max_edits: int,
    names: Sequence[str],
    examples: int,
) -> Path:
    """Write ``index.html``.

    Args:
        context: of the study.
        records: one an error.
        metrics: of the study.
        rows: of table 1.
        max_edits: N.
        names: path of each error's photo.
        examples: how many errors are shown.
    """
    title = "Does F reason as the explanation says? Errors, corrected by editing"
    if not records:
        lead = f"F made no error on {metrics['photos/total']:.0f} photos: there is nothing to correct."
        return write_page(context.folder, title, lead, [], metrics, context.settings)
    guided = Share(round(metrics["left/vrx_guided"] * len(records)), len(records))
    lead = (
        f"F gets {metrics['errors/all']:.0f} of {metrics['photos/total']:.0f} photos wrong. Of the {len(records)} "
        f"studied, {guided} stay wrong after at most {max_edits} edits that the explanation chose; as many edits "
        f"of the same size at random leave {metrics['left/random']:.0%}."
    )
    shown = pick(records, [strip_path(context.folder, n).exists() for n in names], examples)
    pictures = [Picture(example_figure(context.folder, names[i], records[i]), words(records[i])) for i in shown]
    sections = [
        Section(
            "Errors left",
            [
                "Every arm makes as many edits as the guided one, of the same areas, with the same code; F is asked "
                "after each. A photo counts as corrected once F's log-odds for its true class exceed "
                f"{metrics['noise_floor']:.2f}: what pasting a patch back onto itself, a little out of place, moves "
                "them by at most in 95 % of right photos. Without that threshold see “left by F's answer alone”; “with "
                "all tries” lets every arm go on until F answers right or all edits are spent. Intervals are "
                "Wilson's, 95 %; p is McNemar's exact test against the guided arm.",
            ],
            rows,
            [Picture(curve_figure(records, metrics, max_edits), "Share of the errors left, by the edits allowed.")],
        ),
        Section("Photos before and after", ["Guided places are outlined."], (), pictures),
    ]
    return write_page(context.folder, title, lead, sections, metrics, context.settings)


def pick(records: Sequence[Mapping[str, Any]], kept: Sequence[bool], count: int) -> list[int]:
    """Which errors to show: corrected and not in the proportion in which they occur, each kind at least once."""
    usable = [i for i, there in enumerate(kept) if there and records[i]["arms"]["vrx_guided"]["edits"]]
    good = [i for i in usable if records[i]["arms"]["vrx_guided"]["corrected_after"] is not None]
    bad = [i for i in usable if i not in good]
    wanted = round(count * len(bad) / max(1, len(usable)))
    wanted = min(len(bad), max(wanted, min(1, len(bad))))
    return spaced(good, count - wanted) + spaced(bad, wanted)


def words(record: Mapping[str, Any]) -> str:
    """What the guided arm did, in a sentence."""
    done = []
    for edit in record["arms"]["vrx_guided"]["edits"]:
        what = f"concept {edit['concept']} of {edit['class']}"
        done.append(f"{what} replaced by a good one" if edit["edit"] == "substitute" else f"{what} deleted")
    after = record["arms"]["vrx_guided"]
    end = f"F answers {after['answers'][-1] if after['answers'] else record['predicted']}"
    end += "" if after["corrected_after"] else ", not corrected"
    return (
        f"A {record['true']} that F calls {record['predicted']} (cause: {record['cause']}): {', '.join(done)}; {end}."
    )


def curve_figure(records: Sequence[Mapping[str, Any]], metrics: Mapping[str, float], max_edits: int) -> Figure:
    """Share of errors left against the budget, an arm a line."""
    figure = Figure(figsize=(9.6, 4.2), layout="constrained", facecolor="white")
    ax = figure.subplots()
    budgets = range(max_edits + 1)
    for (arm, label), colour, mark in zip(ARMS.items(), COLOURS, MARKS, strict=True):
        values = [1.0, *(metrics[f"left/{arm}_{b}"] for b in budgets[1:])]
        bounds = [Share(round(v * len(records)), len(records)).interval for v in values]
        ax.plot(budgets, values, color=colour, marker=mark, label=label, linewidth=2)
        low, high = [b[0] for b in bounds], [b[1] for b in bounds]
        ax.fill_between(budgets, low, high, color=colour, alpha=0.12, linewidth=0)
    ax.set(xlabel="edits allowed", ylabel="errors left", ylim=(0, 1.03), xticks=list(budgets))
    ax.yaxis.set_major_formatter(lambda v, _: f"{v:.0%}")
    ax.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right center", frameon=False, fontsize=9)
    return figure


def example_figure(folder: Path, name: str, record: Mapping[str, Any]) -> Figure:
    """One error: the photo, and what each arm made of it with F's margin and answer."""
    pixels = np.asarray(Image.open(strip_path(folder, name)).convert("RGB"))
    tiles = np.split(pixels, len(ARMS) + 1, axis=1)
    figure = Figure(figsize=(2.35 * len(tiles), 3.0), layout="constrained", facecolor="white")
    axes = figure.subplots(1, len(tiles))
    heads = [f"label: {record['true']}", *ARMS.values()]
    margins = [record["arms"]["vrx_guided"]["margins"][0], *(record["arms"][arm]["margins"][-1] for arm in ARMS)]
    first = record["predicted"]
    answers = [first, *([first, *record["arms"][arm]["answers"]][-1] for arm in ARMS)]
    for ax, tile, head, margin, answer in zip(axes, tiles, heads, margins, answers, strict=True):
        ax.imshow(tile)
        ax.set(xticks=[], yticks=[])
        right = answer == record["true"]
        ax.set_title(shorten(head, 34), fontsize=8.5, color=INK)
        ax.set_xlabel(
            f"F: {shorten(answer, 18)} {'✓' if right else '✗'}\nlog-odds of the label {margin:+.1f}".replace("-", "−"),
            fontsize=8.5,
            color=INK if right else QUIET,
            weight="bold" if right else "normal",
        )
        ax.spines[:].set(color=CASING, linewidth=2.5 if right else 0.6)
    return figure
