"""The words against sentences written by hand from the numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.report.synthetic import make_bank, make_explanation
from vrx.explanation import Explanation
from vrx.report.phrases import direction, join, signed
from vrx.report.trust import sign_agreement, trust
from vrx.report.words import blank_line, panel_text, sentence, trust_line

PLACES = [(0.2, 0.2), (0.8, 0.2), (0.2, 0.8), (0.2, 0.5)]  # 1 top left, 2 top right, 3 bottom left, 4 between 1 and 3


def make(nodes: dict[int, list[float]], **change: Any) -> Explanation:
    """Three classes x four concepts at PLACES, own-class node scores as given, everything else 0."""
    scores = np.zeros((3, 3, 4), np.float32)
    for index, values in nodes.items():
        scores[index, index] = values
    values: dict[str, Any] = {
        "probabilities": np.array([0.97, 0.02, 0.01], np.float32),
        "grn_probabilities": np.array([0.95, 0.03, 0.02], np.float32),
        "node_scores": scores,
        "edge_scores": np.full((3, 3, 12), 5.0, np.float32),  # of which nothing is said
        "detected": np.ones((3, 4), bool),
        "centroids": np.tile(np.array(PLACES, np.float32), (3, 1, 1)),
        "masks": np.zeros((3, 4, 32, 32), bool),
        "measured": np.full((3, 4), np.nan, np.float32),
        "true_class": None,
    }
    return make_explanation(3, 4, size=32, **{**values, **change})


def test_sentence_names_concepts_by_strength() -> None:
    explanation = make({0: [2.0, 0.1, 0.0, 1.0], 1: [0.1, -2.0, -1.0, 0.0], 2: [-1.0, 0, 0, 0]})
    assert sentence(explanation) == (
        "Predicted fire engine (0.97). "
        "Why fire engine? Supported by its concepts 1 and 4. "
        "Why not ambulance? Opposed by its concepts 2 and 3. "
        "Why not school bus? Opposed by its concept 1."
    )


def test_both_sides_of_a_class() -> None:
    explanation = make({0: [2.0, -1.0, 0.0, 0.0], 1: [1.0, -2.0, 0.0, 0.0]})
    assert sentence(explanation, [0, 1]) == (
        "Predicted fire engine (0.97). Why fire engine? Supported by its concept 1; opposed by its concept 2. "
        "Why not ambulance? Opposed by its concept 2; supported by its concept 1."
    )


def test_concepts_that_print_alike_come_in_the_order_of_their_numbers() -> None:
    explanation = make({0: [1.02, 3.0, 1.04, 0.0]})
    assert "Supported by its concepts 2, 1 and 3." in sentence(explanation, [0])


def test_a_prediction_that_only_other_concepts_support() -> None:
    explanation = make({0: [-1.0, -2.0, 0.0, 0.0]})
    assert sentence(explanation, [0]).endswith("Supported by none of its concepts; opposed by its concepts 2 and 1.")
    scores = explanation.node_scores.copy()
    scores[0, 1] = [1.5, 1.0, 0.0, 0.0]  # the ambulance's concepts are what carries the fire engine
    carried = make({}, node_scores=scores)
    assert sentence(carried, [0]).endswith(
        "Supported by none of its concepts (the concepts of ambulance add +2.5); opposed by its concepts 2 and 1."
    )


def test_a_rival_whose_concepts_all_support_it() -> None:
    scores = make({0: [1.0, 0, 0, 0], 1: [0.0, 0.5, 0.0, 0.0]}).node_scores.copy()
    scores[1, 0] = [-2.0, -0.5, 0.0, 0.0]
    assert sentence(make({}, node_scores=scores), [0, 1]).endswith(
        "Why not ambulance? Opposed by none of its concepts (the concepts of fire engine add −2.5); "
        "supported by its concept 2."
    )


def test_nothing_detected() -> None:
    explanation = make({}, detected=np.zeros((3, 4), bool))
    assert sentence(explanation, [0, 1]) == (
        "Predicted fire engine (0.97). Why fire engine? None of its concepts was found. "
        "Why not ambulance? None of its concepts was found."
    )
    assert trust(explanation).level == "low"


def test_undetected_concepts_are_never_named() -> None:
    found = np.ones((3, 4), bool)
    found[0, 2] = False
    explanation = make({0: [1.0, 0.0, 5.0, 0.9]}, detected=found)
    assert "Supported by its concepts 1 and 4." in sentence(explanation, [0])


def test_wrong_prediction_tie_and_label_outside_the_first_classes() -> None:
    explanation = make({}, probabilities=np.array([0.48, 0.481, 0.039], np.float32), true_class=2)
    words = sentence(explanation)
    assert words.startswith("Predicted ambulance (0.48), tied with fire engine, but the label is school bus (0.04).")
    assert "Why not school bus (the label)?" in words
    assert explanation.shown(others=1) == [1, 0, 2]
    assert sentence(make({}, true_class=0)).startswith("Predicted fire engine (0.97), as labelled.")


def test_disagreement_of_the_graph_network_is_in_both_lines() -> None:
    explanation = make({0: [1, 1, 1, 1]}, grn_probabilities=np.array([0.2, 0.7, 0.1], np.float32))
    assert "The graph network predicts ambulance (0.70) instead" in sentence(explanation)
    assert trust_line(explanation).startswith(
        "Trust: low. The graph network predicts ambulance (0.70), the classifier fire engine (0.97)"
    )


def test_a_panel_in_words_names_every_found_concept_with_both_numbers() -> None:
    measured = np.array([[2.0, np.nan, -0.5, 1.0]] * 3, np.float32)
    found = np.ones((3, 4), bool)
    found[0, 3] = False
    text = panel_text(make({0: [1.84, -0.3, 0.04, 9]}, measured=measured, detected=found), 0)
    assert text.endswith(
        "Concept 1 contributes +1.8 (measured +2.0); concept 2 contributes −0.3; "
        "concept 3 contributes +0.04 (measured −0.5)."
    )


NAMED = (("ladder", "", "wheels", "wheels"), ("", "cross", "", ""), ("",) * 4)


def test_named_concepts_are_called_so() -> None:
    explanation = make({0: [2.0, 0.1, 0.9, 0.0], 1: [-0.5, -2.0, 0.0, 0.0]}, names=NAMED)
    assert sentence(explanation, [0, 1]).endswith(
        "Why fire engine? Supported by its concepts ladder (1) and wheels (3). "
        "Why not ambulance? Opposed by its concepts cross (2) and 1."
    )


def test_long_names_are_shortened_in_sentences_but_keep_their_number() -> None:
    names = (("the very long aerial ladder on top of it all", "", "", ""), *NAMED[1:])
    text = sentence(make({0: [2.0, 0, 0, 0]}, names=names), [0])
    assert "its concept the very long ae…p of it all (1)." in text


def test_a_panel_in_words_with_names_and_what_may_be_there() -> None:
    found = np.ones((3, 4), bool)
    found[0, 2:] = False
    presence = np.where(found, 0.9, 0.24).astype(np.float32)
    presence[0, 2] = 0.25
    explanation = make({0: [1, 2, 0, 0]}, detected=found, presence=presence, names=(("McLaren wing", "", "", ""),) * 3)
    assert panel_text(explanation, 0).endswith(
        "McLaren wing (1) contributes +1.0; concept 2 contributes +2.0. Perhaps there: concept 3."
    )
    assert "Perhaps" not in panel_text(explanation, 1)


def absent(found: int, **change: Any) -> Explanation:
    """Photos without detail are called fire engine, which has no concepts; ``found`` of the others' eight are there."""
    exists = np.array([[False] * 4, [True] * 4, [True] * 4])
    detected = np.array([[False] * 4, *(np.arange(8) < found).reshape(2, 4)])
    return make({}, **{"fallback": 0, "exists": exists, "detected": detected, **change})


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (0, "it is predicted because all the 8 concepts of the others are missing."),
        (3, "it is predicted because 5 of the 8 concepts of the others are missing."),
        (4, "still, 4 of the 8 concepts of the other classes were found."),
    ],
)
def test_the_class_of_a_photo_without_detail_is_explained_by_absence(found: int, text: str) -> None:
    said = sentence(absent(found), [0])
    assert (
        "Why fire engine? It has no concepts of its own. A photo without any detail is called fire engine, too" in said
    )
    assert said.endswith(text)
    assert trust(absent(found)).reasons[0] == "fire engine has no concepts of its own to find"


