"""Marks on paper: discs, arrows and outlines on a photo, on one colour scale that can be read in grey as well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Polygon, Rectangle
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from vrx.structures import Explanation, edges

SCALE = colormaps["RdBu"]  # red speaks against, blue supports; distinguishable by colour-blind readers
INK, QUIET, EMPTY, CASING = "#1a1a1a", "#5c5c5c", "#e6e6e6", "#222222"
MOST_ARROWS, LEAST_ARROW = 5, 0.1  # a class; share of the strongest arrow shown


@dataclass(frozen=True)
class Sheet:
    """A figure addressed in inches from its top left corner.

    Args:
        figure: what is drawn on.
        x: inches that the origin lies right of the figure's left edge.
        y: inches that it lies below the upper one.
    """

    figure: Figure
    x: float = 0.0
    y: float = 0.0

    def at(self, x: float, y: float) -> Sheet:
        """The same figure with the origin moved."""
        return Sheet(self.figure, self.x + x, self.y + y)

    def axes(self, x: float, y: float, width: float, height: float, frame: bool = False) -> Axes:
        total_width, total_height = self.figure.get_size_inches()
        bottom = total_height - self.y - y - height
        box = ((self.x + x) / total_width, bottom / total_height, width / total_width, height / total_height)
        ax = self.figure.add_axes(box)
        ax.set(xticks=[], yticks=[])
        ax.patch.set_visible(False)
        for spine in ax.spines.values():
            spine.set(visible=frame, color=CASING, linewidth=0.6)
        return ax

    def text(self, x: float, y: float, text: str, size: float = 9, **style: Any) -> None:
        total_width, total_height = self.figure.get_size_inches()
        style = {"color": INK, "va": "center", **style}
        place = (self.x + x) / total_width, 1 - (self.y + y) / total_height
        self.figure.text(*place, text, fontsize=size, parse_math=False, **style)

    def page(self, width: float, height: float) -> Axes:
        """One axis in inches, y downwards, for many marks: far cheaper than an axis a mark."""
        ax = self.axes(0, 0, width, height)
        ax.set(xlim=(0, width), ylim=(height, 0))
        for spine in ax.spines.values():
            spine.set_visible(False)
        return ax


def draw_box(ax: Axes, x: float, y: float, width: float, height: float, colour: Any, hatch: str = "") -> None:
    """A filled, outlined rectangle; hatched where colour alone would not tell it apart."""
    style: dict[str, Any] = {"edgecolor": CASING, "linewidth": 0.6, "hatch": hatch}
    ax.add_patch(Rectangle((x, y), width, height, facecolor=colour, **style))


def draw_label(ax: Axes, x: float, y: float, text: str, size: float = 8.5, **style: Any) -> None:
    """Text in an axis, never read as mathematics."""
    ax.text(x, y, text, fontsize=size, parse_math=False, **{"color": INK, "va": "center_baseline", **style})


def draw_thumbnail(ax: Axes, x: float, y: float, side: float, pixels: NDArray[np.uint8] | None) -> None:
    """A framed square picture with its upper left corner at (x, y); an empty grey slot for None."""
    if pixels is not None:
        ax.imshow(pixels, extent=(x, x + side, y + side, y), aspect="auto", interpolation="bicubic")
    draw_box(ax, x, y, side, side, EMPTY if pixels is None else "none")


def shorten(text: str, length: int) -> str:
    """At most ``length`` characters, the middle left out."""
    half = (length - 1) // 2
    return text if len(text) <= length else f"{text[: length - 1 - half]}…{text[-half:]}"


@dataclass(frozen=True)
class ColourScale:
    """One diverging scale, centred on zero, for all discs, outlines and arrows of a picture.

    Args:
        limit: contribution at both ends, in logits.
        effect: largest contribution or measured effect shown: the end of the bars.
    """

    limit: float
    effect: float

    @classmethod
    def of(cls, explanation: Explanation, classes: Sequence[int]) -> ColourScale:
        found = explanation.detected
        nodes = [np.abs(explanation.node_scores[c, c][found[c]]) for c in classes]
        arrows = [np.array([abs(s) for _, _, s in strongest_edges(explanation, c)]) for c in classes]
        limit = float(np.nan_to_num(np.concatenate([*nodes, *arrows])).max(initial=0)) or 1.0
        measured = np.nan_to_num(np.abs(explanation.measured[list(classes)])).max(initial=0)
        return cls(limit, max(limit, float(measured)))

    def __call__(self, score: float) -> tuple[float, float, float, float]:
        return tuple(SCALE(0.5 + 0.5 * np.clip(np.nan_to_num(score) / self.limit, -1, 1)))


def strongest_edges(explanation: Explanation, index: int) -> list[tuple[int, int, float]]:
    """(from, to, contribution) of the strongest edges between detected concepts of a class, strongest first."""
    scores = np.nan_to_num(explanation.edge_scores[index, index]).tolist()
    found = explanation.detected[index]
    pairs = edges(len(found)).T.tolist()
    usable = [(j, i, s) for (j, i), s in zip(pairs, scores, strict=True) if found[j] and found[i] and s]
    usable.sort(key=lambda edge: -abs(edge[2]))
    return [e for e in usable[:MOST_ARROWS] if abs(e[2]) >= LEAST_ARROW * abs(usable[0][2])]


def spread(points: NDArray[np.float64], gap: float, shape: tuple[int, int], margin: float) -> NDArray[np.float64]:
    """Push points apart until any two are ``gap`` apart, and keep them ``margin`` inside the photo.

    Args:
        points: (x, y) in pixels, ``[M, 2]``.
        gap: pixels.
        shape: height and width of the photo.
        margin: pixels.
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


