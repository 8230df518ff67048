"""The matcher against brute force."""

from __future__ import annotations

import numpy as np
import pytest

from vrx.bank import ConceptBank
from vrx.concepts.matching import ConceptMatcher
from vrx.structures import UNMATCHED


def make_bank(centroids: np.ndarray, radius: np.ndarray) -> ConceptBank:
    n, num, _ = centroids.shape
    blank = np.zeros((n, num), np.float32)
    pictures = np.zeros((n, num, 1, 4, 4, 3), np.uint8)
    masks = np.zeros((n, num, 1, 2), np.uint8)
    names = tuple(f"c{i}" for i in range(n))
    return ConceptBank(names, centroids.astype(np.float32), radius.astype(np.float32), blank, blank, pictures, masks)


def match_slowly(distances: np.ndarray, radius: np.ndarray) -> np.ndarray:
    out = np.full(radius.shape, UNMATCHED)
    for c in range(len(radius)):
        taken: set[int] = set()
        for k in range(radius.shape[1]):  # most important first
            free = [p for p in range(len(distances)) if p not in taken and distances[p, c, k] < radius[c, k]]
            if free:
                out[c, k] = min(free, key=lambda p: distances[p, c, k])
                taken.add(int(out[c, k]))
    return out


@pytest.mark.parametrize("patches", [1, 7, 60])
def test_distances_and_matches_against_brute_force(patches: int) -> None:
    rng = np.random.default_rng(patches)
    bank = make_bank(rng.normal(size=(3, 5, 8)), rng.uniform(2, 5, (3, 5)))
    features = rng.normal(size=(patches, 8)).astype(np.float32)
    matcher = ConceptMatcher(bank)
    distances = matcher.distances(features)
    expected = np.linalg.norm(features[:, None, None].astype(float) - bank.centroids, axis=3)
    np.testing.assert_allclose(distances, expected, rtol=1e-4)
    np.testing.assert_array_equal(matcher.match(distances), match_slowly(distances, bank.radius))


def test_detected_below_the_radius_only() -> None:
    matcher = ConceptMatcher(make_bank(np.zeros((1, 1, 2)), np.array([[1.0]])))
    for distance, expected in ((0.99, 0), (1.0, UNMATCHED), (1.01, UNMATCHED)):
        assert matcher.match(np.array([[[distance]]], np.float32))[0, 0] == expected


def test_a_patch_serves_the_more_important_concept_and_every_class_anew() -> None:
    radius = np.full((2, 2), 1.0)
    matcher = ConceptMatcher(make_bank(np.zeros((2, 2, 2)), radius))
    distances = np.array([[[0.5, 0.1], [0.9, 0.2]], [[0.6, 0.8], [2, 2]]], np.float32)
    # class 0: patch 0 is nearest to both concepts and serves the first; the second takes patch 1.
    # class 1: only patch 0 is near, and the first concept has it, though the second is nearer.
    assert matcher.match(distances).tolist() == [[0, 1], [0, UNMATCHED]]


def test_no_concept_and_no_patch_are_never_matched() -> None:
    matcher = ConceptMatcher(make_bank(np.zeros((1, 2, 3)), np.array([[1.0, -1.0]])))
    assert matcher.match(matcher.distances(np.zeros((2, 3), np.float32))).tolist() == [[0, UNMATCHED]]
    assert matcher.match(matcher.distances(np.zeros((0, 3), np.float32))).tolist() == [[UNMATCHED] * 2]
