"""What deletions say of a prediction, in a world where every region's share of the logits is known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.studies.planted import PlantedExplainer, photo
from vrx.studies.diagnosis.deletions import EFFECTS, centres, concept_mask, delete_parts, effects, gap, places, strong


class BlackEditor(PlantedExplainer):
    """The planted explainer, with an editor that paints black and leaves no soft edge."""

    editor: Any = SimpleNamespace(delete=lambda x, masks: x * ~masks[:, None])


def explained(red: list[float], green: list[float], blind: bool = False) -> tuple[Any, Any]:
    explainer = BlackEditor(blind=blind)
    return explainer, explainer.explain_input(explainer.read(photo(red, green)))


def test_each_region_is_deleted_by_itself_and_the_strongest_together() -> None:
    explainer, explanation = explained([0.6, 0.4, 0.0, 0.0], [0.0, 0.0, 0.9, 0.6])
    found = delete_parts(explainer, explanation, true=0)
    np.testing.assert_allclose(found.gains, [-0.6, -0.4, 0.9, 0.6], atol=0.01)  # a quarter's own share of F
    np.testing.assert_allclose(found.together[:, 1], [0.6, 0, 0, 0], atol=0.01)  # the prediction's quarters go first
    np.testing.assert_allclose(found.together[1], [1.0, 0.0], atol=0.01)
    np.testing.assert_allclose(found.kept[0], [0.0, 1.5], atol=0.01)  # only the prediction's regions
    np.testing.assert_allclose(found.kept[1], [1.0, 0.0], atol=0.01)
    np.testing.assert_allclose(found.kept[2], [1.0, 0.0], atol=0.01)  # all but the prediction's regions
    np.testing.assert_allclose(found.concepts[:2], [[0.0, 1.5], [1.0, 0.0]], atol=0.01)


def test_effects_are_in_the_unit_and_places_in_shares_of_the_photo() -> None:
    explainer, explanation = explained([0.6, 0.4, 0.0, 0.0], [0.0, 0.0, 0.9, 0.6])
    found = delete_parts(explainer, explanation, 0)
    once, halved = effects(found), effects(found, unit=2.0)
    assert tuple(once) == EFFECTS
    assert once["deletion: strongest region"] == pytest.approx(0.9, abs=0.01)
    assert once["deletion: all gains"] == pytest.approx(1.5, abs=0.01)
    assert once["deletion: all losses"] == pytest.approx(1.0, abs=0.01)
    assert once["together: best margin"] == pytest.approx(1.0, abs=0.01)
    assert halved["together: best margin"] == pytest.approx(0.5, abs=0.01)
    assert once["place: share of prediction"] == halved["place: share of prediction"] == pytest.approx(0.6, abs=0.01)
    assert once["place: area of prediction"] == pytest.approx(0.5)
    # x of the prediction's centre: (0.25 * 0.9 + 0.75 * 0.6) / 1.5; of the true class': 0.25 * 0.6 + 0.75 * 0.4
    assert once["place: distance of centres"] == pytest.approx(np.hypot(0.45 - 0.45, 0.5), abs=0.01)


def test_a_photo_without_concepts_or_any_effect_has_evidence_all_the_same() -> None:
    explainer, explanation = explained([0.0] * 4, [0.0] * 4, blind=True)
    assert not concept_mask(explanation, 0).any()
    found = delete_parts(explainer, explanation, 0)
    assert np.isfinite(list(effects(found).values())).all()
    assert len(places(found)) == 10


def test_gap_strong_and_centres_by_hand() -> None:
    left, right = np.zeros((8, 8), bool), np.zeros((8, 8), bool)
    left[:, 0], right[:, 5:7] = True, True
    assert gap(right, left) == pytest.approx(5.5 / 8)
    assert gap(left, left) == 0 and gap(left, np.zeros_like(left)) == 1
    np.testing.assert_array_equal(strong(np.array([1.0, 0.2, -3.0, 0.4])), [True, False, False, True])
    assert not strong(np.array([-1.0, 0.0])).any()
    regions = np.zeros((4, 8), np.int64)
    regions[:, 4:] = 1
    np.testing.assert_allclose(centres(regions), [[0.25, 0.25], [0.75, 0.25]])
