"""The evidence of an error, in a world where every concept's share of the logits is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.studies.planted import PlantedExplainer, photo
from vrx.explanation import Counterfactual, Explanation, Relations
from vrx.structures import UNMATCHED
from vrx.studies.diagnosis.evidence import EVIDENCE, evidence


def explained(red: list[float], green: list[float]) -> Explanation:
    """Quarter k supports the red class with red minus green, the green class with the opposite; as measured."""
    explainer = PlantedExplainer()
    found = explainer.explain_input(explainer.read(photo(red, green)))
    effects = np.stack([found.node_scores[c, c] for c in range(2)]).astype(np.float32)
    return replace(found, measured=effects, presence=np.full((2, 4), 0.8, np.float32))


def test_what_is_present_and_where() -> None:
    found = evidence(explained([0.6, 0.4, 0.0, 0.0], [0.0, 0.0, 0.9, 0.6]), 0)
    assert tuple(found) == EVIDENCE
    for whose, total, most in (("true class", 1.0, 0.6), ("predicted class", 1.5, 0.9)):
        assert found[f"present: evidence of {whose}"] == pytest.approx(total, abs=0.01)
        assert found[f"present: strongest of {whose}"] == pytest.approx(most, abs=0.01)
        assert found[f"present: area of {whose}"] == 0.5 and found[f"present: share of concepts of {whose}"] == 1
        assert found[f"present: probability of {whose}"] == pytest.approx(0.8)
    assert found["both: patches"] == 1 and found["both: area"] == 0  # the same patches, none supports both
    # x of the middles: (0.25 * 0.6 + 0.75 * 0.4) / 1.0 and (0.25 * 0.9 + 0.75 * 0.6) / 1.5, both 0.45; y: half apart
    assert found["both: distance of centres"] == pytest.approx(0.5, abs=0.02)
    assert found["present: spread of true class"] == pytest.approx(0.5 * np.sqrt(0.6 * 0.4), abs=0.02)
    assert 0 < found["both: gap"] <= 0.5
    assert np.isnan([found[f"relations: sum of {w}"] for w in ("true class", "predicted class")]).all()


def test_what_is_absent_and_how_things_lie() -> None:
    before = explained([0.6, 0.4, 0.0, 0.0], [0.0, 0.0, 0.9, 0.6])
    asked = [(UNMATCHED, 1.0, 2.0), (UNMATCHED, 3.0, -1.0), (1, 0.7, 9.0), (1, 0.3, 9.0)]  # anchor, predicted, measured
    gains = [Counterfactual(0, 3, a, (0, 0), np.full(2, p), np.full(2, m), np.zeros(2)) for a, p, m in asked]
    pairs = np.zeros((3, 3, 2))
    pairs[0, 1] = pairs[1, 0] = (2.0, -2.0)
    pairs[0, 2] = pairs[2, 0] = (-0.5, 0.5)
    placed = np.where(np.eye(3, dtype=bool)[..., None], np.nan, pairs)
    main, moved = np.zeros((3, 2)), np.tile([1.0, -1.0], (3, 1))
    relations = Relations(
        np.arange(3), main, main, pairs, pairs, placed, placed, moved, pairs, placed, moved, np.zeros(2), (0.7, 0.9), 2
    )
    found = evidence(replace(before, counterfactuals=tuple(gains), relations=relations), 0)
    assert found["absent: concepts of true class"] == 2 and found["absent: concepts of predicted class"] == 0
    assert found["absent: best gain of true class"] == found["absent: all gains of true class"] == 2.0
    assert found["elsewhere: best predicted gain of true class"] == 0.7
    assert found["relations: strength of true class"] == found["places: strength of true class"] == 5.0
    assert found["relations: sum of true class"] == 3.0 and found["places: sum of predicted class"] == -3.0
    assert found["relations: confirmed of true class"] == 4  # both pairs, in both orders
    assert [found[f"relations: {name}"] for name in ("R2 of concepts", "R2 with pairs", "patches left out")] == [
        0.7,
        0.9,
        2,
    ]


def test_a_photo_without_concepts_has_evidence_all_the_same() -> None:
    explainer = PlantedExplainer(blind=True)
    nothing = explainer.explain_input(explainer.read(photo([0.0] * 4, [0.0] * 4)))
    found = evidence(replace(nothing, presence=np.zeros((2, 4), np.float32)), 0)
    assert found["present: evidence of true class"] == 0 and found["both: gap"] == 1
    assert np.isnan(found["both: distance of centres"])
