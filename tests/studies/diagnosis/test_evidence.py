"""The evidence of an error, in a world where every patch's share of the logits is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.studies.planted import PlantedExplainer, photo
from vrx.explanation import Explanation, Relations
from vrx.structures import UNMATCHED
from vrx.studies.diagnosis.evidence import EVIDENCE, GRADCAM, evidence, gradcam_overlap


def explained(red: list[float], green: list[float]) -> Explanation:
    """Quarter k (by rows) has the main effects red[k] and green[k]; the first two interact; all else says nothing."""
    explainer = PlantedExplainer()
    found = explainer.explain_input(explainer.read(photo([0.6, 0.4, 0.0, 0.0], [0.0, 0.0, 0.9, 0.6])))
    main, none = np.stack([red, green], 1), np.full((4, 4, 2), np.nan)
    pairs = np.zeros((4, 4, 2))
    pairs[0, 1] = pairs[1, 0] = (0.3, -0.3)
    relations = Relations(
        found.superpixels.ids[:4], main, main, pairs, pairs, none, none, main, pairs, none, main,
        np.zeros(2), (0.7, 0.9), 2,
    )  # fmt: skip
    logits = main.sum(0) + pairs[0, 1]
    return replace(found, logits=logits, presence=np.full((2, 4), 0.8, np.float32), relations=relations)


def test_what_supports_whom_and_where() -> None:
    error = explained([0.6, 0.4, -0.5, 0.0], [-0.6, -0.4, 1.9, 0.6])
    assert error.predicted == 1
    found = evidence(error, 0)
    assert tuple(found) == EVIDENCE
    # the middles of the quarters are a quarter off the middle: red's are above it, six to four; green's below
    middles = np.array([0.25 * 0.6 + 0.75 * 0.4, 0.25]), np.array([(0.25 * 1.9 + 0.75 * 0.6) / 2.5, 0.75])
    assert found["distance of supports"] == pytest.approx(np.linalg.norm(middles[0] - middles[1]), abs=0.01)
    for middle, whose in zip(middles, ("true class", "predicted class"), strict=True):
        assert found[f"support off the middle: {whose}"] == pytest.approx(np.linalg.norm(middle - 0.5), abs=0.01)
        assert found[f"support off the attended: {whose}"] == pytest.approx(np.linalg.norm(middle - 0.5), abs=0.02)
    # what leads green over red: -1.2, -0.8, 2.4, 0.6
    assert found["distance of the strongest"] == pytest.approx(0.5, abs=0.01), "one above the other"
    assert found["for the prediction, in the largest piece"] == pytest.approx(1), "all is one piece"
    assert found["overlap of supports"] == 0 and 0 < found["gap between supports"] <= 0.5


def test_what_concepts_leave_unexplained() -> None:
    """Three quarters are looked at; the concepts of red show the first two, those of green the first."""
    error = explained([0.6, 0.4, 0.0, 0.0], [0.0, 0.0, 1.9, 0.6])
    ids = error.superpixels.ids[:4]
    matched = np.array([[ids[0], ids[1], UNMATCHED, UNMATCHED], [ids[0], UNMATCHED, UNMATCHED, UNMATCHED]])
    presence = np.array([[0.9, 0.7, 0.3, 0.1], [0.8, 0.4, 0.0, 0.0]], np.float32)
    error = replace(
        error, attended=ids[:3], matched=matched, presence=presence, grn_logits=error.logits + np.array([0.5, -0.1])
    )
    found = evidence(error, 0)
    assert found["patches"] == 2 and found["area of patches"] == 0.5 and found["attended regions"] == 3
    assert found["attended without concept"] == 0.25
    assert found["unexplained share of the attended"] == pytest.approx(1 / 3)
    assert found["concepts found"] == 3 and found["concepts perhaps there"] == 2
    assert found["mean presence of what is found"] == pytest.approx(0.8)
    for whose, most, total in (("true class", 0.9, 2.0), ("predicted class", 0.8, 1.2)):
        assert found[f"surest concept: {whose}"] == pytest.approx(most)
        assert found[f"expected number of concepts: {whose}"] == pytest.approx(total)
    assert found["error of the graph network"] == pytest.approx(0.3)
    p = error.probabilities
    assert found["entropy of the classes"] == pytest.approx(-(p * np.log(p)).sum())
    assert np.isnan(found["lead over the third class"]), "there are two"


def test_how_the_gradcam_maps_of_both_classes_overlap() -> None:
    maps = np.zeros((2, 4, 4), np.float32)
    maps[0, 0, 0] = maps[1, 3, 3] = 2.0
    apart = gradcam_overlap(maps, 0, 1)
    assert apart["Grad-CAM, overlap"] == 0
    assert apart["Grad-CAM, distance of peaks"] == pytest.approx(np.hypot(0.75, 0.75))
    same = gradcam_overlap(maps[[0, 0]], 0, 1)
    assert same["Grad-CAM, overlap"] == 1 and same["Grad-CAM, correlation"] == pytest.approx(1)
    assert same["Grad-CAM, distance of centres"] == 0
    empty = gradcam_overlap(np.zeros((2, 4, 4), np.float32), 0, 1)
    assert tuple(empty) == GRADCAM and np.isfinite(list(empty.values())).all()
    error = explained([0.6, 0.4, 0.0, 0.0], [0.0, 0.0, 1.9, 0.6])
    assert {n: evidence(replace(error, gradcam=maps), 0)[n] for n in GRADCAM} == apart
    assert np.isnan([evidence(error, 0)[n] for n in GRADCAM]).all(), "not asked"


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
    assert tuple(found) == EVIDENCE and found["concepts found"] == found["patches"] == 0
    assert np.isnan([found["distance of the strongest"], found["gap between supports"]]).all()
