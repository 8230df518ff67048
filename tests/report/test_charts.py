"""Charts of the report: what is on them, and what is left out."""

from __future__ import annotations

import math

import pytest

from vrx.report.charts import CONCEPTS, RELATIONS, bar_chart, scatter


def test_scatter_leaves_out_what_was_not_measured() -> None:
    chart = scatter([1.0, 2.0, -1.0, 5.0], [2.0, 3.0, 1.0, math.nan], CONCEPTS, "c")
    assert chart["note"] == "3 concepts, same sign 67%, Spearman over all 1.00"
    assert chart["points"] == [[46.3, -61.7], [92.6, -92.6], [-46.3, -30.9]]  # percent of 2.16 and 3.24, upwards
    assert chart["ends"] == ("±2.16", "±3.24")
    assert scatter([], [], CONCEPTS, "c")["note"] == "0 concepts"


def test_a_scatter_says_what_it_is_of() -> None:
    chart = scatter([1.0, -2.0], [2.0, 3.0], RELATIONS, "c")
    assert chart["note"] == "2 pairs, same sign 50%"
    assert chart["kind"].expected == "interaction by the graph network (logits)"


def test_bars_begin_at_zero_and_end_at_their_value() -> None:
    rows = {"ours": [("ours", 0.5, "")], "area": [("other", -0.25, "")], "none": [("other", math.nan, "unknown")]}
    chart = bar_chart("t", "n", rows, "c", ("ceiling", 0.75))
    (ours,), (area,), (none,) = (bars for _, bars in chart["rows"])
    assert (ours["left"], ours["width"], ours["text"]) == (25, 50, "0.50")  # the axis goes from -0.25 to 0.75
    assert (area["left"], area["width"], area["text"]) == (0, 25, "−0.25")
    assert (none["width"], none["text"]) == (0, "unknown")
    assert chart["line"] == ("ceiling 0.75", 100)
    assert bar_chart("t", "n", rows, "c", ("ceiling", math.nan))["line"] is None


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_single_bar(value: float) -> None:
    ((_, (bar,)),) = bar_chart("t", "n", {"a": [("ours", value, "")]}, "c")["rows"]
    assert bar["left"] == 0 and bar["width"] == 100 * value
