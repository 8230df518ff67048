"""Charts that reports and studies share: what is on them, and what is left out."""

from __future__ import annotations

import math

import numpy as np

from tests.report.test_figures import texts
from vrx.report.charts import RELATIONS, bar_figure, scatter_figure


def test_scatter_leaves_out_what_was_not_measured() -> None:
    figure = scatter_figure([1.0, 2.0, -1.0, 5.0], [2.0, 3.0, 1.0, math.nan])
    note = figure.axes[0].get_title(loc="left")
    assert note == "3 concepts, same sign 67%, Spearman over all 1.00"
    points = next(c for c in figure.axes[0].collections if len(c.get_offsets()) == 3)
    np.testing.assert_allclose(points.get_offsets(), [[1, 2], [2, 3], [-1, 1]])
    assert scatter_figure([], []).axes[0].get_title(loc="left") == "0 concepts"


def test_bars_with_intervals_and_a_line() -> None:
    figure = bar_figure({"ours": 0.5, "area": -0.32}, "t", "n", ("ceiling", 0.65), {"area": (-0.4, -0.3)})
    ax = figure.axes[0]
    assert [round(p.get_width(), 2) for p in ax.patches] == [0.5, -0.32]
    whiskers = [segment[:, 0].tolist() for segment in ax.collections[0].get_segments()]
    np.testing.assert_allclose(whiskers, [[0.5, 0.5], [-0.4, -0.3]])
    assert "ceiling 0.65 " in texts(figure) and "−0.32" in texts(figure)


def test_a_scatter_says_what_it_is_of() -> None:
    ax = scatter_figure([1.0, -2.0], [2.0, 3.0], RELATIONS).axes[0]
    assert ax.get_title(loc="left") == "2 pairs, same sign 50%"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("interaction by the graph network (logits)", "measured interaction")
