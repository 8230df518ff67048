"""The confusion matrix counts every test photo, and a cause is named only where the explanation shows one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.report.synthetic import NAMES, make_explanation
from tests.report.test_pages import trusted
from vrx.report.mistakes import Predictions, confusion, likely_cause, lists


def predictions() -> Predictions:
    """Class 0: a right one and two called 1; class 1: one called 2."""
    return Predictions(["a", "b", "c", "d"], np.eye(3)[[0, 1, 1, 2]], np.array([0, 0, 0, 1]))


def test_cells_hold_counts_and_photos() -> None:
    explained = [make_explanation(name="c", true_class=0), make_explanation(name="a", true_class=0)]
    found = confusion(predictions(), explained, NAMES[:3])
    counts = [[cell["count"] for cell in row] for row in found["rows"]]
    assert counts == [[1, 2, 0], [0, 0, 1], [0, 0, 0]]
    cell = found["rows"][0][1]
    assert (cell["photos"], cell["files"], cell["left"]) == ([1], ["b"], 1)
    assert cell["share"] == pytest.approx(2 / 3) and found["worst"] == "cell-0-1"


def test_without_errors_no_pair_is_confused() -> None:
    right = [make_explanation(name="a")]
    assert confusion(Predictions.of(right, NAMES[:3]), right, NAMES[:3])["worst"] == ""
    assert [some["photos"] == [] for some in lists(right)] == [True, False, False]


def test_photos_without_a_label_are_in_no_cell() -> None:
    unknown = [make_explanation(true_class=None)]
    assert confusion(Predictions.of(unknown, NAMES[:3]), unknown, NAMES[:3])["worst"] == ""
    assert likely_cause(unknown[0]) == (
        "",
        "",
    )


def test_lists_put_the_worst_first() -> None:
    shares = ([0.9, 0.06, 0.04], [0.5, 0.45, 0.05], [0.7, 0.2, 0.1])
    photos = [make_explanation(seed=i, true_class=1, probabilities=np.array(p)) for i, p in enumerate(shares)]
    wrong, unsure, _ = lists(photos)
    assert [number for number, _ in wrong["photos"]] == [1, 3, 2]  # gaps of .84, .5 and .05
    assert [number for number, _ in unsure["photos"]] == [2, 3, 1]
    assert wrong["photos"][0][1] == "fire engine 0.90, label ambulance 0.06"


def test_causes_by_what_the_explanation_shows() -> None:
    wrong = trusted(True, true_class=1)
    strongest = "Concept 4 of fire engine supports it most (+1.0, measured +1.0"
    assert likely_cause(wrong)[0].startswith(strongest)
    matched = wrong.matched.copy()
    matched[1, 2] = matched[0, 3]
    shared = likely_cause(replace(wrong, matched=matched))[0]
    assert shared == "What supports fire engine most, its concept 4, is concept 3 of ambulance too."
    matched[1] = -1
    assert likely_cause(replace(wrong, matched=matched))[0] == "Only 0 of the 4 concepts of ambulance were found."
    assert likely_cause(trusted(False, true_class=1))[0].startswith("No cause can be named: ")
    assert likely_cause(trusted(True)) == ("", "")


def test_a_concept_that_decides_alone_is_named_so() -> None:
    close = trusted(True, true_class=1, logits=np.array([1.0, 0.5, 0.0]))
    assert "more than what separates both classes" in likely_cause(close)[0]
    far = trusted(True, true_class=1, logits=np.array([3.0, 0.5, 0.0]))
    assert "separates" not in likely_cause(far)[0]
