"""The page of a study: what was asked, what came out, and pictures; one self-contained file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from vrx.report.pages import draw, embedded, flatten
from vrx.storage import write_text

TEMPLATE = "page.html.j2"


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
    number = 0
    shown = []
    for section in sections:
        pictures = []
        for picture in section.pictures:
            number += 1
            pixels = draw(picture.content) if isinstance(picture.content, Figure) else picture.content
            path = folder / "pictures" / f"{number:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
            pictures.append({**embedded(pixels, picture.caption), "caption": picture.caption})
        columns = list(dict.fromkeys(name for row in section.table for name in row))
        shown.append(
            {
                "heading": section.heading,
                "paragraphs": list(section.paragraphs),
                "columns": columns,
                "rows": [[cell(row.get(name)) for name in columns] for row in section.table],
                "pictures": pictures,
            }
        )
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    numbers = sorted((name, f"{value:.4g}") for name, value in metrics.items() if math.isfinite(value))
    page = environment.get_template(TEMPLATE).render(
        title=title, lead=lead, sections=shown, metrics=numbers, settings=flatten(settings)
    )
    write_text(folder / "index.html", page)
    return folder / "index.html"


def cell(value: Any) -> str:
    """A value of a table as text."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
