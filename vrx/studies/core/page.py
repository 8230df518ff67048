"""The page of a study: what was asked, what came out, and pictures; one self-contained file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vrx.report.html import draw, embed, save_png, write_html

TEMPLATE = Path(__file__).parent / "page.html.j2"


@dataclass(frozen=True)
class Picture:
    """A figure, or pixels uint8 ``[H, W, 3]``, with what it shows in words (caption and text for the blind)."""

    content: Figure | NDArray[np.uint8]
    caption: str


@dataclass(frozen=True)
class Section:
    """A part of the page: a heading and, if there are any, paragraphs, a table (rows of column -> value), pictures."""

    heading: str
    paragraphs: Sequence[str] = ()
    table: Sequence[Mapping[str, Any]] = ()
    pictures: Sequence[Picture] = ()


def write_page(
    folder: Path,
    title: str,
    lead: str,
    sections: Sequence[Section],
    metrics: Mapping[str, float],
    settings: Mapping[str, Any],
) -> Path:
    """Write ``index.html`` and, beside it, every picture as ``pictures/<number>.png``.

    Args:
        folder: of the study.
        title: of the page.
        lead: the answer in a sentence or two.
        sections: in order.
        metrics: of the study.
        settings: of the study, nested.

    Returns:
        The page.
    """
    shown, number = [], 0
    for section in sections:
        pictures = []
        for picture in section.pictures:
            number += 1
            pixels = draw(picture.content) if isinstance(picture.content, Figure) else picture.content
            save_png(folder / "pictures" / f"{number:02d}.png", pixels)
            pictures.append(embed(pixels, picture.caption))
        columns = list(dict.fromkeys(name for row in section.table for name in row))
        rows = [[cell(row.get(name)) for name in columns] for row in section.table]
        shown.append({"heading": section.heading, "paragraphs": section.paragraphs, "columns": columns, "rows": rows,
                      "pictures": pictures})  # fmt: skip
    return write_html(folder / "index.html", TEMPLATE, metrics, settings, title=title, lead=lead, sections=shown)


def cell(value: Any) -> str:
    """A value of a table as text."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
