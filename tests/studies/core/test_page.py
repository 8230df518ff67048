"""The page of a study: tables, pictures beside it, everything escaped."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from tests.studies.planted import PlantedSource, context
from vrx.studies.core.page import Picture, Section, cell, read_edited, save_edited, write_page


@pytest.fixture
def page(tmp_path: Path) -> str:
    pixels = np.full((20, 30, 3), 200, np.uint8)
    table = [{"arm": "<b>guided</b>", "left": 0.25}, {"arm": "random", "p": math.nan}]
    sections = [
        Section("First & last", ["A paragraph."], table, [Picture(pixels, "grey"), Picture(Figure((1, 1)), "empty")]),
        Section("Second", [], (), [Picture(pixels, "again")]),
    ]
    study = context(tmp_path, PlantedSource(), x={"y": [1]})
    write_page(study, "A study", "The answer.", sections, {"b": 1 / 3, "a": math.inf})
    return (tmp_path / "index.html").read_text()


def test_table_has_every_column_and_a_dash_where_nothing_was_measured(page: str) -> None:
    assert "<th>arm</th><th>left</th><th>p</th>" in page
    assert "<td>&lt;b&gt;guided&lt;/b&gt;</td><td>0.25</td><td>–</td>" in page
    assert "<td>random</td><td>–</td><td>–</td>" in page


def test_text_numbers_and_settings_are_there(page: str) -> None:
    for text in ("<h1>A study</h1>", "The answer.", "First &amp; last", "A paragraph.", "x.y", "0.3333"):
        assert text in page
    assert "inf" not in page.split("</style>")[1]


def test_pictures_lie_inside_and_beside_the_page(page: str, tmp_path: Path) -> None:
    assert page.count('src="data:image/jpeg;base64,') == page.count("<img") == 3
    assert page.count("<figcaption>") == 3 and 'alt="grey"' in page
    files = sorted((tmp_path / "pictures").iterdir())
    assert [p.name for p in files] == ["01.png", "02.png", "03.png"]
    with Image.open(files[0]) as picture:
        np.testing.assert_array_equal(np.asarray(picture), np.full((20, 30, 3), 200))


def test_cells() -> None:
    assert [cell(v) for v in (None, math.nan, 0.12345, 3, "text")] == ["–", "–", "0.123", "3", "text"]


def test_edited_photos_are_read_back_as_they_were_saved(tmp_path: Path) -> None:
    versions = [np.full((4, 6, 3), value, np.uint8) for value in (0, 100, 200)]
    save_edited(tmp_path, "error", "a/photo.jpg", versions)
    np.testing.assert_array_equal(read_edited(tmp_path, "error", "a/photo.jpg", 3), versions)