def test_absence_comes_after_the_concepts_of_its_own() -> None:
    exists, found = np.ones((3, 4), bool), np.zeros((3, 4), bool)
    found[0, 0] = True
    scores = make({0: [1.0, 0, 0, 0]}).node_scores
    own = absent(0, exists=exists, detected=found, node_scores=scores)
    assert sentence(own, [0]).endswith(
        "Supported by its concept 1. A photo without any detail is called fire engine, too: it is predicted also "
        "because all the 8 concepts of the others are missing."
    )
    missing = absent(0, exists=exists)
    assert "None of its concepts was found. A photo without any detail" in sentence(missing, [0])


def test_why_not_the_class_of_a_photo_without_detail() -> None:
    predicted = np.array([0.02, 0.97, 0.01], np.float32)
    scores = make({}).node_scores.copy()
    scores[0, 1] = [-1.5, -1.0, 0, 0]
    assert sentence(absent(3, probabilities=predicted, node_scores=scores), [1, 0]).endswith(
        "Why not fire engine? It has no concepts of its own (the concepts of ambulance add −2.5). "
        "A photo without any detail is called fire engine, "
        "but here 3 of the 8 concepts of the other classes were found."
    )
    assert sentence(absent(0, probabilities=predicted), [1, 0]).endswith(
        "Why not fire engine? It has no concepts of its own."
    )
    assert "without any detail" not in sentence(absent(0, fallback=None))


