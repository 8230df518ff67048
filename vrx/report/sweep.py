"""Which settings matter: the trials of a sweep as a page (``sweep.html``)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import kruskal, spearmanr

from vrx.report.charts import bar_chart
from vrx.report.html import embed, write_html

BEST, OTHERS = "#d95f02", "viridis"  # the best trial's line; colour scale of the rest
DECADE = 10.0  # an axis whose values span more is logarithmic
BARS = (
    "+1: the more, the better; -1: the less, the better; 0: it does not matter. For a setting that is no number the "
    "correlation ratio, without a sign. A sampler that follows the best trials moves settings together: p is then too "
    "small."
)
LINES = "One line a trial, from its settings to what it reached: bright is good, the best one is orange."


@dataclass(frozen=True)
class Trial:
    """One trial of a sweep."""

    number: int  # of the trial, from 0
    settings: Mapping[str, str]  # those that were given, as they were written: dotted name -> value
    objective: float  # what the sweep maximises; NaN where it failed
    error: str = ""  # why it failed; ""
    before_training: float = math.nan  # seconds from its start to the start of the training; NaN where it failed

    @property
    def result(self) -> str:
        """The objective, or that the trial failed."""
        return "failed" if self.error else f"{self.objective:.4g}"

    def short(self, knob: str) -> str:
        """A setting as people read it: three digits of a long number."""
        value = self.settings.get(knob, "")
        numbers = as_numbers([value])
        return value if numbers is None or len(value) < 8 else f"{numbers[0]:.3g}"


def knobs(trials: Sequence[Trial]) -> list[str]:
    """The settings that differ between the trials."""
    names = dict.fromkeys(name for trial in trials for name in trial.settings)
    return [name for name in names if len({trial.settings.get(name) for trial in trials}) > 1]


def influence(trials: Sequence[Trial], knob: str) -> tuple[float, float]:
    """How the objective goes with one setting over the trials that finished, and the p-value of that.

    Returns:
        Numbers: Spearman's rank correlation, in [-1, 1]. Other values: the correlation ratio eta, in [0, 1] (the root
        of the share of the objective's variance that lies between the values), and the p-value of Kruskal-Wallis. NaN
        where there are fewer than three trials or all values are the same.
    """
    done = [trial for trial in trials if not trial.error and knob in trial.settings]
    objective = np.array([trial.objective for trial in done])
    values = [trial.settings[knob] for trial in done]
    if len(done) < 3 or len(set(values)) < 2 or np.ptp(objective) == 0:
        return math.nan, math.nan
    numbers = as_numbers(values)
    if numbers is not None:
        found = spearmanr(numbers, objective)
        return float(found.statistic), float(found.pvalue)
    groups = [objective[[v == value for v in values]] for value in dict.fromkeys(values)]
    between = sum(len(group) * (group.mean() - objective.mean()) ** 2 for group in groups)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # groups of one
        p_value = float(kruskal(*groups).pvalue)
    return math.sqrt(between / np.square(objective - objective.mean()).sum()), p_value


def as_numbers(values: Sequence[str]) -> NDArray[np.float64] | None:
    """The values as numbers; None where one is none."""
    try:
        return np.array([float(value) for value in values])
    except ValueError:
        return None


def write_sweep(path: Path, trials: Sequence[Trial], objective: str) -> Path:
    """Write the page of a sweep of at least one trial."""
    varied, ranked = knobs(trials), ranking(trials)
    done = [trial for trial in ranked if not trial.error]
    found = {knob: influence(trials, knob) for knob in varied}
    largest = sorted((item for item in found.items() if math.isfinite(item[1][0])), key=lambda item: -abs(item[1][0]))
    measured = {
        f"{knob} (p = {p:.2g})": [("minus" if strength < 0 else "plus", strength, "")]
        for knob, (strength, p) in largest
    }
    note = f"rank correlation with {objective}, {len(done)} trials"
    bars = bar_chart("Which settings matter", note, measured, BARS) if measured else None
    lines = embed(parallel_figure(done, varied, objective), LINES) if len(done) > 1 and varied else None
    rows = [
        [trial.number, trial.result,
         *(trial.short(knob) for knob in varied), trial.error or f"{trial.before_training:.1f} s"]
        for trial in ranked
    ]  # fmt: skip
    fixed = {k: v for k, v in trials[0].settings.items() if k not in varied}
    return write_html(
        path, Path(__file__).parent / "sweep.html.j2", {}, fixed, title=f"Sweep: {objective}",
        bars=bars, lines=lines, caption=LINES,
        columns=["trial", objective, *varied, "time before training, or error"], rows=rows, trials=len(trials),
        failed=len(trials) - len(done), best=done[0] if done else None,
        best_settings=", ".join(f"{knob}={done[0].short(knob)}" for knob in varied) if done else "",
    )  # fmt: skip


def ranking(trials: Sequence[Trial]) -> list[Trial]:
    """The best first, failed ones last."""
    return sorted(trials, key=lambda trial: (bool(trial.error), -np.nan_to_num(trial.objective), trial.number))


def parallel_figure(trials: Sequence[Trial], varied: Sequence[str], objective: str) -> Figure:
    """Parallel coordinates of finished trials, the best first: an axis a setting, the objective last."""
    texts = {knob: [trial.settings.get(knob, "") for trial in trials] for knob in varied}
    axes = [*texts.items(), (objective, [f"{trial.objective:.3g}" for trial in trials])]
    figure = Figure((2.2 + 1.9 * len(axes), 4.2), layout="constrained")
    ax = figure.add_subplot()
    heights, ticks = zip(*(_heights(values) for _, values in axes), strict=True)
    colours = np.linspace(0.9, 0, len(trials))
    for row in reversed(range(len(trials))):
        style = {"color": BEST, "linewidth": 3} if row == 0 else {"color": colormaps[OTHERS](colours[row])}
        ax.plot(range(len(axes)), [height[row] for height in heights], marker="o", markersize=4, **style)
    for place, marks in enumerate(ticks):
        ax.axvline(place, color="#888888", linewidth=0.8, zorder=0)
        for height, text in marks:
            box = {"fc": "white", "ec": "none", "pad": 0.6, "alpha": 0.85}
            ax.text(place + 0.04, height, text, fontsize=9, va="center", bbox=box)
    ax.set_xticks(range(len(axes)), [name for name, _ in axes], fontsize=9)
    ax.set(yticks=[], xlim=(-0.15, len(axes) - 0.65), ylim=(-0.06, 1.06))
    ax.spines[:].set_visible(False)
    return figure


def _heights(values: Sequence[str]) -> tuple[list[float], list[tuple[float, str]]]:
    """Where values lie on an axis from 0 to 1, and what is written there."""
    numbers = as_numbers(values)
    if numbers is None:
        order = list(dict.fromkeys(sorted(values)))
        spread = max(len(order) - 1, 1)
        return [order.index(v) / spread for v in values], [(k / spread, text) for k, text in enumerate(order)]
    scale = np.log(numbers) if numbers.min() > 0 and numbers.max() / numbers.min() >= DECADE else numbers
    height = (scale - scale.min()) / (np.ptp(scale) or 1)
    marks = {f"{number:.3g}": float(at) for number, at in zip(numbers, height, strict=True)}
    shown = sorted(marks.items(), key=lambda mark: mark[1])
    if len(shown) > 5:
        shown = [shown[0], shown[-1]]
    return height.tolist(), [(at, text) for text, at in shown]
