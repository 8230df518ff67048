"""The page of the dataset fix: which photos training had, which the diagnosis asked for, and what that changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

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
from vrx.studies.diagnosis.causes import ERROR_CAUSES

TITLE = "Dataset fix: does the diagnosis help?"
NAMES = {"base": "before", "setting1": "setting 1: what VRX asks for", "setting2": "setting 2: more of the old pose"}
BETTER, SAME = "#1f6fb4", "#8a8a8a"
COUNTS = "Accuracy on the test photos; errors on the probe photos by diagnosed cause; what setting 1 added."


def dataset_fix_page(
    context: StudyContext, pool: PosePool, runs: Sequence[Run], metrics: Mapping[str, float], added: int
) -> None:
    """Write ``index.html``; ``runs``: of each seed, ``added``: photos added in either setting."""
    predictions = {name: np.array([run["predictions"][name] for run in runs]) for name in SETTINGS}
    own = ", ".join(f"{name} in pose {pose}" for name, pose in zip(pool.class_names, pool.own, strict=True))
    poses = pose_figure(pool, {name: counts.sum(0) for name, counts in predictions.items()}, requested(runs, pool))
    line = gain_figure({name: [accuracy(one) for one in counts] for name, counts in predictions.items()})
    pictures = [
        Picture(
            poses,
            "A test photo of each class in each pose. Boxed: the one pose that training shows. Bars: share of such "
            f"photos classified correctly, mean of {len(runs)} seeds. Below the others: how many of the {added} added "
            "photos the diagnosis spends there.",
        ),
        Picture(line, "Accuracy on all test photos; a line per seed."),
    ]
    intro = f"Training shows {own}, and no other pose. The test photos show every class in every pose."
    advice = [f"The advice of seed {runs[0]['seed']}:", *(runs[0]["advice"] or ["No error, no advice."])]
    sections = [
        Section("Where the added photos help", [intro], table_2(metrics), pictures),
        Section("The diagnosis", [judged(metrics), *advice], cause_table(runs, pool)),
        Section("Each seed", [COUNTS], result_table(runs, pool.class_names)),
    ]
    write_page(context, TITLE, lead(metrics, added, len(runs)), sections, metrics)


def lead(metrics: Mapping[str, float], added: int, seeds: int) -> str:
    """The result in a sentence or two."""
    return (
        f"The classifier is right on {metrics['accuracy/base']:.1%} of the test photos. {added} photos in the poses "
        f"that the diagnosis asks for change that by {gained(metrics, 'setting1')}; as many in the old poses by "
        f"{gained(metrics, 'setting2')} ({seeds} seeds; paired t-test, p = {metrics['gain/p_value']:.2g})."
    )


def gained(metrics: Mapping[str, float], name: str) -> str:
    """A gain in points, with its interval."""
    low, high = metrics[f"gain/{name}_low"], metrics[f"gain/{name}_high"]
    return f"{100 * metrics[f'gain/{name}']:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})"


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


def table_2(metrics: Mapping[str, float]) -> list[dict[str, str]]:
    """The paper's table 2."""
    return [
        {
            "training photos": NAMES[name],
            "accuracy": f"{metrics[f'accuracy/{name}']:.1%}",
            "gain": "" if name == "base" else gained(metrics, name),
        }
        for name in SETTINGS
    ]


def cause_table(runs: Sequence[Run], pool: PosePool) -> list[dict[str, Any]]:
    """Errors of all seeds by confused pair, pose and cause, the most frequent first."""
    groups: dict[tuple[int, int, str], list[str]] = {}
    for error in (error for run in runs for error in run["errors"]):
        groups.setdefault((error["true"], error["predicted"], error["pose"]), []).append(error["cause"])
    return [
        {
            "confused": f"{pool.class_names[true]} → {pool.class_names[predicted]}",
            "in pose": f"{pose} (in training)" if pose == pool.own[true] else pose,
            "errors": len(causes),
            **{cause: causes.count(cause) for cause in ERROR_CAUSES},
        }
        for (true, predicted, pose), causes in sorted(groups.items(), key=lambda item: -len(item[1]))
    ]


def requested(runs: Sequence[Run], pool: PosePool) -> NDArray[np.float64]:
    """Photos of each class and pose asked for, ``[n, P]``, mean of the seeds."""
    found = np.zeros((len(pool.class_names), len(pool.poses)))
    for run in runs:
        for label, pose, count in run["wanted"]:
            found[label, pool.poses.index(pose)] += count
    return found / len(runs)


def pose_figure(pool: PosePool, predictions: Mapping[str, NDArray[np.int64]], asked: NDArray[np.float64]) -> Figure:
    """Class by pose: a photo, and how often the prediction is right after each training.

    ``predictions``: setting -> counts ``[n (true), P, n (predicted)]``; ``asked``: added in setting 1, ``[n, P]``.
    """
    rows, columns = len(pool.class_names), len(pool.poses)
    figure = Figure(figsize=(4.1 * columns, 1.55 * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, 2 * columns, squeeze=False, width_ratios=[1, 1.7] * columns)
    for label, name in enumerate(pool.class_names):
        for place, pose in enumerate(pool.poses):
            photo, bars = axes[label, 2 * place : 2 * place + 2]
            old = pose == pool.own[label]
            _draw_photo(photo, pool, label, pose)
            own = [predictions[setting][label, place] for setting in SETTINGS]
            shares = [counts[label] / max(counts.sum(), 1) for counts in own]
            _draw_bars(bars, shares, "in training" if old else f"+{asked[label, place]:.0f} photos")
            if label == 0:
                photo.set_title(f"pose {pose}", fontsize=11, fontweight="bold", loc="left")
            if place == 0:
                photo.set_ylabel(name, fontsize=11)
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