def test_what_the_classifier_says_of_nothing() -> None:
    bank = make_bank()
    assert blank_line(bank) == ""
    clear = replace(bank, featureless={"blur": [0.1, 0.58, 0.32], "mean": [0, 0.57, 0.43], "grey": [0, 0.56, 0.44]})
    assert blank_line(clear) == (
        "A photo without any detail is called ambulance (0.57; blurred 0.58, mean colour 0.57, grey 0.56)."
    )
    unclear = replace(bank, featureless={"blur": [0.1, 0.4, 0.5]})
    assert (
        blank_line(unclear)
        == "A photo without any detail is called no class clearly: at most school bus (0.50; blurred 0.50)."
    )


@pytest.mark.parametrize(("known", "text"), [(2, "2 of 2 concepts of"), (4, "2 of 4 concepts of")])
def test_trust_counts_the_concepts_that_there_are(known: int, text: str) -> None:
    found = np.arange(4)[None].repeat(3, 0) < 2
    exists = np.arange(4)[None].repeat(3, 0) < known
    assert text in trust_line(make({0: [1, 1, 0, 0]}, detected=found, exists=exists))


def test_join() -> None:
    assert [join(list("abc")[:n]) for n in range(4)] == ["", "a", "a and b", "a, b and c"]


@pytest.mark.parametrize(
    ("source", "target", "shape", "expected"),
    [
        ((0.5, 0.1), (0.5, 0.9), (100, 100), "above"),
        ((0.5, 0.9), (0.5, 0.1), (100, 100), "below"),
        ((0.1, 0.5), (0.4, 0.4), (100, 100), "left of"),
        ((0.9, 0.5), (0.4, 0.4), (100, 100), "right of"),
        ((0.1, 0.5), (0.4, 0.3), (300, 100), "below"),  # 30 pixels across, 60 down: a tall photo
        ((0.5, 0.5), (0.51, 0.5), (100, 100), "at the place of"),
    ],
)
def test_direction(source: Any, target: Any, shape: tuple[int, int], expected: str) -> None:
    assert direction(np.array(source), np.array(target), shape) == expected


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.84, "+1.8"), (-0.3, "−0.3"), (0.04, "+0.04"), (-0.001, "0.0"), (123.4, "+123"), (float("nan"), "–")],
)
def test_signed(value: float, text: str) -> None:
    assert signed(value) == text


