"""Predictions are computed once, photos that cannot be read are left out; evenly spaced items; random numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.studies.planted import DISCOVERY, PlantedExplainer, PlantedSource
from vrx.data.images import Photo
from vrx.studies.core.photos import predictions, rng_of, spaced
from vrx.studies.core.records import Records


class Damaged(PlantedSource):
    def read(self, shown: Photo) -> Image.Image:
        if shown.path.endswith("1.png"):
            raise OSError("truncated")
        return super().read(shown)


def test_every_readable_photo_is_predicted_once(tmp_path: Path) -> None:
    source, explainer = Damaged(test=DISCOVERY), PlantedExplainer()
    photos = source.photos("test")
    for _ in range(2):
        records = Records(tmp_path / "records.jsonl", "key")
        found = predictions(explainer, source, photos, records)  # type: ignore[arg-type]
        assert found == [(photos[0], 0), (photos[2], 1), (photos[3], 1)]
        sums = [[sum(DISCOVERY[i][0]), sum(DISCOVERY[i][1])] for i in (0, 2, 3)]  # the planted logits
        logits = [records[f"prediction {photo.path}"]["logits"] for photo, _ in found]
        np.testing.assert_allclose(logits, sums, atol=0.01)
    assert explainer.asked == 3


@pytest.mark.parametrize("count", [1, 2, 5, 7, 99])
def test_spaced_items_are_one_of_each_stretch(count: int) -> None:
    chosen = spaced(list(range(100)), count)
    assert len(chosen) == count and chosen == sorted(set(chosen))
    gaps = np.diff([*chosen, 100])
    assert chosen[0] == 0 and gaps.max() - gaps.min() <= 1


def test_all_when_there_are_fewer() -> None:
    assert spaced([1, 2, 3], 3) == spaced([1, 2, 3], 9) == spaced([1, 2, 3], None) == [1, 2, 3]
    assert spaced([], 4) == spaced([1, 2], 0) == []


def test_the_random_numbers_of_a_photo_are_its_own() -> None:
    first, same, other = (rng_of(Photo(path, 0, "test"), 1).random() for path in ("a/1.png", "b/1.png", "a/2.png"))
    assert first == same != other