def _is_dark(colour: tuple[float, float, float, float]) -> bool:
    return float(np.dot(colour[:3], (0.299, 0.587, 0.114))) < 0.55


def draw_disc(ax: Axes, place: tuple[float, float], radius: float, text: str, score: float, scale: ColourScale) -> None:
    """A concept's number on the colour of its contribution, with the sign beside it for grey prints."""
    colour = scale(score)
    inches = radius * ax.bbox.width / ax.figure.dpi / abs(np.ptp(ax.get_xlim()))
    ax.add_patch(Circle(place, radius * 1.12, facecolor="white", edgecolor="none", zorder=5))
    ax.add_patch(Circle(place, radius, facecolor=colour, edgecolor=CASING, linewidth=1.0, zorder=6, gid=f"disc {text}"))
    style: dict[str, Any] = {"ha": "center", "weight": "bold"}
    draw_label(ax, *place, text, 72 * inches, color="white" if _is_dark(colour) else INK, zorder=7, **style)
    up = -1 if ax.yaxis_inverted() else 1
    badge = (place[0] + 0.82 * radius, place[1] + up * 0.82 * radius)
    sign = "+" if score > 0 else "−" if score < 0 else "0"
    ax.add_patch(Circle(badge, 0.47 * radius, facecolor="white", edgecolor=CASING, linewidth=0.7, zorder=8))
    draw_label(ax, *badge, sign, 52 * inches, zorder=9, **style)


def draw_arrow(ax: Axes, start: Any, end: Any, gap: float, width: float, score: float, scale: ColourScale) -> None:
    """A curved arrow, so that both directions of a relation are seen; dashed where it speaks against.

    Args:
        ax: in photo pixels.
        start: (x, y).
        end: (x, y).
        gap: pixels left free around both ends.
        width: points.
        score: contribution in logits.
        scale: of the picture.
    """
    start, end = np.asarray(start, float), np.asarray(end, float)
    along = end - start
    bend = (start + end) / 2 + 0.22 * np.array([along[1], -along[0]])
    t = np.linspace(0, 1, 120)[:, None]
    curve = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end
    free = (np.hypot(*(curve - start).T) > gap) & (np.hypot(*(curve - end).T) > gap)
    curve = curve[free]
    if len(curve) < 4:
        return
    length = min((0.5 + 0.16 * width) * gap, 0.7 * float(np.hypot(*(curve[-1] - curve[0]))))
    tip = curve[-1]
    body = curve[np.hypot(*(curve - tip).T) > 0.8 * length]
    base = body[-1] if len(body) else curve[0]
    forward = (tip - base) / (np.hypot(*(tip - base)) + 1e-9)
    side = np.array([-forward[1], forward[0]]) * length * 0.48
    colour = scale(score)
    gaps = "white" if score > 0 or _is_dark(colour) else CASING  # dashes must show on pale colours as well
    for extra, paint in ((2.6, CASING), (1.5, "white"), (0.0, gaps)):
        ax.plot(*body.T, color=paint, linewidth=width + extra, solid_capstyle="butt", zorder=3)
    dashes = (0, (2.2, 1.1)) if score < 0 else "-"
    ax.plot(*body.T, color=colour, linewidth=width, linestyle=dashes, dash_capstyle="butt", zorder=4, gid="arrow")
    head = np.stack([tip, tip - forward * length + side, tip - forward * length - side])
    ax.add_patch(Polygon(head, facecolor=colour, edgecolor=CASING, linewidth=0.9, zorder=4, joinstyle="round"))


def draw_outline(ax: Axes, mask: NDArray[np.bool_], colour: Any) -> None:
    """The border of a mask ``[H, W]``; nothing for an empty one."""
    padded = np.pad(mask, 1).astype(float)  # the frame closes outlines at the photo's edge
    if not mask.any():
        return
    smooth = gaussian_filter(padded, mask.shape[0] / 150)
    padded = smooth if smooth.max() > 0.5 else padded
    x, y = np.arange(padded.shape[1]) - 0.5, np.arange(padded.shape[0]) - 0.5
    for paint, width in ((CASING, 3.4), (colour, 2.2)):
        ax.contour(x, y, padded, levels=[0.5], colors=[paint], linewidths=width, zorder=2)


def draw_photo(ax: Axes, image: NDArray[np.uint8]) -> None:
    """The photo in an axis of its pixels, y downwards."""
    height, width = image.shape[:2]
    ax.imshow(image, extent=(0, width, height, 0), interpolation="bicubic")
    ax.set(xlim=(0, width), ylim=(height, 0))


def stepped_back(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The photo, paler and less colourful, so that the colours drawn on it read."""
    pixels = image.astype(np.float32)
    grey = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    faded = 0.3 * pixels + 0.7 * grey[..., None]
    return np.asarray(0.72 * faded + 0.28 * 255).astype(np.uint8)
