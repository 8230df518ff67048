"""A number for every pair of concepts, as a picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vrx.report.phrases import shorten, signed

CELL = 0.52  # inches
LONGEST = 24  # characters of a name


def matrix_figure(values: NDArray[np.float64], names: Sequence[str], title: str) -> Figure:
    """Purple above 0, orange below, the number in every cell (row i, column j); cells that are NaN stay empty."""
    count, most = len(names), float(np.nanmax(np.abs(values), initial=1e-9))
    margin = 0.45 + 0.075 * min(max(map(len, names)), LONGEST)
    side = max(CELL * count + margin, 0.085 * len(title))
    figure = Figure((side, side + 0.4), layout="constrained")
    ax = figure.add_subplot()
    ax.imshow(values, "PuOr", vmin=-most, vmax=most)
    labels = [shorten(name, LONGEST) for name in names]
    ax.set_xticks(range(count), labels, rotation=45, ha="right", fontsize=9)
    ax.set_yticks(range(count), labels, fontsize=9)
    ax.set(xlabel="from concept j", ylabel="to concept i")
    ax.set_title(title, fontsize=11, loc="left")
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            dark = abs(value) > 0.6 * most
            ax.text(j, i, signed(float(value)), ha="center", va="center", fontsize=8, color="w" if dark else "k")
    return figure