SCORES = [1.8, 0.6, -0.4, 0.9]  # Spearman with MEASURED 0.8, signs alike
MEASURED = [2.0, 1.0, -0.5, 0.5]


@pytest.mark.parametrize(
    ("scores", "measured", "grn", "level", "text"),
    [
        (SCORES, MEASURED, 0.95, "high", "like the measured effects (Spearman 0.80; same sign for 4 of 4)"),
        ([1.8, 0.4, 0.6, 0.9], [2.0, 1.0, 0.5, 0.6], 0.95, "limited", "only partly like the measured effects"),
        ([0.4, 0.6, 1.8, 0.9], [2.0, 1.0, 0.5, 0.6], 0.95, "low", "unlike the measured effects (Spearman −1.00"),
        (SCORES, MEASURED, 0.8, "limited", "(0.80, the classifier 0.97)"),
        (SCORES, MEASURED, 0.5, "low", "(0.50, the classifier 0.97)"),
        ([1.8, 0.6, 0.1, 0.9], MEASURED, 0.95, "high", "same sign for 3 of 4"),
        ([1.8, 0.6, 0.1, -0.4], [2.0, 1.0, -0.1, 0.5], 0.95, "limited", "same sign for 2 of 4"),
        ([1.8, 0.6, 0.1, -0.4], [2.0, -0.2, -0.1, 0.5], 0.95, "low", "same sign for 1 of 4"),
        (SCORES, [np.nan] * 4, 0.95, "limited", "No effect could be measured"),
    ],
)  # fmt: skip
def test_trust_levels(scores: list[float], measured: list[float], grn: float, level: str, text: str) -> None:
    explanation = make(
        {0: scores},
        measured=np.array([measured] * 3, np.float32),
        grn_probabilities=np.array([grn, (1 - grn) / 2, (1 - grn) / 2]),
    )
    line = trust_line(explanation)
    assert line.startswith(f"Trust: {level}. ") and text in line
    assert "4 of 4 concepts of fire engine found" in line


@pytest.mark.parametrize(("count", "level"), [(1, "low"), (2, "limited"), (3, "limited"), (4, "high")])
def test_few_concepts_limit_trust(count: int, level: str) -> None:
    found = np.arange(4)[None].repeat(3, 0) < count
    measured = np.where(found, np.array(MEASURED), np.nan).astype(np.float32)
    measured[1:] = np.nan
    explanation = make({0: SCORES}, detected=found, measured=measured)
    assert trust(explanation).level == level
    assert f"{count} of 4 concepts of fire engine found" in trust_line(explanation).lower()


@pytest.mark.parametrize(("effects", "level"), [([-2.0, -1.0], "high"), ([2.0, 3.0], "low"), ([np.nan] * 2, "limited")])
def test_of_a_class_with_two_concepts_those_of_the_other_classes_are_ranked_too(
    effects: list[float], level: str
) -> None:
    found = np.arange(4)[None].repeat(3, 0) < 2
    measured = np.full((3, 4), np.nan, np.float32)
    measured[0, :2], measured[1, :2] = [2.0, 1.0], effects
    explanation = make({0: [1.8, 0.6, 0, 0], 1: [-1.5, -0.5, 0, 0]}, detected=found, exists=found, measured=measured)
    assert trust(explanation).level == level
    line = trust_line(explanation)
    assert ("rank the concepts of all classes shown" in line) == bool(np.isfinite(effects).all())
    assert "2 of 2 concepts of fire engine found" in line


def test_effects_that_print_as_zero_are_not_compared() -> None:
    explanation = make({0: [1.0, 1.0, -1.0, 1.0]}, measured=np.array([[1, -0.01, -1, -1]] * 3, np.float32))
    assert sign_agreement(explanation, 0) == (2, 3)
