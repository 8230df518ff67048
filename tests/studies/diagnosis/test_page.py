"""Tables and words of the diagnosis' page, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from vrx.studies.diagnosis.page import (
    Found,
    accuracies,
    errors_figure,
    lead,
    quality_table,
    shared_or_false_alarm,
    trust,
)
from vrx.studies.diagnosis.recommendation import advise


def test_scores_table_and_figure() -> None:
    tested = [
        {
            "cause": c,
            "found": f,
            "rule": f,
            "gradcam": g,
            "classes": "shared",
            "shared or false alarm": "shared",
        }
        for c, f, g in (("shared", "shared", "unseen"), ("unseen", "unseen", "unseen"), ("unseen", "shared", "shared"))
    ]
    found = accuracies(tested)
    assert found["cause/accuracy"] == pytest.approx(2 / 3)
    assert found["cause/accuracy_classes"] == found["cause/accuracy_gradcam"] == pytest.approx(1 / 3)
    assert accuracies([]) == {}
    assert [row["errors"] for row in quality_table(tested)] == [3, 1, 0, 2]
    advice = advise([{"true": 0, "predicted": 1, "cause": cause} for cause in ("unseen", "shared")], ["a", "b"])
    figure = errors_figure(np.array([[3, 2], [0, 4]]), advice, ["a", "b"])
    marks = [t.get_text() for t in figure.axes[0].texts]
    assert {"3", "2", "0", "4"} <= set(marks) and {"S", "U"} <= set(marks)
    assert lead(Found(np.zeros((2, 2), int), [], [], [], ""), {}).startswith("The classifier makes no error on")


def test_shared_or_false_alarm_counts_these_two_alone_and_what_the_means_give_away() -> None:
    tested = [
        {"cause": c, "shared or false alarm": f}
        for c, f in (("shared", "shared"), ("shared", "false alarm"), ("false alarm", "false alarm"),
                     ("unseen", "shared"), ("unseen", "false alarm"))
    ]  # fmt: skip
    words = shared_or_false_alarm(tested)
    assert "right in 2 of 3 (" in words and "right in 4 of 5 (" in words  # all unseen and 2 of the other 3


def test_the_page_warns_where_shared_and_false_alarm_are_not_shared_or_false_alarm() -> None:
    def rows(right: int) -> list[dict[str, str]]:
        return [
            {"cause": "shared", "shared or false alarm": "shared" if i < right else "false alarm"} for i in range(40)
        ]

    assert "no better than chance" in trust(rows(24)) and "no better" not in trust(rows(32))  # Wilson: 0.45 and 0.65
    assert "were not verified" in trust([])
