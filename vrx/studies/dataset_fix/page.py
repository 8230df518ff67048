"""The page of the dataset fix: which photos training had, which the diagnosis asked for, and what that changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from vrx.errors import VRXError
from vrx.report.drawing import CASING, INK, QUIET
from vrx.studies.core.context import StudyContext
from vrx.studies.core.page import Picture, Section, write_page
from vrx.studies.dataset_fix.gains import SETTINGS, Run, accuracy, result_table
from vrx.studies.dataset_fix.poses import PosePool

NAMES = {"base": "before", "setting1": "setting 1: what VRX asks for", "setting2": "setting 2: more of the old pose"}
BETTER, SAME = "#1f6fb4", "#8a8a8a"
COUNTS = "Accuracy on the test photos; errors on the probe photos by diagnosed cause; what setting 1 added."
POSES = (
    "A test photo of each class in each pose. Boxed: the one pose that training shows. Bars: share of such photos "
    "classified correctly, mean of {} seeds. Below the others: how many of the {} added photos go there."
)  # fmt: skip


def dataset_fix_page(
    context: StudyContext, pool: PosePool, runs: Sequence[Run], metrics: Mapping[str, float], added: int
) -> None:
    """Write ``index.html``; ``runs``: of each seed, ``added``: photos added in either setting."""
    predictions = {name: np.array([run["predictions"][name] for run in runs]) for name in SETTINGS}
    own = ", ".join(f"{name} in pose {pose}" for name, pose in zip(pool.class_names, pool.own, strict=True))
    asked = np.zeros((len(pool.class_names), len(pool.poses)))  # mean of the seeds
    for label, pose, count in (one for run in runs for one in run["wanted"]):
        asked[label, pool.poses.index(pose)] += count / len(runs)
    line = gain_figure({name: [accuracy(one) for one in counts] for name, counts in predictions.items()})
    poses = pose_figure(pool, {name: counts.sum(0) for name, counts in predictions.items()}, asked)
    pictures = [
        Picture(poses, POSES.format(len(runs), added)),
        Picture(line, "Accuracy on all test photos; a line per seed."),
    ]
    intro = f"Training shows {own}, and no other pose. The test photos show every class in every pose."
    table = [
        {
            "training photos": NAMES[name],
            "accuracy": f"{metrics[f'accuracy/{name}']:.1%}",
            "gain": "" if name == "base" else gained(metrics, name),
        }
        for name in SETTINGS
    ]
    advice = [f"The advice of seed {runs[0]['seed']}:", *(runs[0]["advice"] or ["No error, no advice."])]
    sections = [
        Section("Where the added photos help", [intro], table, pictures),
        Section("The diagnosis", [judged(metrics), *advice]),
        Section("Each seed", [COUNTS], result_table(runs, pool.class_names)),
    ]
    title = "Dataset fix: does the diagnosis help?"
    write_page(context, title, lead(metrics, added, len(runs)), sections, metrics)


def lead(metrics: Mapping[str, float], added: int, seeds: int) -> str:
    """The result in a sentence or two."""
    return (
        f"The classifier is right on {metrics['accuracy/base']:.1%} of the test photos. {added} photos in the poses "
        f"that the diagnosis asks for change that by {gained(metrics, 'setting1')}; as many in the old poses by "
        f"{gained(metrics, 'setting2')} ({seeds} seeds; paired t-test, p = {metrics['gain/p_value']:.2g})."
    )


def gained(metrics: Mapping[str, float], name: str) -> str:
    """A gain in points, with its interval."""
    mean, low, high = (100 * metrics[f"gain/{name}{ending}"] for ending in ("", "_low", "_high"))
    return f"{mean:+.1f} points ({low:+.1f} to {high:+.1f})"


def judged(metrics: Mapping[str, float]) -> str:
    """How far the diagnosis was right: the missing poses are known."""
    parts = [f"{metrics['errors/mean']:.0f} errors per seed on the probe photos."]
    if "unseen/missing_poses" in metrics:
        share = metrics["unseen/missing_poses"]
        parts.append(f"Of those in poses that training lacks, {share:.0%} are diagnosed as not seen in training.")
    if "unseen/old_poses" in metrics:
        parts.append(f"Of those in poses that it shows, {metrics['unseen/old_poses']:.0%} are (they should not).")
    parts.append(f"Of the pairs of class and pose that training lacks, {metrics['advice/recall']:.0%} are asked for.")
    return " ".join(parts)


def pose_figure(pool: PosePool, predictions: Mapping[str, NDArray[np.int64]], asked: NDArray[np.float64]) -> Figure:
    """Class by pose: a photo, and how often the prediction is right after each training.

    ``predictions``: setting -> counts ``[n (true), P, n (predicted)]``; ``asked``: added in setting 1, ``[n, P]``.
    """
    rows, columns = len(pool.class_names), len(pool.poses)
    figure = Figure(figsize=(4.1 * columns, 1.55 * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, 2 * columns, squeeze=False, width_ratios=[1, 1.7] * columns)
    for label, name in enumerate(pool.class_names):
        axes[label, 0].set_ylabel(name, fontsize=11)
        for place, pose in enumerate(pool.poses):
            photo, bars = axes[label, 2 * place : 2 * place + 2]
            _draw_photo(photo, pool, label, pose)
            own = [predictions[setting][label, place] for setting in SETTINGS]
            shares = [counts[label] / max(counts.sum(), 1) for counts in own]
            old = pose == pool.own[label]
            _draw_bars(bars, shares, "in training" if old else f"+{asked[label, place]:.0f} photos")
    for ax, pose in zip(axes[0, ::2], pool.poses, strict=True):
        ax.set_title(f"pose {pose}", fontsize=11, fontweight="bold", loc="left")
    return figure


def _draw_photo(ax: Axes, pool: PosePool, label: int, pose: str) -> None:
    """A test photo, where one can be read."""
    boxed = pose == pool.own[label]
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set(color=INK if boxed else CASING, linewidth=4 if boxed else 0.5)
    try:
        (photo,) = pool.draw("test", label, pose, 1, np.random.default_rng(3))
        ax.imshow(np.asarray(pool.source.read(photo).convert("RGB")), interpolation="bicubic")
    except (VRXError, OSError):
        return


def _draw_bars(ax: Axes, shares: Sequence[float], note: str) -> None:
    bars = ax.barh(range(3), shares, color=[SAME, BETTER, SAME], height=0.72)
    ax.bar_label(bars, fmt="{:.0%}", padding=3, fontsize=9, color=INK)
    ax.set(xlim=(0, 1.3), ylim=(2.6, -0.6), xticks=[])
    ax.set_yticks(range(3), [NAMES[name].split(":")[0] for name in SETTINGS], fontsize=9)
    ax.tick_params(length=0)
    ax.set_xlabel(note, fontsize=9, color=QUIET, loc="left")
    ax.spines[["top", "right", "bottom"]].set_visible(False)


def gain_figure(accuracies: Mapping[str, ArrayLike]) -> Figure:
    """A line per seed over the three training sets, and the mean."""
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    ax = figure.add_subplot()
    order = ("setting2", "base", "setting1")
    values = np.stack([np.asarray(accuracies[name], float) for name in order])
    ax.plot(values, color="#9ab8d3", linewidth=1.2, marker="o", markersize=4)
    ax.plot(values.mean(1), color=INK, linewidth=2.5, marker="o", label="mean")
    ax.set_xticks(range(3), [NAMES[name].replace(": ", ":\n") for name in order])
    ax.set(ylabel="accuracy on all poses", ylim=(0, 1), xlim=(-0.3, 2.3))
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    return figure
