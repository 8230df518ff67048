"""The evidence of an error, in a world where every patch's share of the logits is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.studies.planted import PlantedExplainer, photo
from vrx.explanation import Counterfactual, Explanation, Relations
from vrx.structures import UNMATCHED
from vrx.studies.diagnosis.evidence import EVIDENCE, evidence


def explained(red: list[float], green: list[float], missing: float = 0.0) -> Explanation:
    """Quarter k (by rows) has the main effects red[k] and green[k]; the first two interact; all else says nothing."""
    explainer = PlantedExplainer()
    found = explainer.explain_input(explainer.read(photo([0.6, 0.4, 0.0, 0.0], [0.0, 0.0, 0.9, 0.6])))
    main, none = np.stack([red, green], 1), np.full((4, 4, 2), np.nan)
    pairs = np.zeros((4, 4, 2))
    pairs[0, 1] = pairs[1, 0] = (0.3, -0.3)
    relations = Relations(
        found.superpixels.ids[:4], main + missing, main, pairs, pairs, none, none, main, pairs, none, main,
        np.zeros(2), (0.7, 0.9), 2,
    )  # fmt: skip
    logits = main.sum(0) + pairs[0, 1]
    return replace(found, logits=logits, presence=np.full((2, 4), 0.8, np.float32), relations=relations)


def test_what_supports_whom_and_where() -> None:
    error = explained([0.6, 0.4, -0.5, 0.0], [-0.6, -0.4, 1.9, 0.6], missing=0.1)
    assert error.predicted == 1
    found = evidence(error, 0)
    assert tuple(found) == EVIDENCE
    for whose, total, most, least in (("true class", 1.0, 0.6, -0.5), ("predicted class", 2.5, 1.9, -0.6)):
        assert found[f"support: {whose}"] == pytest.approx(total)
        assert found[f"strongest support: {whose}"] == pytest.approx(most)
        assert found[f"strongest objection: {whose}"] == pytest.approx(least)
        assert found[f"area of support: {whose}"] == 0.5 and found[f"pair interactions: {whose}"] == pytest.approx(0.3)
        assert found[f"error of the graph network: {whose}"] == pytest.approx(0.4)
    # the middles of the quarters are a quarter off the middle: red's are above it, six to four; green's below
    middles = np.array([0.25 * 0.6 + 0.75 * 0.4, 0.25]), np.array([(0.25 * 1.9 + 0.75 * 0.6) / 2.5, 0.75])
    assert found["distance of supports"] == pytest.approx(np.linalg.norm(middles[0] - middles[1]), abs=0.01)
    for middle, whose in zip(middles, ("true class", "predicted class"), strict=True):
        assert found[f"support off the middle: {whose}"] == pytest.approx(np.linalg.norm(middle - 0.5), abs=0.01)
    assert found["spread of support: true class"] == pytest.approx(0.5 * np.sqrt(0.6 * 0.4), abs=0.01)
    lead = np.array([-1.2, -0.8, 2.4, 0.6])  # of green over red
    assert found["for the prediction"] == pytest.approx(lead[2:].sum()) and found["area for the prediction"] == 0.5
    assert found["strongest for the true class"] == pytest.approx(1.2)
    assert found["lead of the prediction"] == pytest.approx(lead.sum() - 0.6)
    assert found["patches"] == 6, "the two that were left out are counted"
    assert found["overlap of supports"] == 0 and 0 < found["gap between supports"] <= 0.5


def test_what_is_left_without_any_patch() -> None:
    """Main effects and pairs, each once, lead from there to the photo."""
    error = explained([0.6, 0.4, -0.5, 0.0], [-0.6, -0.4, 1.9, 0.6])
    more = replace(error, logits=error.logits + np.array([2.0, -2.0]))
    assert more.predicted == 0
    found = [evidence(one, c) for one, c in ((error, 0), (more, 1))]
    centred = error.logits - error.logits.mean()
    effects = np.array([0.5, 1.5]) + np.array([0.3, -0.3])
    assert found[0]["left without patches: true class"] == pytest.approx(centred[0] - effects[0])
    assert found[1]["left without patches: predicted class"] == pytest.approx(centred[0] - effects[0] + 2)
    assert found[1]["lead without patches"] == pytest.approx(found[0]["lead without patches"] * -1 + 4)


def test_what_is_missing() -> None:
    before = explained([0.6, 0.4, 0.0, 0.0], [0.0, 0.0, 1.9, 0.6])
    asked = [(UNMATCHED, 2.0), (UNMATCHED, -1.0), (1, 9.0)]  # anchor, measured
    gains = [Counterfactual(0, 3, a, (0, 0), np.zeros(2), np.full(2, m), np.zeros(2)) for a, m in asked]
    found = evidence(replace(before, counterfactuals=tuple(gains)), 0)
    assert found["concepts missing: true class"] == 2 and found["concepts missing: predicted class"] == 0
    assert found["best gain of a missing concept: true class"] == 2.0
    assert np.isnan(found["best gain of a missing concept: predicted class"])
    assert found["concepts found: true class"] == 1


def test_in_how_many_pieces_the_classifier_looks() -> None:
    """Quarters that touch are one piece, those across the photo from each other two."""
    error = explained([0.6, 0.4, 0.0, 0.0], [0.0, 0.0, 0.9, 0.6])
    ids = error.superpixels.ids[:4]
    for looks, pieces, second in (((0, 1), 1, 0.0), ((0, 1, 2, 3), 1, 0.0), ((0,), 1, 0.0), ((), 0, 0.0)):
        found = evidence(replace(error, attended=ids[list(looks)]), 0)
        assert found["attended area"] == len(looks) / 4
        assert (found["attended pieces"], found["second largest piece"]) == (pieces, second)
    labels = error.superpixels.labels.copy()
    labels[:, :, labels.shape[2] // 3 : 2 * labels.shape[2] // 3] = 99  # a strip between left and right
    apart = evidence(replace(error, superpixels=replace(error.superpixels, labels=labels), attended=ids), 0)
    assert apart["support in the largest piece: true class"] == pytest.approx(0.4), "the right one, by a pixel"
    assert apart["attended pieces"] == 2 and apart["second largest piece"] == pytest.approx(0.33, abs=0.03)


def test_a_photo_without_concepts_has_evidence_all_the_same() -> None:
    explainer = PlantedExplainer(blind=True)
    nothing = explainer.explain_input(explainer.read(photo([0.0] * 4, [0.0] * 4)))
    found = evidence(replace(nothing, presence=np.zeros((2, 4), np.float32)), 0)
    assert tuple(found) == EVIDENCE and found["concepts found: true class"] == 0
    assert np.isnan([found["support: true class"], found["patches"], found["gap between supports"]]).all()
