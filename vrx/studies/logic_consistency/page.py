"""The page of the logic consistency study: table 1, the curve over the budget, photos before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from scipy.ndimage import binary_erosion

from vrx.explain.explainer import Explainer
from vrx.explanation import Explanation
from vrx.report.phrases import capital
from vrx.studies.core.context import StudyContext
from vrx.studies.core.page import Picture, Section, edited_path, read_edited, save_edited, write_page
from vrx.studies.core.photos import spaced
from vrx.studies.core.statistics import Share
from vrx.studies.logic_consistency.method import ARMS, Arm

STYLES = (  # of the arms' lines: colours of Okabe and Ito, distinguishable by all
    ("#0072B2", "o"), ("#D55E00", "s"), ("#E69F00", "^"), ("#CC79A7", "v"), ("#009E73", "D"), ("#7f7f7f", "x"),
    ("#000000", "P"), ("#56B4E9", "*"),
)  # fmt: skip
OUTLINE = (255, 0, 255)
TITLE = "Does the classifier reason as the explanation says? Errors, corrected by editing"
METHOD = (
    "Every arm of content makes as many edits as the guided one, of the same areas, with the same code; the arms of "
    "structure put concepts of the true class where they usually lie, missing ones too, or at random places. The "
    "classifier is run after each edit. A photo counts as corrected once the log-odds of its true class exceed "
    "{floor:.2f}: what pasting a "
    "patch back onto itself, a little out of place, moves them by at most in 95 % of right photos. “Share without the "
    "noise floor” counts every right prediction; “share after all edits” lets every arm go on until the prediction is "
    "right or all edits are spent. Intervals are Wilson's, 95 %; p is McNemar's exact test against the guided arm; of "
    "random places against guided structure."
)
Record = Mapping[str, Any]


def save_arms(folder: Path, name: str, explainer: Explainer, explanation: Explanation, arms: Mapping[str, Arm]) -> None:
    """Save the clean photo and what each arm made of it, side by side; guided places are outlined on the first."""
    clean = explainer.pixels(explanation.x).copy()
    for edit in arms["vrx_guided"].edits:
        inner = binary_erosion(edit.mask, np.ones((3, 3)), iterations=2, border_value=0)
        clean[edit.mask & ~inner] = OUTLINE
    save_edited(folder, "error", name, [clean, *(explainer.pixels(arms[arm].x) for arm in ARMS)])


def write_logic_consistency(
    context: StudyContext,
    records: Mapping[str, Record],
    metrics: Mapping[str, float],
    table: Sequence[Mapping[str, Any]],
    max_edits: int,
    examples: int,
) -> None:
    """Write ``index.html``; ``records``: path of each error's photo -> its record."""
    if not records:
        lead = f"The classifier made no error on {metrics['photos/total']:.0f} photos: there is nothing to correct."
        write_page(context, TITLE, lead, [], metrics)
        return
    guided = Share(round(metrics["left/vrx_guided"] * len(records)), len(records))
    lead = (
        f"The classifier gets {metrics['errors/all']:.0f} of {metrics['photos/total']:.0f} photos wrong. Of the "
        f"{len(records)} studied, {guided} stay wrong after at most {max_edits} edits that the explanation chose; as "
        f"many edits of the same size at random leave {metrics['left/random']:.0%}. Concepts put where they belong "
        f"correct {metrics['corrected/structure']:.0f}, {metrics['corrected/structure_alone']:.0f} of these alone."
    )
    method = METHOD.format(floor=metrics["noise_floor"])
    curve = Picture(curve_figure(len(records), metrics, max_edits), "Errors not corrected, by the edits allowed.")
    saved = {name: r for name, r in records.items() if edited_path(context.folder, "error", name).exists()}
    photos = [
        Picture(example_figure(context.folder, name, records[name]), sentence(records[name]))
        for name in chosen_examples(saved, examples)
    ]
    sections = [
        Section("Errors not corrected", [method], table, [curve]),
        Section("Photos before and after", ["Guided places are outlined."], (), photos),
    ]
    write_page(context, TITLE, lead, sections, metrics)


def chosen_examples(records: Mapping[str, Record], count: int) -> list[str]:
    """Which errors to show: corrected and not in the proportion in which they occur, each kind at least once."""
    edited = {name: r for name, r in records.items() if r["arms"]["vrx_guided"]["edits"]}
    good = [name for name, r in edited.items() if r["arms"]["vrx_guided"]["corrected_after"] is not None]
    bad = [name for name in edited if name not in good]
    wanted = min(len(bad), max(round(count * len(bad) / max(1, len(edited))), 1))
    return spaced(good, count - wanted) + spaced(bad, wanted)


def sentence(record: Record) -> str:
    """What the guided arms did."""
    verbs = {"substitute": "replaced by a good one", "delete": "deleted", "add": "added", "move": "moved"}
    parts = [f"{capital(record['true'])} predicted as {record['predicted']} (cause: {record['cause']})."]
    for title, name in (("Content", "vrx_guided"), ("Structure", "structure")):
        if (arm := record["arms"][name])["edits"]:
            done = [f"concept {edit['concept']} of {edit['class']} {verbs[edit['edit']]}" for edit in arm["edits"]]
            end = "" if arm["corrected_after"] else ", not corrected"
            parts.append(f"{title}: {', '.join(done)}; the prediction is {arm['predicted'][-1]}{end}.")
    return " ".join(parts)


def curve_figure(errors: int, metrics: Mapping[str, float], max_edits: int) -> Figure:
    """Share of the errors not corrected against the edits allowed, one line per arm."""
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    ax = figure.subplots()
    budgets = range(max_edits + 1)
    for (arm, label), (colour, mark) in zip(ARMS.items(), STYLES, strict=True):
        values = [1.0, *(metrics[f"left/{arm}_{b}"] for b in budgets[1:])]
        low, high = zip(*(Share(round(v * errors), errors).interval for v in values), strict=True)
        ax.plot(budgets, values, color=colour, marker=mark, label=label, linewidth=2)
        ax.fill_between(budgets, low, high, color=colour, alpha=0.12, linewidth=0)
    ax.set(xlabel="edits allowed", ylabel="errors not corrected", ylim=(0, 1.03), xticks=list(budgets))
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    ax.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right center", frameon=False, fontsize=9)
    return figure


def example_figure(folder: Path, name: str, record: Record) -> Figure:
    """One error: the photo, and what each arm made of it with the prediction and its log-odds."""
    tiles = read_edited(folder, "error", name, len(ARMS) + 1)
    arms = [record["arms"][arm] for arm in ARMS]
    states = [(record["predicted"], arms[0]["margins"][0])]
    states += [([record["predicted"], *arm["predicted"]][-1], arm["margins"][-1]) for arm in arms]
    heads = [f"label: {record['true']}", *(words.replace(": ", ":\n").replace(", ", ",\n") for words in ARMS.values())]
    figure = Figure(figsize=(2.6 * 5, 7.2), layout="constrained")
    axes = figure.subplots(2, 5).ravel()
    axes[-1].set_axis_off()
    for ax, tile, head, (predicted, margin) in zip(axes, tiles, heads, states, strict=False):
        right = predicted == record["true"]
        ax.imshow(tile)
        ax.set(xticks=[], yticks=[])
        ax.set_title(head, fontsize=8.5)
        text = f"{predicted} {'✓' if right else '✗'}\nlog-odds of the label {margin:+.1f}"
        ax.set_xlabel(text, fontsize=8.5, weight="bold" if right else "normal", parse_math=False)
        ax.spines[:].set_linewidth(2.5 if right else 0.6)
    return figure
