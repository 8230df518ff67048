"""Marks on a photo: discs, arrows and outlines, on one colour scale that can be read in grey as well."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Circle, FancyArrowPatch, Rectangle
from matplotlib.patheffects import Normal, Stroke, withStroke
from matplotlib.textpath import text_to_path
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.measure import find_contours

from vrx.explanation import Explanation
from vrx.reasons import shown_relations
from vrx.report.phrases import shorten

SCALE = colormaps["RdBu"]  # red opposes, blue supports; distinguishable by colour-blind readers
INK, QUIET, EMPTY, CASING = "#1a1a1a", "#5c5c5c", "#e6e6e6", "#222222"
CLASSIFIER, GRN = "#404040", "#c4c4c4"
DPI = 140
WIDTH, MARGIN = 3.7, 0.12  # inches: of a figure of an explanation, around a page

Section = tuple[float, Callable[[Axes, float], None]]
"""A part of a figure: its height in inches, and what draws it from a top edge on."""


@dataclass(frozen=True)
class ColourScale:
    """One diverging scale, centred on zero, for all discs, outlines and arrows of a picture."""

    limit: float  # contribution at both ends, in logits
    effect: float  # largest contribution or measured effect shown, of concepts and relations: the right end of the bars
    lowest: float = 0.0  # smallest of them, at most 0: the left end of the bars

    @classmethod
    def of(cls, explanation: Explanation, classes: Sequence[int]) -> ColourScale:
        found = explanation.detected
        nodes = np.concatenate([explanation.node_scores[c, c][found[c]] for c in classes])
        measured = np.concatenate([explanation.measured[c][found[c]] for c in classes])
        relations = [r for c in classes for r in shown_relations(explanation, c)]
        contributions = np.nan_to_num([*nodes, *(r.predicted for r in relations)])
        limit = float(np.abs(contributions).max(initial=0)) or 1.0
        shown = np.nan_to_num([*contributions, *measured, *(r.measured for r in relations)])
        return cls(limit, float(shown.max(initial=0)), float(shown.min(initial=0)))

    def __call__(self, score: float) -> tuple[float, float, float, float]:
        return tuple(SCALE(0.5 + 0.5 * np.clip(np.nan_to_num(score) / self.limit, -1, 1)))


def page(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure with one frameless axis in inches, y downwards, and a margin around it: few axes draw fast."""
    figure = Figure((width + 2 * MARGIN, height + 2 * MARGIN), DPI, facecolor="white")
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set_axis_off()
    ax.set(xlim=(-MARGIN, width + MARGIN), ylim=(height + MARGIN, -MARGIN), autoscale_on=False)
    return figure, ax


