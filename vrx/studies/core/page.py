"""The page of a study: what was asked, what came out, and pictures; one self-contained file."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from vrx.report.html import draw, embed, save_png, write_html
from vrx.studies.core.context import StudyContext

TEMPLATE = Path(__file__).parent / "page.html.j2"
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Picture:
    """A figure, or pixels uint8 ``[H, W, 3]``, with what it shows in words (caption and text for the blind)."""

    content: Figure | Pixels
    caption: str


@dataclass(frozen=True)
class Section:
    """A part of the page: a heading, paragraphs, a table (rows of column -> value), pictures."""

    heading: str
    paragraphs: Sequence[str] = ()
    table: Sequence[Mapping[str, Any]] = ()
    pictures: Sequence[Picture] = ()


def write_page(
    context: StudyContext, title: str, lead: str, sections: Sequence[Section], metrics: Mapping[str, float]
) -> None:
    """Write ``index.html`` and, beside it, every picture as ``pictures/<number>.png``; ``lead`` is the result."""
    shown, number = [], itertools.count(1)
    for section in sections:
        pictures = []
        for picture in section.pictures:
            pixels = draw(picture.content) if isinstance(picture.content, Figure) else picture.content
            save_png(context.folder / "pictures" / f"{next(number):02d}.png", pixels)
            pictures.append(embed(pixels, picture.caption))
        columns = list(dict.fromkeys(name for row in section.table for name in row))
        rows = [[cell(row.get(name)) for name in columns] for row in section.table]
        shown.append({**vars(section), "columns": columns, "rows": rows, "pictures": pictures})
    page = context.folder / "index.html"
    write_html(page, TEMPLATE, metrics, context.settings, title=title, lead=lead, sections=shown)


def cell(value: Any) -> str:
    """A value of a table as text."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def edited_path(folder: Path, kind: str, name: str) -> Path:
    """Where the edited versions of a photo are saved, side by side."""
    return folder / "edited" / f"{kind}_{hashlib.sha256(name.encode()).hexdigest()[:16]}.png"


def save_edited(folder: Path, kind: str, name: str, versions: Sequence[Pixels]) -> None:
    """Save versions of a photo, uint8 ``[H, W, 3]`` each, for the page of the study."""
    path = edited_path(folder, kind, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(versions, axis=1)).save(path)


def read_edited(folder: Path, kind: str, name: str, count: int) -> list[Pixels]:
    """The ``count`` versions of a photo that :func:`save_edited` saved."""
    return np.split(np.asarray(Image.open(edited_path(folder, kind, name)).convert("RGB")), count, axis=1)
