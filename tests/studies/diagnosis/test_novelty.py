"""Novelty where the right numbers are known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vrx.studies.diagnosis.novelty import DEPTHS, NEIGHBOURS, Novelty, depths


def slow_novelty(known: NDArray[np.float64], labels: NDArray[np.int64], one: NDArray[np.float64], label: int) -> float:
    """The same for one depth, pair by pair."""
    scale = known.std(0)

    def nearest(place: NDArray[np.float64], others: list[int]) -> float:
        found = sorted(float(np.sqrt((((known[i] - place) / scale) ** 2).mean())) for i in others)
        return float(np.mean(found[:NEIGHBOURS]))

    own = [i for i in range(len(labels)) if labels[i] == label]
    typical = np.median([nearest(known[i], [j for j in own if j != i]) for i in own])
    return float(np.log(nearest(one, own) / typical))


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
