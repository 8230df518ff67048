"""What the evidence of F's answers to edited photos, and of new photos, says where the right numbers are known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import Tensor

from tests.studies.planted import PlantedViewer, photo
from vrx.studies.diagnosis.interventions import EFFECTS, centres, concept_mask, effects, gap, intervene, places, strong
from vrx.studies.diagnosis.novelty import DEPTHS, NEIGHBOURS, Novelty, depths


class AskedViewer(PlantedViewer):
    """The planted F, with an editor that paints black and leaves no soft edge."""

    def __init__(self, blind: bool = False) -> None:
        super().__init__(blind=blind)
        black = SimpleNamespace(delete=self._delete)
        self.explainer = SimpleNamespace(editor=black)

    def _delete(self, x: Tensor, masks: Tensor) -> Tensor:
        return x * ~masks[:, None]


def looked_at(red: list[float], green: list[float], blind: bool = False) -> tuple[Any, Any]:
    explainer = AskedViewer(blind)
    return explainer, explainer(explainer.read(photo(red, green)))


def test_each_region_is_asked_for_by_itself_and_the_strongest_together() -> None:
    explainer, view = looked_at([0.6, 0.4, 0.0, 0.0], [0.0, 0.0, 0.9, 0.6])
    found = intervene(explainer, view, true=0, predicted=1)
    np.testing.assert_allclose(found.gains(0, 1), [-0.6, -0.4, 0.9, 0.6], atol=0.01)  # a quarter's own share of F
    np.testing.assert_allclose(found.together[:, 1], [0.6, 0, 0, 0], atol=0.01)  # the answer's quarters go first
    np.testing.assert_allclose(found.together[1], [1.0, 0.0], atol=0.01)
    np.testing.assert_allclose(found.kept[0], [0.0, 1.5], atol=0.01)  # nothing but the answer's regions
    np.testing.assert_allclose(found.kept[1], [1.0, 0.0], atol=0.01)
    np.testing.assert_allclose(found.kept[2], [1.0, 0.0], atol=0.01)  # all but the answer's regions
    np.testing.assert_allclose(found.concepts[:2], [[0.0, 1.5], [1.0, 0.0]], atol=0.01)


def test_effects_are_in_the_unit_and_places_in_shares_of_the_photo() -> None:
    explainer, view = looked_at([0.6, 0.4, 0.0, 0.0], [0.0, 0.0, 0.9, 0.6])
    found = intervene(explainer, view, 0, 1)
    once, halved = effects(found, 0, 1), effects(found, 0, 1, unit=2.0)
    assert tuple(once) == EFFECTS
    assert once["gone: strongest region"] == pytest.approx(0.9, abs=0.01)
    assert once["gone: all gains"] == pytest.approx(1.5, abs=0.01)
    assert once["gone: all losses"] == pytest.approx(1.0, abs=0.01)
    assert once["gone: best margin"] == pytest.approx(1.0, abs=0.01)
    assert halved["gone: best margin"] == pytest.approx(0.5, abs=0.01)
    assert once["holds: answer's share"] == halved["holds: answer's share"] == pytest.approx(0.6, abs=0.01)
    assert once["holds: answer's area"] == pytest.approx(0.5)
    # x of the answer's centre: (0.25 * 0.9 + 0.75 * 0.6) / 1.5; of the true class': 0.25 * 0.6 + 0.75 * 0.4
    assert once["holds: distance of centres"] == pytest.approx(np.hypot(0.45 - 0.45, 0.5), abs=0.01)


def test_a_photo_without_concepts_or_any_effect_has_evidence_all_the_same() -> None:
    explainer, view = looked_at([0.0] * 4, [0.0] * 4, blind=True)
    assert not concept_mask(view, 0).any()
    found = intervene(explainer, view, 0, 1)
    assert np.isfinite(list(effects(found, 0, 1).values())).all()
    assert len(places(found, 0, 1)) == 10


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


def slow_novelty(known: NDArray[np.float64], labels: NDArray[np.int64], one: NDArray[np.float64], label: int) -> float:
    """The same for one depth, pair by pair."""
    scale = known.std(0)

    def nearest(place: NDArray[np.float64], others: list[int]) -> float:
        found = sorted(float(np.sqrt((((known[i] - place) / scale) ** 2).mean())) for i in others)
        return float(np.mean(found[:NEIGHBOURS]))

    own = [i for i in range(len(labels)) if labels[i] == label]
    usual = np.median([nearest(known[i], [j for j in own if j != i]) for i in own])
    return float(np.log(nearest(one, own) / usual))


def test_novelty_agrees_with_a_slow_version_and_grows_with_distance() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 12)
    known = [rng.normal(size=(24, 5)) + labels[:, None] * 6 for _ in range(DEPTHS)]
    novelty = Novelty(known, labels)
    for shift in (0.0, 2.0):
        one = [rng.normal(size=5) + shift for _ in range(DEPTHS)]
        expected = [slow_novelty(k, labels, o, 0) for k, o in zip(known, one, strict=True)]
        np.testing.assert_allclose(novelty(one, 0), expected)
    of_one = [k[15] + 1e-3 for k in known]
    assert (novelty(of_one, 1) < novelty(of_one, 0)).all()
    assert np.isnan(novelty(of_one, 7)).all()  # no training photo of that class
    assert np.isfinite(novelty(of_one)).all()


def test_depths_end_with_the_last_layer() -> None:
    def classifier(count: int) -> Any:
        return SimpleNamespace(layers=[SimpleNamespace(name=str(i)) for i in range(count)])

    assert depths(classifier(4)) == ["0", "1", "2", "3"]
    assert depths(classifier(8)) == ["1", "3", "5", "7"]
    for count in (1, 2, 3, 5, 6, 7):
        found = depths(classifier(count))
        assert len(found) == DEPTHS and found[-1] == str(count - 1)
