"""Exemplars of the planted world, where every contribution is known: quarter k's red minus green."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.studies.planted import DISCOVERY, HALF, QUARTERS, PlantedExplainer, PlantedSource, donors_of
from vrx.structures import Patches
from vrx.studies.core.exemplars import Donors

WRONG = ([0.1] * 4, [0.5] * 4, 0)  # a red photo that the classifier calls green


def make(folder: Path) -> Donors:
    return donors_of(folder, PlantedSource(discovery=[*DISCOVERY, WRONG]))[0]


def contribution(photo: int, concept: int) -> float:
    red, green, label = DISCOVERY[photo]
    return (red[concept] - green[concept]) * (1 if label == 0 else -1)


def test_exemplars_are_ranked_by_their_contribution_in_photos_that_are_right(tmp_path: Path) -> None:
    donors = make(tmp_path)
    for label, photos in ((0, (0, 1)), (1, (2, 3))):
        for concept in range(4):
            ranked = donors.of(label, concept)
            expected = sorted((contribution(i, concept) for i in photos), reverse=True)
            assert [d.score for d in ranked] == pytest.approx(expected, abs=0.01)
            assert {d.area for d in ranked} == {HALF * HALF}
    best = {int(Path(d.photo.path).stem): d.score for d in donors.best_of_photos()}
    assert best == pytest.approx({i: max(contribution(i, k) for k in range(4)) for i in range(4)}, abs=0.01)
    sums = [sum(contribution(i, k) for k in range(4)) for i in (0, 1)]
    np.testing.assert_allclose(donors.class_sums(0), np.stack([sums, [0, 0]], 1), atol=0.02)


def test_a_donor_shows_its_own_pixels(tmp_path: Path) -> None:
    donors = make(tmp_path)
    donor = donors.of(0, 2)[0]
    x, mask = donors.patch(donor)
    assert (mask == QUARTERS.masks[2]).all()
    assert float(x[0][mask].mean()) == pytest.approx(DISCOVERY[int(Path(donor.photo.path).stem)][0][2], abs=0.01)


class Renames(PlantedExplainer):
    """Names the regions of its explanations otherwise than the segmenter does, as joined pieces of a part are."""

    def superpixels(self, x: torch.Tensor) -> Patches:
        return Patches(QUARTERS.labels + 4, QUARTERS.ids + 4)


def test_a_donor_is_a_region_of_its_explanation(tmp_path: Path) -> None:
    donors = donors_of(tmp_path, PlantedSource(discovery=DISCOVERY), Renames())[0]
    assert (donors.patch(donors.of(0, 2)[0])[1] == QUARTERS.masks[2]).all()


def test_random_patches_are_of_another_class(tmp_path: Path) -> None:
    donors, rng = make(tmp_path), np.random.default_rng(0)
    drawn = [donors.random(HALF * HALF, rng, without=0) for _ in range(20)]
    assert all(mask.sum() == HALF * HALF for _, mask in drawn)
    assert all(x[1].mean() > x[0].mean() for x, _ in drawn)  # photos of the green class alone
