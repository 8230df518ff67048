"""What every page shares: one Jinja environment, pictures inside the page, settings and numbers as rows."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import ChoiceLoader, Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from vrx.report.drawing import DPI
from vrx.storage import write_atomically, write_text

QUALITY = 84  # of JPEGs inside a page: at 4:4:4 text stays sharp, in a quarter of a PNG's bytes


def draw(figure: Figure) -> NDArray[np.uint8]:
    """The pixels of a figure, uint8 ``[H, W, 3]``, at ``DPI``."""
    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write pixels uint8 ``[H, W, 3]``, drawn at ``DPI``: the whole file or nothing."""
    picture = Image.fromarray(pixels)
    write_atomically(path, lambda part: picture.save(part, "PNG", dpi=(DPI, DPI), compress_level=1))


def embed(content: Figure | NDArray[np.uint8], alt: str) -> dict[str, Any]:
    """A figure, or pixels drawn at ``DPI``, for the ``image`` macro: inlined, with its size on the page.

    ``alt``: what it shows, in words, for those who cannot see it.
    """
    pixels = draw(content) if isinstance(content, Figure) else content
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    uri = Markup("data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode())
    height, width = (round(96 * side / DPI) for side in pixels.shape[:2])
    return {"uri": uri, "alt": alt, "width": width, "height": height}


def save_pdf(path: Path, figures: Sequence[Figure]) -> None:
    """Write figures as vectors, each on a page of its own size: the whole file or nothing."""

    def write(part: Path) -> None:
        with PdfPages(part) as pages:
            for figure in figures:
                pages.savefig(figure, dpi=DPI)  # of the photos in them

    write_atomically(path, write)


def flatten(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (dotted name, value)."""
    rows: list[tuple[str, str]] = []
    for key, value in settings.items():
        nested = isinstance(value, Mapping) and value
        rows += flatten(value, f"{prefix}{key}.") if nested else [(f"{prefix}{key}", str(value))]
    return rows


def render(template: Path, metrics: Mapping[str, float], settings: Mapping[str, Any], **values: Any) -> str:
    """Fill a template that extends ``base.html.j2``; templates beside it and in this package can be included.

    The page ends with the metrics that are finite, and with the settings, nested.
    """
    environment = Environment(
        loader=ChoiceLoader([FileSystemLoader(template.parent), FileSystemLoader(Path(__file__).parent)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    numbers = sorted((name, f"{value:.4g}") for name, value in metrics.items() if math.isfinite(value))
    page = environment.get_template(template.name)
    return page.render(metrics=numbers, settings=flatten(settings), **values)


def write_html(
    path: Path, template: Path, metrics: Mapping[str, float], settings: Mapping[str, Any], **values: Any
) -> Path:
    """Write what :func:`render` makes of the rest: the whole page or nothing. Returns the page."""
    write_text(path, render(template, metrics, settings, **values))
    return path