def axes_at(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Another frameless axis over a part of a :func:`page`, in its inches."""
    across, down = figure.get_size_inches()
    bottom = down - MARGIN - top - height
    inner = figure.add_axes(((left + MARGIN) / across, bottom / down, width / across, height / down))
    inner.set_axis_off()
    return inner


def draw_box(
    ax: Axes, x: float, y: float, width: float, height: float, colour: Any, hatch: str = "", **style: Any
) -> None:
    """A filled, outlined rectangle; hatched where colour alone would not tell it apart."""
    style = {"edgecolor": CASING, "linewidth": 0.6, "hatch": hatch, **style}
    ax.add_artist(Rectangle((x, y), width, height, facecolor=colour, **style))


def draw_label(ax: Axes, x: float, y: float, text: str, size: float = 8.5, **style: Any) -> None:
    """Text in an axis, never read as mathematics."""
    ax.text(x, y, text, fontsize=size, parse_math=False, **{"color": INK, "va": "center_baseline", **style})


def draw_bar(
    ax: Axes, zero: float, y: float, length: float, thick: float, colour: Any, text: str, hatch: str = "", **style: Any
) -> None:
    """A horizontal bar in inches from ``zero`` on, with its number at the end."""
    draw_box(ax, zero, y - thick / 2, length, thick, colour, hatch, gid="bar")
    left = length < 0
    draw_label(ax, zero + length + (-0.04 if left else 0.04), y, text, ha="right" if left else "left", **style)


def draw_legend(ax: Axes, left: float, y: float, *entries: tuple[str, str, str]) -> None:
    """What the bars are: (text, colour, hatch), side by side."""
    for place, (text, colour, hatch) in enumerate(entries):
        draw_box(ax, left + 1.02 * place, y - 0.05, 0.14, 0.1, colour, hatch)
        draw_label(ax, left + 1.02 * place + 0.18, y, text, color=QUIET)


def fit(text: str, width: float, size: float, weight: str = "normal") -> str:
    """As much of a text as is ``width`` inches wide in points ``size``, the middle left out."""
    font = FontProperties(size=size, weight=weight)
    for length in range(min(len(text), 80), 1, -1):
        shorter = shorten(text, length)
        if text_to_path.get_text_width_height_descent(shorter, font, ismath=False)[0] <= 72 * width:
            return shorter
    return text[:1]


def spread(points: NDArray[np.float64], gap: float, shape: tuple[int, int], margin: float) -> NDArray[np.float64]:
    """Push points (x, y), ``[M, 2]``, apart until any two are ``gap`` apart, and keep them ``margin`` inside the photo.

    In pixels; ``shape``: height and width.
    """
    low, high = np.full(2, margin), np.array([shape[1], shape[0]]) - margin
    moved = points.clip(low, high) + np.stack([np.arange(len(points)) * 1e-3, np.arange(len(points)) ** 2 * 1e-3], 1)
    for _ in range(200):
        offset = moved[:, None] - moved[None]
        distance = np.hypot(offset[..., 0], offset[..., 1])
        np.fill_diagonal(distance, np.inf)
        if not (distance < gap).any():
            break
        push = np.maximum(gap * 1.01 - distance, 0) / 2
        np.fill_diagonal(push, 0)
        moved = (moved + (offset / distance[..., None] * push[..., None]).sum(1)).clip(low, high)
    return moved


def _points(ax: Axes) -> float:
    """Typographic points per unit of an axis."""
    return float(72 * ax.bbox.width / ax.figure.dpi / abs(np.ptp(ax.get_xlim())))


def ink_on(colour: Sequence[float]) -> str:
    """The colour of text that reads on a colour."""
    return "white" if float(np.dot(colour[:3], (0.299, 0.587, 0.114))) < 0.55 else INK


def draw_disc(ax: Axes, place: tuple[float, float], radius: float, text: str, score: float, scale: ColourScale) -> None:
    """A concept's number on the colour of its contribution, with the sign beside it for grey prints."""
    colour, points = scale(score), radius * _points(ax)
    halo = [withStroke(linewidth=1 + 0.24 * points, foreground="white")]
    style: dict[str, Any] = {"edgecolor": CASING, "zorder": 6}
    ax.add_artist(Circle(place, radius, facecolor=colour, linewidth=1, path_effects=halo, gid=f"disc {text}", **style))
    bold: dict[str, Any] = {"ha": "center", "weight": "bold", "zorder": 7}
    draw_label(ax, *place, text, points, color=ink_on(colour), **bold)
    up = -1 if ax.yaxis_inverted() else 1
    badge = (place[0] + 0.82 * radius, place[1] + up * 0.82 * radius)
    ax.add_artist(Circle(badge, 0.47 * radius, facecolor="white", linewidth=0.7, **style | {"zorder": 8}))
    sign = "+" if score > 0 else "−" if score < 0 else "0"
    draw_label(ax, *badge, sign, 0.72 * points, gid=f"sign {text}", **bold | {"zorder": 9})


def draw_relation(
    ax: Axes,
    start: Any,
    end: Any,
    gap: float,
    width: float,
    score: float,
    scale: ColourScale,
    arranged: bool = True,
    bend: float = 0.25,
) -> None:
    """A relation between two places, dashed where it opposes: an arrow for an arrangement, else a line.

    Args:
        ax: in photo pixels.
        start: (x, y), of the concept whose place counts.
        end: (x, y).
        gap: pixels left free around both ends.
        width: points.
        score: contribution in logits.
        arranged: the arrangement counts; False: both count together.
        bend: how far it is curved to the left.
    """
    colour, points = scale(score), _points(ax)
    free, tip = gap * points, (4.5 + 1.7 * width) * arranged
    chord = float(np.hypot(*np.subtract(end, start))) * points
    gaps = "white" if score > 0 or ink_on(colour) == "white" else CASING  # dashes must show on pale colours as well
    solid = {"dash_offset": 0, "dash_list": None}
    paints = ((2.6, CASING), (1.4, "white"), (0, gaps))
    casing = [*(Stroke(linewidth=width + more, foreground=paint, dashes=solid) for more, paint in paints), Normal()]
    both: dict[str, Any] = {"posA": tuple(start), "posB": tuple(end), "connectionstyle": f"arc3,rad={bend}"}
    both |= {"facecolor": colour, "capstyle": "butt", "joinstyle": "miter", "zorder": 4}
    if chord - 2 * free > 0.7 * tip:  # room for more than the head
        line: dict[str, Any] = {"linewidth": width, "linestyle": (0, (2.2, 1.1)) if score < 0 else "-"}
        line |= {"edgecolor": colour, "path_effects": casing, "gid": "arrow" if arranged else "line"}
        ax.add_artist(FancyArrowPatch(**both, **line, arrowstyle="-", shrinkA=free, shrinkB=free + 0.7 * tip))
    if not arranged:
        return
    before = max(free, chord - free - tip)  # the head alone: in one piece with the line it would be dashed as well
    head: dict[str, Any] = {"arrowstyle": "-|>,head_length=1,head_width=0.55", "mutation_scale": tip, "gid": "head"}
    ax.add_artist(FancyArrowPatch(**both, **head, shrinkA=before, shrinkB=free, linewidth=0.9, edgecolor=CASING))


def contours(mask: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """The smoothed borders of a mask ``[H, W]``, closed lines of (x, y) in pixels; none for an empty one."""
    if not mask.any():
        return []
    sigma = mask.shape[0] / 150
    pad = 1 + int(np.ceil(4 * sigma))
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    sharp = np.pad(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], pad).astype(float)
    smooth = gaussian_filter(sharp, sigma)
    origin = np.array([columns[0], rows[0]]) - pad + 0.5
    return [line[:, ::-1] + origin for line in find_contours(smooth if smooth.max() > 0.5 else sharp, 0.5)]


def draw_outline(ax: Axes, mask: NDArray[np.bool_], colour: Any) -> None:
    """The border of a mask ``[H, W]``; nothing for an empty one."""
    casing = [withStroke(linewidth=3.6, foreground=CASING)]
    style: dict[str, Any] = {"linewidths": 2.2, "path_effects": casing, "zorder": 2, "gid": "outline"}
    if lines := contours(mask):
        ax.add_artist(LineCollection(lines, colors=[colour], **style))


class Pixels(Artist):
    """A picture in an axis, resized by Pillow to the pixels of the page: ten times faster than ``imshow``.

    Args:
        image: uint8 ``[H, W, 3]``.
        box: left, top, width and height in units of the axis, y downwards.
    """

    zorder = 0

    def __init__(self, image: NDArray[np.uint8], box: tuple[float, float, float, float]) -> None:
        super().__init__()
        self.image, self.box = image, box

    def draw(self, renderer: Any) -> None:
        """Paste the pixels."""
        left, top, width, height = self.box
        corners = self.get_transform().transform([(left, top + height), (left + width, top)])
        (x, y), (right, upper) = np.round(corners).astype(int).tolist()
        finer = renderer.get_image_magnification()  # of a PDF, whose unit is the point
        size = (round((right - x) * finer), round((upper - y) * finer))
        picture = Image.fromarray(self.image).resize(size, Image.Resampling.BICUBIC).convert("RGBA")
        renderer.draw_image(renderer.new_gc(), x, y, np.asarray(picture)[::-1])


def draw_photo(ax: Axes, image: NDArray[np.uint8]) -> None:
    """The photo in an axis of its pixels, y downwards."""
    height, width = image.shape[:2]
    ax.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
    ax.add_artist(Pixels(image, (0, 0, width, height)))


def stepped_back(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The photo, paler and less colourful, so that the colours drawn on it read."""
    pixels = image.astype(np.float32)
    grey = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    faded = 0.3 * pixels + 0.7 * grey[..., None]
    return np.asarray(0.72 * faded + 0.28 * 255).astype(np.uint8)
