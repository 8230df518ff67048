"""Predictions are computed once, photos that cannot be read are left out; evenly spaced items."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.studies.planted import DISCOVERY, PlantedExplainer, PlantedSource
from vrx.data.images import Photo
from vrx.studies.core.predictions import predictions, spaced
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
        found = predictions(explainer, source, photos, records, batch_size=3)  # type: ignore[arg-type]
        assert [photo for photo, _ in found] == [photos[0], photos[2], photos[3]]
        sums = [[sum(DISCOVERY[i][0]), sum(DISCOVERY[i][1])] for i in (0, 2, 3)]  # the planted logits
        np.testing.assert_allclose([logits for _, logits in found], sums, atol=0.01)
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
