"""What a page holds of a photo beside its words."""

from __future__ import annotations

import base64
import io
from dataclasses import replace

import numpy as np
from PIL import Image

from tests.report.synthetic import make_explanation
from vrx.report.content import HEAT, OPAQUE, heat


def test_a_heat_map_is_opaque_where_gradcam_is_high_and_clear_where_it_is_zero() -> None:
    explanation = make_explanation()
    maps = np.zeros((3, 8, 8), np.float32)
    maps[0, 1:3, 5:7], maps[1] = 0.2, 5.0  # each class by itself: a weak map is as opaque as a strong one
    explanation = replace(explanation, gradcam=maps)
    uri = heat(explanation, 0)
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGBA"))
    assert max(pixels.shape[:2]) == HEAT
    rows, columns = (np.arange(side) / side for side in pixels.shape[:2])
    hot = np.ix_((rows > 0.2) & (rows < 0.3), (columns > 0.7) & (columns < 0.8))
    far = np.ix_(rows > 0.6, columns < 0.5)
    assert pixels[hot][..., 3].min() > 0.9 * 255 * OPAQUE and pixels[far][..., 3].max() == 0
    assert pixels[hot][..., 0].mean() > 200, "yellow"
    assert heat(explanation, 2) == "", "the class looks nowhere"
    assert heat(make_explanation(), 0) == "", "it was not asked"
